import test from 'ava';
import {
  bootstrapInterval,
  mcNemarExact,
  mean,
  passAtK,
  standardError,
  stratifiedBootstrapInterval,
  wilsonInterval,
} from '../../lib/eval/statistics.js';
import { summarizePredictions } from '../../lib/eval/summary.js';

const near = (a: number, b: number, tolerance = 5e-5): boolean => Math.abs(a - b) <= tolerance;

test('the Wilson interval agrees with published values and stays within [0, 1]', (t) => {
  // R: binom.confint(15, 20, methods = "wilson"), (0, 10) and (10, 10)
  const [low, high] = wilsonInterval(15, 20);
  t.true(near(low, 0.531299) && near(high, 0.888138), `${low} ${high}`);
  t.deepEqual(
    wilsonInterval(0, 10).map((v) => Number(v.toFixed(4))),
    [0, 0.2775],
  );
  t.deepEqual(
    wilsonInterval(10, 10).map((v) => Number(v.toFixed(4))),
    [0.7225, 1],
  );
});

test('pass@k equals counting all subsets', (t) => {
  const n = 7;
  for (let correct = 0; correct <= n; correct++) {
    for (let k = 1; k <= n; k++) {
      let hits = 0;
      let subsets = 0;
      for (let bits = 0; bits < 1 << n; bits++) {
        const members = Array.from({ length: n }, (_, i) => (bits >> i) & 1);
        if (members.reduce((a, b) => a + b, 0) !== k) continue;
        subsets++;
        if (members.some((member, i) => member === 1 && i < correct)) hits++;
      }
      t.true(near(passAtK(n, correct, k), hits / subsets, 1e-12), `n ${n} c ${correct} k ${k}`);
    }
  }
});

test('the exact McNemar test agrees with the binomial distribution', (t) => {
  t.is(mcNemarExact(0, 0), 1);
  t.is(mcNemarExact(5, 5), 1);
  t.true(near(mcNemarExact(1, 9), 22 / 1024, 1e-12)); // 2 (1 + 10) / 2^10
  t.is(mcNemarExact(9, 1), mcNemarExact(1, 9));
  t.true(near(mcNemarExact(0, 6), 2 / 64, 1e-12));
  const large = mcNemarExact(900, 1100); // normal approximation: z = 4.45 with continuity
  t.true(large > 5e-6 && large < 1.2e-5, String(large));
});

test('the bootstrap is seeded, covers the mean and keeps the samples of a question together', (t) => {
  const values = Array.from({ length: 200 }, (_, i) => (i * 0.377) % 1);
  const interval = bootstrapInterval(values, 1);
  t.deepEqual(bootstrapInterval(values, 1), interval);
  t.notDeepEqual(bootstrapInterval(values, 2), interval);
  t.true(interval[0] < mean(values) && interval[1] > mean(values));
  const halfWidth = (interval[1] - interval[0]) / 2;
  t.true(Math.abs(halfWidth - 1.96 * standardError(values)) < 0.006, String(halfWidth));
});

test('an average over sets that came out alike has a width all the same', (t) => {
  const spread = Array.from({ length: 50 }, (_, i) => i % 2);
  const [low, high] = stratifiedBootstrapInterval([spread, spread], 1);
  const [low2, high2] = stratifiedBootstrapInterval([spread, Array(10).fill(1)], 1);
  const [wilsonLow] = wilsonInterval(10, 10);
  t.true(high - low > 0.15 && high - low < 0.22);
  // Half of Wilson's distance beside half of the bootstrap's.
  const distance = Math.hypot((1 - wilsonLow) / 2, 0.14 / 2);
  t.true(near(0.75 - low2, distance, 0.01), `${0.75 - low2} ${distance}`);
  t.true(high2 - 0.75 < 0.08);
  t.deepEqual(
    stratifiedBootstrapInterval([Array(10).fill(1)], 1).map((value) => Number(value.toFixed(6))),
    wilsonInterval(10, 10).map((value) => Number(value.toFixed(6))),
  );
});

test('the standard error is that of the mean', (t) => {
  t.is(standardError([1]), 0);
  t.true(near(standardError([1, 2, 3, 4]), Math.sqrt(5 / 3 / 4), 1e-12));
});

test('sampled responses that all came out alike have an interval all the same', (t) => {
  const summaryOf = (correct: boolean, questions: number) => {
    const response = {
      id: 'a',
      answer: '1',
      response: '',
      response_token_ids: [1],
      finish_reason: 'stop' as const,
    };
    const predictions = Array.from({ length: questions }, () =>
      [0, 1].map((sample) => ({ ...response, sample, correct })),
    );
    const settings = { samples: 2, temperature: 1, seed: 0 };
    return summarizePredictions(predictions, settings, { mean: null, responses: 0 });
  };
  // As many trials as questions: the samples of one question say little about the others.
  t.deepEqual(summaryOf(false, 1).accuracyCi95, wilsonInterval(0, 1));
  t.deepEqual(summaryOf(true, 10).accuracyCi95, wilsonInterval(10, 10));
  t.true(summaryOf(false, 1).accuracyCi95[1] > 0.7);
});
