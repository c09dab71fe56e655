/**
 * From tokens to what an answer is: an expression, a tuple, list, set or interval, a union, a relation, a matrix. What
 * cannot be read is `opaque` and is compared by its canonical text.
 */
import { ExpressionParser, type Node, relations, unreadable } from './expression.js';
import { canonicalText, type Token } from './normalize.js';
import { isNegation } from './words.js';

export type Answer =
  | { kind: 'expression'; node: Node }
  /** `open` and `close` are empty for a bare list. */
  | { kind: 'sequence'; open: string; close: string; items: Answer[] }
  | { kind: 'union'; items: Answer[] }
  | { kind: 'relation'; operators: string[]; sides: Answer[] }
  | { kind: 'matrix'; rows: Answer[][] }
  /** A piecewise function: values and where they hold. */
  | { kind: 'cases'; rows: [value: Answer, condition: Answer][] }
  /** `{x | x > 2}`: the values of a variable for which something holds. */
  | { kind: 'builder'; condition: Answer }
  | { kind: 'opaque'; text: string };

/** Answers of more tokens are opaque. */
const maxTokens = 600;
const opening = new Set(['(', '[', '{', '\\{', '\\begin', '\\begin{cases}']);
const closing = new Set([')', ']', '}', '\\}', '\\end', '\\end{cases}']);

/** Pieces between the separators that stand outside all brackets. */
function split(
  tokens: readonly Token[],
  isSeparator: (token: Token) => boolean,
): { parts: Token[][]; separators: string[] } {
  const parts: Token[][] = [[]];
  const separators: string[] = [];
  let depth = 0;
  for (const token of tokens) {
    if (token.kind !== 'word') {
      if (opening.has(token.text)) depth++;
      else if (closing.has(token.text)) depth--;
      else if (depth === 0 && isSeparator(token)) {
        separators.push(token.text);
        parts.push([]);
        continue;
      }
    }
    (parts.at(-1) as Token[]).push(token);
  }
  return { parts, separators };
}

/** True where the first token opens a bracket that the last one closes. */
function isEnclosed(tokens: readonly Token[]): boolean {
  if (tokens.length < 2 || !opening.has(tokens[0]?.text ?? '')) return false;
  let depth = 0;
  for (const [index, { kind, text }] of tokens.entries()) {
    if (kind === 'word') continue;
    if (opening.has(text)) depth++;
    else if (closing.has(text) && --depth === 0) return index === tokens.length - 1;
  }
  return false;
}

const emptySet: Answer = { kind: 'expression', node: { kind: 'symbol', name: '\\emptyset' } };

/** The condition of `x | condition` or `x \\in S : condition`; undefined where the tokens are no such thing. */
function conditionOf(inner: readonly Token[]): readonly Token[] | undefined {
  const bar = inner.findIndex(({ kind, text }) => kind !== 'word' && (text === '|' || text === ':'));
  const isVariable = inner[0]?.kind === 'letter' && (bar === 1 || inner[1]?.text === '\\in');
  return isVariable && bar > 0 && bar < inner.length - 1 ? inner.slice(bar + 1) : undefined;
}

const isComma = ({ text }: Token): boolean => text === ',' || text === ';';

/** Words between a value and where it holds. */
const conditional = new Set('if for when where whenever with'.split(' '));
const isRelation = ({ kind, text }: Token): boolean => kind !== 'word' && relations.has(text);
const withoutMarks = (tokens: readonly Token[]): readonly Token[] => {
  const end = tokens.findLastIndex(({ kind, text }) => kind === 'word' || !/^[,;.]$/.test(text));
  return tokens.slice(0, end + 1);
};

/** Value and condition of a row of `cases`, apart by `&`, by "if" or by a comma; one piece where there is no condition. */
function splitRow(row: readonly Token[]): (readonly Token[])[] {
  const cells = split(row, ({ text }) => text === '&').parts.filter((cell) => cell.length > 0);
  const isAligned = cells.slice(1).every((cell) => isRelation(cell[0] as Token));
  const joined = isAligned ? cells.flat() : undefined;
  let parts: (readonly Token[])[] = joined === undefined ? cells : [joined];
  if (joined !== undefined) {
    const word = joined.findIndex(
      ({ kind, text }) =>
        kind === 'word' && (conditional.has(text.toLowerCase()) || /^(?:otherwise|else)$/i.test(text)),
    );
    const comma = joined.findIndex(isComma);
    const at = word > 0 ? word : comma > 0 && !joined.slice(0, comma).some(isRelation) ? comma + 1 : -1;
    if (at > 0 && at < joined.length) parts = [joined.slice(0, at), joined.slice(at)];
  }
  return parts.map((part, index) => {
    const isWord = index > 0 && part[0]?.kind === 'word' && conditional.has(part[0].text.toLowerCase());
    return withoutMarks(isWord ? part.slice(1) : part);
  });
}

/** The rows of `cases` or of an aligned block: a piecewise function, or the equations of a system as a bare list. */
function parseCases(inner: readonly Token[], depth: number): Answer {
  const opaque: Answer = { kind: 'opaque', text: canonicalText(inner) };
  const rows = split(inner, ({ text }) => text === '\\\\')
    .parts.filter((row) => row.length > 0)
    .map((row) => splitRow(row).map((part) => parseAnswer(part, depth + 1)));
  if (rows.length > 1 && rows.every((row) => row.length === 2))
    return { kind: 'cases', rows: rows as [Answer, Answer][] };
  if (!rows.every((row) => row.length === 1)) return opaque;
  const items = rows.flat();
  return items.length === 1 ? (items[0] as Answer) : { kind: 'sequence', open: '', close: '', items };
}

/** What stands in `cases`, or in an array after a single brace. */
function systemOf(tokens: readonly Token[]): readonly Token[] | undefined {
  const [first, second] = tokens;
  if (first?.text === '\\begin{cases}' && isEnclosed(tokens)) return tokens.slice(1, -1);
  const isBraced = first?.text === '\\{' && /^\\begin(?:\{cases\})?$/.test(second?.text ?? '');
  return isBraced && isEnclosed(tokens.slice(1)) ? tokens.slice(2, -1) : undefined;
}

/** The equations or bounds that \lor or \land joins, as a list; undefined for other formulas of logic. */
function parseJoined(tokens: readonly Token[], depth: number): Answer | undefined {
  const isJoint = ({ text }: Token): boolean => text === '\\vee' || text === '\\wedge';
  if (!tokens.some(isJoint)) return undefined;
  const { parts, separators } = split(tokens, isJoint);
  if (
    separators.length === 0 ||
    new Set(separators).size > 1 ||
    !parts.every((part) => part.some(isRelation))
  )
    return undefined;
  const items = parts.map((part) => parseAnswer(part, depth + 1));
  if (!items.every(({ kind }) => kind === 'relation')) return undefined;
  // "x = 2 and x = 3" holds for no number.
  const names = parts.map((part) => canonicalText(part.slice(0, part.findIndex(isRelation))));
  const areEqualities = items.every((item) => item.kind === 'relation' && item.operators.join() === '=');
  if (separators[0] === '\\wedge' && areEqualities && new Set(names).size < names.length) return undefined;
  return { kind: 'sequence', open: '', close: '', items };
}

/** An item with one \pm stands for two. */
function expandPlusMinus(tokens: Token[]): Token[][] {
  // {0, \pm 1} is one set.
  if (tokens[0]?.text === '\\{' && isEnclosed(tokens)) return [tokens];
  const signs = tokens.filter(({ text }) => text === '\\pm' || text === '\\mp').length;
  if (signs !== 1) return [tokens];
  return ['+', '-'].map((sign) =>
    tokens.map((token) =>
      token.text === '\\pm' || token.text === '\\mp'
        ? { kind: 'symbol', text: sign, spaced: token.spaced }
        : token,
    ),
  );
}

function sequence(open: string, close: string, items: Token[][], depth: number): Answer {
  return { kind: 'sequence', open, close, items: items.map((item) => parseAnswer(item, depth + 1)) };
}

/** `\frac{1}{2}\begin{pmatrix} ... \end{pmatrix}`, `-\begin{...`: the matrix times a number. */
function scaledMatrix(tokens: readonly Token[], depth: number): Answer | undefined {
  const begin = tokens.findIndex(({ kind, text }) => kind === 'command' && text === '\\begin');
  const start = /^[([]$/.test(tokens[begin - 1]?.text ?? '') ? begin - 1 : begin;
  if (start <= 0 || !isEnclosed(tokens.slice(start))) return undefined;
  const sign = start === 1 && tokens[0]?.text === '-';
  const before = tokens[start - 1]?.text === '*' ? tokens.slice(0, start - 1) : tokens.slice(0, start);
  const one: Token = { kind: 'number', text: '1', spaced: false };
  const factor = parseAnswer(sign ? [...before, one] : before, depth + 1);
  const matrix = parseAnswer(tokens.slice(start), depth + 1);
  if (factor.kind !== 'expression' || matrix.kind !== 'matrix') return undefined;
  const cells = matrix.rows.flat();
  if (!cells.every((cell) => cell.kind === 'expression')) return undefined;
  const times = (cell: Answer): Answer =>
    cell.kind === 'expression'
      ? { kind: 'expression', node: { kind: 'multiply', factors: [factor.node, cell.node] } }
      : cell;
  return { kind: 'matrix', rows: matrix.rows.map((row) => row.map(times)) };
}

/** Reads an answer; never throws. */
export function parseAnswer(tokens: readonly Token[], depth = 0): Answer {
  const opaque: Answer = { kind: 'opaque', text: canonicalText(tokens) };
  if (tokens.length === 0 || tokens.length > maxTokens || depth > 16) return opaque;
  if (tokens[0]?.text === '{' && isEnclosed(tokens)) return parseAnswer(tokens.slice(1, -1), depth + 1);
  const list = split(tokens, isComma).parts.filter((part) => part.length > 0);
  const items = list.flatMap(expandPlusMinus);
  if (items.length > 1) return sequence('', '', items, depth);
  if (items[0] !== undefined && items[0].length < tokens.length) return parseAnswer(items[0], depth + 1);
  const system = systemOf(tokens);
  if (system !== undefined) return parseCases(system, depth);
  const connected = parseJoined(tokens, depth);
  if (connected !== undefined) return connected;
  const unions = split(tokens, ({ text }) => text === '\\cup').parts;
  if (unions.length > 1) return { kind: 'union', items: unions.map((part) => parseAnswer(part, depth + 1)) };
  // "= 5" and "\\approx 5" relate nothing; "< 5" is a bound.
  if (/^(?:=|\\approx|\\in)$/.test(tokens[0]?.text ?? '')) return parseAnswer(tokens.slice(1), depth + 1);
  const relation = split(tokens, ({ kind, text }) => kind !== 'word' && relations.has(text));
  if (relation.separators.length > 0) {
    // "not ≈ 8", and a sign that belongs to nothing
    const isBroken = relation.parts.some(
      ([first, second]) =>
        first !== undefined &&
        ((first.kind === 'word' && isNegation(first.text.toLowerCase())) ||
          (second === undefined && (first.text === '-' || first.text === '+'))),
    );
    if (isBroken) return opaque;
    const sides = relation.parts.map((part) => parseAnswer(part, depth + 1));
    return { kind: 'relation', operators: relation.separators, sides };
  }
  if (isEnclosed(tokens)) {
    const open = tokens[0]?.text as string;
    const close = tokens.at(-1)?.text as string;
    const inner = tokens.slice(1, -1);
    if (open === '\\begin') {
      const rows = split(inner, ({ text }) => text === '\\\\').parts.filter((row) => row.length > 0);
      const cells = rows.map((row) => split(row, ({ text }) => text === '&').parts);
      return { kind: 'matrix', rows: cells.map((row) => row.map((cell) => parseAnswer(cell, depth + 1))) };
    }
    if (open === '{' && close === '}') return parseAnswer(inner, depth + 1);
    if (open === '\\{' && inner.length === 0) return emptySet;
    const condition = open === '\\{' ? conditionOf(inner) : undefined;
    if (condition !== undefined) return { kind: 'builder', condition: parseAnswer(condition, depth + 1) };
    const parts = split(inner, isComma).parts.filter((part) => part.length > 0);
    if (parts.length > 1 || open === '\\{') {
      return sequence(open.slice(-1), close.slice(-1), parts.flatMap(expandPlusMinus), depth);
    }
  }
  // (x = 3), (no solution), a matrix in parentheses or brackets
  if ((tokens[0]?.text === '(' || tokens[0]?.text === '[') && isEnclosed(tokens)) {
    const inner = parseAnswer(tokens.slice(1, -1), depth + 1);
    if (inner.kind === 'matrix') return inner;
    if (tokens[0].text === '(' && inner.kind !== 'expression' && inner.kind !== 'sequence') return inner;
  }
  const scaled = scaledMatrix(tokens, depth);
  if (scaled !== undefined) return scaled;
  try {
    // A copy: \frac12 splits a token in place.
    return { kind: 'expression', node: new ExpressionParser([...tokens]).run() };
  } catch (error) {
    if (error === unreadable) return opaque;
    throw error;
  }
}
