/**
 * Forms that are another spelling of one the parser reads: `]2, 5[` for (2, 5), `C(5, 2)` for a binomial, 0.333… for a
 * repeating decimal, "all real numbers". Each pattern is linear and closed; a text that fits none stays as it is.
 */
import { measure, withPower } from './units.js';

const bracket = String.raw`(?:\\left|\\right|\\bigl?|\\bigr?)?\s*`;
const openInterval = new RegExp(String.raw`^\s*${bracket}([[\]])([^[\]]*[,;][^[\]]*?)${bracket}([[\]])\s*$`);

/** ]2, 5[ has its brackets turned outward where the end is open. */
function turnedBrackets(text: string): string {
  if (!/\][^[]*[,;]|[,;][^\]]*\[/.test(text)) return text;
  const pieces = text.replaceAll('∪', '\\cup ').split(/\\(?:big)?cup(?![A-Za-z])/);
  const intervals = pieces.map((piece) => openInterval.exec(piece));
  if (intervals.length > 16 || intervals.includes(null)) return text;
  return intervals
    .map((match) => `${match?.[1] === ']' ? '(' : '['}${match?.[2]}${match?.[3] === '[' ? ')' : ']'}`)
    .join(' \\cup ');
}

const whole = String.raw`\{?\s*(\d{1,3})\s*\}?`;
const capital = String.raw`(?:C|\\(?:mathrm|text|mathbf)\s?\{C\})`;
/** C(5,2), 5C2, _5C_2, ^5C_2 and C_5^2. */
const chosen: readonly RegExp[] = [
  /(?<![A-Za-z\\])n?C\s?\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)/g,
  /^\s*(\d{1,3})\s?C\s?(\d{1,3})\s*$/g,
  new RegExp(String.raw`(?:\{\})?[_^]\s?${whole}\s?${capital}\s?_\s?${whole}`, 'g'),
  new RegExp(String.raw`(?<![A-Za-z\d\\}])${capital}\s?_\s?${whole}\s?\^\s?${whole}`, 'g'),
];

/** P(8,5), 8P5, _8P_5 and ^8P_5. */
const arranged = new RegExp(
  String.raw`^\s*(?:P\s?\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)|(?:(?:\{\})?[_^]\s?)?${whole}\s?P\s?_?\s?${whole})\s*$`,
);
const arrangements = (text: string, ...groups: (string | undefined)[]): string => {
  const [n, k] = groups
    .slice(0, 4)
    .filter((group) => group !== undefined)
    .map(Number);
  return n === undefined || k === undefined || k > n ? text : `\\frac{${n}!}{${n - k}!}`;
};

/** 0.333… and 0.1212…: one digit three times, or several twice, and then dots. */
const endless =
  /^(\s*-?\s*\d{0,15}\.\d{0,8}?)(?:(\d)\2{2,40}|(\d{2,6}?)\3{1,8})\s?(?:\.{3}|…|\\(?:l|c)?dots)\s*$/;

const unit = String.raw`(?:\\(?:text|mathrm)\s?\{\s*)?(?:${measure})\s*\}?(?:\s?\^\s?\{?\d\}?)?\s*\}?`;
const unitFraction = new RegExp(
  String.raw`^([^a-zA-Z]{1,40})(?:\\[ ,;:]|\s|~)+\\[dt]?frac\s?\{\s*(${unit})\}\s?\{\s*(${unit})\}\s*$`,
);

const isReals = /^\s*(?:\\text\s?\{)?\s*(?:the set of )?all (?:the )?real(?:s| numbers?)\s*\}?\s*$/i;
/** What is \mathbb{R} in print without that letter, where real numbers are expected. */
export const isBareReals = (text: string): boolean =>
  /^\s*(?:[A-Za-z]\s*(?:\\in|∈)\s*)?(?:\\math(?:bf|rm|cal)\s*\{?\s*R\s*\}?|R)\s*$/.test(text);
const boldReals = /^\s*\\mathbf\s*\{?\s*R\s*\}?(?=\s*(?:\\(?:setminus|backslash|smallsetminus)|-)\s*\\\{)/;
const realsWithout =
  /^\s*\\mathbb\s?\{?R\}?\s*(?:\\(?:setminus|backslash|smallsetminus)|-)\s*\\\{([-\d\s,.]{1,80})\\\}\s*$/;

/** \mathbb{R}\setminus\{2\} is a union of intervals. */
function withoutPoints(text: string): string {
  const points = realsWithout
    .exec(text)?.[1]
    ?.split(',')
    .map((point) => point.replace(/\s/g, ''));
  if (points === undefined || !points.every((point) => /^-?\d{1,9}(?:\.\d{1,9})?$/.test(point))) return text;
  const sorted = [...new Set(points)].sort((a, b) => Number(a) - Number(b));
  const ends = ['-\\infty', ...sorted, '\\infty'];
  return ends
    .slice(1)
    .map((end, index) => `(${ends[index]}, ${end})`)
    .join(' \\cup ');
}

/** The form that the parser reads. `isNumber`: the gold answer is a number, so that C(5, 2) is no point. */
export function plainForm(text: string, isNumber: boolean): string {
  let plain = text;
  if (text.length > 400) return text;
  if (isNumber || /\d[\s\\a-z{~]*[a-z]{2}[23]/.test(plain)) plain = withPower(plain);
  if (isReals.test(text)) return '\\mathbb{R}';
  if (/[[\]]/.test(plain)) plain = turnedBrackets(plain);
  if (/\bU\b/.test(plain)) plain = plain.replace(/([)\]])\s{0,4}U\s{0,4}([([])/g, '$1 \\cup $2');
  if (boldReals.test(plain)) plain = plain.replace(boldReals, '\\mathbb{R}');
  if (plain.includes('mathbb')) plain = withoutPoints(plain);
  if (/[.…s]\s*$/.test(plain))
    plain = plain.replace(
      endless,
      (_, start: string, digit?: string, period?: string) => `${start}\\overline{${digit ?? period}}`,
    );
  if (isNumber && plain.includes('C'))
    for (const pattern of chosen) plain = plain.replace(pattern, '\\binom{$1}{$2}');
  if (plain.includes('frac') && (isNumber || /\\(?:text|mathrm)/.test(plain))) {
    const match = unitFraction.exec(plain);
    const bare = (text = ''): string => text.replace(/\\(?:text|mathrm)|[{}\s]/g, '');
    if (match !== null) plain = `${match[1]} \\text{${bare(match[2])}/${bare(match[3])}}`;
  }
  plain = plain.replace(/^\(\s?([\dA-F]{1,40})\s?\)(?=\s?_)/, '$1');
  if (!isNumber) return plain;
  plain = plain.replace(/(\d\s?)[xX](?=\s?10\s?(?:\^|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]))/, '$1\\times ');
  plain = plain.replace(/^\s*(\d{1,9})\s+(?:out of|in)\s+(\d{1,9})\s*$/, '$1/$2');
  if (plain.includes('P')) plain = plain.replace(arranged, arrangements);
  return plain.replace(/^\\underline\s?\{([^{}]*\d[^{}]*)\}$/, '$1');
}

const isBound = /[<>≤≥]|\\(?:le|ge|lt|gt|leq|geq|leqslant|geqslant)(?![A-Za-z])/;
const saysOr = (text: string): boolean => /\bor\b|∨|\\(?:lor|vee)(?![A-Za-z])/.test(text);
const saysAnd = (text: string): boolean => /\band\b|∧|\\(?:land|wedge)(?![A-Za-z])/.test(text);

/** "x < 1 and x > 2" is nothing where "x < 1 or x > 2" is asked; "x > 2 or x < 5" is no 2 < x < 5. */
export function connectivesContradict(gold: string, predicted: string): boolean {
  if (!isBound.test(gold) || !isBound.test(predicted)) return false;
  const [goldOr, goldAnd] = [saysOr(gold), saysAnd(gold)];
  const [or, and] = [saysOr(predicted), saysAnd(predicted)];
  if (goldOr !== goldAnd && or !== and && goldOr !== or) return true;
  const isChain =
    !goldOr && !goldAnd && !/,|;|\\cup|∪/.test(gold) && (gold.match(/[<>≤≥]|\\[lg]e/g) ?? []).length === 2;
  return isChain && or;
}

const opposites: Record<string, string> = { yes: 'no', no: 'yes', true: 'false', false: 'true' };

/** "yes, but actually no" */
export function takesBack(text: string, verdict: string): boolean {
  const opposite = opposites[verdict];
  if (opposite === undefined) return false;
  return new RegExp(`(?:[,.;:!]|\\b(?:actually|but|or|and))\\s*${opposite}\\s*(?:[,.;:!]|$)`, 'i').test(text);
}

/** What "Yes, she can" says where yes or no (true, false) is asked; undefined where it says both or neither. */
export function leadingVerdict(text: string): string | undefined {
  const verdict = /^\W{0,6}(yes|no|true|false)\s*[,;:.!]/i.exec(text)?.[1]?.toLowerCase();
  if (verdict === undefined || text.length > 400) return undefined;
  // "Yes, if x > 0" is a condition.
  const opposite = new RegExp(
    `\\b(?:${opposites[verdict]}|wait|actually|but|however|if|unless|only|except|maybe|perhaps)\\b`,
    'i',
  );
  // "Yes, it cannot" says either.
  const isDenied =
    /^(?:yes|true)$/.test(verdict) && /\b(?:not|never|cannot|false|wrong)\b|n['’]t\b/i.test(text);
  if (isDenied) return undefined;
  return opposite.test(text) ? undefined : verdict;
}
