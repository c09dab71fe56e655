/**
 * Whether two expressions with variables are the same function: evaluated at seeded random points, which finds any
 * difference with near certainty (Schwartz and Zippel). Rational functions are evaluated exactly, modulo a prime of 26
 * bits; roots, powers with variables and functions in complex doubles.
 */
import { Complex } from 'complex.js';
import { Random } from '../random.js';
import { spelling } from './canonical.js';
import { evaluate, roundTo } from './evaluate.js';
import { type Node, uninterpreted } from './expression.js';
import { gamma } from './gamma.js';
import {
  factorialModulo,
  inverse,
  powerModulo,
  prime,
  residueOfRational,
  rootOfMinusOne,
} from './modular.js';
import {
  hasVariable,
  imaginary,
  isAbsolute,
  isPiecewise,
  largestNumber,
  some,
  wholeExponent,
} from './nodes.js';
import { toNumber } from './rational.js';

/** Points for rational functions, and for the others. */
const exactPoints = 3;
const realPoints = 10;
/** More points, farther out, where roots, absolute values or whole parts may change their ways. */
const widePoints = 24;
/** Factorials of larger numbers are not computed modulo the prime. */
const largestFactorial = 1000;
/** Doubles agree to so much of their size. */
const relativeTolerance = 1e-9;
/** A sum so much smaller than its terms is zero, and one so much smaller has lost too many digits. */
const vanishing = 1e-12;
const cancelled = 1e-6;

/** Values of variables at one point, by their names: the same in every process. */
class Point<T> {
  readonly #values = new Map<string, T>();
  readonly #draw: (random: Random) => T;

  constructor(
    readonly index: number,
    draw: (random: Random) => T,
  ) {
    this.#draw = draw;
  }

  of(name: string): T {
    let value = this.#values.get(name);
    if (value === undefined) {
      value = this.#draw(new Random('verify', name, this.index));
      this.#values.set(name, value);
    }
    return value;
  }
}

/** True where the expression is a quotient of polynomials in its symbols, π and e among them. */
function isRationalFunction(node: Node): boolean {
  switch (node.kind) {
    case 'number':
      return true;
    case 'symbol':
      return node.name !== '\\infty';
    case 'add':
      return node.terms.every(isRationalFunction);
    case 'multiply':
      return node.factors.every(isRationalFunction);
    case 'divide':
      return isRationalFunction(node.numerator) && isRationalFunction(node.denominator);
    case 'power': {
      const exponent = wholeExponent(node.exponent);
      // Beyond the prime, exponents that differ may count as the same.
      return (
        exponent !== undefined &&
        exponent < prime - 1 &&
        exponent > 1 - prime &&
        isRationalFunction(node.base)
      );
    }
    case 'negate':
    case 'percent':
    case 'degree':
      return isRationalFunction(node.operand);
    case 'apply':
      return (
        uninterpreted.has(node.name) ||
        evaluate(node)?.exact !== undefined ||
        combinatorial(node) !== undefined
      );
  }
}

const smallWhole = (node: Node | undefined): number | undefined => {
  const whole = node && wholeExponent(node);
  return whole !== undefined && whole >= 0n && whole <= largestFactorial ? Number(whole) : undefined;
};

/** 100! or \binom{1000}{500} modulo the prime, which is larger than every factor. */
function combinatorial({ name, operands }: Node & { kind: 'apply' }): number | undefined {
  const [n, k] = operands.map(smallWhole);
  if (name === '!') return n === undefined ? undefined : factorialModulo(n);
  if (name !== '\\binom' || n === undefined || k === undefined || k > n) return undefined;
  const below = inverse((factorialModulo(k) * factorialModulo(n - k)) % prime) as number;
  return (factorialModulo(n) * below) % prime;
}

/** Value of a rational function at a point modulo the prime; undefined at a pole. */
function residue(node: Node, point: Point<number>): number | undefined {
  switch (node.kind) {
    case 'number':
      return residueOfRational(node.value);
    case 'symbol':
      if (node.name !== imaginary) return point.of(node.name);
      // What holds for i holds for -i.
      return point.index % 2 === 0 ? rootOfMinusOne : prime - rootOfMinusOne;
    case 'add':
      return fold(node.terms, point, (a, b) => (a + b) % prime);
    case 'multiply':
      return fold(node.factors, point, (a, b) => (a * b) % prime);
    case 'divide': {
      const numerator = residue(node.numerator, point);
      const denominator = residue(node.denominator, point);
      const below = denominator === undefined ? undefined : inverse(denominator);
      return numerator === undefined || below === undefined ? undefined : (numerator * below) % prime;
    }
    case 'power': {
      const base = residue(node.base, point);
      const exponent = wholeExponent(node.exponent) as bigint;
      if (base === undefined) return undefined;
      if (exponent >= 0n) return powerModulo(base, exponent);
      const below = inverse(base);
      return below === undefined ? undefined : powerModulo(below, -exponent);
    }
    case 'negate': {
      const value = residue(node.operand, point);
      return value === undefined ? undefined : (prime - value) % prime;
    }
    case 'degree':
      return residue(node.operand, point);
    case 'percent': {
      const value = residue(node.operand, point);
      return value === undefined ? undefined : (value * (inverse(100) as number)) % prime;
    }
    case 'apply': {
      if (uninterpreted.has(node.name)) return point.of(spelling(node));
      const exact = evaluate(node)?.exact;
      return exact === undefined ? combinatorial(node) : residueOfRational(exact);
    }
  }
}

function fold(
  nodes: readonly Node[],
  point: Point<number>,
  step: (a: number, b: number) => number,
): number | undefined {
  let total: number | undefined;
  for (const node of nodes) {
    const value = residue(node, point);
    if (value === undefined) return undefined;
    total = total === undefined ? value : step(total, value);
  }
  return total;
}

/** Thrown and caught in this file: the expression has parts that are not evaluated. */
const notEvaluated = new Error('not evaluated');

type ComplexFunction =
  | 'sin'
  | 'cos'
  | 'tan'
  | 'cot'
  | 'sec'
  | 'csc'
  | 'asin'
  | 'acos'
  | 'atan'
  | 'acot'
  | 'asec'
  | 'acsc'
  | 'sinh'
  | 'cosh'
  | 'tanh'
  | 'log'
  | 'exp';
const complexFunctions: Record<string, ComplexFunction> = {
  '\\sin': 'sin',
  '\\cos': 'cos',
  '\\tan': 'tan',
  '\\cot': 'cot',
  '\\sec': 'sec',
  '\\csc': 'csc',
  '\\arcsin': 'asin',
  '\\arccos': 'acos',
  '\\arctan': 'atan',
  '\\arccot': 'acot',
  '\\arcsec': 'asec',
  '\\arccsc': 'acsc',
  '\\sinh': 'sinh',
  '\\cosh': 'cosh',
  '\\tanh': 'tanh',
  '\\ln': 'log',
  '\\exp': 'exp',
};
const anglesOf = new Set(['\\sin', '\\cos', '\\tan', '\\cot', '\\sec', '\\csc']);
/** Logarithm of the base that `\log` without one has: any, so that only what holds for every base counts as equal. */
const unknownBase = 1.7320391;

/** Without a zero below zero, which would be on the other side of the cut of roots and logarithms. */
const negated = ({ re, im }: Complex): Complex => new Complex(-re, im === 0 ? 0 : -im);

/** Values of an expression in complex doubles at one point. */
class ComplexEvaluation {
  /** False where overflow, underflow or cancellation leave too few digits. */
  isUsable = true;

  constructor(readonly point: Point<number>) {}

  #seen(value: Complex): Complex {
    if (!Number.isFinite(value.re) || !Number.isFinite(value.im)) this.isUsable = false;
    return value;
  }

  #sum(terms: readonly Complex[]): Complex {
    const sum = this.#seen(terms.reduce((a, b) => a.add(b)));
    const [size, largest] = [sum.abs(), Math.max(...terms.map((term) => term.abs()))];
    if (size <= vanishing * largest) return new Complex(0, 0);
    if (size <= cancelled * largest) this.isUsable = false;
    return sum;
  }

  /** @throws notEvaluated */
  of(node: Node): Complex {
    switch (node.kind) {
      case 'number':
        return this.#seen(new Complex(toNumber(node.value), 0));
      case 'symbol':
        return this.#symbol(node.name);
      case 'add':
        return this.#sum(node.terms.map((term) => this.of(term)));
      case 'multiply':
        return node.factors.map((factor) => this.of(factor)).reduce((a, b) => this.#seen(a.mul(b)));
      case 'divide':
        return this.#seen(this.of(node.numerator).div(this.of(node.denominator)));
      case 'negate':
        return negated(this.of(node.operand));
      case 'power':
        return this.#seen(this.#power(node.base, node.exponent));
      case 'percent':
        return this.of(node.operand).div(100);
      case 'degree':
        return this.of(node.operand);
      case 'apply':
        return this.#seen(this.#apply(node.name, node.operands));
    }
  }

  #symbol(name: string): Complex {
    if (name === imaginary) return new Complex(0, 1);
    if (name === '\\pi') return new Complex(Math.PI, 0);
    if (name === 'e') return new Complex(Math.E, 0);
    if (name === '\\infty') throw notEvaluated;
    return new Complex(this.point.of(name), 0);
  }

  #power(baseNode: Node, exponentNode: Node): Complex {
    const base = this.of(baseNode);
    const exact = evaluate(exponentNode)?.exact;
    if (exact !== undefined && base.im === 0) {
      // Real roots of odd degree, as in evaluate.ts.
      const power = toNumber(exact);
      const isOddRoot = exact.denominator % 2n === 1n;
      if (base.re >= 0 || exact.denominator === 1n) return new Complex(base.re ** power, 0);
      if (isOddRoot) {
        const size = Math.abs(base.re) ** power;
        return new Complex(exact.numerator % 2n === 0n ? size : -size, 0);
      }
    }
    const power = base.pow(this.of(exponentNode));
    // Underflow hides differences.
    if (power.abs() === 0 && base.abs() > 0) this.isUsable = false;
    return power;
  }

  #real(node: Node): number {
    const { re, im } = this.of(node);
    if (im !== 0) throw notEvaluated;
    return re;
  }

  #apply(name: string, operands: Node[]): Complex {
    const last = operands.at(-1) as Node;
    if (uninterpreted.has(name))
      return new Complex(this.point.of(spelling({ kind: 'apply', name, operands })), 0);
    if (name === '\\abs') return new Complex(this.of(last).abs(), 0);
    if (name === '!') return new Complex(gamma(this.#real(last) + 1), 0);
    if (name === '\\binom') {
      const [n, k] = [this.#real(operands[0] as Node), this.#real(last)];
      return new Complex(gamma(n + 1) / (gamma(k + 1) * gamma(n - k + 1)), 0);
    }
    if (name === '\\floor' || name === '\\ceil') {
      const { re, im } = this.of(last);
      if (im !== 0) this.isUsable = false;
      return new Complex(roundTo(re, name === '\\floor'), 0);
    }
    if (name === '\\cis') {
      const angle = this.of(last).mul(last.kind === 'degree' ? Math.PI / 180 : 1);
      return angle.cos().add(angle.sin().mul(new Complex(0, 1)));
    }
    if (name === '\\log' || name === '\\lg') {
      const base =
        operands.length === 2
          ? this.of(operands[0] as Node).log()
          : new Complex(name === '\\lg' ? Math.LN10 : unknownBase, 0);
      return this.of(last).log().div(base);
    }
    const method =
      operands.length === 1 && Object.hasOwn(complexFunctions, name) ? complexFunctions[name] : undefined;
    if (method === undefined) {
      const value = evaluate({ kind: 'apply', name, operands });
      if (value === undefined) throw notEvaluated;
      return new Complex(value.approximate, 0);
    }
    const inDegrees = anglesOf.has(name) && last.kind === 'degree';
    const value = this.of(last);
    return (inDegrees ? value.mul(Math.PI / 180) : value)[method]();
  }
}

/**
 * Positive values at every other point, so that roots and logarithms have real values there. `reach`: how far the points
 * behind the usual ones go.
 */
const drawReal =
  (index: number, reach: number) =>
  (random: Random): number => {
    const size = index < realPoints ? 0.3 + 2.4 * random.uniform() : reach * random.uniform();
    return index % 2 === 1 && random.uniform() < 0.5 ? -size : size;
  };

function sampleAt(node: Node, point: Point<number>): Complex | undefined {
  const evaluation = new ComplexEvaluation(point);
  const value = evaluation.of(node);
  const size = value.abs();
  return evaluation.isUsable && (size === 0 || size > 1e-200) ? value : undefined;
}

const isReal = (value: Complex): boolean => Math.abs(value.im) <= relativeTolerance * Math.abs(value.re);

const agree = (a: Complex, b: Complex): boolean =>
  a.sub(b).abs() <= relativeTolerance * Math.max(a.abs(), b.abs());

/**
 * Values of two expressions at the points where both have one, at most until `differ` says so of a pair of which both
 * are real; undefined where an expression cannot be evaluated, or where absolute values give `a` real values that `b`
 * has not: \ln|x| is not \ln x.
 */
function samplePairs(
  a: Node,
  b: Node,
  differ: (left: Complex, right: Complex) => boolean = () => false,
): [Complex, Complex][] | undefined {
  const pairs: [Complex, Complex][] = [];
  try {
    const isWide = some(a, isPiecewise) || some(b, isPiecewise);
    const needsReal = isWide && some(a, isAbsolute) && !some(b, isAbsolute);
    const reach = isWide ? 3 * Math.min(1e9, 1 + Math.max(largestNumber(a), largestNumber(b))) : 0;
    for (let index = 0; index < realPoints + (isWide ? widePoints : 0); index++) {
      const point = new Point(index, drawReal(index, reach));
      const left = sampleAt(a, point);
      const right = left && sampleAt(b, point);
      if (left === undefined || right === undefined) continue;
      pairs.push([left, right]);
      if (needsReal && isReal(left) && !isReal(right)) return undefined;
      if (isReal(left) && isReal(right) && differ(left, right)) return undefined;
    }
  } catch (error) {
    if (error === notEvaluated) return undefined;
    throw error;
  }
  const real = pairs.filter(([left, right]) => isReal(left) && isReal(right));
  // Functions of real variables are compared where both are real: ln(x^2) is 2 ln x, but sqrt(x^2) is not x.
  const chosen = real.length >= 3 ? real : pairs;
  return chosen.length >= 3 ? chosen : undefined;
}

/** Residues at the points where both have one. */
function* residuePairs(a: Node, b: Node): Generator<[number, number]> {
  for (let index = 0, found = 0; index < 2 * exactPoints && found < exactPoints; index++) {
    const point = new Point(index, (random) => random.integer(prime));
    const left = residue(a, point);
    const right = left === undefined ? undefined : residue(b, point);
    if (left === undefined || right === undefined) continue;
    found++;
    yield [left, right];
  }
}

/**
 * True where both expressions have the same values, as functions of their variables. Two expressions with variables
 * that are zero everywhere are not compared: I(0) is no product with zero but a value of I.
 */
export function identical(a: Node, b: Node): boolean {
  const mayVanish = !hasVariable(a) || !hasVariable(b);
  if (isRationalFunction(a) && isRationalFunction(b)) {
    let agreeing = 0;
    let vanishes = true;
    for (const [left, right] of residuePairs(a, b)) {
      if (left !== right) return false;
      agreeing++;
      vanishes &&= left === 0;
    }
    return agreeing === exactPoints && (mayVanish || !vanishes);
  }
  const pairs = samplePairs(a, b, (left, right) => !agree(left, right));
  if (pairs === undefined || (!mayVanish && pairs.every(([left]) => left.abs() === 0))) return false;
  return pairs.every(([left, right]) => agree(left, right));
}

/**
 * The sign of c where a = c b for a number c other than 0, as functions: the equations a = 0 and b = 0 then say the
 * same. 0 where there is no such c.
 */
export function signOfRatio(a: Node, b: Node): -1 | 0 | 1 {
  if (isRationalFunction(a) && isRationalFunction(b)) {
    const pairs: [number, number][] = [];
    for (const pair of residuePairs(a, b)) {
      const [first = pair] = pairs;
      if (pair[0] === 0 || pair[1] === 0 || (pair[0] * first[1]) % prime !== (pair[1] * first[0]) % prime)
        return 0;
      pairs.push(pair);
    }
    // y(0) = 3 reads as 0 = 3, and 0 = 5 is a multiple of that.
    if (pairs.length < exactPoints || pairs.every(([left]) => left === pairs[0]?.[0])) return 0;
  }
  const pairs = samplePairs(a, b)?.filter(([left, right]) => isReal(left) && isReal(right) && right.re !== 0);
  if (pairs?.every(([left]) => left.re === pairs[0]?.[0].re)) return 0;
  const ratios = pairs?.map(([left, right]) => left.re / right.re);
  const ratio = ratios?.[0];
  if (ratios === undefined || ratio === undefined || ratios.length < 3 || ratio === 0) return 0;
  if (ratios.some((other) => Math.abs(other - ratio) > 1e-7 * Math.abs(ratio))) return 0;
  return ratio > 0 ? 1 : -1;
}

const zero: Node = { kind: 'number', value: { numerator: 0n, denominator: 1n }, decimals: 0 };

/** The expression with another one in the place of a variable. */
function substitute(node: Node, name: string, by: Node): Node {
  const inner = (part: Node): Node => substitute(part, name, by);
  switch (node.kind) {
    case 'number':
      return node;
    case 'symbol':
      return node.name === name ? by : node;
    case 'add':
      return { kind: 'add', terms: node.terms.map(inner) };
    case 'multiply':
      return { kind: 'multiply', factors: node.factors.map(inner) };
    case 'divide':
      return { kind: 'divide', numerator: inner(node.numerator), denominator: inner(node.denominator) };
    case 'power':
      return { kind: 'power', base: inner(node.base), exponent: inner(node.exponent) };
    case 'apply':
      return { ...node, operands: node.operands.map(inner) };
    case 'negate':
    case 'percent':
    case 'degree':
      return { kind: node.kind, operand: inner(node.operand) };
  }
}

/** True where `expression = 0` is linear in a variable and `solution` is what it is solved by: xy - 6, y, 6/x. */
export function isSolvedBy(expression: Node, name: string, solution: Node): boolean {
  const variable: Node = { kind: 'symbol', name };
  const at = (offset: number): Node =>
    substitute(expression, name, {
      kind: 'add',
      terms: [
        variable,
        { kind: 'number', value: { numerator: BigInt(offset), denominator: 1n }, decimals: 0 },
      ],
    });
  // \ln|x| has more values than \ln x.
  if (some(solution, isAbsolute) && !some(expression, isAbsolute)) return false;
  if (!identical(substitute(expression, name, solution), zero)) return false;
  const [first, second] = [at(1), at(2)];
  if (identical(first, expression)) return false;
  const middle: Node = { kind: 'add', terms: [expression, second] };
  return identical(middle, { kind: 'add', terms: [first, first] });
}
