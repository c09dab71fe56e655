/** Numeric value of an expression without variables: exact where it is rational, else a double. */
import type { Node } from './expression.js';
import type { Rational } from './rational.js';
import * as rational from './rational.js';

export interface Value {
  /** Present where the value is rational and of bounded size. */
  exact: Rational | undefined;
  /** Finite, or infinite for \infty itself. */
  approximate: number;
  /**
   * How it was written: `fraction` (whole numbers and their quotients), `decimal` (with a decimal point), `rounded`
   * (a decimal so long that it can only be a rounded one), `irrational`.
   */
  form: 'fraction' | 'decimal' | 'rounded' | 'irrational';
}

/** A decimal with so many digits after the point is taken for a rounded number, e.g. 0.6666666667. */
const roundedDecimals = 10;

const forms = ['fraction', 'decimal', 'rounded', 'irrational'] as const;

const exactly = (exact: Rational | undefined, form: Value['form'] = 'fraction'): Value | undefined =>
  exact && { exact, approximate: rational.toNumber(exact), form };

const approximately = (approximate: number): Value | undefined =>
  Number.isFinite(approximate) ? { exact: undefined, approximate, form: 'irrational' } : undefined;

/** Rational operands give a rational result or, where that would be too large, none. */
function combine(
  a: Value,
  b: Value,
  exact: (a: Rational, b: Rational) => Rational | undefined,
  approximate: (a: number, b: number) => number,
): Value | undefined {
  if (!Number.isFinite(a.approximate) || !Number.isFinite(b.approximate)) return undefined;
  if (a.exact && b.exact) {
    return exactly(exact(a.exact, b.exact), forms[Math.max(forms.indexOf(a.form), forms.indexOf(b.form))]);
  }
  return approximately(approximate(a.approximate, b.approximate));
}

function raise(base: Value, exponent: Value): Value | undefined {
  if (base.exact && exponent.exact) {
    const value = combine(base, exponent, rational.power, () => Number.NaN);
    // What is no root of a perfect power is irrational; a whole exponent without a value was too large.
    if (value !== undefined || exponent.exact.denominator === 1n) return value;
  }
  if (!Number.isFinite(base.approximate) || !Number.isFinite(exponent.approximate)) return undefined;
  const oddRoot =
    exponent.exact && exponent.exact.denominator % 2n === 1n && exponent.exact.numerator % 2n !== 0n;
  const size = Math.abs(base.approximate) ** exponent.approximate;
  if (base.approximate >= 0) return approximately(size);
  return oddRoot ? approximately(-size) : approximately(base.approximate ** exponent.approximate);
}

const constants: Record<string, number> = { '\\pi': Math.PI, e: Math.E, '\\infty': Infinity };

const realFunctions: Record<string, (x: number) => number> = {
  '\\sin': Math.sin,
  '\\cos': Math.cos,
  '\\tan': Math.tan,
  '\\cot': (x) => 1 / Math.tan(x),
  '\\sec': (x) => 1 / Math.cos(x),
  '\\csc': (x) => 1 / Math.sin(x),
  '\\arcsin': Math.asin,
  '\\arccos': Math.acos,
  '\\arctan': Math.atan,
  '\\sinh': Math.sinh,
  '\\cosh': Math.cosh,
  '\\tanh': Math.tanh,
  '\\ln': Math.log,
  '\\lg': Math.log10,
  '\\exp': Math.exp,
};
const takesAngle = new Set(['\\sin', '\\cos', '\\tan', '\\cot', '\\sec', '\\csc']);

function wholeOf(value: Value | undefined, highest: number): number | undefined {
  const { exact } = value ?? {};
  if (exact === undefined || exact.denominator !== 1n || exact.numerator < 0n || exact.numerator > highest)
    return undefined;
  return Number(exact.numerator);
}

function factorial(value: Value | undefined, step = 1n): Value | undefined {
  const n = wholeOf(value, 60);
  if (n === undefined) return undefined;
  let product = 1n;
  for (let factor = BigInt(n); factor > 1n; factor -= step) product *= factor;
  return exactly(rational.rational(product));
}

function binomial(n: number | undefined, k: number | undefined): Value | undefined {
  if (n === undefined || k === undefined) return undefined;
  let product = k > n ? 0n : 1n;
  for (let i = 1; i <= Math.min(k, n - k); i++) product = (product * BigInt(n - i + 1)) / BigInt(i);
  return exactly(rational.rational(product));
}

/** The whole number below or above; a double that is one but for its last digits is that one. */
export function roundTo(value: number, down: boolean): number {
  const nearest = Math.round(value);
  if (Math.abs(value - nearest) <= 1e-12 * Math.max(1, Math.abs(value))) return nearest;
  return down ? Math.floor(value) : Math.ceil(value);
}

function rounded({ exact, approximate }: Value, down: boolean): Value | undefined {
  if (exact !== undefined) {
    const { numerator, denominator } = exact;
    const rest = ((numerator % denominator) + denominator) % denominator;
    const floor = (numerator - rest) / denominator;
    return exactly(rational.rational(down || rest === 0n ? floor : floor + 1n));
  }
  return Math.abs(approximate) < 2 ** 53
    ? exactly(rational.rational(BigInt(roundTo(approximate, down))))
    : undefined;
}

function apply(name: string, operands: readonly Node[]): Value | undefined {
  const last = operands.at(-1) as Node;
  const value = evaluate(last);
  if (value === undefined) return undefined;
  if (name === '!') return factorial(value);
  if (name === '!!') return factorial(value, 2n);
  if (name === '\\binom') return binomial(wholeOf(evaluate(operands[0] as Node), 1000), wholeOf(value, 1000));
  if (name === '\\abs') return value.approximate < 0 ? negated(value) : value;
  if (name === '\\floor' || name === '\\ceil') return rounded(value, name === '\\floor');
  if (name === '\\log') {
    // Without a base authors mean different ones, so there is no value.
    const base = operands.length === 2 ? evaluate(operands[0] as Node) : undefined;
    return base && approximately(Math.log(value.approximate) / Math.log(base.approximate));
  }
  const real = operands.length === 1 && Object.hasOwn(realFunctions, name) ? realFunctions[name] : undefined;
  const scale = takesAngle.has(name) && last.kind === 'degree' ? Math.PI / 180 : 1;
  return real && approximately(real(value.approximate * scale));
}

const negated = (value: Value): Value => ({
  exact: value.exact && rational.negate(value.exact),
  approximate: -value.approximate,
  form: value.form,
});

const hundredth: Value = { exact: { numerator: 1n, denominator: 100n }, approximate: 0.01, form: 'fraction' };

/** Every node is asked for its value many times (by comparison and by spelling), also by its parents. */
const known = new WeakMap<Node, { value: Value | undefined }>();

/** The value; undefined for variables, overflow, division by zero and whatever has no real value. */
export function evaluate(node: Node): Value | undefined {
  let entry = known.get(node);
  if (entry === undefined) {
    entry = { value: compute(node) };
    known.set(node, entry);
  }
  return entry.value;
}

function compute(node: Node): Value | undefined {
  switch (node.kind) {
    case 'number': {
      const form = node.decimals === 0 ? 'fraction' : node.decimals < roundedDecimals ? 'decimal' : 'rounded';
      return { exact: node.value, approximate: rational.toNumber(node.value), form };
    }
    case 'symbol': {
      const constant = Object.hasOwn(constants, node.name) ? constants[node.name] : undefined;
      return constant === undefined
        ? undefined
        : { exact: undefined, approximate: constant, form: 'irrational' };
    }
    case 'negate': {
      const value = evaluate(node.operand);
      return value && negated(value);
    }
    case 'add':
      return fold(node.terms, (a, b) => combine(a, b, rational.add, (x, y) => x + y));
    case 'multiply':
      return fold(node.factors, (a, b) => combine(a, b, rational.multiply, (x, y) => x * y));
    case 'divide': {
      const numerator = evaluate(node.numerator);
      const denominator = numerator && evaluate(node.denominator);
      return denominator && combine(numerator, denominator, rational.divide, (x, y) => x / y);
    }
    case 'power': {
      const base = evaluate(node.base);
      const exponent = base && evaluate(node.exponent);
      return exponent && raise(base, exponent);
    }
    case 'apply':
      return apply(node.name, node.operands);
    case 'percent': {
      const value = evaluate(node.operand);
      return value && combine(value, hundredth, rational.multiply, (x, y) => x * y);
    }
    case 'degree':
      return evaluate(node.operand);
  }
}

function fold(nodes: readonly Node[], step: (a: Value, b: Value) => Value | undefined): Value | undefined {
  let total: Value | undefined;
  for (const [index, node] of nodes.entries()) {
    const value = evaluate(node);
    total = value && (index === 0 ? value : total && step(total, value));
    if (total === undefined) return undefined;
  }
  return total;
}

/**
 * Equal to six decimals, cut off or rounded, as in math-verify; of numbers below 1 to six significant digits, which is
 * stricter, or to six decimals where they are not tiny; zero up to 1e-12.
 */
function isNear(a: number, b: number): boolean {
  const difference = Math.abs(a - b);
  const smaller = Math.min(Math.abs(a), Math.abs(b));
  const larger = Math.max(Math.abs(a), Math.abs(b));
  // The little more than 1e-6 makes 0.333333 equal to 1/3 in spite of rounding.
  return (
    difference <= 1.000001e-6 * Math.min(larger, 1) ||
    (smaller >= 0.01 && difference <= 5.000001e-7) ||
    (smaller === 0 && larger <= 1e-12)
  );
}

/** The same number, computed in doubles on two ways. */
const isSame = (a: number, b: number): boolean =>
  Math.abs(a - b) <= 1e-12 * Math.max(Math.abs(a), Math.abs(b), 1e-2);

/** Digits after the point of a decimal that ends. */
function decimalsOf({ denominator }: Rational): number {
  let decimals = 0;
  for (let power = 1n; power % denominator !== 0n && decimals < 100; power *= 10n) decimals++;
  return decimals;
}

/**
 * True where the decimal with fewer digits is the other one rounded or cut off there, with at least six significant
 * digits; two decimals with the same number of digits are equal or not.
 */
function isRoundingOf(a: Rational, b: Rational): boolean {
  const fewer = Math.min(decimalsOf(a), decimalsOf(b));
  const [value, other] = [rational.toNumber(a), rational.toNumber(b)];
  const isLong = Math.abs(decimalsOf(a) === fewer ? value : other) >= 10 ** (5 - fewer);
  return decimalsOf(a) !== decimalsOf(b) && isLong && Math.abs(value - other) < 10 ** -fewer;
}

/**
 * Whole numbers, fractions and decimals are compared exactly; a decimal equals a fraction without finite decimals
 * (1/3) or an irrational number to six digits; of two decimals one may be the other one rounded. No fraction is an
 * irrational number: 355/113 is not pi.
 */
export function equalValues(a: Value, b: Value): boolean {
  if (!Number.isFinite(a.approximate) || !Number.isFinite(b.approximate))
    return a.approximate === b.approximate;
  if (a.exact && b.exact) {
    if (rational.equal(a.exact, b.exact)) return true;
    const rounded = a.form === 'rounded' || b.form === 'rounded';
    const endless = !rational.terminates(a.exact) || !rational.terminates(b.exact);
    if (!rounded && !(endless && (a.form === 'decimal' || b.form === 'decimal'))) return false;
    if (!endless) return isRoundingOf(a.exact, b.exact) && isNear(a.approximate, b.approximate);
  }
  const isDecimal = [a, b].some(({ exact, form }) => exact && form !== 'fraction');
  return isDecimal ? isNear(a.approximate, b.approximate) : isSame(a.approximate, b.approximate);
}
