/** Statistics beside those of scipy, statsmodels and numpy: test/fixtures/eval/make_statistics.py. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { compareAverages, comparePredictions } from '../../lib/eval/comparison.js';
import { distinctNgrams, diversityOf } from '../../lib/eval/diversity.js';
import type { Prediction } from '../../lib/eval/predictions.js';
import {
  bootstrapInterval,
  mcNemarExact,
  passAtK,
  quantile,
  standardError,
  stratifiedBootstrapInterval,
  wilsonInterval,
} from '../../lib/eval/statistics.js';
import { averageOf, summarizePredictions } from '../../lib/eval/summary.js';

interface References {
  wilson: [number, number, number, number][];
  mcnemar_exact: [number, number, number][];
  pass_at_k: [number, number, number, number][];
  bootstrap: { values: number[]; interval: [number, number] };
  stratified: { strata: number[][]; interval: [number, number] };
  paired: { before: number[]; after: number[]; difference: number; interval: [number, number] };
  standard_error: number;
  quantiles: { values: number[]; result: number[] };
  distinct: { sequences: number[][]; result: Record<string, number | null> };
}

const expected = JSON.parse(
  readFileSync(new URL('../fixtures/eval/statistics.json', import.meta.url), 'utf8'),
) as References;

const near = (a: number, b: number, tolerance: number): boolean => Math.abs(a - b) <= tolerance;

test('Wilson intervals are those of statsmodels', (t) => {
  for (const [successes, n, low, high] of expected.wilson) {
    const [ownLow, ownHigh] = wilsonInterval(successes, n);
    t.true(near(ownLow, low, 1e-12) && near(ownHigh, high, 1e-12), `${successes} of ${n}`);
  }
});

test("McNemar's exact test is that of statsmodels", (t) => {
  for (const [first, second, p] of expected.mcnemar_exact)
    t.true(near(mcNemarExact(first, second), p, 1e-12), `${first} ${second}`);
});

test('pass@k is the quotient of binomials', (t) => {
  for (const [n, c, k, value] of expected.pass_at_k)
    t.true(near(passAtK(n, c, k), value, 1e-12), `${n} ${c} ${k}`);
});

test('standard errors and quantiles are those of scipy and numpy', (t) => {
  t.true(near(standardError(expected.bootstrap.values), expected.standard_error, 1e-12));
  const { values, result } = expected.quantiles;
  t.deepEqual(
    [0.1, 0.5, 0.9].map((share) => quantile(values, share).toFixed(9)),
    result.map((value) => value.toFixed(9)),
  );
});

test('bootstrap intervals agree with scipy within what resampling leaves open', (t) => {
  const close = (own: readonly number[], other: readonly number[], name: string) =>
    own.forEach((value, i) => {
      t.true(near(value, other[i]!, 0.006), `${name}: ${own} and ${other}`);
    });
  const { values, interval } = expected.bootstrap;
  close(bootstrapInterval(values, 3), interval, 'mean');
  close(stratifiedBootstrapInterval(expected.stratified.strata, 3), expected.stratified.interval, 'strata');
});

/** `shares` of four responses per question that are correct. */
const responsesOf = (shares: readonly number[], text = (i: number) => `r${i}`): Prediction[][] =>
  shares.map((share, id) =>
    [0, 1, 2, 3].map((sample) => ({
      id: String(id),
      sample,
      answer: '1',
      response: text(sample),
      response_token_ids: [1, 2, 3 + sample],
      finish_reason: 'stop' as const,
      correct: sample < share * 4,
      extracted: sample < share * 4 ? '1' : '2',
    })),
  );

test('a paired comparison of sampled responses agrees with scipy on the differences', (t) => {
  const { before, after, difference, interval } = expected.paired;
  const own = comparePredictions(responsesOf(before), responsesOf(after), 1);
  t.is(own.method, 'paired-bootstrap');
  t.is(own.discordant, null);
  t.true(near(own.difference, difference, 1e-12));
  t.true(
    own.differenceCi95.every((value, i) => near(value, interval[i]!, 0.006)),
    String(own.differenceCi95),
  );
  t.is(own.verdict, 'better');
  const reversed = comparePredictions(responsesOf(after), responsesOf(before), 1);
  t.is(reversed.verdict, 'worse');
  const average = compareAverages(
    [
      { name: 'a', before: responsesOf(before), after: responsesOf(after) },
      { name: 'b', before: responsesOf(before), after: responsesOf(before) },
    ],
    1,
  );
  t.true(near(average.difference, difference / 2, 1e-12));
  t.true(average.differenceCi95[0] > interval[0] / 2 - 0.004);
});

test('distinct-n counts n-grams within responses, and of the correct ones alone', (t) => {
  const { sequences, result } = expected.distinct;
  for (const [n, value] of Object.entries(result))
    t.is(distinctNgrams(sequences, Number(n)) ?? null, value, `n = ${n}`);
  // Two correct responses that are the same beside two wrong ones that differ.
  const [responses] = responsesOf([0.5], (i) => (i < 2 ? 'same' : `other ${i}`));
  for (const response of responses!) if (response.correct) response.response_token_ids = [7, 8];
  const all = diversityOf([responses!]);
  const correct = diversityOf([responses!], (one) => one.correct);
  t.is(all.distinctShare, 3 / 4);
  t.is(correct.distinctShare, 1 / 2);
  t.is(all.distinctAnswerShare, 2 / 4);
  t.is(correct.distinctN['2'], 1 / 2);
  t.is(correct.distinctN['3'], null);
  t.is(diversityOf([[responses![0]!]]).questions, 0, 'one response says nothing');
});

test('a summary of samples says how far pass@k carries, and averages weigh benchmarks alike', (t) => {
  const settings = { samples: 4, temperature: 1, seed: 1 };
  const entropy = { mean: 0.5, responses: 1 };
  const [few, many] = [responsesOf([1, 0, 0.5]), responsesOf(Array.from({ length: 60 }, () => 0.25))];
  const summary = summarizePredictions(few, settings, entropy);
  for (const [k, value] of Object.entries({ 1: 0.5, 2: (1 + 0 + 5 / 6) / 3, 4: 2 / 3 }))
    t.true(near(summary.passAtK[k]!, value, 1e-12), k);
  t.is(summary.passAtKReliableTo, 1);
  t.is(summary.passAtKCi95?.['4']?.length, 2);
  const sets = [
    { name: 'few', summary, predictions: few },
    { name: 'many', summary: summarizePredictions(many, settings, entropy), predictions: many },
  ];
  const average = averageOf(sets, 1);
  t.is(
    average.n,
    sets.reduce((sum, { summary }) => sum + summary.n, 0),
  );
  t.is(average.samples, sets[0]!.summary.samples);
  t.is(average.accuracy, (0.5 + 0.25) / 2, 'not the mean over all questions');
  t.deepEqual(average.benchmarks, ['few', 'many']);
  t.true(average.accuracyCi95[0] < 0.375 && average.accuracyCi95[1] > 0.375);
});
