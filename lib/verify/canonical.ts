/**
 * One spelling for expressions with variables that differ only in the order of terms and factors, in like terms, and in
 * how numbers and quotients are written: x/2 + 1 = 1 + \frac{1}{2}x. It does not multiply out or factor.
 */
import { evaluate } from './evaluate.js';
import type { Node } from './expression.js';
import type { Rational } from './rational.js';
import * as rational from './rational.js';

const one: Rational = { numerator: 1n, denominator: 1n };
const minusOne: Rational = { numerator: -1n, denominator: 1n };

/** A product as its rational coefficient and a sorted spelling of the rest ('' for none). */
interface Monomial {
  coefficient: Rational;
  rest: string;
}

const exactValue = (node: Node): Rational | undefined => evaluate(node)?.exact;

/** In parentheses, but for names and numbers: e^{2x} is not e^2 x, and \sqrt{-x} not -\sqrt{x}. */
const grouped = (text: string): string => (/^[\p{L}\d\\]+$/u.test(text) ? text : `(${text})`);

/** Adds the powers of one factor of a product; gives up the exact coefficient where it would grow too large. */
class Product {
  coefficient = one;
  /** Exponent of each factor's spelling. */
  readonly #exponents = new Map<string, Rational>();
  readonly #opaque: string[] = [];

  include(node: Node, exponent: Rational): void {
    const exact = exactValue(node);
    const raised = exact && rational.power(exact, exponent);
    const product = raised && rational.multiply(this.coefficient, raised);
    if (product !== undefined) this.coefficient = product;
    else if (node.kind === 'multiply') for (const factor of node.factors) this.include(factor, exponent);
    else if (node.kind === 'divide') {
      this.include(node.numerator, exponent);
      this.include(node.denominator, rational.negate(exponent));
    } else if (node.kind === 'negate' && exponent.denominator === 1n) {
      if (exponent.numerator % 2n !== 0n) this.coefficient = rational.negate(this.coefficient);
      this.include(node.operand, exponent);
    } else if (node.kind === 'degree') this.include(node.operand, exponent);
    else if (node.kind === 'power') {
      const inner = exactValue(node.exponent);
      const total = inner && rational.multiply(inner, exponent);
      if (total === undefined)
        this.#power(`${grouped(spelling(node.base))}^${grouped(spelling(node.exponent))}`, exponent);
      // (x^2)^{1/2} is |x|, so only whole outer exponents pass through.
      else if (exponent.denominator === 1n) this.include(node.base, total);
      else this.#power(spelling(node), exponent);
    } else this.#power(spelling(node), exponent);
  }

  #power(text: string, exponent: Rational): void {
    const factor = grouped(text);
    const total = rational.add(this.#exponents.get(factor) ?? { numerator: 0n, denominator: 1n }, exponent);
    if (total === undefined) this.#opaque.push(`${factor}^${rational.toText(exponent)}`);
    else this.#exponents.set(factor, total);
  }

  get monomial(): Monomial {
    const factors = [...this.#exponents]
      .filter(([, exponent]) => exponent.numerator !== 0n)
      .map(([factor, exponent]) =>
        rational.equal(exponent, one) ? factor : `${factor}^${rational.toText(exponent)}`,
      );
    return { coefficient: this.coefficient, rest: [...factors, ...this.#opaque].sort().join('*') };
  }
}

/** Collects the terms of a sum by their spelling; `scale` is the factor in front of the node. */
function collect(node: Node, scale: Rational, sum: Map<string, Rational>): void {
  if (node.kind === 'add') for (const term of node.terms) collect(term, scale, sum);
  else if (node.kind === 'negate') collect(node.operand, rational.negate(scale), sum);
  else {
    const product = new Product();
    product.include(node, one);
    const { coefficient, rest } = product.monomial;
    const scaled = rational.multiply(coefficient, scale);
    const total = scaled && rational.add(scaled, sum.get(rest) ?? { numerator: 0n, denominator: 1n });
    if (total === undefined) sum.set(`${rational.toText(coefficient)}*${rest}`, scale);
    else sum.set(rest, total);
  }
}

/** A list's items are compared with each other many times. */
const known = new WeakMap<Node, string>();

/** Spelling of a node; equal spellings mean equal expressions. */
export function spelling(node: Node): string {
  let text = known.get(node);
  if (text === undefined) {
    text = spell(node);
    known.set(node, text);
  }
  return text;
}

function spell(node: Node): string {
  switch (node.kind) {
    case 'number':
      return rational.toText(node.value);
    case 'symbol':
      return node.name;
    case 'apply':
      return `${node.name}(${node.operands.map(spelling).join(';')})`;
    case 'percent':
      return `${spelling(node.operand)}%`;
    default: {
      const sum = new Map<string, Rational>();
      collect(node, one, sum);
      const terms = [...sum]
        .filter(([, coefficient]) => coefficient.numerator !== 0n)
        .map(([rest, coefficient]) => {
          if (rest === '') return rational.toText(coefficient);
          if (rational.equal(coefficient, one)) return rest;
          return rational.equal(coefficient, minusOne)
            ? `-${rest}`
            : `${rational.toText(coefficient)}*${rest}`;
        });
      if (terms.length === 0) return '0';
      return terms.length === 1 ? (terms[0] as string) : `(${terms.sort().join('+')})`;
    }
  }
}
