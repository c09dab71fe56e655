/**
 * From tokens to what an answer is: an expression, a tuple, list, set or interval, a union, a relation, a matrix.
 * A recursive-descent parser without backtracking, bounded in depth; what it cannot read is `opaque` and is compared
 * by its canonical text.
 */
import { evaluate } from './evaluate.js';
import { canonicalText, type Token } from './normalize.js';
import { parseDecimal, type Rational } from './rational.js';

export type Node =
  /** `decimals`: digits after the point as written. */
  | { kind: 'number'; value: Rational; decimals: number }
  | { kind: 'symbol'; name: string }
  | { kind: 'add'; terms: Node[] }
  | { kind: 'multiply'; factors: Node[] }
  | { kind: 'divide'; numerator: Node; denominator: Node }
  | { kind: 'negate'; operand: Node }
  | { kind: 'power'; base: Node; exponent: Node }
  | { kind: 'apply'; name: string; operands: Node[] }
  | { kind: 'percent'; operand: Node }
  | { kind: 'degree'; operand: Node };

export type Answer =
  | { kind: 'expression'; node: Node }
  /** `open` and `close` are empty for a bare list. */
  | { kind: 'sequence'; open: string; close: string; items: Answer[] }
  | { kind: 'union'; items: Answer[] }
  | { kind: 'relation'; operators: string[]; sides: Answer[] }
  | { kind: 'matrix'; rows: Answer[][] }
  | { kind: 'opaque'; text: string };

const maxDepth = 64;
/** Answers of more tokens are opaque. */
const maxTokens = 600;
const relations = new Set(['=', '<', '>', '\\le', '\\ge', '\\ne', '\\approx', '\\in', '\\equiv']);
const opening = new Set(['(', '[', '{', '\\{', '\\begin']);
const closing = new Set([')', ']', '}', '\\}', '\\end']);
const functions = new Set(
  '\\sin \\cos \\tan \\cot \\sec \\csc \\arcsin \\arccos \\arctan \\sinh \\cosh \\tanh \\ln \\lg \\log \\exp \\abs'.split(
    ' ',
  ),
);
const multipliers: Record<string, number> = {
  hundred: 100,
  thousand: 1e3,
  million: 1e6,
  billion: 1e9,
  trillion: 1e12,
};
const hedges = new Set([
  'about',
  'approximately',
  'approx',
  'around',
  'roughly',
  'nearly',
  'exactly',
  'rs',
  'usd',
  'eur',
]);
/** Words after a number that change what it means, so that they are not dropped as units are. */
const meaningful = new Set(['am', 'pm', 'dozen', 'pair', 'bc', 'ad']);

const whole = (value: number): Node => ({
  kind: 'number',
  value: { numerator: BigInt(value), denominator: 1n },
  decimals: 0,
});

/** Thrown and caught inside this file only; one object, because making a stack trace is slow. */
const unreadable = new Error('not an expression');

class ExpressionParser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;
  /** Open `|...|` groups: inside one, the next bar closes it. */
  #bars = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get #next(): Token | undefined {
    return this.#tokens[this.#at];
  }

  #is(text: string): boolean {
    return this.#next?.text === text && this.#next.kind !== 'word';
  }

  #take(text: string): void {
    if (!this.#is(text)) throw unreadable;
    this.#at++;
  }

  /** The whole of the tokens as one expression, units after it dropped. */
  run(): Node {
    while (this.#next?.kind === 'word' && hedges.has(this.#next.text.toLowerCase())) {
      this.#at++;
      if (this.#is('.')) this.#at++;
    }
    const node = this.#sum();
    if (evaluate(node) !== undefined) this.#units();
    if (this.#at < this.#tokens.length) throw unreadable;
    return node;
  }

  /** Skips what follows a number and is a unit: words, and powers and quotients of them. */
  #units(): void {
    const first = this.#next;
    if (first === undefined) return;
    const inParentheses = first.text === '(' && this.#tokens[this.#at + 1]?.kind === 'word';
    if (first.kind !== 'word' && !inParentheses) return;
    let isExponent = false;
    for (let at = this.#at; at < this.#tokens.length; at++) {
      const { kind, text } = this.#tokens[at] as Token;
      if (kind === 'word' && meaningful.has(text.toLowerCase())) return;
      if (kind === 'command' || (kind === 'number' && !isExponent)) return;
      if (kind === 'symbol' && !"^/*(){}-.'".includes(text)) return;
      isExponent = text === '^' || (isExponent && (text === '{' || text === '-'));
    }
    this.#at = this.#tokens.length;
  }

  #sum(): Node {
    const terms = [this.#product()];
    for (;;) {
      if (this.#is('+')) {
        this.#at++;
        terms.push(this.#product());
      } else if (this.#is('-')) {
        this.#at++;
        terms.push({ kind: 'negate', operand: this.#product() });
      } else break;
    }
    return terms.length === 1 ? (terms[0] as Node) : { kind: 'add', terms };
  }

  #product(): Node {
    let left = this.#signed();
    let previousIsNumber = this.#tokens[this.#at - 1]?.kind === 'number';
    for (;;) {
      if (this.#is('*')) {
        this.#at++;
        left = multiplyNodes(left, this.#signed());
      } else if (this.#is('/')) {
        this.#at++;
        left = { kind: 'divide', numerator: left, denominator: this.#signed() };
      } else if (this.#startsFactor()) {
        // Two numbers side by side are no product ("3 4"), but "2 1/2" and 2\frac12 are mixed numbers.
        if (this.#next?.kind === 'number' && previousIsNumber) {
          if (!this.#next.spaced) throw unreadable;
          const numerator = this.#primary();
          this.#take('/');
          const mixed = mixedNumber(left, { kind: 'divide', numerator, denominator: this.#primary() });
          if (mixed === undefined) throw unreadable;
          left = mixed;
        } else if (this.#is('\\frac') && previousIsNumber) {
          const fraction = this.#power();
          left = mixedNumber(left, fraction) ?? multiplyNodes(left, fraction);
        } else left = multiplyNodes(left, this.#power());
      } else return left;
      previousIsNumber = this.#tokens[this.#at - 1]?.kind === 'number';
    }
  }

  #startsFactor(): boolean {
    const next = this.#next;
    if (next === undefined || next.kind === 'word') return false;
    if (next.kind === 'number' || next.kind === 'letter') return true;
    if (next.kind === 'symbol') {
      if (next.text === '(' && this.#tokens[this.#at + 1]?.kind === 'word') return false;
      return (
        next.text === '(' || next.text === '[' || next.text === '{' || (next.text === '|' && this.#bars === 0)
      );
    }
    return (
      !relations.has(next.text) &&
      next.text !== '\\circ' &&
      !next.text.startsWith('\\end') &&
      next.text !== '\\pm'
    );
  }

  #signed(): Node {
    if (this.#is('-')) {
      if (++this.#depth > maxDepth) throw unreadable;
      this.#at++;
      const operand = this.#signed();
      this.#depth--;
      return { kind: 'negate', operand };
    }
    if (this.#is('+')) this.#at++;
    return this.#power();
  }

  #power(): Node {
    let node = this.#postfix(this.#primary());
    if (this.#is('^')) {
      this.#at++;
      if (this.#is('\\circ') || (this.#is('{') && this.#tokens[this.#at + 1]?.text === '\\circ')) {
        const inGroup = this.#is('{');
        this.#at += inGroup ? 2 : 1;
        if (inGroup) this.#take('}');
        node = { kind: 'degree', operand: node };
        return this.#postfix(node);
      }
      if (++this.#depth > maxDepth) throw unreadable;
      const exponent = this.#is('{') ? this.#group('{', '}') : this.#signed();
      this.#depth--;
      node = this.#postfix({ kind: 'power', base: node, exponent });
    }
    return node;
  }

  #postfix(node: Node): Node {
    for (;;) {
      const next = this.#next;
      if (this.#is('!')) node = { kind: 'apply', name: '!', operands: [node] };
      else if (this.#is('%')) node = { kind: 'percent', operand: node };
      else if (this.#is('\\circ')) node = { kind: 'degree', operand: node };
      else if (next?.kind === 'word' && /^(percent|percentage|pct)$/i.test(next.text)) {
        node = { kind: 'percent', operand: node };
      } else if (next?.kind === 'word' && Object.hasOwn(multipliers, next.text.toLowerCase())) {
        node = multiplyNodes(node, whole(multipliers[next.text.toLowerCase()] as number));
      } else return node;
      this.#at++;
    }
  }

  #group(open: string, close: string): Node {
    this.#take(open);
    const bars = this.#bars;
    this.#bars = 0;
    const node = this.#sum();
    this.#bars = bars;
    this.#take(close);
    return node;
  }

  /** A LaTeX argument: a group, or one token, of which a number gives its first digit (\frac12 is 1/2). */
  #argument(): Node {
    if (this.#is('{')) return this.#group('{', '}');
    const next = this.#next;
    if (next?.kind !== 'number' || next.text.length === 1) return this.#primary();
    const rest = next.text.slice(1);
    if (!/^\d+$/.test(next.text)) throw unreadable;
    (this.#tokens as Token[])[this.#at] = { kind: 'number', text: rest, spaced: false };
    return numberNode(next.text[0] as string);
  }

  /** Every recursion passes here, through a sign or through an exponent. */
  #primary(): Node {
    if (++this.#depth > maxDepth) throw unreadable;
    const node = this.#operand();
    this.#depth--;
    return node;
  }

  #operand(): Node {
    const next = this.#next;
    if (next === undefined || next.kind === 'word') throw unreadable;
    if (next.kind === 'symbol') {
      if (next.text === '(') return this.#group('(', ')');
      if (next.text === '[') return this.#group('[', ']');
      if (next.text === '{') return this.#group('{', '}');
      if (next.text !== '|') throw unreadable;
      this.#at++;
      this.#bars++;
      const inner = this.#sum();
      this.#bars--;
      this.#take('|');
      return { kind: 'apply', name: '\\abs', operands: [inner] };
    }
    this.#at++;
    if (next.kind === 'number') return this.#subscripted(numberNode(next.text), next.text);
    if (next.kind === 'letter') return this.#subscripted({ kind: 'symbol', name: next.text }, next.text);
    return this.#commandNode(next.text);
  }

  /** `a_1`, `4210_7`: the subscript belongs to the name. */
  #subscripted(node: Node, name: string): Node {
    if (!this.#is('_')) return node;
    this.#at++;
    const start = this.#at;
    if (this.#is('{')) this.#group('{', '}');
    else this.#at++;
    const subscript = canonicalText(this.#tokens.slice(start, this.#at));
    return { kind: 'symbol', name: `${name}_${subscript}` };
  }

  #commandNode(name: string): Node {
    if (name === '\\frac') {
      const numerator = this.#argument();
      return { kind: 'divide', numerator, denominator: this.#argument() };
    }
    if (name === '\\sqrt') {
      const degree = this.#is('[') ? this.#group('[', ']') : whole(2);
      const base = this.#is('(') ? this.#group('(', ')') : this.#argument();
      return { kind: 'power', base, exponent: { kind: 'divide', numerator: whole(1), denominator: degree } };
    }
    if (name === '\\binom') return { kind: 'apply', name, operands: [this.#argument(), this.#argument()] };
    if (functions.has(name)) return this.#application(name);
    if (
      relations.has(name) ||
      name.includes('{') ||
      name === '\\begin' ||
      name === '\\cup' ||
      name === '\\cap'
    ) {
      throw unreadable;
    }
    return this.#subscripted({ kind: 'symbol', name }, name);
  }

  /** A function's base or power (\log_2, \sin^2) and its argument: a group, or the factors up to the next operator. */
  #application(name: string): Node {
    const operands: Node[] = [];
    let exponent: Node | undefined;
    if (this.#is('_')) {
      this.#at++;
      operands.push(this.#argument());
    }
    if (this.#is('^')) {
      this.#at++;
      exponent = this.#is('-') ? this.#signed() : this.#argument();
    }
    let operand = this.#is('(') || this.#is('{') ? this.#postfix(this.#primary()) : this.#power();
    const grouped = this.#tokens[this.#at - 1]?.text === ')' || this.#tokens[this.#at - 1]?.text === '}';
    while (
      !grouped &&
      this.#startsFactor() &&
      !functions.has(this.#next?.text ?? '') &&
      this.#next?.text !== '('
    ) {
      operand = multiplyNodes(operand, this.#power());
    }
    operands.push(operand);
    const applied: Node = { kind: 'apply', name, operands };
    return exponent === undefined ? applied : { kind: 'power', base: applied, exponent };
  }
}

function multiplyNodes(left: Node, right: Node): Node {
  return { kind: 'multiply', factors: left.kind === 'multiply' ? [...left.factors, right] : [left, right] };
}

function numberNode(text: string): Node {
  const value = parseDecimal(text);
  if (value === undefined) throw unreadable;
  const point = text.indexOf('.');
  const end = text.indexOf('e') < 0 ? text.length : text.indexOf('e');
  return { kind: 'number', value, decimals: point < 0 ? 0 : end - point - 1 };
}

const isWhole = (node: Node): node is Node & { kind: 'number' } =>
  node.kind === 'number' && node.decimals === 0;

/** 2 and 1/2 as 2 + 1/2, -2 and 1/2 as -2 - 1/2; undefined where they are no mixed number. */
function mixedNumber(left: Node, fraction: Node): Node | undefined {
  const isNegative = left.kind === 'negate';
  if (fraction.kind !== 'divide' || !isWhole(isNegative ? left.operand : left)) return undefined;
  const { numerator, denominator } = fraction;
  if (!isWhole(numerator) || !isWhole(denominator)) return undefined;
  if (numerator.value.numerator >= denominator.value.numerator) return undefined;
  return { kind: 'add', terms: [left, isNegative ? { kind: 'negate', operand: fraction } : fraction] };
}

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

const isComma = ({ text }: Token): boolean => text === ',' || text === ';';

/** An item with one \pm stands for two. */
function expandPlusMinus(tokens: Token[]): Token[][] {
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

/** Reads an answer; never throws. */
export function parseAnswer(tokens: readonly Token[], depth = 0): Answer {
  const opaque: Answer = { kind: 'opaque', text: canonicalText(tokens) };
  if (tokens.length === 0 || tokens.length > maxTokens || depth > 16) return opaque;
  const list = split(tokens, isComma).parts.filter((part) => part.length > 0);
  const items = list.flatMap(expandPlusMinus);
  if (items.length > 1) return sequence('', '', items, depth);
  if (items[0] !== undefined && items[0].length < tokens.length) return parseAnswer(items[0], depth + 1);
  const unions = split(tokens, ({ text }) => text === '\\cup').parts;
  if (unions.length > 1) return { kind: 'union', items: unions.map((part) => parseAnswer(part, depth + 1)) };
  // "= 5" and "\\approx 5" relate nothing.
  if (relations.has(tokens[0]?.text ?? '')) return parseAnswer(tokens.slice(1), depth + 1);
  const relation = split(tokens, ({ kind, text }) => kind !== 'word' && relations.has(text));
  if (relation.separators.length > 0) {
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
    const parts = split(inner, isComma).parts.filter((part) => part.length > 0);
    if (parts.length > 1 || open === '\\{') {
      return sequence(open.slice(-1), close.slice(-1), parts.flatMap(expandPlusMinus), depth);
    }
  }
  try {
    // A copy: \frac12 splits a token in place.
    return { kind: 'expression', node: new ExpressionParser([...tokens]).run() };
  } catch (error) {
    if (error === unreadable) return opaque;
    throw error;
  }
}
