/** Dates and ordinal numbers: May 5 and the 5th are no 5. */
import { isMeaningful } from './words.js';

/** Capitalised, because `may` and `march` are verbs. */
const month = `(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)`;
const suffix = '(?:st|nd|rd|th)';

const endsInMonth = new RegExp(String.raw`(?<![\p{L}])${month}\.?\s+(?:the\s+)?$`, 'u');
const startsWithMonth = new RegExp(String.raw`^(?:${suffix})?\s+(?:of\s+)?${month}(?![\p{L}])`, 'u');

/** True where the number between the two texts is a day beside its month: "on May 5", "the 5th of May". */
export const isDayOfMonth = (before: string, number: string, after: string): boolean =>
  /^\d{1,2}$/.test(number) &&
  (endsInMonth.test(before.slice(-24)) || startsWithMonth.test(after.slice(0, 24)));

const mayBeDate = /\d[-/]\d|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec/i;
const digital = /^\s*(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}([-/])\d{1,2}\2\d{4})\s*$/;
const day = String.raw`(\d{1,2})(?:\s?${suffix})?`;
const monthFirst = new RegExp(String.raw`^(${month})\.?\s+${day}(?:,?\s+(\d{4}))?$`, 'i');
const dayFirst = new RegExp(String.raw`^(?:the\s+)?${day}\s+(?:of\s+)?(${month})\.?(?:,?\s+(\d{4}))?$`, 'i');

const wrappers = /\\(?:text(?:superscript|rm|bf|it)?|mathrm|mbox|rm)(?![A-Za-z])|\\[ ,;!]|[{}^$~]/g;
const unwrapped = (text: string): string => text.replace(wrappers, ' ').replace(/\s+/g, ' ').trim();

/** 2020-06-05, 6/5/2020, June 5 and the 5th of June are dates, no differences and quotients; undefined for what is none. */
export function dateOf(text: string): string | undefined {
  if (text.length > 60 || !mayBeDate.test(text)) return undefined;
  const digits = digital.exec(text)?.[1];
  if (digits !== undefined) return digits.replace(/\b0(?=\d)/g, '');
  const plain = unwrapped(text);
  const first = monthFirst.exec(plain);
  const second = first === null ? dayFirst.exec(plain) : null;
  const [name, number, year = ''] =
    first === null ? [second?.[2], second?.[1], second?.[3]] : [first[1], first[2], first[3]];
  return name && number && `${name.slice(0, 3).toLowerCase()} ${Number(number)} ${year}`.trim();
}

export interface Ordinal {
  number: string;
  /** What is counted: `floor`; may be empty. */
  noun: string;
}

const ordinalDigits = new RegExp(
  String.raw`^(?:the )?(\d{1,3}(?:,\d{3})+|\d{1,9})[ -]?${suffix}(?![a-z])[ -]?([\p{L} '’-]{0,40})$`,
  'iu',
);
const ordinalWords =
  `zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
  fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth`.split(/\s+/);
const tens = 'twenty thirty forty fifty sixty seventy eighty ninety'.split(' ');

/** Number of `fifth` and `twenty-first`. */
function numberOfOrdinal(text: string): string | undefined {
  const [first = '', second, more] = text.toLowerCase().replace(/^the /, '').split(/[ -]/);
  if (more !== undefined) return undefined;
  if (second === undefined) {
    const number = ordinalWords.indexOf(first);
    if (number >= 0) return String(number);
    const ten = tens.indexOf(first.replace(/ieth$/, 'y'));
    return ten >= 0 && first.endsWith('ieth') ? String(10 * (ten + 2)) : undefined;
  }
  const [ten, one] = [tens.indexOf(first), ordinalWords.indexOf(second)];
  return ten >= 0 && one > 0 && one < 10 ? String(10 * (ten + 2) + one) : undefined;
}

const mayBeOrdinal = /(?:st|nd|rd|th|ᵗʰ)(?![A-Za-z])/i;

/** `5th`, `5^{\text{th}}`, `5th floor`, `fifth`; undefined for what is no ordinal number. */
export function ordinalOf(text: string): Ordinal | undefined {
  if (text.length > 80 || !mayBeOrdinal.test(text)) return undefined;
  const plain = unwrapped(text.replaceAll('ᵗʰ', 'th'));
  const match = ordinalDigits.exec(plain);
  if (match !== null) {
    const noun = (match[2] ?? '').trim().toLowerCase();
    if (noun.split(/[\s-]/).some((word) => isMeaningful(word))) return undefined;
    return { number: (match[1] as string).replaceAll(',', ''), noun };
  }
  const number = numberOfOrdinal(plain);
  return number === undefined ? undefined : { number, noun: '' };
}

/** Where only one of the two says what is counted, that contradicts nothing. */
export const sameOrdinal = (gold: Ordinal, found: Ordinal): boolean =>
  gold.number === found.number && (gold.noun === '' || found.noun === '' || gold.noun === found.noun);

/** The suffix that makes a whole number in front of the text an ordinal one. */
export const ordinalSuffix = (after: string): string => /^(?:st|nd|rd|th)(?![A-Za-z])/.exec(after)?.[0] ?? '';
