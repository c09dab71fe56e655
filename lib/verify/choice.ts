/** Multiple choice: a gold answer that is one letter from A to E, and the letter that a text settles on. */
import { trimAnswer } from './normalize.js';

/** Wrappers that stand around a letter: \text{(C)}, \textbf{C}, \mathrm{C}. */
function unwrapLetter(text: string): string {
  let inner = trimAnswer(text);
  for (let round = 0; round < 4; round++) {
    const before = inner;
    const wrapped = /^\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}/.exec(inner);
    if (wrapped) inner = trimAnswer(`${wrapped[1]}${inner.slice(wrapped[0].length)}`);
    if (inner === before) break;
  }
  return inner;
}

/** The letter of a gold answer such as `B`, `(B)` or `\text{(B)}`; undefined for any other answer. */
export function goldChoice(answer: string): string | undefined {
  if (answer.length > 40) return undefined;
  return /^\(?([A-E])\)?$/.exec(unwrapLetter(answer))?.[1];
}

/** After a letter: another one, so that the text settles on none; "B, a diuretic" has an article. */
const another =
  /^[)\].:*\s}]*(?:(?:\/|&|\+|or|and|nor|to|(?:,|;|-|–)\s*(?:and|or)\s)\s*(?:and\s+|or\s+)?(?:option\s+|choice\s+)?[(*[]*[A-Ea-e]|(?:,|;|-|–)\s*(?:option\s+|choice\s+)?(?:[(*[]+[A-Ea-e]|[B-Eb-e]|[Aa](?!\s+(?!(?:and|or)\b)\p{L})))(?![\p{L}\d'’]|\.\p{L}|-\p{Ll})/u;
const anotherBefore =
  /(?<![\p{L}\d'’])[A-E][)\].:*\s]*(?:,|;|\/|&|or|and|nor)\s*(?:and\s+|or\s+)?(?:option\s+|choice\s+)?[(*[]*$/u;
/** Words before a letter that deny it. */
const denied =
  /(?:\b(?:not|never|cannot|neither|nor|(?:all|any(?:thing)?|everything|each)(?: of (?:them|these|the above))? but|instead of|rather than|than|except|excludes?|excluding|eliminates?|eliminating|rules? out|ruling out|reject)|n['’]t)(?:\s+(?:be|is|the|a|option|choice|answer|either|possibly))*[\s("'*:]*$/i;
/** Words after a letter that deny it. */
const deniedAfter =
  /^[)\].*\s]*(?:is|are|was|can|could|must|does|do)\s*(?:n['’]t\b|not\b|(?:also\s+|clearly\s+)?(?:wrong|incorrect|false|impossible|out\b|ruled out|eliminated))/i;

/** The letter at the start of an extracted answer: `C`, `(c)`, `C. 42`, `\textbf{(C)}\ 42`, `option C`. */
export function leadingChoice(answer: string): string | undefined {
  const text = unwrapLetter(answer.slice(0, 200)).replace(
    /^(?:(?:therefore|thus|then|hence|clearly|(?:most\s+)?likely|probably),?\s+)*(?:the\s+)?(?:(?:option|choice|answer)\s*:?\s*)?/i,
    '',
  );
  const bare = unwrapLetter(text);
  const found =
    /^\(([A-Ea-e])\)|^\[([A-Ea-e])\]|^([A-E])(?=$|[.):,;*\\]|\s*$|\s+[^a-z\s]|\s+(?:rather|instead|not|because|since)\b)|^([a-e])(?=$|[.):])/.exec(
      bare,
    );
  if (found === null) return undefined;
  const rest = bare.slice(found[0].length).replace(/\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}?/g, '$1');
  if (another.test(rest) || deniedAfter.test(rest)) return undefined;
  return (found[1] ?? found[2] ?? found[3] ?? found[4])?.toUpperCase();
}

/** The last letter in running text that stands for itself: `(C)`, `C.`, `**C**`, "option C"; "A dog" is no choice. */
export function lastChoice(text: string): string | undefined {
  let last: string | undefined;
  const window = text.slice(-4000);
  for (const match of window.matchAll(/(?<![\p{L}\d'’\\])([A-E])(?![\p{L}\d'’])/gu)) {
    const after = window.slice(match.index + 1, match.index + 3);
    // "A" followed by a word is the article.
    if (match[1] === 'A' && /^\s\p{L}/u.test(after)) continue;
    const [before, rest] = [
      window.slice(Math.max(0, match.index - 40), match.index),
      window.slice(match.index + 1, match.index + 40),
    ];
    if (denied.test(before) || deniedAfter.test(rest)) continue;
    // "A or B" settles on neither.
    if (another.test(rest) || anotherBefore.test(before)) last = undefined;
    else last = match[1];
  }
  return last;
}
