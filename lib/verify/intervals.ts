/** Sets of real numbers: inequalities of one variable as the intervals that they stand for. */
import { evaluate } from './evaluate.js';
import type { Node } from './expression.js';
import type { Answer } from './parse.js';

const infinity: Node = { kind: 'symbol', name: '\\infty' };
const minusInfinity: Node = { kind: 'negate', operand: infinity };

const interval = (open: string, low: Node, high: Node, close: string): Answer => ({
  kind: 'sequence',
  open,
  close,
  items: [
    { kind: 'expression', node: low },
    { kind: 'expression', node: high },
  ],
});

const isVariable = (answer: Answer | undefined): boolean =>
  answer?.kind === 'expression' && answer.node.kind === 'symbol' && evaluate(answer.node) === undefined;

const numberOf = (answer: Answer | undefined): Node | undefined =>
  answer?.kind === 'expression' && evaluate(answer.node) !== undefined ? answer.node : undefined;

const turned: Record<string, string> = { '<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le', '\\ne': '\\ne' };

/** x op bound */
function ray(operator: string, bound: Node): Answer | undefined {
  switch (operator) {
    case '<':
    case '\\le':
      return interval('(', minusInfinity, bound, operator === '<' ? ')' : ']');
    case '>':
    case '\\ge':
      return interval(operator === '>' ? '(' : '[', bound, infinity, ')');
    case '\\ne':
      return {
        kind: 'union',
        items: [interval('(', minusInfinity, bound, ')'), interval('(', bound, infinity, ')')],
      };
    default:
      return undefined;
  }
}

/** Bounds of an interval as numbers. */
function bounds(answer: Answer): [low: number, high: number] | undefined {
  if (answer.kind !== 'sequence' || answer.items.length !== 2) return undefined;
  const values = answer.items.map((item) => (item.kind === 'expression' ? evaluate(item.node) : undefined));
  const [low, high] = values;
  return low && high && [low.approximate, high.approximate];
}

/** Two inequalities of one variable: a gap between them makes a union ("x < 1 or x > 3"), an overlap what both say. */
function joined(first: Answer, second: Answer): Answer | undefined {
  const [a, b] = [bounds(first), bounds(second)];
  if (a === undefined || b === undefined) return undefined;
  if (a[0] > b[0]) return joined(second, first);
  if (a[1] <= b[0]) return { kind: 'union', items: [first, second] };
  if (a[1] > b[1] || a[0] === b[0]) return undefined;
  const [left, right] = [second, first] as (Answer & { kind: 'sequence' })[];
  return (
    left &&
    right && {
      kind: 'sequence',
      open: left.open,
      close: right.close,
      items: [left.items[0]!, right.items[1]!],
    }
  );
}

/** The intervals of `x > 2`, `1 < x \le 3`, `x \ne 0`, `x < 1, x > 3`; undefined for other answers. */
export function asSet(answer: Answer): Answer | undefined {
  if (answer.kind === 'builder') return asSet(answer.condition);
  if (answer.kind === 'sequence' && answer.open === '' && answer.items.length === 2) {
    const [first, second] = answer.items.map(asSet);
    return first && second && joined(first, second);
  }
  if (answer.kind !== 'relation') return undefined;
  const [left, middle, right] = answer.sides;
  const [operator = '', other = ''] = answer.operators;
  if (answer.sides.length === 2) {
    if (operator === '\\in' && isVariable(left)) return middle;
    const bound = isVariable(left) ? numberOf(middle) : isVariable(middle) ? numberOf(left) : undefined;
    return bound && ray(isVariable(left) ? operator : (turned[operator] ?? ''), bound);
  }
  const [low, high] = [numberOf(left), numberOf(right)];
  if (answer.sides.length !== 3 || !isVariable(middle) || low === undefined || high === undefined)
    return undefined;
  const open = { '<': '(', '\\le': '[' }[operator];
  const close = { '<': ')', '\\le': ']' }[other];
  if (open !== undefined && close !== undefined) return interval(open, low, high, close);
  const [start, end] = [{ '>': '(', '\\ge': '[' }[other], { '>': ')', '\\ge': ']' }[operator]];
  return start !== undefined && end !== undefined ? interval(start, high, low, end) : undefined;
}

/** All real numbers: `\mathbb{R}` or the interval without bounds. */
export function isReals(answer: Answer): boolean {
  if (answer.kind === 'expression') return answer.node.kind === 'symbol' && answer.node.name === '\\reals';
  const range =
    answer.kind === 'sequence' && answer.open === '(' && answer.close === ')' ? bounds(answer) : undefined;
  return range?.[0] === -Infinity && range[1] === Infinity;
}
