/** Intervals and tests of the evaluation. Everything random is seeded; nothing assumes more than it says. */
import { Random } from '../random.js';

export type Interval = [low: number, high: number];

/** The 97.5 % point of the normal distribution. */
const z = 1.959963984540054;
const resamples = 2000;

export const mean = (values: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / values.length;
};

/** Wilson's score interval for `successes` of `n`, 95 %. */
export function wilsonInterval(successes: number, n: number): Interval {
  const p = successes / n;
  const denominator = 1 + (z * z) / n;
  const centre = (p + (z * z) / (2 * n)) / denominator;
  const half = (z / denominator) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

/** Standard error of the mean of independent values. */
export function standardError(values: ArrayLike<number>): number {
  const n = values.length;
  if (n < 2) return 0;
  const centre = mean(values);
  let squares = 0;
  for (let i = 0; i < n; i++) squares += (values[i]! - centre) ** 2;
  return Math.sqrt(squares / (n - 1) / n);
}

/** Percentile bootstrap of the mean over questions, 95 %, 2000 resamples: a question's samples stay together. */
export function bootstrapInterval(perQuestion: ArrayLike<number>, seed: number): Interval {
  const n = perQuestion.length;
  const random = new Random('bootstrap', seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += perQuestion[random.integer(n)]!;
    means[r] = sum / n;
  }
  means.sort();
  return [means[Math.floor(0.025 * resamples)]!, means[Math.ceil(0.975 * resamples) - 1]!];
}

/**
 * Chance that at least one of k responses, drawn without replacement from n of which c are correct, is correct
 * (Chen et al., arXiv 2107.03374): 1 - C(n-c, k) / C(n, k).
 */
export function passAtK(n: number, c: number, k: number): number {
  if (n - c < k) return 1;
  let allWrong = 1;
  for (let i = n - c + 1; i <= n; i++) allWrong *= 1 - k / i;
  return 1 - allWrong;
}

/**
 * Percentile bootstrap of the mean over several sets of questions, each resampled on its own and all of equal weight,
 * 95 %, 2000 resamples: the average over benchmarks. A set whose questions all came out right, or all wrong, has no
 * spread to resample: it adds the width of Wilson's interval by the squares of the distances (MOVER, Zou and Donner 2008).
 */
export function stratifiedBootstrapInterval(strata: readonly ArrayLike<number>[], seed: number): Interval {
  const random = new Random('stratified', seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let total = 0;
    for (const values of strata) {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[random.integer(values.length)]!;
      total += sum / values.length;
    }
    means[r] = total / strata.length;
  }
  means.sort();
  const interval: Interval = [
    means[Math.floor(0.025 * resamples)]!,
    means[Math.ceil(0.975 * resamples) - 1]!,
  ];
  const alike = strata.filter((values) => {
    const first = values[0];
    return (first === 0 || first === 1) && Array.prototype.every.call(values, (value) => value === first);
  });
  if (alike.length === 0) return interval;
  const centre = mean(strata.map((values) => mean(values)));
  const [below, above] = [0, 1].map((side) => {
    const own = (interval[side]! - centre) ** 2;
    const added = alike.map(
      (values) =>
        ((wilsonInterval(values[0]! * values.length, values.length)[side]! - values[0]!) / strata.length) **
        2,
    );
    return Math.sqrt(added.reduce((sum, value) => sum + value, own));
  }) as Interval;
  return [Math.max(0, centre - below), Math.min(1, centre + above)];
}

/** The value below which a share of the values lies, by linear interpolation (numpy's default). */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (at - low) * (sorted[high]! - sorted[low]!);
}

/** Two-sided exact McNemar test: `onlyA` and `onlyB` count the questions that just one of the two got right. */
export function mcNemarExact(onlyA: number, onlyB: number): number {
  const n = onlyA + onlyB;
  if (n === 0) return 1;
  // Terms by their logarithms: 2^-n underflows beyond a thousand discordant pairs.
  let term = -n * Math.LN2;
  let tail = Math.exp(term);
  for (let i = 1; i <= Math.min(onlyA, onlyB); i++) {
    term += Math.log((n - i + 1) / i);
    tail += Math.exp(term);
  }
  return Math.min(1, 2 * tail);
}
