/**
 * Whether two checkpoints differ on the same questions: paired, because most questions are easy or hard for both. All
 * of it compares two checkpoints, never two methods: a method's runs differ by their seeds, which one pair of
 * checkpoints does not show (docs/evaluation.md).
 */
import { Random } from '../random.js';
import type { Prediction } from './predictions.js';
import { type Interval, mcNemarExact, mean } from './statistics.js';
import { perQuestionAccuracy } from './summary.js';

export type ComparisonVerdict = 'better' | 'worse' | 'no difference detected';

/** Members with a question mark are missing in results of the first version. */
export interface Comparison {
  /** What `pValue` is of: `mcnemar-exact` for one response per question, else `paired-bootstrap` over questions. */
  method: 'mcnemar-exact' | 'paired-bootstrap';
  n: number;
  /** Accuracy of the second minus that of the first. */
  difference: number;
  /** Paired bootstrap over questions. */
  differenceCi95: Interval;
  /** Two-sided. */
  pValue: number;
  /** Two-sided, by the paired bootstrap, whatever the method. */
  bootstrapPValue?: number;
  /** Questions that only one of the two got right; null for sampled responses. */
  discordant?: { onlyFirst: number; onlySecond: number } | null;
  /** At the 5 % level; says nothing about differences too small to be seen with n questions. */
  verdict: ComparisonVerdict;
}

const resamples = 10_000;

/**
 * Percentile interval and two-sided p-value of the mean of paired differences, by resampling questions: a question's
 * responses stay together. Of several sets each is resampled on its own, and all weigh the same.
 */
function pairedBootstrap(
  strata: readonly (readonly number[])[],
  seed: number,
): { interval: Interval; pValue: number } {
  const random = new Random('paired', seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let total = 0;
    for (const differences of strata) {
      const n = differences.length;
      let sum = 0;
      for (let i = 0; i < n; i++) sum += differences[random.integer(n)]!;
      total += sum / n;
    }
    means[r] = total / strata.length;
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

type Responses = readonly (readonly Prediction[])[];

const differencesOf = (before: Responses, after: Responses): number[] => {
  const first = perQuestionAccuracy(before);
  return perQuestionAccuracy(after).map((value, i) => value - first[i]!);
};

const verdictOf = (pValue: number, difference: number): ComparisonVerdict =>
  pValue >= 0.05 ? 'no difference detected' : difference > 0 ? 'better' : 'worse';

/**
 * Compares `after` with `before`, response by response of the same questions in the same order.
 * @param before responses of each question; @param after the same questions.
 */
export function comparePredictions(before: Responses, after: Responses, seed: number): Comparison {
  const differences = differencesOf(before, after);
  const single = before.every((responses) => responses.length === 1) && after.every((r) => r.length === 1);
  const { interval, pValue: bootstrapPValue } = pairedBootstrap([differences], seed);
  const discordant = single
    ? {
        onlyFirst: differences.filter((d) => d < 0).length,
        onlySecond: differences.filter((d) => d > 0).length,
      }
    : null;
  const pValue = discordant ? mcNemarExact(discordant.onlyFirst, discordant.onlySecond) : bootstrapPValue;
  const difference = mean(differences);
  return {
    method: single ? 'mcnemar-exact' : 'paired-bootstrap',
    n: differences.length,
    difference,
    differenceCi95: interval,
    pValue,
    bootstrapPValue,
    discordant,
    verdict: verdictOf(pValue, difference),
  };
}

export interface AverageComparison {
  benchmarks: string[];
  /** Mean of the benchmarks' differences. */
  difference: number;
  differenceCi95: Interval;
  pValue: number;
  verdict: ComparisonVerdict;
}

/** Compares the averages over several benchmarks: questions are resampled within each, and each weighs the same. */
export function compareAverages(
  sets: readonly { name: string; before: Responses; after: Responses }[],
  seed: number,
): AverageComparison {
  const strata = sets.map(({ before, after }) => differencesOf(before, after));
  const { interval, pValue } = pairedBootstrap(strata, seed);
  const difference = mean(strata.map((differences) => mean(differences)));
  return {
    benchmarks: sets.map(({ name }) => name),
    difference,
    differenceCi95: interval,
    pValue,
    verdict: verdictOf(pValue, difference),
  };
}
