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
import { equalAnswers, type Hints, isNumeric } from './compare.js';
import { dateOf, type Ordinal, ordinalOf, sameOrdinal } from './dates.js';
import {
  boxedAnswer,
  boxedSpans,
  hashAnswer,
  joinedBoxes,
  lastAnswer,
  phraseAnswer,
  type Span,
  unevaluated,
} from './extract.js';
import { connectivesContradict, isBareReals, leadingVerdict, plainForm, takesBack } from './forms.js';
import { isReals } from './intervals.js';
import {
  canonicalText,
  foldDigits,
  maxAnswerLength,
  sameWords,
  tokenize,
  trimAnswer,
  wordKey,
} from './normalize.js';
import { type Answer, parseAnswer } from './parse.js';
import { valueInPhrase } from './phrase.js';
import { shortWords } from './symbols.js';
import { currencyContradicts, percentContradicts, unitsContradict } from './units.js';
import { isMeaningful, isProduct, spelledNumber } from './words.js';

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

/** `1,234`, which may be one number or two. */
const hasGroups = (text: string): boolean => /\d,\d{3}/.test(text);

const listOfNumbers =
  /^(?:\\left)?\s*(?:\\\{|[([{])\s*[-+]?\d[\d.]*(?:,\s*[-+]?\d[\d.]*)+\s*(?:\\right)?\s*(?:\\\}|[)\]}])$/;

/** (5,100) is a pair, (1,000, 2,000) one of thousands. */
function readGold(text: string): Reading | undefined {
  const reading = read(text);
  if (reading === undefined || !hasGroups(text) || !listOfNumbers.test(text)) return reading;
  const { answer } = reading;
  const isSingle = isNumeric(answer) || (answer.kind === 'sequence' && answer.items.length === 1);
  const listed = isSingle ? read(text, false) : undefined;
  return listed?.answer.kind === 'sequence' ? listed : reading;
}

/** A note in parentheses after a number, as ASDiv has it: "9 (apples)". */
function withoutNote(text: string): string {
  if (!text.endsWith(')')) return text;
  const open = text.lastIndexOf('(');
  const isNote =
    open > 0 && /^[\p{L} .'-]{2,}$/u.test(text.slice(open + 1, -1)) && /\d\s*$/.test(text.slice(0, open));
  // 5(xy) is a product.
  const isProse = isNote && noteWords(text).some((word) => word.length > 1 && !isProduct(word));
  return isProse ? text.slice(0, open).trim() : text;
}

const noteWords = (text: string): string[] => {
  const open = text.endsWith(')') ? text.lastIndexOf('(') : -1;
  return open < 0
    ? []
    : (text
        .slice(open)
        .toLowerCase()
        .match(/[\p{L}'’]+/gu) ?? []);
};

/** A note that says "not" or "million" is none. */
function withoutUnitNote(text: string): string {
  return noteWords(text).some((word) => isMeaningful(word)) ? text : withoutNote(text);
}

/** The answer in a gold text: after the last `####`, in the last box, or the text itself. */
function goldAnswer(answer: string): { text: string; note: string[] } {
  const hashes = answer.lastIndexOf('####');
  if (hashes >= 0) return { text: trimAnswer(answer.slice(hashes + 4)), note: [] };
  // A solution whose box is empty has no answer.
  const boxed = answer.includes('\\boxed') ? joinedBoxes(answer, boxedSpans(answer)).join(', ') : answer;
  const trimmed = trimAnswer(boxed);
  const text = withoutNote(trimmed);
  return { text, note: text === trimmed ? [] : noteWords(trimmed) };
}

/** `a:b` as a fraction, also "a to b"; what may be a time of day (10:30) is none. */
function ratioOf(text: string): string | undefined {
  const plain = text.replace(/\\text\{([^{}]*)\}/g, '$1');
  const match = /^\s*(\d{1,9})\s*(?::|\\colon|\bto\b)\s*(\d{1,9})\s*$/.exec(plain);
  if (match === null || /^\s*\d{1,2}:[0-5]\d\s*$/.test(text)) return undefined;
  return `${match[1]}/${match[2]}`;
}

/** `xy`, `bc/a`, `xy - z`, `ad - bc`: variables, where a longer run of letters or a known one is a word. */
function isProductOfLetters(text: string): boolean {
  if (!/^[a-z]{1,3}(?:\s*[-/]\s*[a-z]{1,3})*!?$/.test(text)) return false;
  const runs = (text.match(/[a-z]+/g) ?? []).filter((run) => run.length > 1);
  return runs.length > 0 && runs.every((run) => isProduct(run) && !shortWords.has(run));
}

/** S of `x \in S`. */
const rangeOf = (answer: Answer): Answer =>
  answer.kind === 'relation' && answer.operators.join() === '\\in' ? (answer.sides[1] as Answer) : answer;

class Gold {
  readonly text: string;
  readonly #reading: Reading | undefined;
  readonly #words: string | undefined;
  readonly #hasGroups: boolean;
  readonly #ratio: Reading | undefined;
  readonly #date: string | undefined;
  readonly #ordinal: Ordinal | undefined;
  /** The text as the parser reads it. */
  readonly #form: string;

  constructor(
    text: string,
    readonly note: readonly string[],
    readonly hints: Hints,
  ) {
    this.text = text;
    this.#ordinal = ordinalOf(text);
    const form =
      this.#ordinal?.noun === '' && /^\D{0,6}\d/.test(text) ? this.#ordinal.number : plainForm(text, false);
    this.#form = form;
    const spelled = spelledNumber(text);
    this.#reading = readGold(spelled ?? form);
    this.#words =
      spelled === undefined && !isProductOfLetters(text) && form !== '\\mathbb{R}'
        ? wordKey(text)
        : undefined;
    this.#date = dateOf(text);
    this.#hasGroups = hasGroups(text);
    const ratio = ratioOf(text);
    this.#ratio = ratio === undefined ? undefined : read(ratio);
  }

  get method(): string {
    if (this.isWords || this.#date !== undefined) return 'text';
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
    return (
      this.#reading !== undefined &&
      !this.isWords &&
      this.#date === undefined &&
      isNumeric(this.#reading.answer)
    );
  }

  /** How many boxes a response may spread this answer over. */
  get count(): number {
    const { answer } = this.#reading ?? {};
    return answer?.kind === 'sequence' && answer.open === '' ? answer.items.length : 1;
  }

  /** 12 (oranges) are not 12 (points). */
  hasOtherNote(text: string): boolean {
    const note = this.note.length === 0 || withoutNote(text) === text ? [] : noteWords(text);
    const stem = (word: string): string => word.slice(0, 4);
    return note.length > 0 && !note.some((word) => this.note.some((own) => stem(own) === stem(word)));
  }

  /** "Yes, she can" for yes. */
  isVerdictOf(text: string): boolean {
    return this.isWords && leadingVerdict(text) === this.#words;
  }

  isTakenBack(text: string): boolean {
    return this.isWords && takesBack(text, this.#words ?? '');
  }

  /** A segment with or without its bar, as the gold answer has it. */
  #segment(text: string): string {
    const letters = /^\\overline\s?\{([A-Z]{2})\}$/;
    if (/^[A-Z]{2}$/.test(this.text)) return letters.exec(text)?.[1] ?? text;
    return letters.test(this.text) && /^[A-Z]{2}$/.test(text) ? `\\overline{${text}}` : text;
  }

  #equals(answer: Answer): boolean {
    return this.#reading !== undefined && equalAnswers(this.#reading.answer, answer, this.hints);
  }

  /** True where `text` as a whole is this answer. */
  matches(spelled: string): boolean {
    if (spelled === this.text) return true;
    const text = this.#segment(spelled);
    if (this.#date !== undefined) return dateOf(text) === this.#date;
    if (this.isNumber && dateOf(text) !== undefined) return false;
    const ordinal = ordinalOf(text);
    if (ordinal !== undefined && (this.#ordinal !== undefined || this.isNumber))
      return this.#ordinal !== undefined && sameOrdinal(this.#ordinal, ordinal);
    if (connectivesContradict(this.text, text)) return false;
    const { isNumber } = this;
    if (isNumber && currencyContradicts(this.text, text)) return false;
    const form = plainForm(text, isNumber);
    const reading = read((isNumber ? spelledNumber(text) : undefined) ?? form);
    if (reading === undefined || this.#reading === undefined) return false;
    // The tokenizer takes "or" for a comma, which it is between numbers: "I or II" is not "I, II".
    if (this.isWords && /\bor\b/.test(text) !== /\bor\b/.test(this.text)) return false;
    if (reading.canonical === this.#reading.canonical && reading.canonical !== '') return true;
    if (this.isWords) return sameWords(wordKey(text), this.#words);
    const { hints } = this;
    if (equalAnswers(this.#reading.answer, reading.answer, hints))
      return !unitsContradict(this.#form, form) && !(isNumber && percentContradicts(this.text, text));
    // "1/2 or 0.5"
    const { answer } = reading;
    const areForms = isNumber && answer.kind === 'sequence' && answer.open === '' && /\bor\b/.test(text);
    if (areForms && answer.items.every((item) => isNumeric(item) && this.#equals(item))) return true;
    const [expected, found] = [rangeOf(this.#reading.answer), rangeOf(reading.answer)];
    if ((isReals(expected) && isBareReals(text)) || (isBareReals(this.text) && isReals(found))) return true;
    if (this.#ratio !== undefined) {
      const ratio = read(ratioOf(text) ?? text);
      if (ratio !== undefined && equalAnswers(this.#ratio.answer, ratio.answer)) return true;
    }
    // July 4, 1776; what reads as an expression is no text.
    const isText = this.#words !== undefined && this.#reading.answer.kind !== 'expression';
    if (isText && sameWords(wordKey(text), this.#words)) return true;
    // (1,234) may be a pair as well, on either side; 1,234 alone is a list only in the same spelling.
    if (!this.#hasGroups && !hasGroups(text)) return false;
    const [gold, other] = [read(this.text, false), read(text, false)];
    if (gold === undefined || other === undefined) return false;
    return (
      gold.canonical === other.canonical || (!this.isNumber && equalAnswers(gold.answer, other.answer, hints))
    );
  }
}

/** Hundreds of rollouts are compared with the same answer. */
const golds = new Map<string, { gold: Gold; letter: string | undefined }>();
const mostGolds = 256;

function goldOf(answer: string, question: string): { gold: Gold; letter: string | undefined } {
  const hints = { anyOrder: saysAnyOrder.test(question), matrices: saysMatrices.test(question) };
  // No new string where the question says nothing: its hash would be computed for every response.
  const said = `${hints.anyOrder ? 'any order, ' : ''}${hints.matrices ? 'matrices' : ''}`;
  const key = said === '' ? answer : `${said}: ${answer}`;
  let known = golds.get(key);
  if (known === undefined) {
    const { text, note } = goldAnswer(answer);
    known = { gold: new Gold(text, note, hints), letter: goldChoice(text) };
    if (golds.size >= mostGolds) golds.clear();
    if (answer.length <= maxAnswerLength) golds.set(key, known);
  }
  return known;
}

/** "Enter your answers in any order", "the order does not matter" */
const saysAnyOrder =
  /\bin (?:any|either|no particular) order\b|\border (?:does not|doesn['’]t|is not|isn['’]t) (?:matter|important)/i;

/** Capital letters are matrices then, and AB is not BA. */
const saysMatrices = /\bmatri(?:x|ces)\b/i;

const hasWords = (text: string): boolean =>
  /\\(?:text|mathrm)/.test(text) ||
  (text.match(/(?<![\\\p{L}])\p{L}{2,}/gu) ?? []).some((run) => !isProduct(run));

/** "The answer is the drug of option C", but not "vitamin D". */
const namesOption = /\b(?:option|choice)\s+[(*]*[A-E]\b|\([A-E]\)/;

function matchChoice(prediction: string, gold: string): Verification {
  const boxed = boxedAnswer(boxedSpans(prediction), 1);
  const marked = boxed ?? hashAnswer(prediction) ?? phraseAnswer(prediction);
  const short = prediction.length <= 40 ? leadingChoice(prediction) : undefined;
  const letter =
    marked === undefined
      ? (short ?? lastChoice(prediction))
      : (leadingChoice(marked) ?? (namesOption.test(marked) ? lastChoice(marked) : undefined));
  const extracted = letter ?? (marked && trimAnswer(marked));
  return {
    correct: letter === gold,
    extracted,
    expected: gold,
    method: extracted === undefined ? 'none' : 'choice',
  };
}

/** "\\boxed{7} is wrong", "\\boxed{7}? No", "\\boxed{7}. Wait, that is a mistake" */
const deniedAfterBox =
  /^[\s$)}]*(?:\\text\s?\{\s*)?(?:(?:is|was)\s+(?:not\s+(?:the\s+(?:\w+\s+)?answer|correct|right|valid|possible|a solution)|incorrect|wrong|false|impossible|invalid)\b|isn['’]t\s+(?:the|correct|right|valid|possible)\b|\?\s*no\b|\.?\s*(?:wait|no|oops|hmm)\b[^.\n]{0,40}\b(?:wrong|incorrect|mistake|not right)\b)/i;

/** "not \\boxed{7}" */
function isDenied(text: string, { start, end }: Span): boolean {
  if (deniedAfterBox.test(text.slice(end, end + 100))) return true;
  const before = /([\p{L}'’]+)[\s$]{1,3}$/u.exec(text.slice(Math.max(0, start - 20), start))?.[1];
  // "all x except \\boxed{1}" denies nothing.
  return before !== undefined && /^(?:not|never|cannot)$|n['’]t$/i.test(before);
}

const contradicts = (gold: string, text: string): boolean =>
  unitsContradict(gold, text) || (/%|percent/i.test(gold) && percentContradicts(gold, text));

/** What a marked answer says as a whole, or the one value that it holds among words. */
function matchMarked(gold: Gold, text: string, isPhrase: boolean): [correct: boolean, extracted: string] {
  if (gold.matches(text) || gold.isVerdictOf(text)) return [true, text];
  if (gold.isNumber && currencyContradicts(gold.text, text)) return [false, text];
  // x = 5 is not the 5 of "y = 5".
  const held =
    gold.isWords || (gold.method === 'relation' && text.includes('=')) ? undefined : valueInPhrase(text);
  const value = held && trimAnswer(held);
  if (value !== undefined)
    return [gold.matches(value) && !(gold.isNumber && contradicts(gold.text, text)), value];
  // "The answer is yes, because ..."
  const cut = text.search(/[,;:.(]|\s(?:because|since)\b/);
  const start = isPhrase && gold.isWords && cut > 0 ? text.slice(0, cut) : undefined;
  const isTaken = start !== undefined && gold.matches(start) && !gold.isTakenBack(text);
  return isTaken ? [true, start] : [false, text];
}

/** Any value: what is neither text nor a number says nothing. */
const textOf = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint'
    ? foldDigits(String(value).slice(-maxTextLength))
    : '';

/**
 * Compares the answer in a response with the gold answer. Never throws.
 *
 * @param prediction the response, or a bare answer
 * @param answer gold: bare, GSM8K solution (`#### 42`) or MATH solution (`\boxed{...}`)
 * @param question where it says "in any order", tuples are compared so
 */
export function verify(
  prediction: string,
  answer: string | number,
  { question }: { question?: string | undefined } = {},
): Verification {
  const response = textOf(prediction);
  const { gold, letter } = goldOf(textOf(answer), textOf(question));
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
  const hash = boxed === undefined ? hashAnswer(response) : undefined;
  const marked = boxed ?? hash ?? phraseAnswer(response);
  if (marked !== undefined) {
    if (marked.length > maxAnswerLength) return result(marked === goldText, marked);
    if (gold.hasOtherNote(trimAnswer(marked))) return result(false, trimAnswer(marked));
    if (boxed !== undefined) return matchBoxes(gold, response, boxes, result);
    return result(...matchMarked(gold, withoutUnitNote(trimAnswer(marked)), hash === undefined));
  }
  // A long text is not an answer as a whole, unless the gold answer is long too.
  const longest = Math.max(gold.isNumber ? 80 : 200, 2 * goldText.length);
  const whole = trimAnswer(response.length <= longest ? response : '');
  if (whole !== '' && !gold.hasOtherNote(whole) && gold.matches(withoutUnitNote(whole)))
    return result(true, whole);
  if (gold.isNumber && (unitsContradict(goldText, whole) || gold.hasOtherNote(whole)))
    return result(false, whole);
  // A bare formula on one line is the answer as a whole.
  if (whole !== '' && !/[\n=]/.test(whole) && !hasWords(whole)) return result(false, whole);
  const last = lastAnswer(response, gold.isNumber, gold.isNumber && !unevaluated.test(goldText));
  if (last === undefined) return none;
  const text = trimAnswer(last.value ?? last.text);
  if (gold.isNumber && contradicts(goldText, text + last.unit)) return result(false, text + last.unit);
  return result(
    last.value !== undefined && (gold.matches(text) || gold.isVerdictOf(text.split(/[.!?]\s+/).at(-1) ?? '')),
    text,
  );
}

function matchBoxes(
  gold: Gold,
  response: string,
  boxes: readonly Span[],
  result: (correct: boolean, extracted: string) => Verification,
): Verification {
  const last = boxes.at(-1) as Span;
  const text = withoutUnitNote(trimAnswer(last.content));
  if (isDenied(response, last)) return result(false, `not ${text}`);
  if (gold.count > 1 && boxes.length > 1 && !gold.matches(text)) {
    const joined = boxedAnswer(boxes, gold.count) ?? text;
    return result(gold.matches(joined), joined);
  }
  // "\\boxed{5} or \\boxed{6}" is not 6.
  const others = joinedBoxes(response, boxes).slice(0, -1);
  if (gold.count === 1 && others.some((content) => !gold.matches(trimAnswer(content)))) {
    return result(false, [...others, text].join(', '));
  }
  return result(...matchMarked(gold, text, false));
}
