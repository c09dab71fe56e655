/**
 * Decides whether a response gives the gold answer.
 *
 * The gold answer defines what is expected: a GSM8K solution (`... #### 42`), a MATH solution (`... \boxed{x}`) or a
 * bare answer; its kind (choice letter, number, list, text ...) decides how the response is searched and compared. The
 * rules, their limits and measured agreement are in docs/verifier.md. The ideas are those of math-verify and of the
 * Qwen2.5-Math evaluation; the code is our own: linear scans and a bounded parser, so that a hostile text costs
 * milliseconds and never an exception.
 */
import type { Verification } from '../types.js';
import { goldChoice, lastChoice, leadingChoice } from './choice.js';
import { compareAnswers, isNumeric } from './compare.js';
import {
  boxedAnswer,
  boxedSpans,
  hashAnswer,
  lastAnswer,
  mathSpans,
  numberSpans,
  phraseAnswer,
} from './extract.js';
import { canonicalText, maxAnswerLength, tokenize, trimAnswer, wordKey } from './normalize.js';
import { type Answer, parseAnswer } from './parse.js';

/** Only the end of a longer text is searched; 2048 tokens are about a tenth of it. */
const maxTextLength = 100_000;

/** One reading of an answer's text. */
interface Reading {
  answer: Answer;
  /** Canonical spelling, equal for answers that differ only in spacing and the like. */
  canonical: string;
}

/** `thousands`: whether 1,234 is one number or a list of two. Undefined for what is too long to be an answer. */
function read(text: string, thousands = true): Reading | undefined {
  const tokens = tokenize(text, { thousands });
  return tokens && { answer: parseAnswer(tokens), canonical: canonicalText(tokens) };
}

/** A note in parentheses after a number, as ASDiv has it: "9 (apples)". */
function withoutNote(text: string): string {
  if (!text.endsWith(')')) return text;
  const open = text.lastIndexOf('(');
  const isNote =
    open > 0 && /^[\p{L} .'-]{2,}$/u.test(text.slice(open + 1, -1)) && /\d\s*$/.test(text.slice(0, open));
  return isNote ? text.slice(0, open).trim() : text;
}

/** The answer in a gold text: after the last `####`, in the last box, or the text itself. */
function goldAnswer(answer: string): string {
  const hashes = answer.lastIndexOf('####');
  if (hashes >= 0) return trimAnswer(answer.slice(hashes + 4));
  // A solution whose box is empty has no answer.
  const boxed = answer.includes('\\boxed') ? (boxedAnswer(boxedSpans(answer), 1) ?? '') : answer;
  return withoutNote(trimAnswer(boxed));
}

class Gold {
  readonly text: string;
  readonly #reading: Reading | undefined;
  readonly #words: string | undefined;
  readonly #hasGroups: boolean;

  constructor(text: string) {
    this.text = text;
    this.#reading = read(text);
    this.#words = wordKey(text);
    this.#hasGroups = /\d,\d{3}/.test(text);
  }

  get method(): string {
    if (this.isWords) return 'text';
    const { answer } = this.#reading ?? {};
    if (answer === undefined || answer.kind === 'opaque') return 'text';
    if (answer.kind === 'expression') return isNumeric(answer) ? 'number' : 'expression';
    return answer.kind === 'sequence' ? 'list' : answer.kind;
  }

  /** Made of words alone: never read as a product of variables. */
  get isWords(): boolean {
    return this.#words !== undefined && !/[\d\\]/.test(this.text);
  }

  get isNumber(): boolean {
    return this.#reading !== undefined && !this.isWords && isNumeric(this.#reading.answer);
  }

  /** How many boxes a response may spread this answer over. */
  get count(): number {
    const { answer } = this.#reading ?? {};
    return answer?.kind === 'sequence' && answer.open === '' ? answer.items.length : 1;
  }

  /** True where `text` as a whole is this answer. */
  matches(text: string): boolean {
    if (text === this.text) return true;
    const reading = read(text);
    if (reading === undefined || this.#reading === undefined) return false;
    if (reading.canonical === this.#reading.canonical && reading.canonical !== '') return true;
    if (this.isWords) return wordKey(text) === this.#words;
    if (compareAnswers(this.#reading.answer, reading.answer)) return true;
    if (this.#words !== undefined && !this.isNumber && wordKey(text) === this.#words) return true;
    // (1,234) may be a pair as well.
    return this.#hasGroups && read(this.text, false)?.canonical === read(text, false)?.canonical;
  }
}

/** Hundreds of rollouts are compared with the same answer. */
const golds = new Map<string, { gold: Gold; letter: string | undefined }>();
const mostGolds = 256;

function goldOf(answer: string): { gold: Gold; letter: string | undefined } {
  let known = golds.get(answer);
  if (known === undefined) {
    const text = goldAnswer(answer);
    known = { gold: new Gold(text), letter: goldChoice(text) };
    if (golds.size >= mostGolds) golds.clear();
    if (answer.length <= maxAnswerLength) golds.set(answer, known);
  }
  return known;
}

const hasWords = (text: string): boolean => /(?<![\\\p{L}])\p{L}{2,}|\\(?:text|mathrm)/u.test(text);

/** The number in an extracted answer that has other words around it: the only one, or the one that it starts with. */
function numberIn(text: string, mayLead: boolean): string | undefined {
  // In a formula the number is a part of something else: x + 5 is not 5.
  if (!hasWords(text)) return undefined;
  const numbers = numberSpans(text.slice(0, maxAnswerLength));
  const first = numbers[0];
  if (first === undefined || numbers.length === 1) return first?.content;
  return mayLead && first.start === 0 && !/^[\s]*[-+*/^=,(]/.test(text.slice(first.end))
    ? first.content
    : undefined;
}

function matchChoice(prediction: string, gold: string): Verification {
  const boxed = boxedAnswer(boxedSpans(prediction), 1);
  const marked = boxed ?? hashAnswer(prediction) ?? phraseAnswer(prediction);
  const short = prediction.length <= 40 ? leadingChoice(prediction) : undefined;
  const letter = marked === undefined ? (short ?? lastChoice(prediction)) : leadingChoice(marked);
  const extracted = letter ?? (marked && trimAnswer(marked));
  return {
    correct: letter === gold,
    extracted,
    expected: gold,
    method: extracted === undefined ? 'none' : 'choice',
  };
}

/**
 * Compares the answer in a response with the gold answer. Never throws.
 *
 * @param prediction the response, or a bare answer
 * @param answer gold: bare, GSM8K solution (`#### 42`) or MATH solution (`\boxed{...}`)
 */
export function verify(prediction: string, answer: string | number): Verification {
  const response = String(prediction ?? '').slice(-maxTextLength);
  const { gold, letter } = goldOf(String(answer ?? '').slice(-maxTextLength));
  if (letter !== undefined) return matchChoice(response, letter);
  const goldText = gold.text;
  const none: Verification = { correct: false, extracted: undefined, expected: goldText, method: 'none' };
  if (goldText === '') return none;
  const result = (correct: boolean, extracted: string): Verification => ({
    correct,
    extracted,
    expected: goldText,
    method: gold.method,
  });

  const boxes = boxedSpans(response);
  const boxed = boxedAnswer(boxes, 1);
  const phrase = boxed === undefined && hashAnswer(response) === undefined;
  const marked = boxed ?? hashAnswer(response) ?? phraseAnswer(response);
  if (marked !== undefined) {
    if (marked.length > maxAnswerLength) return result(marked === goldText, marked);
    const text = withoutNote(trimAnswer(marked));
    if (gold.matches(text)) return result(true, text);
    if (boxed !== undefined && gold.count > 1 && boxes.length > 1) {
      const joined = boxedAnswer(boxes, gold.count) ?? text;
      return result(gold.matches(joined), joined);
    }
    // "The final answer is then $9 + 4 = 13$"
    const formula = phrase ? mathSpans(text).at(-1)?.content : undefined;
    if (formula !== undefined && gold.matches(trimAnswer(formula))) return result(true, trimAnswer(formula));
    const number = gold.isNumber ? numberIn(text, phrase) : undefined;
    if (number !== undefined) return result(gold.matches(number), number);
    // "The answer is yes, because ..."
    const start = phrase && gold.isWords ? text.slice(0, text.search(/[,;:.(]/)) : undefined;
    if (start !== undefined && gold.matches(start)) return result(true, start);
    return result(false, text);
  }
  // A long text is not an answer as a whole, unless the gold answer is long too.
  const longest = Math.max(gold.isNumber ? 80 : 200, 2 * goldText.length);
  const whole = trimAnswer(response.length <= longest ? response : '');
  if (whole !== '' && gold.matches(withoutNote(whole))) return result(true, whole);
  // A bare formula on one line is the answer as a whole.
  if (whole !== '' && !/[\n=]/.test(whole) && !hasWords(whole)) return result(false, whole);
  const last = lastAnswer(response, gold.isNumber);
  if (last === undefined) return none;
  const text = trimAnswer(last);
  return result(gold.matches(text), text);
}
