/** Whether two checkpoints differ on the same questions: paired, because most questions are easy or hard for both. */
import { Random } from '../random.js';
import type { Prediction } from './predictions.js';
import { type Interval, mcNemarExact } from './statistics.js';
import { perQuestionAccuracy } from './summary.js';

export type ComparisonVerdict = 'better' | 'worse' | 'no difference detected';

export interface Comparison {
  /** `mcnemar-exact` for one response per question, else `paired-bootstrap` over questions. */
  method: 'mcnemar-exact' | 'paired-bootstrap';
  n: number;
  /** Accuracy of the second minus that of the first. */
  difference: number;
  /** Paired bootstrap over questions. */
  differenceCi95: Interval;
  /** Two-sided. */
  pValue: number;
  /** At the 5 % level; says nothing about differences too small to be seen with n questions. */
  verdict: ComparisonVerdict;
}

const resamples = 10_000;

/** Percentile interval and two-sided p-value of the mean of paired differences, by resampling questions. */
function pairedBootstrap(
  differences: readonly number[],
  seed: number,
): { interval: Interval; pValue: number } {
  const n = differences.length;
  const random = new Random('paired', seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += differences[random.integer(n)]!;
    means[r] = sum / n;
  }
  means.sort();
  const notAbove = means.filter((value) => value <= 0).length;
  const notBelow = means.filter((value) => value >= 0).length;
  return {
    interval: [means[Math.floor(0.025 * resamples)]!, means[Math.ceil(0.975 * resamples) - 1]!],
    // One is added to both counts so that no p-value claims more than the resamples can show.
    pValue: Math.min(1, (2 * (Math.min(notAbove, notBelow) + 1)) / (resamples + 1)),
  };
}

/**
 * Compares `after` with `before`, response by response of the same questions in the same order.
 * @param before responses of each question; @param after the same questions.
 */
export function comparePredictions(
  before: readonly (readonly Prediction[])[],
  after: readonly (readonly Prediction[])[],
  seed: number,
): Comparison {
  const a = perQuestionAccuracy(before);
  const b = perQuestionAccuracy(after);
  const differences = b.map((value, i) => value - a[i]!);
  const n = differences.length;
  const single = before.every((responses) => responses.length === 1) && after.every((r) => r.length === 1);
  const { interval, pValue: bootstrapP } = pairedBootstrap(differences, seed);
  const pValue = single
    ? mcNemarExact(differences.filter((d) => d < 0).length, differences.filter((d) => d > 0).length)
    : bootstrapP;
  const difference = differences.reduce((sum, d) => sum + d, 0) / n;
  return {
    method: single ? 'mcnemar-exact' : 'paired-bootstrap',
    n,
    difference,
    differenceCi95: interval,
    pValue,
    verdict: pValue >= 0.05 ? 'no difference detected' : difference > 0 ? 'better' : 'worse',
  };
}
