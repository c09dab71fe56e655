/** Arithmetic modulo a prime of 26 bits. */
import type { Rational } from './rational.js';

/** The largest below 2^26, so that products are exact in doubles, that leaves 1 by 4, so that -1 has a root. */
export const prime = 67108837;
/** One of the two roots of -1, which stand for i. */
export const rootOfMinusOne = 11846621;

const modulo = (value: bigint): number => {
  const rest = Number(value % BigInt(prime));
  return rest < 0 ? rest + prime : rest;
};

export function powerModulo(base: number, exponent: bigint): number {
  let result = 1;
  let square = base;
  // Fermat: the exponent counts modulo prime - 1; a base of 0 has no whole power but 0 and 1.
  let rest = exponent === 0n ? 0 : Number(exponent % BigInt(prime - 1)) || prime - 1;
  for (; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = (result * square) % prime;
    square = (square * square) % prime;
  }
  return result;
}

/** By Euclid's algorithm; undefined for 0. */
export function inverse(value: number): number | undefined {
  if (value === 0) return undefined;
  let [a, b, x, y] = [value, prime, 1, 0];
  while (b !== 0) {
    const quotient = Math.floor(a / b);
    [a, b, x, y] = [b, a - quotient * b, y, x - quotient * y];
  }
  return x < 0 ? x + prime : x;
}

export function residueOfRational({ numerator, denominator }: Rational): number | undefined {
  if (denominator === 1n) return modulo(numerator);
  const below = inverse(modulo(denominator));
  return below === undefined ? undefined : (modulo(numerator) * below) % prime;
}

export function factorialModulo(n: number): number {
  let product = 1;
  for (let factor = 2; factor <= n; factor++) product = (product * factor) % prime;
  return product;
}
