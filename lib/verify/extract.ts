/**
 * Finds the answer in a response: \boxed{...}, then `#### ...`, then "the answer is ...", and where none of these
 * stands, the last formula or number. Every search is linear in the text.
 */
import { inContext } from './context.js';
import { foldUnicode, maxAnswerLength, trimAnswer } from './normalize.js';

export interface Span {
  start: number;
  end: number;
  content: string;
}

/** A gold list is not spread over more boxes. */
const maxBoxes = 64;
const boxCommand = /\\(?:boxed|fbox)\s{0,8}/y;
const boxWord = /[^\s{}$\\]{1,100}/y;

/** The last closed, non-empty \boxed{...} or \fbox{...} that are not inside another, in order. One pass with a stack. */
export function boxedSpans(text: string): Span[] {
  let spans: Span[] = [];
  let at = Math.min(
    ...['\\boxed', '\\fbox'].map((command) => text.indexOf(command)).map((i) => (i < 0 ? Infinity : i)),
  );
  /** Open braces: where the content of a box starts, or -1 for other braces; and where its command starts. */
  const contents: number[] = [];
  const commands: number[] = [];
  /** Last character so far that is no white space. */
  let lastInk = -1;
  for (; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x5c) {
      boxCommand.lastIndex = at;
      const length = boxCommand.exec(text)?.[0].length;
      if (length === undefined) lastInk = ++at;
      else if (text[at + length] === '{') {
        contents.push(at + length + 1);
        commands.push(at);
        at += length;
      } else {
        // \boxed 5: the argument is the next word.
        boxWord.lastIndex = at + length;
        const word = boxWord.exec(text)?.[0].replace(/[.,;]+$/, '') ?? '';
        if (word !== '') spans.push({ start: at, end: at + length + word.length, content: word });
        at += length - 1;
      }
    } else if (code === 0x7b) {
      contents.push(-1);
      commands.push(at);
      lastInk = at;
    } else if (code === 0x7d) {
      const content = contents.pop() ?? -1;
      const command = commands.pop() as number;
      if (content >= 0 && lastInk >= content) {
        while ((spans.at(-1)?.start ?? -1) > command) spans.pop();
        // Cut out below: of nested boxes only the outermost is needed.
        spans.push({ start: command, end: at + 1, content: '' });
      }
      lastInk = at;
    } else if (code > 0x20) lastInk = at;
    if (spans.length > 2 * maxBoxes) spans = spans.slice(-maxBoxes);
  }
  for (const span of spans.slice(-maxBoxes)) {
    if (span.content === '')
      span.content = text.slice(text.indexOf('{', span.start) + 1, span.end - 1).trim();
  }
  return spans.slice(-maxBoxes);
}

/** The last box, or the last `count` of them joined by commas where they stand close together ("\boxed{1} or \boxed{2}"). */
export function boxedAnswer(spans: readonly Span[], count: number): string | undefined {
  const last = spans.slice(-Math.max(1, count));
  for (let index = 1; index < last.length; index++) {
    if ((last[index] as Span).start - (last[index - 1] as Span).end > 30) return spans.at(-1)?.content;
  }
  return last.length === 0 ? undefined : last.map(({ content }) => content).join(', ');
}

/** The contents of the last box and of those that "or", "and" or a comma join to it; a box alone gives one. */
export function joinedBoxes(text: string, spans: readonly Span[]): string[] {
  const contents: string[] = [];
  for (let index = spans.length - 1; index >= 0; index--) {
    const span = spans[index] as Span;
    const next = spans[index + 1];
    if (
      next !== undefined &&
      !/^[\s$.]{0,6}(?:,?\s*(?:or|and)|,|;|\/)[\s$]{0,6}$/.test(text.slice(span.end, next.start).slice(0, 30))
    )
      break;
    contents.unshift(span.content);
  }
  return contents;
}

/** What follows the last `####` on its line; a markdown heading is none unless it is the last line or starts a number. */
export function hashAnswer(text: string): string | undefined {
  const start = text.lastIndexOf('####');
  if (start < 0) return undefined;
  const lineEnd = text.indexOf('\n', start);
  const line = trimAnswer(text.slice(start + 4, lineEnd < 0 ? start + maxAnswerLength : lineEnd));
  if (line === '') return undefined;
  const isLastLine = lineEnd < 0 || text.slice(lineEnd).trim() === '';
  return isLastLine || /^[-+−$€£.]?\s*[\d\\.]/.test(line) ? line : undefined;
}

/** Offset where a sentence that starts at `start` ends: a line end, or a full stop that is no decimal point. */
function sentenceEnd(text: string, start: number): number {
  const limit = Math.min(text.length, start + 1000);
  for (let at = start; at < limit; at++) {
    const character = text[at];
    if (character === '\n') return at;
    if (character === '\\') at++;
    else if (character === '$') {
      const close = text.indexOf('$', at + 1);
      const formula = text.slice(at + 1, close);
      if (
        close > 0 &&
        close < limit &&
        (!formula.includes('\n') || (formula.includes('\\begin{') && !formula.includes('\n\n'))) &&
        formula.trim() === formula
      )
        at = close;
    }
    if (character !== '.' && character !== '!' && character !== '?') continue;
    const next = text[at + 1];
    if (next !== undefined && next.trim() !== '') continue;
    // 0.333...
    if (text.slice(at - 2, at + 1) === '...' && /\d/.test(text[at - 3] ?? '')) return at + 1;
    // "Mrs. Hilt", "approx. 5", "3:30 p.m. today"
    if (
      character === '.' &&
      /(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|No|vs|approx|Rs)|\.m)$/i.test(text.slice(Math.max(start, at - 7), at))
    )
      continue;
    return at;
  }
  return limit;
}

/** From "answer" to the answer: "answer:", "answers are", "answer to the question is", "answer =". */
const answerLink =
  /^s?[*_\s"')]{0,6}(?:(?:\b[\w'’-]+[\s*]{1,4}){0,8}?(?:is|are|be|equals|was)\b[\s*:]{0,6}|[:=][\s*]{0,6})/i;
/** How many mentions of "answer" are looked at, from the last one. */
const maxMentions = 50;

/** A sentence that says what the answer is not, unless it goes on to say what it is. */
const denial = /^(?:not|never|neither|definitely not|certainly not|probably not)\b(?!.*(?:,|;|\bbut\b))/is;
const correction = /^\s*(?:no|nope|wait,? no|oops|sorry|correction|scratch that|actually)\b[^\n]*\d/i;

/** The words after the last "answer is", "answer:", "final answer ... is" up to the end of the sentence. */
export function phraseAnswer(text: string): string | undefined {
  const window = text.slice(-20_000);
  const mentions = [...window.matchAll(/answer/gi)].slice(-maxMentions).reverse();
  for (const { index } of mentions) {
    const after = index + 'answer'.length;
    const link = answerLink.exec(window.slice(after, after + 100));
    // "The answer cannot be 18" gives none.
    if (link === null || /\b(?:not|never|cannot|neither|nor)\b|n['’]t\b/i.test(link[0])) continue;
    let start = after + link[0].length;
    // "The answer is:\n42" has its answer on the next line.
    while (start < window.length && /[\s*:]/.test(window[start] as string)) start++;
    if (window.startsWith('$$', start) || window.startsWith('\\[', start)) {
      const close = window.indexOf(window[start] === '$' ? '$$' : '\\]', start + 2);
      if (close > 0) return window.slice(start + 2, close);
    }
    const end = sentenceEnd(window, start);
    const sentence = trimAnswer(window.slice(start, end));
    if (sentence === '' || denial.test(sentence)) continue;
    // "18? No, 19" and "18. No, it is 19" take it back.
    if (window[end] === '?' || correction.test(window.slice(end + 1, end + 200))) continue;
    return sentence;
  }
  return undefined;
}

const mathOpening = /\$\$?|\\[([]|\\begin\{((?:align|equation|gather|eqnarray)\*?)\}|\\./gs;

function mathClosing(open: string, environment: string | undefined): string | undefined {
  if (environment !== undefined) return `\\end{${environment}}`;
  if (open === '\\(') return '\\)';
  if (open === '\\[') return '\\]';
  return open.startsWith('$') ? open : undefined;
}

/** The last row of an aligned computation, without its `&`. */
const lastRow = (rows: string): string =>
  (rows.trim().replace(/\\\\$/, '').split('\\\\').at(-1) ?? '').replaceAll('&', '');

/**
 * Spans of $...$, $$...$$, \(...\), \[...\] and of aligned environments, whose content is their last row. A dollar
 * sign is a delimiter where Markdown with TeX says so: no space inside, no digit after the closing one.
 */
export function mathSpans(text: string): Span[] {
  const spans: Span[] = [];
  /** Closing delimiters that do not come any more, so that a text full of opening ones costs one search. */
  const absent = new Set<string>();
  const find = (delimiter: string, from: number): number => {
    const found = absent.has(delimiter) ? -1 : text.indexOf(delimiter, from);
    if (found < 0) absent.add(delimiter);
    return found;
  };
  mathOpening.lastIndex = 0;
  for (let match = mathOpening.exec(text); match !== null; match = mathOpening.exec(text)) {
    const [open, environment] = match;
    const close = mathClosing(open, environment);
    const start = match.index + open.length;
    const end = close === undefined ? -1 : find(close, start);
    if (close === undefined || end < 0) continue;
    const content = text.slice(start, end);
    const isMoney = open === '$' && (/^\s|\s$|\n\n/.test(content) || /\d/.test(text[end + 1] ?? ''));
    if (isMoney || content.trim() === '') continue;
    const formula = environment === undefined ? content : lastRow(content);
    spans.push({ start: match.index, end: end + close.length, content: formula });
    mathOpening.lastIndex = end + close.length;
  }
  return spans;
}

export const numberPattern =
  /(?<![\p{L}\d_^.\\])(?:[-−]\s?)?[$€£]?(?:\d{1,3}(?:(?:,\d{3})+|(?:['’]\d{3})+)(?!\d)|\d+)?(?:\.\d*\\overline\s?\{\d+\}|\.\d+|(?<=\d))(?:[eE][-+]?\d+)?(?:\s?\/\s?\d+(?![\d.])| \d+\/\d+)?(?:\s?\\?%|\s?percent\b)?|(?<!\d)(?:[-−]\s?)?\d*\s?\\[dt]?frac\s?(?:\{[^{}]{1,40}\}\s?\{[^{}]{1,40}\}|\d\d)|[½⅓⅔¼¾⅛⅜⅝⅞]/gu;

/** Numbers that stand in running text, in order: 1,234.5, -3/4, 2 1/2, 12 %, \frac{1}{2}. */
export function numberSpans(text: string): Span[] {
  const spans: Span[] = [];
  for (const match of text.matchAll(numberPattern)) {
    let content = match[0];
    let { index } = match;
    // "5-3" and "m - 1" end in a term, not in a negative number.
    const isTerm = /^[-−]\s/.test(content)
      ? /(?<![\p{L}])(?:\p{L}|[\d)\]}])\s$/u.test(text.slice(Math.max(0, index - 3), index))
      : index > 0 && /[\p{L}\d)\]}]/u.test(text[index - 1] as string);
    if (/^[-−]/.test(content) && isTerm) {
      content = content.slice(1);
      index++;
    }
    spans.push({ start: index, end: index + content.length, content: content.trim() });
  }
  return spans;
}

/** The last number; only as much of the text is searched as needed. */
function lastNumber(text: string): Span | undefined {
  for (const size of [300, text.length]) {
    const offset = Math.max(0, text.length - size);
    const last = numberSpans(text.slice(offset)).at(-1);
    // A number at the cut may have begun before it.
    if (last !== undefined && (last.start > 0 || offset === 0)) {
      return { start: last.start + offset, end: last.end + offset, content: last.content };
    }
  }
  return undefined;
}

const consequence = /\\(?:implies|Rightarrow|Longrightarrow|rightarrow|therefore|iff)(?![A-Za-z])/;

/** What an answer that has been worked out has no more. */
export const unevaluated =
  /\\(?:log|ln|lg|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|binom|int|sum|prod|lim|gcd|det)(?![A-Za-z])|!/;

/** "square meters", "cm^2", "miles per hour" */
const unitAfter =
  /^\s?(?:\\[ ,;:]|~)?\\(?:text|mathrm)\s?\{[^{}]{1,30}\}(?:\s?\^\s?\{?\d\}?)?|^\s?(?:(?:square|cubic|sq\.?|cu\.?) )?[A-Za-z]+(?:\s?\^\s?\d|[²³23])?(?:\s?(?:\/|per\b)\s?[A-Za-z]+)?/;

/**
 * The last formula or number of a response without a marked answer, with what the words beside it make of it: no value
 * where it does not stand for itself. `wantsNumber`: the gold answer is a number; `wantsComputed`: one without functions.
 */
export function lastAnswer(
  text: string,
  wantsNumber: boolean,
  wantsComputed = wantsNumber,
): { text: string; value: string | undefined; unit: string } | undefined {
  const window = text.slice(-8000);
  const formula = mathSpans(window)
    .filter(({ content }) => content.trim() !== '' && (!wantsNumber || /\d|\\pi/.test(foldUnicode(content))))
    .at(-1);
  const number = wantsNumber ? lastNumber(window) : undefined;
  const isFormula = formula !== undefined && (number === undefined || number.start < formula.end);
  const span = isFormula ? formula : number;
  if (span !== undefined) {
    const content = isFormula ? (span.content.split(consequence).at(-1) as string) : span.content;
    // What is only restated ("to find $\log_{125} 5$, we ...") is computed in an answer.
    const isComputed = !wantsComputed || content.includes('=') || !unevaluated.test(content);
    const value = isComputed ? inContext(window, { ...span, content }) : undefined;
    // What is shown of "22+37" is not the 37.
    const operands =
      value === undefined && !isFormula
        ? /(?<![\d.,])[\d.][\d.,\s+*×÷^/()−–-]{0,40}[+*×÷^/−–-]\s?$/.exec(
            window.slice(Math.max(0, span.start - 60), span.start),
          )
        : null;
    const unit = unitAfter.exec(window.slice(span.end, span.end + 60))?.[0] ?? '';
    return { text: `${operands?.[0].trimStart() ?? ''}${content}`, value, unit };
  }
  const line = trimAnswer(window.slice(window.trimEnd().lastIndexOf('\n') + 1));
  return wantsNumber || line === '' ? undefined : { text: line, value: line, unit: '' };
}
