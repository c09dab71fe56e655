/** Numbers, paths and tables for people. */
import { relative } from 'node:path';

export const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;

export const count = (value: number): string => Math.round(value).toLocaleString('en');

/** `1 step`, `2 steps`. */
export const counted = (value: number, noun: string): string =>
  `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

/** `8 s`, `2 min 05 s`, `1 h 20 min`. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** What each technique of annotation did; empty where none did anything. */
export function savingsText(savings: {
  rolloutsSaved: number;
  savedTokens: number;
  acceptedTokens: number;
  stoppedRollouts: number;
  wastedTokens: number;
}): string {
  const parts: [number, string][] = [
    [savings.rolloutsSaved, `rollouts (about ${count(savings.savedTokens)} tokens) saved by waves`],
    [savings.acceptedTokens, 'tokens from drafts'],
    [savings.stoppedRollouts, 'rollouts stopped at their answer'],
    [savings.wastedTokens, 'tokens of speculation wasted'],
  ];
  return parts
    .filter(([value]) => value > 0)
    .map(([value, what]) => `${count(value)} ${what}`)
    .join(', ');
}

/** Rows of cells as aligned columns; the first column is aligned to the left, the others to the right. */
export function textTable(rows: readonly (readonly string[])[]): string {
  const columns = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) =>
    Math.max(...rows.map((row) => row[i]?.length ?? 0)),
  );
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('   ')
      .trimEnd();
  return rows.map(line).join('\n');
}

/** A command line as one would type it. */
export const shellQuoted = (words: readonly string[]): string =>
  words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');

/** Relative to the working directory where that is below it. */
export function shortPath(path: string): string {
  const short = relative(process.cwd(), path);
  return short === '' || short.startsWith('..') ? path : short;
}
