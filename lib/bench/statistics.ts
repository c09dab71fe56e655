/** Percentiles of repeats. */

/** Linear interpolation between the sorted values; NaN of none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const low = sorted[Math.floor(place)] ?? Number.NaN;
  const high = sorted[Math.ceil(place)] ?? Number.NaN;
  return low + (high - low) * (place - Math.floor(place));
}

export interface Spread {
  p20: number;
  p50: number;
  p80: number;
}

/** Three figures say what a row needs: four significant digits. */
const short = (value: number): number => Number(value.toPrecision(4));

export function spreadOf(values: readonly number[]): Spread {
  const at = (share: number): number => short(percentile(values, share));
  return { p20: at(0.2), p50: at(0.5), p80: at(0.8) };
}
