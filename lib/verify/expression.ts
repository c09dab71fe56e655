/**
 * Expressions: a recursive-descent parser without backtracking, bounded in depth. What it cannot read makes it throw
 * `unreadable`, which parse.ts catches.
 */
import { evaluate } from './evaluate.js';
import { canonicalText, type Token } from './normalize.js';
import { parseDecimal, type Rational } from './rational.js';
import { hedges, isMeaningful, magnitudeOf, spelledNumber } from './words.js';

export type Node =
  /** `decimals`: digits after the point as written; none where they repeat for ever. */
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

const maxDepth = 64;
export const relations = new Set(['=', '<', '>', '\\le', '\\ge', '\\ne', '\\approx', '\\in', '\\equiv']);
const names = (words: string): string[] => words.split(' ').map((word) => `\\${word}`);
/** Functions and marks whose values are not known: equal where what they stand at is. */
export const uninterpreted: ReadonlySet<string> = new Set([
  ...names('det arg Re Im tr sgn gcd lcm Var Pr'),
  ...names('overline bar vec hat widehat tilde widetilde underline overrightarrow overleftarrow dot ddot'),
  '\\angle',
  ...'fgh',
]);
const accents = new Set(
  names('overline bar vec hat widehat tilde widetilde underline overrightarrow overleftarrow dot ddot'),
);
const functions = new Set([
  ...names(
    'sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh ln lg log exp abs cis',
  ),
  ...names('det arg Re Im tr sgn gcd lcm Var Pr'),
]);
/** \sin^{-1} is the inverse function, by custom; \sin^{-2} a power. */
const inverses: Record<string, string> = {
  '\\sin': '\\arcsin',
  '\\cos': '\\arccos',
  '\\tan': '\\arctan',
  '\\cot': '\\arccot',
  '\\sec': '\\arcsec',
  '\\csc': '\\arccsc',
};
/** Brackets that are functions. */
const rounding: Record<string, [close: string, name: string]> = {
  '\\lfloor': ['\\rfloor', '\\floor'],
  '\\lceil': ['\\rceil', '\\ceil'],
};
/** What stands between two things whose order counts, and is no product: formulas with it are compared as text. */
const infix = new Set(
  names(
    'rightarrow Rightarrow Longrightarrow longrightarrow implies impliedby iff Leftrightarrow leftrightarrow gets ' +
      'Leftarrow mapsto setminus backslash subset subseteq subsetneq supset supseteq mod bmod pmod notin ni wedge vee ' +
      'neg lnot oplus otimes prec succ perp parallel cong propto cap cup atop',
  ),
);
/** Letters that are no unit. */
const variables = new Set('a b c n p q r t u v x y z i X Y'.split(' '));
/** They end a product. */
const closers = new Set(names('over choose rfloor rceil circ pm'));
const whole = (value: number): Node => ({
  kind: 'number',
  value: { numerator: BigInt(value), denominator: 1n },
  decimals: 0,
});

/** Thrown and caught inside this parser only; one object, because making a stack trace is slow. */
export const unreadable = new Error('not an expression');

export class ExpressionParser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;
  /** Open `|...|` groups: inside one, the next bar closes it. */
  #bars = 0;
  /** After a slash: `%` and magnitudes are left to the quotient. */
  #isDenominator = false;

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
    let isNegative = false;
    while (this.#next?.kind === 'word') {
      const word = this.#next.text.toLowerCase();
      const isSign = word === 'minus' || word === 'negative';
      if ((!isSign && !hedges.has(word)) || (isSign && isNegative)) break;
      isNegative ||= isSign;
      this.#at++;
      if (this.#is('.')) this.#at++;
    }
    const node = this.#whole();
    if (evaluate(node) !== undefined) this.#units();
    if (this.#at < this.#tokens.length) throw unreadable;
    return isNegative ? { kind: 'negate', operand: node } : node;
  }

  /** Skips what follows a number and is a unit: words, and powers and quotients of them. */
  #units(): void {
    const first = this.#next;
    if (first === undefined) return;
    const inParentheses = first.text === '(' && this.#tokens[this.#at + 1]?.kind === 'word';
    if (first.kind !== 'word' && !inParentheses) return;
    let isExponent = false;
    for (let at = this.#at; at < this.#tokens.length; at++) {
      const { kind, text, spaced } = this.#tokens[at] as Token;
      // 18 K is a temperature, 18K is 18000.
      const isThousand = text === 'k' || (text === 'K' && !spaced);
      if (kind === 'word' && (isThousand || isMeaningful(text.toLowerCase()))) return;
      if (kind === 'command' || (kind === 'number' && (!isExponent || text.length > 1))) return;
      // "mph/x" is a quotient; "miles a day" has an article.
      const isArticle = text === 'a' && this.#tokens[at + 1]?.kind === 'word';
      if (kind === 'letter' && variables.has(text) && !isArticle) return;
      if (kind === 'symbol' && !"^/*(){}-.'".includes(text)) return;
      isExponent = text === '^' || (isExponent && (text === '{' || text === '-'));
    }
    this.#at = this.#tokens.length;
  }

  /** A sum, or two on either side of `\over` or `\choose`. */
  #whole(): Node {
    const left = this.#sum();
    if (this.#is('\\over')) {
      this.#at++;
      return { kind: 'divide', numerator: left, denominator: this.#sum() };
    }
    if (!this.#is('\\choose')) return left;
    this.#at++;
    return { kind: 'apply', name: '\\binom', operands: [left, this.#sum()] };
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
        // In "1/2 million" and "1/3 %" what follows belongs to the quotient.
        this.#isDenominator = true;
        const denominator = this.#signed();
        this.#isDenominator = false;
        left = this.#postfix({ kind: 'divide', numerator: left, denominator });
      } else if (this.#startsFactor()) {
        // Two numbers side by side are no product ("3 4"), but "2 1/2" and 2\frac12 are mixed numbers.
        if (this.#next?.kind === 'number' && previousIsNumber) {
          if (!this.#next.spaced) throw unreadable;
          const numerator = this.#primary();
          this.#take('/');
          const mixed = mixedNumber(left, { kind: 'divide', numerator, denominator: this.#primary() });
          if (mixed === undefined) throw unreadable;
          left = this.#postfix(mixed);
        } else if (this.#is('\\frac') && previousIsNumber) {
          const fraction = this.#power();
          const isPercent = fraction.kind === 'percent';
          const mixed = mixedNumber(left, isPercent ? fraction.operand : fraction);
          if (mixed === undefined) left = multiplyNodes(left, fraction);
          else left = this.#postfix(isPercent ? { kind: 'percent', operand: mixed } : mixed);
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
    return !relations.has(next.text) && !closers.has(next.text) && !next.text.startsWith('\\end');
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
      const word = next?.kind === 'word' ? next.text.toLowerCase() : '';
      const magnitude = word === '' ? undefined : magnitudeOf(word);
      const isPercent = this.#is('%') || word === 'percent' || word === 'percentage' || word === 'pct';
      if (this.#isDenominator && (isPercent || magnitude !== undefined)) return node;
      if (this.#is('!')) node = { kind: 'apply', name: this.#factorial(), operands: [node] };
      else if (isPercent) node = { kind: 'percent', operand: node };
      else if (this.#is('\\circ')) {
        // f \circ g
        if (node.kind === 'symbol' && this.#tokens[this.#at + 1]?.kind === 'letter') throw unreadable;
        node = { kind: 'degree', operand: node };
      } else if (magnitude !== undefined) node = multiplyNodes(node, whole(magnitude));
      else return node;
      this.#at++;
    }
  }

  /** n!! is the double factorial, and no (n!)!. */
  #factorial(): string {
    const second = this.#tokens[this.#at + 1];
    if (second?.text !== '!' || second.spaced) return '!';
    this.#at++;
    return '!!';
  }

  #group(open: string, close: string): Node {
    this.#take(open);
    const bars = this.#bars;
    this.#bars = 0;
    const isDenominator = this.#isDenominator;
    this.#isDenominator = false;
    const node = this.#whole();
    this.#isDenominator = isDenominator;
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
    // f(2x) is no product, nor is g(2x), where g(h + 1) may be one.
    if (/^[fgh]$/.test(next.text) && this.#is('(') && !this.#next?.spaced && this.#isFunction(next.text))
      return { kind: 'apply', name: next.text, operands: [this.#group('(', ')')] };
    if (next.kind === 'letter') return this.#subscripted({ kind: 'symbol', name: next.text }, next.text);
    return this.#commandNode(next.text);
  }

  #isFunction(name: string): boolean {
    if (name === 'f') return true;
    const close = this.#tokens.findIndex(({ text }, index) => index > this.#at && text === ')');
    const isFactor = /^(?:number|letter)$/.test(this.#tokens[this.#at - 2]?.kind ?? '');
    return !isFactor && this.#tokens.slice(this.#at, close).some(({ text }) => text === 'x');
  }

  /** `a_1`, `4210_7`: the subscript belongs to the name. */
  #subscripted(node: Node, name: string): Node {
    if (!this.#is('_')) return node;
    this.#at++;
    const start = this.#at;
    const base = this.#is('{') && this.#tokens[start + 2]?.text === '}' ? this.#tokens[start + 1] : undefined;
    // 1011_{\text{two}}
    const spelled = base?.kind === 'word' ? spelledNumber(base.text) : undefined;
    if (spelled !== undefined) this.#at += 3;
    else if (this.#is('{')) this.#group('{', '}');
    else this.#at++;
    const subscript = spelled ?? canonicalText(this.#tokens.slice(start, this.#at));
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
    if (name === '\\angle' && this.#next?.kind === 'letter') return this.#angle();
    if (functions.has(name)) return this.#application(name);
    if (Object.hasOwn(rounding, name)) {
      const [close, applied] = rounding[name] as [string, string];
      this.#at--;
      return { kind: 'apply', name: applied, operands: [this.#group(name, close)] };
    }
    if (accents.has(name)) {
      // Arrows have a direction: AB is not BA.
      const start = this.#at;
      const operand = this.#argument();
      const text = canonicalText(this.#tokens.slice(start, this.#at));
      const isArrow = name.endsWith('arrow') || (name === '\\vec' && /^\{ [A-Z] [A-Z] \}$/.test(text));
      return isArrow
        ? { kind: 'symbol', name: `${name} ${text}` }
        : this.#subscripted({ kind: 'apply', name, operands: [operand] }, `${name} ${text}`);
    }
    if (relations.has(name) || name.includes('{') || name === '\\begin' || infix.has(name)) throw unreadable;
    return this.#subscripted({ kind: 'symbol', name }, name);
  }

  /** The middle letter is the corner: ABC is CBA and is not ACB. */
  #angle(): Node {
    let corners = '';
    while (corners.length < 3 && this.#next?.kind === 'letter') {
      corners += this.#next.text;
      this.#at++;
    }
    const turned = [...corners].reverse().join('');
    const name = corners.length === 3 && turned < corners ? turned : corners;
    return { kind: 'apply', name: '\\angle', operands: [{ kind: 'symbol', name }] };
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
    const isInverse = exponent && Object.hasOwn(inverses, name) && evaluate(exponent)?.approximate === -1;
    if (isInverse) return { kind: 'apply', name: inverses[name] as string, operands };
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
  if (text.endsWith(')')) return { kind: 'number', value, decimals: 0 };
  const point = text.indexOf('.');
  const end = text.indexOf('e') < 0 ? text.length : text.indexOf('e');
  return { kind: 'number', value, decimals: point < 0 ? 0 : end - point - 1 };
}

const isWhole = (node: Node): node is Node & { kind: 'number' } =>
  node.kind === 'number' && node.decimals === 0 && node.value.denominator === 1n;

/** 2 and 1/2 as 2 + 1/2, -2 and 1/2 as -2 - 1/2; undefined where they are no mixed number. */
function mixedNumber(left: Node, fraction: Node): Node | undefined {
  const isNegative = left.kind === 'negate';
  if (fraction.kind !== 'divide' || !isWhole(isNegative ? left.operand : left)) return undefined;
  const { numerator, denominator } = fraction;
  if (!isWhole(numerator) || !isWhole(denominator)) return undefined;
  if (numerator.value.numerator >= denominator.value.numerator) return undefined;
  return { kind: 'add', terms: [left, isNegative ? { kind: 'negate', operand: fraction } : fraction] };
}
