/**
 * Exact rational numbers of bounded size, so that 0.1 + 0.2 is 0.3 and 10^9^9 costs nothing: an operation whose result
 * would exceed `maxBits` (96 digits) gives undefined.
 */

export interface Rational {
  readonly numerator: bigint;
  /** Positive; the fraction is in lowest terms. */
  readonly denominator: bigint;
}

const maxBits = 320;
const bound = 1n << BigInt(maxBits);

const absolute = (value: bigint): bigint => (value < 0n ? -value : value);

/** Number of binary digits, by way of the hexadecimal ones; exact to 4. */
const bits = (value: bigint): number => absolute(value).toString(16).length * 4;

function greatestCommonDivisor(a: bigint, b: bigint): bigint {
  while (b !== 0n) [a, b] = [b, a % b];
  return a;
}

/** The fraction in lowest terms; undefined for a zero denominator or one that is too large. */
export function rational(numerator: bigint, denominator = 1n): Rational | undefined {
  if (denominator === 0n) return undefined;
  if (denominator === 1n) {
    return absolute(numerator) < bound ? { numerator, denominator } : undefined;
  }
  const sign = denominator < 0n ? -1n : 1n;
  const divisor = sign * greatestCommonDivisor(absolute(numerator), absolute(denominator));
  const reduced = { numerator: numerator / divisor, denominator: denominator / divisor };
  return absolute(reduced.numerator) < bound && reduced.denominator < bound ? reduced : undefined;
}

/** 0.1(6): the digits in parentheses repeat for ever. */
function parseRepeating(text: string): Rational | undefined {
  const match = /^(\d*)\.(\d*)\((\d+)\)$/.exec(text);
  if (match === null || text.length > 60) return undefined;
  const [, whole = '', start = '', period = ''] = match;
  const nines = 10n ** BigInt(period.length) - 1n;
  const shift = 10n ** BigInt(start.length);
  return rational(BigInt(whole + start) * nines + BigInt(period), shift * nines);
}

/** Reads `12`, `1.50`, `.5`, `3e8`, `2.75E-11`, and `0.1(6)` for 1/6. */
export function parseDecimal(text: string): Rational | undefined {
  if (text.endsWith(')')) return parseRepeating(text);
  const [mantissa = '', exponentText = '0'] = text.toLowerCase().split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  const exponent = Number(exponentText) - fraction.length;
  if (Math.abs(exponent) > 100 || whole.length + fraction.length > 100) return undefined;
  const digits = BigInt(whole + fraction);
  return exponent >= 0
    ? rational(digits * 10n ** BigInt(exponent))
    : rational(digits, 10n ** BigInt(-exponent));
}

export const add = (a: Rational, b: Rational): Rational | undefined =>
  rational(a.numerator * b.denominator + b.numerator * a.denominator, a.denominator * b.denominator);

export const multiply = (a: Rational, b: Rational): Rational | undefined =>
  rational(a.numerator * b.numerator, a.denominator * b.denominator);

export const divide = (a: Rational, b: Rational): Rational | undefined =>
  rational(a.numerator * b.denominator, a.denominator * b.numerator);

export const negate = (a: Rational): Rational => ({ numerator: -a.numerator, denominator: a.denominator });

export const equal = (a: Rational, b: Rational): boolean =>
  a.numerator === b.numerator && a.denominator === b.denominator;

/** The k-th root of a whole number if that is whole. */
function wholeRoot(value: bigint, k: number): bigint | undefined {
  if (value < 0n) {
    const root = k % 2 === 1 ? wholeRoot(-value, k) : undefined;
    return root === undefined ? undefined : -root;
  }
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
  const root = BigInt(Math.round(Number(value) ** (1 / k)));
  return root ** BigInt(k) === value ? root : undefined;
}

/** base^exponent where that is rational and small enough: whole exponents, and roots of perfect powers. */
export function power(base: Rational, exponent: Rational): Rational | undefined {
  const root = exponent.denominator;
  if (root !== 1n) {
    if (root > 64n) return undefined;
    const numerator = wholeRoot(base.numerator, Number(root));
    const denominator = wholeRoot(base.denominator, Number(root));
    if (numerator === undefined || denominator === undefined) return undefined;
    return power({ numerator, denominator }, { numerator: exponent.numerator, denominator: 1n });
  }
  const times = absolute(exponent.numerator);
  if (base.numerator === 0n && exponent.numerator <= 0n) return undefined;
  const size = Math.max(bits(base.numerator), bits(base.denominator));
  const isUnit = absolute(base.numerator) <= 1n && base.denominator === 1n;
  if (!isUnit && (times > BigInt(maxBits) || Number(times) * size > 2 * maxBits)) return undefined;
  const count = isUnit ? times % 2n : times;
  const raised = rational(base.numerator ** count, base.denominator ** count);
  if (raised === undefined || exponent.numerator >= 0n) return raised;
  return rational(raised.denominator, raised.numerator);
}

export function toNumber({ numerator, denominator }: Rational): number {
  const excess = Math.max(bits(numerator), bits(denominator)) - 1000;
  if (excess <= 0) return Number(numerator) / Number(denominator);
  const shift = BigInt(excess);
  return Number(numerator >> shift) / Number(denominator >> shift);
}

/** True where the decimal expansion ends. */
export function terminates({ denominator }: Rational): boolean {
  let rest = denominator;
  while (rest % 10n === 0n) rest /= 10n;
  while (rest % 2n === 0n) rest /= 2n;
  while (rest % 5n === 0n) rest /= 5n;
  return rest === 1n;
}

export const toText = ({ numerator, denominator }: Rational): string =>
  denominator === 1n ? String(numerator) : `${numerator}/${denominator}`;
