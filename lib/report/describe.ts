/** Numbers of a report in words; shared by page, model card and terminal. */
import type { Comparison } from '../eval/comparison.js';

export const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;

export const count = (value: number): string => Math.round(value).toLocaleString('en');

export const interval = ([low, high]: readonly [number, number]): string =>
  `${percent(low)} to ${percent(high)}`;

const points = (value: number): string => `${value > 0 ? '+' : ''}${(100 * value).toFixed(1)}`;

/** "95 % interval +8.0 to +17.0 points, better". */
export function shortComparison({ differenceCi95: [low, high], verdict }: Comparison): string {
  return `95 % interval ${points(low)} to ${points(high)} points, ${verdict}`;
}

/** "+3.2 points (-0.4 to 6.9), p = 0.08: no difference detected". */
export function describeComparison({ difference, differenceCi95, pValue, verdict }: Comparison): string {
  const p = pValue < 0.001 ? 'p < 0.001' : `p = ${pValue.toFixed(3)}`;
  const [low, high] = differenceCi95;
  return `${points(difference)} points (${points(low)} to ${points(high)}), ${p}: ${verdict}`;
}
