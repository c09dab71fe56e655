/** What an expression is made of. */
import { evaluate } from './evaluate.js';
import { type Node, uninterpreted } from './expression.js';
import { toNumber } from './rational.js';

/** The name of the imaginary unit. */
export const imaginary = 'i';

const partsOf = (node: Node): readonly Node[] => {
  switch (node.kind) {
    case 'number':
    case 'symbol':
      return [];
    case 'add':
      return node.terms;
    case 'multiply':
      return node.factors;
    case 'divide':
      return [node.numerator, node.denominator];
    case 'power':
      return [node.base, node.exponent];
    case 'apply':
      return node.operands;
    case 'negate':
    case 'percent':
    case 'degree':
      return [node.operand];
  }
};

/** True where this or any part of it is so. */
export const some = (node: Node, is: (part: Node) => boolean): boolean =>
  is(node) || partsOf(node).some((part) => some(part, is));

export const isAbsolute = (node: Node): boolean => node.kind === 'apply' && node.name === '\\abs';

/** A whole exponent; undefined for any other. */
export function wholeExponent(node: Node): bigint | undefined {
  const exact = evaluate(node)?.exact;
  return exact?.denominator === 1n ? exact.numerator : undefined;
}

const constants = new Set(['\\pi', 'e', imaginary, '\\infty']);

/** True where a symbol other than π, e and i is in the expression. */
export const hasVariable = (node: Node): boolean =>
  some(
    node,
    (part) =>
      (part.kind === 'symbol' && !constants.has(part.name)) ||
      (part.kind === 'apply' && uninterpreted.has(part.name)),
  );

/** |x - 5| is 5 - x up to 5; \sqrt{(x - 5)^2} and \lfloor x/5 \rfloor change likewise. */
export const isPiecewise = (node: Node): boolean =>
  isAbsolute(node) ||
  (node.kind === 'apply' && (node.name === '\\floor' || node.name === '\\ceil')) ||
  (node.kind === 'power' && wholeExponent(node.exponent) === undefined && hasVariable(node.base));

/** The largest number in an expression, by size. */
export const largestNumber = (node: Node): number =>
  node.kind === 'number'
    ? Math.abs(toNumber(node.value))
    : partsOf(node).reduce((most, part) => Math.max(most, largestNumber(part)), 0);
