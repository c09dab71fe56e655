/**
 * The one number or formula that a phrase gives: "the total is minus 7 million dollars because ..." is -7000000. Every
 * word must be understood (words.ts): a verb and fillers before the value, units and an explanation after it. A bound,
 * a denial, a range, a second amount or an unknown word before the value leaves none.
 */
import { isDayOfMonth, ordinalSuffix } from './dates.js';
import { numberPattern } from './extract.js';
import { withPowers } from './units.js';
import * as words from './words.js';

interface Piece {
  kind: 'value' | 'word' | 'mark';
  /** Words in lower case. */
  text: string;
  start: number;
  end: number;
}

/** Single letters that are units after a number (docs/verifier.md). */
const unitLetters = /^[mgshlLVWJNCF]$/;

/** Longer phrases say more than an answer. */
const maxPhraseLength = 400;

const formula = String.raw`\$(?!\s)[^$\n]*[^$\s]\$(?!\d)|\\\([^()]*\\\)|\\[A-Za-z]+(?:\s?\{(?:[^{}]|\{[^{}]*\})*\})*`;
const piecePattern = new RegExp(
  `(?<formula>${formula})|(?<number>${numberPattern.source})|(?<word>\\p{L}[\\p{L}'’]*\\.?)|\\S`,
  'gu',
);

/** "rounded to two decimal places", "to the nearest cent": says how exact, not how much. */
const precision =
  /[,(]?\s*(?:(?:when|if) )?(?:rounded|correct|accurate|given)?\s*\bto (?:the nearest [\w-]+(?: \w+)?|[\w-]+ (?:decimal|significant) \w+)\)?/gi;

/** Text without the commands that only style it, so that what \text{} holds are words. */
function plainText(text: string): string {
  return (
    withPowers(text)
      .replace(/\\(?:text|textbf|textit|textrm|mathrm|mbox|rm|bf)\s*\{([^{}]*)\}/g, ' $1 ')
      .replace(/\\[,;:! ]|\\(?:quad|qquad)\b|~/g, ' ')
      .replace(/\\\$/g, '$')
      .replace(/\^?\s*\{?\\circ\}?|°/g, ' degrees ')
      // Runs of white space would cost the next pattern their third power.
      .replace(/\s+/g, ' ')
      .replace(precision, ' ')
  );
}

/** Number words that follow each other become one value; undefined where they make no number. */
function joinNumberWords(pieces: readonly Piece[]): Piece[] | undefined {
  const joined: Piece[] = [];
  const isPart = (piece: Piece | undefined): boolean =>
    piece?.kind === 'word' && (words.isNumberWord(piece.text) || words.magnitudeOf(piece.text) !== undefined);
  for (let at = 0; at < pieces.length; at++) {
    const piece = pieces[at] as Piece;
    const article = piece.text === 'a' && words.magnitudeOf(pieces[at + 1]?.text ?? '') !== undefined;
    if (piece.kind !== 'word' || (!article && !words.isNumberWord(piece.text))) {
      joined.push(piece);
      continue;
    }
    const run = [article ? 'one' : piece.text];
    let end = at;
    for (;;) {
      const next = pieces[end + 1];
      const skip =
        next?.text === '-' || (next?.text === 'and' && /^(?:hundred|thousand)$/.test(run.at(-1) ?? ''))
          ? 2
          : 1;
      if (!isPart(pieces[end + skip]) || pieces[end + skip]?.text.startsWith('dozen')) break;
      end += skip;
      run.push((pieces[end] as Piece).text);
    }
    const value = words.numberOfWords(run);
    if (value === undefined) return undefined;
    joined.push({ kind: 'value', text: String(value), start: piece.start, end: (pieces[end] as Piece).end });
    at = end;
  }
  return joined;
}

function pieces(text: string): Piece[] | undefined {
  const found: Piece[] = [];
  for (const match of text.matchAll(piecePattern)) {
    const start = match.index;
    let piece = match[0];
    const end = start + piece.length;
    const { formula: isFormula, number, word } = match.groups ?? {};
    const previous = found.at(-1);
    if (word !== undefined) {
      const isAbbreviation = /^(?:p\.|a\.|\p{L}\.)$/u.test(word);
      const bare = isAbbreviation ? word : word.replace(/\.$/, '');
      found.push({
        kind: 'word',
        text: (bare.length === 1 && bare !== 'A' ? bare : bare.toLowerCase()).replace('’', "'"),
        start,
        end,
      });
    } else if (isFormula !== undefined || number !== undefined) {
      // "5-7" is no -7 and "5 -7" no answer either: the sign stays a mark of its own.
      if (previous?.kind === 'value' && /^[-−]/.test(piece)) {
        found.push({ kind: 'mark', text: '-', start, end: start + 1 });
        piece = piece.slice(1);
      }
      const isTouching = previous?.kind === 'value' && previous.end === start;
      // 2\sqrt{3} and \frac{1}{2}\pi are one formula.
      if (isTouching && (piece.startsWith('\\') || previous.text.startsWith('\\'))) {
        previous.text += piece;
        previous.end = end;
      } else
        found.push({
          kind: 'value',
          text: piece.replace(/^\$([^$]*)\$$/, '$1').replace(/^\\\((.*)\\\)$/s, '$1'),
          start,
          end,
        });
    } else found.push({ kind: 'mark', text: piece, start, end });
  }
  return joinNumberWords(found);
}

const isWord = (piece: Piece | undefined, list: ReadonlySet<string>): boolean =>
  piece?.kind === 'word' && list.has(piece.text);
const isSign = (piece: Piece | undefined): boolean =>
  piece?.kind === 'word' && (piece.text === 'minus' || piece.text === 'negative');
const isCurrency = (piece: Piece | undefined): boolean =>
  piece !== undefined && /^[$€£¥₹:=]$/.test(piece.text);

const isLetter = (piece: Piece | undefined): boolean => piece !== undefined && /^\p{L}$/u.test(piece.text);
/** A word that is no product of letters. */
const isProse = (piece: Piece | undefined): boolean =>
  piece?.kind === 'word' && !isLetter(piece) && !words.isProduct(piece.text);

/** The `i` of `i\sqrt{3}` and the `a` of `a\sqrt{3}` are no words; the `a` of "a 20% discount" is one. */
function isFactor(list: readonly Piece[], at: number): boolean {
  const [piece, next] = [list[at] as Piece, list[at + 1]];
  if (!/^[ai]$/.test(piece.text) || (next?.kind !== 'value' && !isSign(next))) return false;
  return piece.text === 'i' || piece.end === next?.start || !list.some(isProse);
}

/** Index of the value that fillers lead to from `at`; undefined where another word or mark comes first. */
function valueAfterFillers(list: readonly Piece[], at: number): number | undefined {
  for (let index = at; index < list.length; index++) {
    const piece = list[index] as Piece;
    if (piece.kind === 'value') return index;
    if (isSign(piece) && list[index + 1]?.kind === 'value') return index + 1;
    if (isSign(piece) && isCurrency(list[index + 1]) && list[index + 2]?.kind === 'value') return index + 2;
    if (isFactor(list, index)) return undefined;
    // "x = 5"
    if (/^\p{L}$/u.test(piece.text) && list[index + 1]?.text === '=') continue;
    const isEmphasis = /^[*_"“,]$/.test(piece.text);
    if (!isWord(piece, words.fillers) && !isWord(piece, words.hedges) && !isCurrency(piece) && !isEmphasis)
      return undefined;
  }
  return undefined;
}

/** Index of the value that the phrase gives. */
function findValue(list: readonly Piece[]): number | undefined {
  const direct = valueAfterFillers(list, 0);
  if (direct !== undefined) return direct;
  // "the number of 5-cent coins is 12": what stands behind the last verb, of one statement.
  const cut = list.findIndex((piece, index) => index > 0 && isWord(piece, words.explanations));
  const end = cut < 0 ? list.length : cut;
  const verb = list.slice(0, end).findLastIndex((piece) => isWord(piece, words.verbs));
  if (verb < 0) return undefined;
  let afterVerb = false;
  for (const piece of list.slice(0, verb)) {
    const deniesOrCompares =
      piece.kind === 'word' &&
      (words.isNegation(piece.text) || /^(?:than|twice|half|double|if|or|and|but|while)$/.test(piece.text));
    const isStatement = afterVerb && piece.kind === 'value';
    if (deniesOrCompares || isStatement || /^[;?!]$/.test(piece.text)) return undefined;
    if (isWord(piece, words.verbs)) afterVerb = true;
  }
  return valueAfterFillers(list, verb + 1);
}

/** "and a half", "and three quarters" after a number: how much it adds. */
function fractionAfter(list: readonly Piece[], at: number): { length: number; text: string } | undefined {
  if (list[at]?.text !== 'and') return undefined;
  const count = list[at + 1];
  const isOne = count?.text === 'a' || count?.text === 'one' || count?.text === '1';
  const next = list[at + 2]?.text === '-' ? at + 3 : at + 2;
  const part = list[next]?.text ?? '';
  if (isOne && part === 'half') return { length: next + 1 - at, text: '1/2' };
  if (isOne && part === 'quarter') return { length: next + 1 - at, text: '1/4' };
  return count?.text === '3' && part === 'quarters' ? { length: next + 1 - at, text: '3/4' } : undefined;
}

const contrastStart = (list: readonly Piece[], at: number): boolean => {
  const first = list[at]?.text;
  const at2 = first === 'and' || first === 'but' ? at + 1 : at;
  const text = list[at2]?.text;
  if (text === 'instead' || text === 'rather') return true;
  return text === 'not' && valueAfterFillers(list, at2 + 1) !== undefined;
};

/** True where the pieces in parentheses say nothing that changes the value. */
function isHarmlessNote(note: readonly Piece[], value: string): boolean {
  if (note.length === 0 || contrastStart(note, 0) || isWord(note[0], words.explanations)) return true;
  const values = note.filter(({ kind }) => kind === 'value');
  if (values.length > 0) return note.length === 1 && note[0]?.text === value;
  // 5(x + y) is a product.
  if (!note.some(isProse) || note.some(({ kind, text }) => kind === 'mark' && !/^[-,.;:'"“”/&]$/.test(text)))
    return false;
  return !note.some(({ kind, text }) => kind === 'word' && words.isMeaningful(text));
}

/** True where everything from `at` on is units, notes and explanation. */
function restIsHarmless(list: readonly Piece[], at: number, value: string): boolean {
  let sawUnit = false;
  const isPart = /[/%]|\\[dt]?frac|percent/.test(value);
  for (let index = at; index < list.length; index++) {
    const { kind, text } = list[index] as Piece;
    if (contrastStart(list, index))
      return !list.slice(index + 1).some((piece) => /^(?:but|it|it's)$/.test(piece.text));
    if (isWord(list[index], words.explanations)) return true;
    if (text === '(') {
      const close = list.findIndex((piece, position) => position > index && piece.text === ')');
      const end = close < 0 ? list.length : close;
      if (!isHarmlessNote(list.slice(index + 1, end), value)) return false;
      index = end;
    } else if (text === '^' && sawUnit && /^\d$/.test(list[index + 1]?.text ?? '')) index++;
    else if (kind === 'mark') {
      if (!/^[,.:;/'"“”*_)\]-]$/.test(text)) return false;
      // "5 - a" and "5/a" compute; "5 m/s" has a unit, "5-inch" is one.
      if (!sawUnit && /^[-*/_]$/.test(text) && isLetter(list[index + 1])) return false;
    } else if (kind === 'word') {
      if (words.isMeaningful(text) || words.isProduct(text)) return false;
      // "5 a day"
      const isArticle = text === 'a' && isProse(list[index + 1]);
      if (isLetter(list[index]) && !isArticle && !unitLetters.test(text)) return false;
      if (words.prepositions.has(text) && (sawUnit ? true : !(isPart || text === 'in'))) {
        const number = valueAfterFillers(list, index + 1);
        if (number !== undefined) index = number;
      }
      sawUnit = true;
    } else return false;
  }
  return true;
}

/** The value of a phrase as text that the parser reads; undefined where the phrase is not understood. */
export function valueInPhrase(phrase: string): string | undefined {
  if (phrase.length > maxPhraseLength) return undefined;
  const plain = plainText(phrase);
  // "not 42, it is 43", "not 42 but 43"
  const corrected =
    /^\s*not\b[^,;]*?(?:[,;]\s*(?:but\s+)?(?:rather|it is|it's|it should be)|\s+but)\s+(.+)$/s.exec(plain);
  const source = corrected?.[1] ?? plain;
  const list = pieces(source);
  const at = list && findValue(list);
  if (list === undefined || at === undefined) return undefined;
  const before = list.slice(0, at).filter((piece) => isSign(piece)).length;
  if (before > 1) return undefined;
  const { start, end } = list[at] as Piece;
  if (isDayOfMonth(source.slice(0, start), source.slice(start, end), source.slice(end))) return undefined;
  let value = (list[at] as Piece).text.replace(/^[$€£]/, '');
  let next = at + 1;
  // "the 5th" is no 5.
  const suffix = /^\d+$/.test(value) ? ordinalSuffix(source.slice(end)) : '';
  if (suffix !== '') {
    value += suffix;
    next++;
  }
  // "7 million", "2 hundred thousand"
  for (let scale = words.magnitudeOf(list[next]?.text ?? ''); scale !== undefined; ) {
    value = `(${value})*${scale}`;
    next++;
    if (list[next]?.text === 'of') return undefined;
    scale = words.magnitudeOf(list[next]?.text ?? '');
  }
  const fraction = fractionAfter(list, next);
  if (fraction !== undefined) {
    value = `(${value})+${fraction.text}`;
    next += fraction.length;
  }
  if (/^per$/.test(list[next]?.text ?? '') && list[next + 1]?.text === 'cent') {
    value = `${value}%`;
    next += 2;
  } else if (/^(?:percent|percentage)$/.test(list[next]?.text ?? '')) {
    value = `${value}%`;
    next++;
  }
  if (!restIsHarmless(list, next, (list[at] as Piece).text)) return undefined;
  return before === 1 ? `-(${value})` : value;
}
