/**
 * Turns an answer as people and models write it (LaTeX, plain text, Unicode) into tokens in one linear pass without
 * backtracking. Spacing, sizes and fonts disappear; synonyms (\dfrac, \cdot, ×, −, ½, ≤ ...) become one.
 */

import {
  argumentDropped,
  functionNames,
  ignored,
  matrices,
  plainNames,
  rowsOnly,
  shortWords,
  spaces,
  synonyms,
  textual,
  unicode,
} from './symbols.js';

export interface Token {
  /** `word`: text that is no variable (units, \text{...}); `letter`: one variable. */
  kind: 'number' | 'letter' | 'word' | 'command' | 'symbol';
  /** Canonical spelling: numbers without separators, commands with their backslash. */
  text: string;
  /** White space stood before it. */
  spaced: boolean;
}

/** Longer answers are compared as text only. */
export const maxAnswerLength = 4000;

/** 10⁻³ as 10^{-3}, log₂ as log_{2}; a single ² is left to the table. */
const foldScripts = (text: string): string =>
  text
    .replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]{2,}|[⁰⁵⁶⁷⁸⁹ⁿ]/g, (run) => `^{${mapped(run, '⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ', '0123456789+-n')}}`)
    .replace(/[₀₁₂₃₄₅₆₇₈₉ₙ]+/g, (run) => `_{${mapped(run, '₀₁₂₃₄₅₆₇₈₉ₙ', '0123456789n')}}`);

const mapped = (run: string, from: string, to: string): string =>
  [...run].map((character) => to[from.indexOf(character)]).join('');

/** Plain ASCII spellings of the symbols above; other characters stay. */
export function foldUnicode(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range of ASCII is meant
  if (/^[\x00-\x7f]*$/.test(text)) return text;
  let folded = '';
  for (const character of foldScripts(text)) folded += unicode[character] ?? character;
  return folded;
}

/** ASCII digits for full-width and Arabic ones; no text changes its length. */
export function foldDigits(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range of ASCII is meant
  if (/^[\x00-\x7f]*$/.test(text)) return text;
  return text.replace(/[０-９٠-٩۰-۹]/g, (digit) => {
    const code = digit.charCodeAt(0);
    return String(code - (code >= 0xff10 ? 0xff10 : code >= 0x6f0 ? 0x6f0 : 0x660));
  });
}

const isDigit = (character: string | undefined): boolean =>
  character !== undefined && character >= '0' && character <= '9';
const isLetter = (character: string | undefined): boolean =>
  character !== undefined &&
  ((character >= 'a' && character <= 'z') ||
    (character >= 'A' && character <= 'Z') ||
    (character > '\x7f' && /\p{L}/u.test(character)));

/** Offset after the group that opens at `start` (a `{`); the text's end where it never closes. */
function groupEnd(text: string, start: number): number {
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '{') depth++;
    else if (text[at] === '}' && --depth === 0) return at + 1;
  }
  return text.length;
}

const thousandsSeparators = [', \\! ', ',\\! ', ',\\!', '{,}', '\\,', '\\ ', ',', "'", ' '];

/** Length of a separator at `at` before a group of exactly three digits, else 0. `plain`: a bare comma or space is one. */
function separatorLength(text: string, at: number, plain: boolean): number {
  const separator = thousandsSeparators.find((candidate) => text.startsWith(candidate, at));
  if (separator === undefined || (!plain && (separator === ',' || separator === ' '))) return 0;
  const start = at + separator.length;
  if (!isDigit(text[start]) || !isDigit(text[start + 1]) || !isDigit(text[start + 2])) return 0;
  const after = text[start + 3];
  // "1 100/200" is a mixed number, not 1100/200.
  if (isDigit(after) || (separator.endsWith(' ') && after === '/')) return 0;
  return separator.length;
}

const repeating = /(\.?)\\(?:overline|bar|dot)\s?\{(\d{1,20})\}/y;

export interface TokenizeOptions {
  /** Read `1,234` and `1 234` as one number (default) or as two. */
  thousands?: boolean;
}

class Tokenizer {
  readonly tokens: Token[] = [];
  readonly #text: string;
  readonly #thousands: boolean;
  /** Inside \text{...}: letter runs are words, however short. */
  readonly #words: boolean;
  #at = 0;
  #spaced = false;

  constructor(text: string, thousands: boolean, words: boolean) {
    this.#text = text;
    this.#thousands = thousands;
    this.#words = words;
  }

  #push(kind: Token['kind'], text: string): void {
    this.tokens.push({ kind, text, spaced: this.#spaced });
    this.#spaced = false;
  }

  run(): Token[] {
    const text = this.#text;
    while (this.#at < text.length) {
      const character = text[this.#at] as string;
      if (isDigit(character) || (character === '.' && this.#isDecimalPoint())) this.#number();
      else if (isLetter(character)) this.#letters();
      else if (character === '\\') this.#command();
      else {
        this.#at++;
        if (character === '$' || character === '"' || character === '`') continue;
        if (character === '~' || character.trim() === '') this.#spaced = true;
        else if (character === '*' && text[this.#at] === '*') {
          this.#at++;
          this.#push('symbol', '^');
        } else this.#push('symbol', character);
      }
    }
    return this.tokens;
  }

  /** `.5` and `.\overline{36}` */
  #isDecimalPoint(): boolean {
    repeating.lastIndex = this.#at;
    return isDigit(this.#text[this.#at + 1]) || repeating.test(this.#text);
  }

  #digits(): string {
    const start = this.#at;
    while (isDigit(this.#text[this.#at])) this.#at++;
    return this.#text.slice(start, this.#at);
  }

  #number(): void {
    const text = this.#text;
    let number = this.#digits();
    if (number.length <= 3 && number !== '' && !number.startsWith('0')) {
      for (
        let length = separatorLength(text, this.#at, this.#thousands);
        length > 0;
        length = separatorLength(text, this.#at, this.#thousands)
      ) {
        this.#at += length;
        number += this.#digits();
      }
    }
    if (text[this.#at] === '.' && isDigit(text[this.#at + 1])) {
      this.#at++;
      number += `.${this.#digits()}`;
    }
    number = this.#repeating(number);
    const next = text[this.#at];
    if (next === 'e' || next === 'E') {
      const sign = text[this.#at + 1] === '-' || text[this.#at + 1] === '+' ? 1 : 0;
      if (isDigit(text[this.#at + 1 + sign])) {
        const signText = text.slice(this.#at + 1, this.#at + 1 + sign);
        this.#at += 1 + sign;
        number += `e${signText}${this.#digits()}`;
      }
    }
    this.#push('number', number.startsWith('.') ? `0${number}` : number);
  }

  /** 0.1\overline{6} as `0.1(6)`, which is a number of its own kind. */
  #repeating(number: string): string {
    repeating.lastIndex = this.#at;
    const match = repeating.exec(this.#text);
    if (match === null || (match[1] === '.') === number.includes('.')) return number;
    this.#at += match[0].length;
    return `${number}${match[1]}(${match[2]})`;
  }

  #letters(): void {
    const start = this.#at;
    while (isLetter(this.#text[this.#at])) this.#at++;
    const run = this.#text.slice(start, this.#at);
    const name = plainNames[run.toLowerCase()];
    if (run === 'and' || run === 'or') this.#push('symbol', ',');
    else if (this.#words) this.#push('word', run);
    else if (run.length === 1) this.#push('letter', run);
    else if (name !== undefined && Object.hasOwn(plainNames, run.toLowerCase())) this.#push('command', name);
    else if (run.length > 3 || (shortWords.has(run) && this.#followsQuantity())) this.#push('word', run);
    else for (const letter of run) this.#push('letter', letter);
  }

  #followsQuantity(): boolean {
    const last = this.tokens.at(-1);
    // 5 cu. ft
    const previous = last?.text === '.' && this.tokens.at(-2)?.kind === 'word' ? this.tokens.at(-2) : last;
    return (
      previous !== undefined &&
      (/^(?:number|word)$/.test(previous.kind) || /^(?:[})%/]|\\pi)$/.test(previous.text))
    );
  }

  #command(): void {
    const text = this.#text;
    let end = this.#at + 1;
    while (end < text.length && /[A-Za-z]/.test(text[end] as string)) end++;
    const name = text.slice(this.#at + 1, end);
    if (name === '') {
      const escaped = text[this.#at + 1] ?? '';
      this.#at += 2;
      if (escaped === '\\') this.#push('symbol', '\\\\');
      else if (escaped === '{' || escaped === '}') this.#push('symbol', `\\${escaped}`);
      else if (escaped === '|' || escaped === '%' || escaped === '&' || escaped === '#')
        this.#push('symbol', escaped);
      else if (escaped === '_') this.#push('symbol', '_');
      else if (escaped !== '!' && escaped !== '$') this.#spaced = true;
      return;
    }
    this.#at = end;
    if (spaces.has(name)) this.#spaced = true;
    else if (name === 'mathbb' && this.#argumentIs('R')) this.#push('command', '\\reals');
    else if (name === 'left' || name === 'right') {
      if (text[this.#at] === '.') this.#at++;
    } else if (argumentDropped.has(name)) this.#argument();
    else if (textual.has(name)) this.#textual(name);
    else if (name === 'begin' || name === 'end') this.#environment(name);
    else if (!ignored.has(name)) {
      const synonym = Object.hasOwn(synonyms, name) ? synonyms[name] : undefined;
      const canonical = synonym ?? `\\${name}`;
      this.#push(/^\\[A-Za-z]/.test(canonical) ? 'command' : 'symbol', canonical);
    }
  }

  /** Takes the argument that follows, with or without braces, if it is this letter. */
  #argumentIs(letter: string): boolean {
    const argument = [`{${letter}}`, ` ${letter}`, letter].find((text) =>
      this.#text.startsWith(text, this.#at),
    );
    if (argument !== undefined) this.#at += argument.length;
    return argument !== undefined;
  }

  /** The content of the group that follows; empty where there is none. */
  #argument(): string {
    while (this.#text[this.#at] === ' ') this.#at++;
    if (this.#text[this.#at] !== '{') return '';
    const end = groupEnd(this.#text, this.#at);
    const content = this.#text.slice(this.#at + 1, this.#text[end - 1] === '}' ? end - 1 : end);
    this.#at = end;
    return content;
  }

  #textual(name: string): void {
    const content = this.#argument();
    const isTranspose = content === 'T' && /(?:^|\s)\^(?: \{)?$/.test(canonicalText(this.tokens.slice(-2)));
    const mathLetter =
      isTranspose || ((name === 'mathrm' || name === 'operatorname') && /^[eid]$/.test(content));
    const named = content.trim().toLowerCase();
    const isFunction = functionNames.has(named);
    if (mathLetter) this.#push('letter', content);
    else if (isFunction) this.#push('command', plainNames[named] as string);
    else if (name === 'operatorname' && /^[a-z]+$/.test(content)) this.#push('command', `\\${content}`);
    else {
      const inner = new Tokenizer(content, this.#thousands, true).run();
      if (inner[0] !== undefined) inner[0].spaced ||= this.#spaced;
      this.tokens.push(...inner);
    }
    this.#spaced = true;
  }

  #environment(command: string): void {
    const name = this.#argument();
    if (name === 'array' && command === 'begin') this.#argument();
    const shape = rowsOnly.has(name) ? 'cases' : name;
    this.#push('command', matrices.has(name) ? `\\${command}` : `\\${command}{${shape}}`);
  }
}

/** Tokens of an answer; undefined where it is too long to be one. */
export function tokenize(text: string, { thousands = true }: TokenizeOptions = {}): Token[] | undefined {
  if (text.length > maxAnswerLength) return undefined;
  return new Tokenizer(foldUnicode(text), thousands, false).run();
}

/** 63° is 63^{\circ}, and 45' is 45^{\prime}. */
const isRaised = (text: string): boolean => text === '\\circ' || text === "'";

/** One spelling for answers that differ only in white space, case of words and needless braces. */
export function canonicalText(tokens: readonly Token[]): string {
  const parts: string[] = [];
  for (const { kind, text } of tokens) {
    if (text === '}' && parts.at(-2) === '{') {
      const only = parts.pop() as string;
      parts[parts.length - 1] = only;
      if (isRaised(only) && parts.at(-2) === '^') parts.splice(-2, 1);
    } else if (isRaised(text) && parts.at(-1) === '^') parts[parts.length - 1] = text;
    else parts.push(kind === 'word' ? text.toLowerCase() : text);
  }
  return parts.join(' ');
}

const wrappers: readonly (readonly [string, string])[] = [
  ['$$', '$$'],
  ['$', '$'],
  ['\\(', '\\)'],
  ['\\[', '\\]'],
  ['**', '**'],
  ['__', '__'],
  ['`', '`'],
  ['"', '"'],
  ['“', '”'],
  ['*', '*'],
];

/** Removes what surrounds an answer: white space, math delimiters, emphasis, quotes, a final full stop. */
export function trimAnswer(text: string): string {
  let trimmed = text.trim();
  for (let round = 0; round < 8; round++) {
    const before = trimmed;
    let end = trimmed.length;
    // 0.333... is more than 0.333.
    const isEndless = /\.\d*?(?:(\d)\1\1|(\d{2,6})\2)\.{3}$/.test(trimmed.slice(-40));
    while (!isEndless && end > 0 && '.,;:'.includes(trimmed[end - 1] as string) && trimmed[end - 2] !== '\\')
      end--;
    trimmed = trimmed.slice(0, end).trim();
    // The other end of the emphasis was cut off: "is **3.5**" after "is **".
    if (trimmed.split('**').length === 2) trimmed = trimmed.replace(/^\*\*|\*\*$/, '').trim();
    for (const [open, close] of wrappers) {
      if (
        trimmed.length <= open.length + close.length ||
        !trimmed.startsWith(open) ||
        !trimmed.endsWith(close)
      )
        continue;
      const inner = trimmed.slice(open.length, trimmed.length - close.length);
      // A dollar sign that is money closes nothing: $\$5$.
      const signs = inner.replaceAll('\\$', '');
      if (!signs.includes(open) && !signs.includes(close) && !inner.endsWith('\\')) trimmed = inner.trim();
    }
    if (trimmed === before) break;
  }
  return trimmed;
}

/** "I and II" is "I, II", and "I and II only" for numerals. */
function withoutJoints(key: string): string {
  const plain = key.replace(/ (?:and|&) /g, ' ');
  return /^[ivx]+(?: [ivx]+)* only$/.test(plain) ? plain.slice(0, -5) : plain;
}

/** Of two keys; spaces that were left out make no other words, as long as these are no short names: `golden gate`. */
export function sameWords(a: string | undefined, b: string | undefined): boolean {
  if (a === b || a === undefined || b === undefined) return a === b;
  const [listA, listB] = [withoutJoints(a), withoutJoints(b)];
  if (listA === listB && listA !== '') return true;
  const [joinedA, joinedB] = [a.replaceAll(' ', ''), b.replaceAll(' ', '')];
  return joinedA === joinedB && /^\p{L}{8,}$/u.test(joinedA);
}

/**
 * Words only: case, articles and punctuation do not matter. Undefined where the text is not made of words. Where no word
 * has four letters it may be a formula (AB - CD, 2xy/3), and its signs count.
 */
export function wordKey(text: string): string | undefined {
  if (text.length > maxAnswerLength) return undefined;
  const plain = foldUnicode(text)
    .replace(/\b([ap])\.\s?m\b\.?/gi, '$1m')
    .replace(
      /\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf)|emph|mbox|left|right)\b|\\?\$|[{}~]|\\[ ,;!]/g,
      ' ',
    )
    .replace(/^\s*\(([^()]*)\)\s*$/, '$1');
  // A backslash that is left begins a formula.
  if (!/^\s*[^\s\\-][\p{L}\p{M}\d\s.,;:'"!?()&/-]*$/u.test(plain) || !/\p{L}\p{L}/u.test(plain))
    return undefined;
  const lower = plain.toLowerCase().replace(/'/g, '');
  const signsCount = !/\p{L}{4}/u.test(lower) && /[\d/&()-]|\p{L}\s*!/u.test(lower);
  const words = (lower.match(signsCount ? /[\p{L}\p{M}\d]+|[-/!&()]/gu : /[\p{L}\p{M}\d]+/gu) ?? []).filter(
    (word) => signsCount || (word !== 'a' && word !== 'an' && word !== 'the'),
  );
  const key = words.join(' ');
  if (key === 'dne') return 'does not exist';
  return words.length === 0 ? undefined : key;
}
