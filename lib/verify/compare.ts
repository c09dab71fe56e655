/**
 * Whether a predicted answer is the gold one. The gold answer says what is expected: its kind decides how the
 * prediction is read (a bare number may carry a unit, a list may come as "x = 1 or x = 2").
 */
import { isSameAngle } from './angles.js';
import { spelling } from './canonical.js';
import { equalValues, evaluate } from './evaluate.js';
import { type Node, uninterpreted } from './expression.js';
import { identical, isSolvedBy, signOfRatio } from './identity.js';
import { asSet, isReals } from './intervals.js';
import { hasVariable, some } from './nodes.js';
import { identicalMatrices, isOfMatrices } from './noncommuting.js';
import type { Answer } from './parse.js';
import { isNegation } from './words.js';

/** Single letters that are units when they follow a plain number in a prediction. */
const unitLetters = new Set('m g s h l L V W J N C F'.split(' '));
/** Beyond it lists are compared in order only. */
const maxUnordered = 64;

/** Comparisons of items in any order that one verdict may cost, lists inside lists included. */
const maxComparisons = 3000;
let comparisons = 0;

/** The node without `%`, and whether it had one. */
function withoutPercent(node: Node): { node: Node; percent: boolean } {
  if (node.kind === 'percent') return { node: node.operand, percent: true };
  if (node.kind === 'negate' && node.operand.kind === 'percent') {
    return { node: { kind: 'negate', operand: node.operand.operand }, percent: true };
  }
  return { node, percent: false };
}

/** The number of "5 m", "5 m^2" or "5 m/s"; the node itself where there is no such unit. */
function withoutUnitLetters(node: Node): Node {
  const isUnit = (factor: Node): boolean =>
    (factor.kind === 'symbol' && unitLetters.has(factor.name)) ||
    (factor.kind === 'power' && factor.base.kind === 'symbol' && unitLetters.has(factor.base.name));
  if (node.kind === 'negate') return { kind: 'negate', operand: withoutUnitLetters(node.operand) };
  if (node.kind === 'divide' && isUnit(node.denominator)) return withoutUnitLetters(node.numerator);
  if (node.kind !== 'multiply') return node;
  const last = node.factors.findLastIndex((factor) => !isUnit(factor));
  const factors = node.factors.slice(0, last + 1);
  return factors.length === 1
    ? (factors[0] as Node)
    : factors.length === 0
      ? node
      : { kind: 'multiply', factors };
}

/** True where the expression has a numeric value. */
export const isNumeric = (answer: Answer): boolean =>
  answer.kind === 'expression' && evaluate(withoutPercent(answer.node).node) !== undefined;

/** Random evaluations that one verdict may cost, in lists and relations. */
const maxIdentities = 200;
let identities = 0;
const equalAsFunctions = (a: Node, b: Node): boolean =>
  ++identities <= maxIdentities &&
  (isOfMatrices([a, b], ofMatrices) ? identicalMatrices(a, b) : identical(a, b));

/** I(0) reads as a product with zero, and is none. */
const isSpelledAlike = (a: Node, b: Node): boolean =>
  spelling(a) === spelling(b) && (spelling(a) !== '0' || !hasVariable(a) || !hasVariable(b));

/** 4210 is what 4210_7 asks for: the base stands in the question. */
function isDigitsOf(gold: Node, predicted: Node): boolean {
  if (gold.kind !== 'symbol' || predicted.kind !== 'number') return false;
  const digits = /^(\d+)_/.exec(gold.name)?.[1];
  return digits !== undefined && predicted.decimals === 0 && digits === String(predicted.value.numerator);
}

/** `+ c` for the constant of integration `+ C`. */
function withConstantOf(gold: Node, predicted: Node): Node {
  if (gold.kind !== 'add' || predicted.kind !== 'add') return predicted;
  const has = (node: Node, name: string): boolean =>
    some(node, (part) => part.kind === 'symbol' && part.name === name);
  for (const [own, other] of [
    ['C', 'c'],
    ['c', 'C'],
  ] as const) {
    const isConstant = gold.terms.some((term) => term.kind === 'symbol' && term.name === own);
    if (!isConstant || has(gold, other) || has(predicted, own)) continue;
    const terms = predicted.terms.map((term) =>
      term.kind === 'symbol' && term.name === other ? { ...term, name: own } : term,
    );
    return { kind: 'add', terms };
  }
  return predicted;
}

function equalNodes(gold: Node, found: Node): boolean {
  const predicted = withConstantOf(gold, found);
  const a = withoutPercent(gold);
  const goldValue = evaluate(a.node);
  // I(0) is no zero.
  if (goldValue === undefined && spelling(gold) === '0' && hasVariable(gold) && !hasVariable(predicted))
    return false;
  if (goldValue === undefined)
    return (
      isDigitsOf(gold, predicted) ||
      (!isOfMatrices([gold, predicted], ofMatrices) && isSpelledAlike(gold, predicted)) ||
      equalAsFunctions(gold, predicted)
    );
  let b = withoutPercent(predicted);
  if (evaluate(b.node) === undefined) b = withoutPercent(withoutUnitLetters(predicted));
  const value = evaluate(b.node);
  if (value === undefined) return equalAsFunctions(gold, predicted);
  if (equalValues(goldValue, value) || isSameAngle(a.node, b.node)) return true;
  // 10 % is 10 or 0.1 where the other side has no percent sign.
  if (a.percent === b.percent) return false;
  const [left, right] = a.percent ? [evaluate(gold), value] : [goldValue, evaluate(predicted)];
  return left !== undefined && right !== undefined && equalValues(left, right);
}

/** The name on the left of `x = 5`, or what is only a caption: `\text{Area} = ...`, `f(x) = ...`. */
interface Name {
  name: string;
  /** Of a variable, or of a product of them. */
  symbols: string[];
  isVariable: boolean;
  /** A row of names: AB, S(t). */
  isProduct?: boolean;
}

/** `a v` and `x x` hold `v` and `x` and are other quantities. */
const isMultiple = (name: Name, of: Name): boolean => {
  const rest = [...name.symbols];
  const holds = of.symbols.every((symbol) => {
    const at = rest.indexOf(symbol);
    if (at >= 0) rest.splice(at, 1);
    return at >= 0;
  });
  return of.symbols.length > 0 && holds && rest.length > 0;
};

/** AC is another segment than AB, S(x) another value than S(t) and dz another one than dy. */
function isOtherCaption(a: Name, b: Name): boolean {
  if (a.isVariable || b.isVariable || a.symbols.length !== b.symbols.length || a.symbols.length < 2)
    return false;
  // \angle B may be \angle ABC.
  if (!a.isProduct || !b.isProduct || a.symbols.join('').length !== b.symbols.join('').length) return false;
  const isSegment = [...a.symbols, ...b.symbols].every((symbol) => /^[A-Z]$/.test(symbol));
  return (
    (isSegment || a.symbols[0] === b.symbols[0]) &&
    a.symbols.toSorted().join() !== b.symbols.toSorted().join()
  );
}

function symbolsIn(node: Node): string[] {
  const names: string[] = [];
  some(node, (part) => {
    if (part.kind === 'symbol') names.push(part.name);
    else if (part.kind === 'apply') names.push(part.name);
    return false;
  });
  return names;
}

const accented = /^\\(?:overline|bar|vec|(?:wide)?hat|(?:wide)?tilde|underline|d?dot)$/;

function nameOf(answer: Answer | undefined): Name | undefined {
  // (x, y) = (1, 2)
  if (answer?.kind === 'sequence' && answer.open === '(' && answer.close === ')') {
    const names = answer.items.map(nameOf);
    return names.every((name) => name?.isVariable)
      ? { name: names.map((name) => name?.name).join(), symbols: [], isVariable: true }
      : undefined;
  }
  if (answer?.kind === 'opaque') {
    const isCaption = /^[a-z ]+$/i.test(answer.text) && !answer.text.split(' ').some(isNegation);
    return isCaption ? { name: answer.text, symbols: [], isVariable: false } : undefined;
  }
  if (answer?.kind !== 'expression') return undefined;
  const { node } = answer;
  if (node.kind === 'symbol' && evaluate(node) === undefined)
    return { name: node.name, symbols: [node.name], isVariable: true };
  // f(x), \angle A B C, Area: a product of names.
  // \bar{x}
  if (node.kind === 'apply' && accented.test(node.name))
    return { name: spelling(node), symbols: symbolsIn(node), isVariable: true };
  const isCaption =
    (node.kind === 'multiply' && node.factors.every((factor) => factor.kind === 'symbol')) ||
    (node.kind === 'apply' && uninterpreted.has(node.name));
  if (!isCaption) return undefined;
  return {
    name: spelling(node),
    symbols: symbolsIn(node),
    isVariable: false,
    isProduct: node.kind === 'multiply' || (node.kind === 'apply' && node.name === '\\angle'),
  };
}

const isEquality = (operator: string): boolean =>
  operator === '=' || operator === '\\approx' || operator === '\\in';

/** The right side of an equation whose left side is only a name, or the result of a computation `3 + 4 = 7`. */
function resultOf(answer: Answer): { name: Name | undefined; result: Answer } {
  if (answer.kind !== 'relation' || !answer.operators.every(isEquality))
    return { name: undefined, result: answer };
  const first = answer.sides[0];
  const last = answer.sides.at(-1) as Answer;
  const name = nameOf(first);
  if (name !== undefined) return { name, result: last };
  if (answer.sides.length === 2 && nameOf(last) !== undefined)
    return { name: nameOf(last), result: first as Answer };
  return { name: undefined, result: isNumeric(last) && answer.sides.every(isNumeric) ? last : answer };
}

const flipped: Record<string, string> = { '<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le' };

function equalRelations(
  gold: Answer & { kind: 'relation' },
  predicted: Answer & { kind: 'relation' },
): boolean {
  if (gold.sides.length !== predicted.sides.length) return false;
  const matches = (operators: string[], sides: Answer[]): boolean =>
    gold.operators.every((operator, index) => operator === operators[index]) &&
    gold.sides.every((side, index) => compareAnswers(side, sides[index] as Answer));
  if (matches(predicted.operators, predicted.sides)) return true;
  const reversed = predicted.operators.toReversed().map((operator) => flipped[operator] ?? operator);
  return matches(reversed, predicted.sides.toReversed()) || isRearranged(gold, predicted);
}

/** Left side minus right side of a relation of two expressions. */
function differenceOf({ sides }: Answer & { kind: 'relation' }): Node | undefined {
  const [left, right] = sides;
  if (sides.length !== 2 || left?.kind !== 'expression' || right?.kind !== 'expression') return undefined;
  return { kind: 'add', terms: [left.node, { kind: 'negate', operand: right.node }] };
}

/** True where the gold equation is solved for a variable, y = 6/x, and the predicted one says the same, xy - 6 = 0. */
function isSolvedForm({ sides }: Answer & { kind: 'relation' }, difference: Node): boolean {
  const [left, right] = sides;
  if (left?.kind !== 'expression' || right?.kind !== 'expression' || left.node.kind !== 'symbol')
    return false;
  return isSolvedBy(difference, left.node.name, right.node);
}

/**
 * Relations that differ by a number as factor and in what stands on which side: 2x + y = 5 is y = 5 - 2x. Where the
 * gold answer is solved (x = 3), x + 4 = 7 is not: it may be the question itself.
 */
function isRearranged(
  gold: Answer & { kind: 'relation' },
  predicted: Answer & { kind: 'relation' },
): boolean {
  const [operator = ''] = gold.operators;
  const [found = ''] = predicted.operators;
  const isFlipped = flipped[operator] === found;
  if ((operator !== found && !isFlipped) || !/^(?:[=<>]|\\(?:le|ge|ne))$/.test(operator)) return false;
  if (gold.sides.some(isNumeric) && gold.sides.some((side) => nameOf(side)?.isVariable)) return false;
  const a = differenceOf(gold);
  const b = differenceOf(predicted);
  if (a === undefined || b === undefined || !hasVariable(a) || !hasVariable(b)) return false;
  if (isOfMatrices([a, b], ofMatrices)) return false;
  if (++identities > maxIdentities) return false;
  const sign = signOfRatio(a, b);
  if (operator === '=') return sign !== 0 || isSolvedForm(gold, b);
  if (!Object.hasOwn(flipped, operator)) return sign !== 0;
  return sign === (isFlipped ? -1 : 1);
}

function equalInOrder(gold: readonly Answer[], predicted: readonly Answer[]): boolean {
  return (
    gold.length === predicted.length &&
    gold.every((item, index) => compareAnswers(item, predicted[index] as Answer))
  );
}

function equalInAnyOrder(gold: readonly Answer[], predicted: readonly Answer[]): boolean {
  if (gold.length !== predicted.length) return false;
  if (gold.length > maxUnordered) return equalInOrder(gold, predicted);
  if (equalInOrder(gold, predicted)) return true;
  const left = [...predicted];
  return gold.every((item) => {
    const found = left.findIndex((candidate) => --comparisons > 0 && compareAnswers(item, candidate));
    if (found >= 0) left.splice(found, 1);
    return found >= 0;
  });
}

/** {1, 1, 2} has two members. */
const distinct = (items: readonly Answer[]): readonly Answer[] =>
  items.length > maxUnordered
    ? items
    : items.filter(
        (item, index) =>
          !items.slice(0, index).some((other) => --comparisons > 0 && compareAnswers(other, item)),
      );

/** Rows in any order: a piecewise function may begin with any piece. */
function equalCases(gold: Answer & { kind: 'cases' }, predicted: Answer & { kind: 'cases' }): boolean {
  const rows = ({ rows }: Answer & { kind: 'cases' }): Answer[] =>
    rows.map(([value, condition]) => ({
      kind: 'sequence',
      open: '(',
      close: ')',
      items: [value, condition],
    }));
  return withinSequence(() => equalInAnyOrder(rows(gold), rows(predicted)));
}

function equalSequences(gold: Answer & { kind: 'sequence' }, predicted: Answer): boolean {
  if (predicted.kind !== 'sequence') return false;
  const goldOrdered = !anyOrder && (gold.open === '(' || gold.open === '[');
  const predictedOrdered = !anyOrder && (predicted.open === '(' || predicted.open === '[');
  // Values without their names come in the order of the names.
  if (!anyOrder && areAssignments(gold.items) && predicted.items.every(({ kind }) => kind !== 'relation'))
    return equalInOrder(gold.items, predicted.items);
  if (!goldOrdered && !predictedOrdered) {
    const isLonger = predicted.open === '{' && predicted.items.length > gold.items.length;
    return equalInAnyOrder(gold.items, isLonger ? distinct(predicted.items) : predicted.items);
  }
  // A tuple may lose its parentheses and a bare list gain some, but (1, 2) is not [1, 2) and {1, 2} is no tuple.
  const bare = gold.open === '' ? predicted.open === '(' : predicted.open === '' && gold.open === '(';
  const same = gold.open === predicted.open && gold.close === predicted.close;
  return (bare || same) && equalInOrder(gold.items, inOrderOfNames(predicted.items));
}

/** The question says that the order of items does not matter. */
let anyOrder = false;
/** The question says that capital letters are matrices. */
let ofMatrices = false;

/** A member {1} is not the member 1. */
let inSequence = false;
function withinSequence(compare: () => boolean): boolean {
  const outer = inSequence;
  inSequence = true;
  const areEqual = compare();
  inSequence = outer;
  return areEqual;
}

/** What the question says. */
export interface Hints {
  /** Tuples are compared in any order. */
  anyOrder?: boolean;
  /** Products of capital letters have an order. */
  matrices?: boolean;
}

/** True where the two answers are equal; `gold` defines what is expected. */
export function equalAnswers(gold: Answer, predicted: Answer, hints: Hints = {}): boolean {
  comparisons = maxComparisons;
  identities = 0;
  inSequence = false;
  anyOrder = hints.anyOrder === true;
  ofMatrices = hints.matrices === true;
  return compareAnswers(gold, predicted);
}

/** True where both are the same set of numbers; undefined where the gold answer names none as an interval. */
function equalSets(gold: Answer, predicted: Answer): boolean | undefined {
  // An inequality may be answered by its interval; an interval by an inequality only in braces, {x | x > 2}.
  const expected =
    gold.kind === 'relation' || gold.kind === 'builder' || isRelationList(gold) ? asSet(gold) : gold;
  const found =
    predicted.kind === 'builder'
      ? asSet(predicted)
      : gold.kind === 'relation' && boundVariable(gold) === boundVariable(predicted)
        ? (asSet(predicted) ?? predicted)
        : predicted;
  if (expected === undefined || found === undefined) return undefined;
  if (expected === gold && found === predicted) return undefined;
  return compareAnswers(expected, found);
}

/** The one variable that some inequalities are about. */
function boundVariable(answer: Answer): string | undefined {
  if (answer.kind === 'sequence' && answer.open === '') {
    const names = new Set(answer.items.map(boundVariable));
    return names.size === 1 ? [...names][0] : undefined;
  }
  const names = answer.kind === 'relation' ? answer.sides.map(nameOf).filter((name) => name?.isVariable) : [];
  return names.length === 1 ? names[0]?.name : undefined;
}

/** `-\infty < x < 2` for `x < 2`: both as the set of numbers that they stand for. */
const isSameRange = (gold: Answer, predicted: Answer): boolean =>
  gold.kind === 'relation' &&
  predicted.kind === 'relation' &&
  predicted.sides.length !== gold.sides.length &&
  boundVariable(gold) !== undefined &&
  asSet(predicted) !== undefined &&
  equalSets(gold, predicted) === true;

/** x = 1, y = 2 */
const areAssignments = (items: readonly Answer[]): boolean => {
  const names = items.map((item) =>
    item.kind === 'relation' && item.operators.join() === '=' ? nameOf(item.sides[0])?.name : undefined,
  );
  return !names.includes(undefined) && new Set(names).size === items.length;
};

/** y = 1, x = 2 as (2, 1); other names than x, y, z may have another order in the question. */
function inOrderOfNames(items: readonly Answer[]): readonly Answer[] {
  if (!areAssignments(items)) return items;
  const name = (item: Answer): string =>
    item.kind === 'relation' ? (nameOf(item.sides[0])?.name ?? '') : '';
  return items.every((item) => /^[xyz]$/.test(name(item))) ||
    items.every((item) => /^[a-d]$/.test(name(item)))
    ? items.toSorted((a, b) => (name(a) < name(b) ? -1 : 1))
    : items;
}

const isRelationList = (answer: Answer): boolean =>
  answer.kind === 'sequence' && answer.open === '' && answer.items.every(({ kind }) => kind === 'relation');

function compareAnswers(gold: Answer, predicted: Answer): boolean {
  // y = a, y = b in a row reads as a chain of three sides, of which the last one is not all.
  if (gold.kind === 'relation' && predicted.kind === 'relation' && gold.sides.length > 2) {
    if (predicted.sides.length === gold.sides.length && !isNumeric(gold.sides[1] as Answer))
      return equalRelations(gold, predicted);
  }
  const isMembership = predicted.kind === 'relation' && predicted.operators.join() === '\\in';
  // y \in S is not x \in S, and -x \in S neither.
  if (isMembership) {
    const name = nameOf(predicted.sides[0]);
    if (gold.kind === 'relation' && gold.operators.join() === '\\in') {
      const expected = nameOf(gold.sides[0]);
      if (name?.isVariable !== expected?.isVariable || (name?.isVariable && name.name !== expected?.name))
        return false;
    } else if (name === undefined) return false;
  }
  const range = isMembership ? (predicted.sides[1] as Answer) : predicted;
  if (range.kind !== 'relation' ? equalSets(gold, range) === true : isSameRange(gold, range)) return true;
  if (gold.kind === 'relation' && predicted.kind === 'relation' && isRearranged(gold, predicted)) return true;
  // -1/sqrt(3) = 58 % is not what 1/sqrt(3) = 58 % says, though its end is.
  const isComputation = (answer: Answer): answer is Answer & { kind: 'relation' } =>
    answer.kind === 'relation' && answer.sides.every(isNumeric);
  if (isComputation(gold) && isComputation(predicted) && gold.sides.length === predicted.sides.length)
    return equalRelations(gold, predicted);
  // 5\sqrt 2 is what 5\sqrt 2 \approx 7.07 gives, and 7.07 as well.
  if (gold.kind !== 'relation' && isComputation(predicted) && predicted.operators.at(-1) === '\\approx') {
    if (compareAnswers(gold, predicted.sides.at(-2) as Answer)) return true;
  }
  const expected = resultOf(gold);
  const found = resultOf(predicted);
  // x = 5 is not y = 5.
  if (expected.name?.isVariable && found.name?.isVariable && expected.name.name !== found.name.name)
    return false;
  if (expected.name && found.name && isMultiple(found.name, expected.name)) return false;
  if (expected.name && found.name && isOtherCaption(expected.name, found.name)) return false;
  // f(4) = 5 is not f(3) = 5.
  const isApplied = (name: Name | undefined): boolean =>
    name?.isVariable === false && name.symbols[0] === 'f';
  if (isApplied(expected.name) && isApplied(found.name) && expected.name?.name !== found.name?.name)
    return false;
  const a = expected.result;
  let b = found.result;
  if (isReals(a) && isReals(b)) return true;
  // What the gold answer has no equation for, an equation in the prediction ends with: f(3) = 1/2, a + b = 19.
  if (b.kind === 'relation' && gold.kind !== 'relation' && b.operators.every(isEquality))
    b = b.sides.at(-1) as Answer;
  switch (a.kind) {
    case 'expression':
      if (b.kind === 'expression') return equalNodes(a.node, b.node);
      return (
        !inSequence &&
        b.kind === 'sequence' &&
        b.open === '{' &&
        b.items.length === 1 &&
        // A set with the empty set in it has one member.
        !(a.node.kind === 'symbol' && a.node.name === '\\emptyset') &&
        compareAnswers(a, b.items[0] as Answer)
      );
    case 'sequence':
      if (a.items.length === 1) {
        const single = b.kind === 'sequence' && b.items.length === 1 ? b : undefined;
        return (
          (single !== undefined || !inSequence) &&
          withinSequence(() => compareAnswers(a.items[0] as Answer, single?.items[0] ?? b))
        );
      }
      return withinSequence(() => equalSequences(a, b));
    case 'union':
      return b.kind === 'union' && equalInAnyOrder(a.items, b.items);
    case 'relation':
      return b.kind === 'relation' && equalRelations(a, b);
    case 'matrix':
      return (
        b.kind === 'matrix' &&
        a.rows.length === b.rows.length &&
        a.rows.every((row, index) => equalInOrder(row, b.rows[index] as Answer[]))
      );
    case 'cases':
      return b.kind === 'cases' && equalCases(a, b);
    case 'builder':
      return compareAnswers(a.condition, b.kind === 'builder' ? b.condition : b);
    case 'opaque':
      return b.kind === 'opaque' && a.text === b.text;
  }
}
