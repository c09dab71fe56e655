/**
 * The last resort takes the last number of free prose for the answer. This says what the words beside it make of it:
 * "minus 5" and "7 million" are other numbers; "not 5", "more than 5", "5 or 6", "half of 5" and "5 squared" are none.
 */
import { isDayOfMonth, ordinalSuffix } from './dates.js';
import type { Span } from './extract.js';
import { measure } from './units.js';
import { isProduct, magnitudeOf } from './words.js';

/** How far the words beside a number reach. */
const reach = 60;

const link = String.raw`(?:\s+(?:equal to|the|a|an|about|only|exactly|just|total of|a total of|be|equal|or equal to))*[\s$(*]*$`;
/** "We cannot say that it is 5", "it is impossible to get 5" */
const impossible = /\b(?:cannot|can['’]t|impossible|no way|never)\b[^,;\d]{0,25}$/i;
const denial =
  /(?:\b(?:not|never|cannot|cant|neither|nor|without|except|excluding|instead of|rather than)|n['’]t)(?:\s+[\p{L}'’]+){0,2}[\s$(*]*$/iu;
const bound = new RegExp(
  String.raw`(?:\b(?:than|least|most|over|under|above|below|exceeds?|exceeding|between|(?<!\b[Aa]dd(?:s|ed|ing)? )up to|within)|[<>≤≥≠]|\\(?:le|ge|ne|leq|geq|neq|lt|gt|leqslant|geqslant))(?:\s+or\s+equal\s+to)?${link}`,
  'i',
);
const operation = new RegExp(
  String.raw`(?:\b(?:plus|times|divided by|multiplied by|half of|half|(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s? of|twice|thrice|double|triple|square of|(?:square|cube) root of|cube of|squared|modulo|mod|remainder)|(?<!\*)[+*×÷^/](?!\*)|(?:[\d)\]}]|(?<![a-zA-Z'’])[a-zA-Z])\s*[-–−])${link}`,
  'i',
);
const subtraction = /\d\s*\S*\s+minus[\s$]*$/i;
/** "5 or 6", "5 to 7", "between 3 and 4": another number and a word of choice before the number. */
const alternative = new RegExp(
  String.raw`\d[^.;=\d$]{0,24}\bor[\s*]*$|\d\s*${measure}?\s+(?:to|through)[\s*]*$|\beither\b[^.;=]*\bor[\s$*]*$|\bbetween\b[^.;=]*\band[\s$*]*$`,
  'i',
);
/** The same between formulas; "$72/6$ or $12$" gives another form of the same number. */
const alternativeFormula = /(?<=[\s$(])\$?\s*[\d.,]*\d\s*\$,?\s*(?:or|to)\s*\$?$/i;
/** "$x = 2$ or $x = 3$" */
const solutionBefore = /\$\s*([A-Za-z])\s*=[^$=]*\$,?\s*or\s*\$?$/;
const isOtherSolution = (clause: string, content: string): boolean => {
  const name = solutionBefore.exec(clause)?.[1];
  return name !== undefined && content.trim().startsWith(name) && /^\s*[A-Za-z]\s*=/.test(content);
};
/** "the divisor of $3x$ and $7$": one of several formulas. */
const severalFormulas = /\$\s*,?\s*and\s*\$?$/;
const measured = new RegExp(String.raw`\d\s*${measure}s?,?(?:\s+and)?[\s$]+$`);
const measuredAfter = new RegExp(String.raw`^\s*${measure}\b`);
/** The number is one side of an inequality. */
const boundAfter = /^[\s$]*(?:[<>≤≥≠]|\\(?:le|ge|ne|lt|gt)(?:q|qslant)?(?![A-Za-z]))/;
const changedAfter =
  /^(?:[kKMB]\b|bn\b|\s*(?:squared|cubed|and (?:a|one)[\s-](?:half|quarter)|and three[\s-]quarters|remainder|R\s?\d|halves|thirds|fifths|tenths|hundredths|thousandths|or (?:more|less|fewer|so many|[a-z]+[\s-]?(?:teen|ty)|two|three|four|five|six|seven|eight|nine|ten)|plus|minus|times (?!a\b|per\b|as\b|the\b|each\b|every\b|more\b|in\b|this\b|that\b)\w|divided by|multiplied by|at (?:least|most)|percentile|(?:is|was)(?:n['’]t| not)\b|(?:\p{L}+\s+)?(?:is|was|are) (?:wrong|incorrect|false)\b))/iu;

/** The content of the span with what the words beside it say; undefined where it does not stand for itself. */
export function inContext(text: string, { start, end, content }: Span): string | undefined {
  const clause = text.slice(Math.max(0, start - reach), start).replace(/^.*(?:[.;:!?](?=\s)|\n)/s, '');
  const after = text.slice(end, end + reach);
  const isResult = /[=≈][\s$*]*$/.test(clause);
  let value = content;
  if (!isResult) {
    const near = clause.replace(/\\text\s?\{([^{}]*)\}|\\approx/g, '$1 ').replace(/^.*,(?=\s)/s, '');
    const isEquation = content.includes('=');
    if (denial.test(near) || impossible.test(near) || bound.test(clause)) return undefined;
    if (!isEquation && (operation.test(clause) || subtraction.test(clause))) return undefined;
    if (
      alternative.test(clause) ||
      isOtherSolution(clause, content) ||
      (!isEquation && (alternativeFormula.test(clause) || severalFormulas.test(clause)))
    )
      return undefined;
    if (measured.test(clause) && measuredAfter.test(after)) return undefined;
    if (/\b(?:minus|negative)[\s$]*$/i.test(clause)) value = `-(${value})`;
    else if (isDayOfMonth(text.slice(Math.max(0, start - 24), start), content, after)) return undefined;
    else if (/^\d+$/.test(content)) value += ordinalSuffix(after);
  }
  // 45 mph/x
  if (/^\s?[A-Za-z]{2,}\s?[/*·^]\s?[a-cnp-rt-vx-z](?![A-Za-z])/.test(after)) return undefined;
  if (changedAfter.test(after) || boundAfter.test(after)) return undefined;
  // 5x and 5ab are products, 5 m and 5 km are not.
  const factor = /\d$/.test(content) ? (/^[A-Za-z]{1,3}(?![\p{L}'’])/u.exec(after)?.[0] ?? '') : '';
  if (factor.length === 1 ? !/[mgshlLVWJNCF]/.test(factor) : isProduct(factor)) return undefined;
  const inParentheses = /^\(([A-Za-z]{1,3})\s?[-+*/)]/.exec(after)?.[1] ?? '';
  if (/\d$/.test(content) && (inParentheses.length === 1 || isProduct(inParentheses))) return undefined;
  const word = /^\s?([A-Za-z]+)/.exec(after)?.[1] ?? '';
  // "60 / 12 = 5 dozen" has counted in dozens.
  const scale = isResult && /^dozens?$/i.test(word) ? undefined : magnitudeOf(word);
  return scale === undefined ? value : `(${value})*${scale}`;
}
