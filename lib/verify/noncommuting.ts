/**
 * Capital letters that stand for matrices, whose products have an order: A^{-1}B is not BA^{-1}. Two expressions are
 * evaluated with random matrices of two and of three rows, modulo the prime; I is the unit matrix, other letters numbers.
 */
import { Random } from '../random.js';
import { spelling } from './canonical.js';
import { evaluate } from './evaluate.js';
import type { Node } from './expression.js';
import { inverse as inverseOf, prime, residueOfRational } from './modular.js';
import { some, wholeExponent } from './nodes.js';

/** Row by row; numbers stand as multiples of the unit matrix. */
type Matrix = readonly (readonly number[])[];

/** Numbers of rows: what holds for these holds in general, but for identities that no answer is long enough for. */
const sizes = [2, 3];
const largestExponent = 1000n;

const greek = 'Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega';
const isMatrixName = (name: string): boolean => new RegExp(`^(?:[A-Z]|\\\\(?:${greek}))(?:_.*)?$`).test(name);
const isUnit = (name: string): boolean => name === 'I' || /^I_/.test(name);

const isMatrix = (node: Node): boolean => node.kind === 'symbol' && isMatrixName(node.name);
const holdsMatrix = (node: Node): boolean => some(node, isMatrix);

const isTransposed = (node: Node): boolean =>
  node.kind === 'power' &&
  node.exponent.kind === 'symbol' &&
  /^(?:T|\\top|\\intercal)$/.test(node.exponent.name) &&
  holdsMatrix(node.base);
const isInverted = (node: Node): boolean =>
  node.kind === 'power' && wholeExponent(node.exponent) === -1n && holdsMatrix(node.base);

function matricesIn(nodes: readonly Node[]): Set<string> {
  const names = new Set<string>();
  for (const node of nodes)
    some(node, (part) => {
      if (part.kind === 'symbol' && isMatrixName(part.name) && !isUnit(part.name)) names.add(part.name);
      return false;
    });
  return names;
}

/**
 * True where the capital letters of either expression are matrices: one is transposed, or one has the power -1 and there
 * are two of them, or the question speaks of matrices (`isGiven`). AB alone may as well be a product of numbers.
 */
export function isOfMatrices(nodes: readonly Node[], isGiven: boolean): boolean {
  if (nodes.some((node) => some(node, isTransposed))) return true;
  if (!isGiven && !nodes.some((node) => some(node, isInverted))) return false;
  return matricesIn(nodes).size > 1;
}

const build = (size: number, cell: (row: number, column: number) => number): Matrix =>
  Array.from({ length: size }, (_, row) => Array.from({ length: size }, (__, column) => cell(row, column)));

const scalar = (size: number, value: number): Matrix =>
  build(size, (row, column) => (row === column ? value : 0));

const isScalar = (matrix: Matrix): boolean =>
  matrix.every((row, at) =>
    row.every((cell, column) => cell === (at === column ? (matrix[0] as number[])[0] : 0)),
  );

const at = (matrix: Matrix, row: number, column: number): number =>
  (matrix[row] as readonly number[])[column] as number;

const sum = (a: Matrix, b: Matrix): Matrix =>
  build(a.length, (row, column) => (at(a, row, column) + at(b, row, column)) % prime);

const product = (a: Matrix, b: Matrix): Matrix =>
  build(a.length, (row, column) => {
    let total = 0;
    for (let k = 0; k < a.length; k++) total = (total + ((at(a, row, k) * at(b, k, column)) % prime)) % prime;
    return total;
  });

const negated = (a: Matrix): Matrix => build(a.length, (row, column) => (prime - at(a, row, column)) % prime);

/** By Gauss and Jordan; no inverse where the determinant is 0. */
function eliminated(matrix: Matrix): { inverse: Matrix | undefined; determinant: number } {
  const size = matrix.length;
  const rows = matrix.map((row, index) => [...row, ...(scalar(size, 1)[index] as readonly number[])]);
  let determinant = 1;
  for (let column = 0; column < size; column++) {
    const pivot = rows.findIndex((row, index) => index >= column && row[column] !== 0);
    if (pivot < 0) return { inverse: undefined, determinant: 0 };
    if (pivot !== column) {
      [rows[pivot], rows[column]] = [rows[column] as number[], rows[pivot] as number[]];
      determinant = (prime - determinant) % prime;
    }
    const lead = rows[column] as number[];
    const first = lead[column] as number;
    determinant = (determinant * first) % prime;
    const factor = inverseOf(first) as number;
    for (let k = 0; k < 2 * size; k++) lead[k] = ((lead[k] as number) * factor) % prime;
    for (const row of rows) {
      const times = row[column] as number;
      if (row === lead || times === 0) continue;
      for (let k = 0; k < 2 * size; k++)
        row[k] = ((row[k] as number) + (((prime - times) * (lead[k] as number)) % prime)) % prime;
    }
  }
  return { inverse: rows.map((row) => row.slice(size)), determinant };
}

function raised(base: Matrix, exponent: bigint): Matrix | undefined {
  if (exponent < -largestExponent || exponent > largestExponent) return undefined;
  let square = exponent < 0n ? eliminated(base).inverse : base;
  let power = scalar(base.length, 1);
  for (let rest = Math.abs(Number(exponent)); square !== undefined && rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) power = product(power, square);
    square = product(square, square);
  }
  return square && power;
}

/** Value at the random point of this size; undefined where a part has none. */
function matrixOf(node: Node, size: number): Matrix | undefined {
  const drawn = (name: string): Random => new Random('verify matrix', name, size);
  const operand = (part: Node): Matrix | undefined => matrixOf(part, size);
  const fold = (parts: readonly Node[], step: (a: Matrix, b: Matrix) => Matrix): Matrix | undefined => {
    const values = parts.map(operand);
    return values.some((value) => value === undefined) ? undefined : (values as Matrix[]).reduce(step);
  };
  const exact = evaluate(node)?.exact;
  const residue = exact && residueOfRational(exact);
  if (residue !== undefined) return scalar(size, residue);
  switch (node.kind) {
    case 'symbol': {
      if (isUnit(node.name)) return scalar(size, 1);
      const random = drawn(node.name);
      if (!isMatrixName(node.name)) return scalar(size, random.integer(prime));
      return build(size, () => random.integer(prime));
    }
    case 'add':
      return fold(node.terms, sum);
    case 'multiply':
      return fold(node.factors, product);
    case 'negate': {
      const value = operand(node.operand);
      return value && negated(value);
    }
    case 'divide': {
      const [above, below] = [operand(node.numerator), operand(node.denominator)];
      // B/A may be BA^{-1} or A^{-1}B.
      if (above === undefined || below === undefined || !(isScalar(below) || isScalar(above)))
        return undefined;
      const { inverse } = eliminated(below);
      return inverse && product(above, inverse);
    }
    case 'power': {
      const base = operand(node.base);
      if (base === undefined) return undefined;
      if (isTransposed(node)) return build(size, (row, column) => at(base, column, row));
      const exponent = wholeExponent(node.exponent);
      if (exponent !== undefined) return raised(base, exponent);
      break;
    }
    case 'apply': {
      const [only] = node.operands;
      const value = node.operands.length === 1 && only && holdsMatrix(only) ? operand(only) : undefined;
      if (value !== undefined && (node.name === '\\det' || node.name === '\\abs'))
        return scalar(size, eliminated(value).determinant);
      if (value !== undefined && node.name === '\\tr')
        return scalar(
          size,
          value.reduce((total, row, index) => (total + (row[index] as number)) % prime, 0),
        );
      break;
    }
  }
  // A number that is not worked out here, by its spelling.
  return holdsMatrix(node) ? undefined : scalar(size, drawn(spelling(node)).integer(prime));
}

const tree = (node: Node): string =>
  JSON.stringify(node, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));

/** True where both are the same matrix, whatever the matrices in them. */
export function identicalMatrices(a: Node, b: Node): boolean {
  if (tree(a) === tree(b)) return true;
  return sizes.every((size) => {
    const [left, right] = [matrixOf(a, size), matrixOf(b, size)];
    if (left === undefined || right === undefined) return false;
    return left.every((row, index) => row.every((cell, column) => cell === at(right, index, column)));
  });
}
