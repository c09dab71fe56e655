import test from 'ava';
import { Random } from '../../lib/random.js';
import { type BatchLimits, packStep } from '../../lib/train/batches.js';
import type { TrainingExample } from '../../lib/train/examples.js';
import { batchOfStep, planTraining } from '../../lib/train/plan.js';
import { learningRateAt, makeSchedule } from '../../lib/train/schedule.js';

function example(length: number, selected: number[], weights = selected.map(() => 1)): TrainingExample {
  return {
    tokenIds: Int32Array.from({ length: selected.length === 0 ? 0 : length }, (_, i) => 100 * length + i),
    tokens: length + 2,
    responseTokens: length,
    selected: Int32Array.from(selected),
    targets: Int32Array.from(selected, (s) => 7 + s),
    weights: Float64Array.from(weights),
  };
}

test('the random sequence is fixed: data order of earlier runs depends on it', (t) => {
  const random = new Random('order', 0, 0);
  t.deepEqual([random.uint32(), random.uint32(), random.uint32()], [829958138, 4036515445, 2593250452]);
  t.notDeepEqual([...new Random('a', 'b').permutation(50)], [...new Random('ab').permutation(50)]);
});

test('permutations are uniform', (t) => {
  const counts = new Map<string, number>();
  const random = new Random('uniform');
  for (let i = 0; i < 6000; i++) {
    const key = random.permutation(3).join('');
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  t.is(counts.size, 6);
  for (const [key, count] of counts) t.true(Math.abs(count - 1000) < 150, `${key} ${count}`);
});

test('each epoch covers every response once, in an order of its own', (t) => {
  const plan = planTraining({ responses: 10, batchSize: 4, epochs: 3, seed: 5 });
  t.is(plan.stepsPerEpoch, 3);
  t.is(plan.steps, 9);
  const orders = [0, 1, 2].map((epoch) =>
    [0, 1, 2].flatMap((step) => [...batchOfStep(plan, epoch * 3 + step)]),
  );
  for (const order of orders)
    t.deepEqual(
      [...order].sort((a, b) => a - b),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    );
  t.is(batchOfStep(plan, 2).length, 2);
  t.notDeepEqual(orders[0], orders[1]);
  t.deepEqual([...batchOfStep(plan, 4)], [...batchOfStep({ ...plan }, 4)]);
  t.notDeepEqual([...batchOfStep(plan, 4)], [...batchOfStep({ ...plan, seed: 6 }, 4)]);
});

test('a part of an epoch is rounded up to whole steps', (t) => {
  const steps = (epochs: number): number =>
    planTraining({ responses: 30, batchSize: 1, epochs, seed: 0 }).steps;
  t.is(steps(0.1), 3);
  t.is(steps(0.101), 4);
  t.is(steps(1e-6), 1);
});

test('the rate rises over the warm-up, reaches its peak once, falls, and is never zero', (t) => {
  for (const name of ['cosine', 'linear'] as const) {
    const schedule = makeSchedule(name, 2, 0.1, 50);
    const rates = Array.from({ length: 50 }, (_, step) => learningRateAt(schedule, step));
    t.is(schedule.warmupSteps, 5);
    t.is(rates[5], 2);
    t.is(Math.max(...rates), 2);
    for (let i = 1; i < 50; i++) t.true(i <= 5 ? rates[i]! > rates[i - 1]! : rates[i]! < rates[i - 1]!);
    t.true(Math.min(...rates) > 0);
  }
  t.is(learningRateAt(makeSchedule('cosine', 2, 0, 50), 25), 1);
  t.is(learningRateAt(makeSchedule('linear', 2, 0, 50), 25), 1);
  t.is(learningRateAt(makeSchedule('constant', 2, 0, 50), 49), 2);
  t.true(learningRateAt(makeSchedule('cosine', 2, 1, 50), 49) <= 2);
  t.is(makeSchedule('cosine', 2, { steps: 7 }, 50).warmupSteps, 7);
  t.is(makeSchedule('cosine', 2, { steps: 70 }, 50).warmupSteps, 50);
});

test('packing keeps the order, offsets the positions and divides by N of the step', (t) => {
  const { batches, tokens, selectedTokens } = packStep(
    [example(3, [0, 2]), example(5, []), example(2, [1], [0.5])],
    7,
    { microBatchTokens: 100 },
    'step',
  );
  t.is(batches.length, 1);
  const batch = batches[0]!;
  t.deepEqual([...batch.tokenIds], [300, 301, 302, 200, 201]);
  t.deepEqual([...batch.sequenceStarts], [0, 3, 5]);
  t.deepEqual([...batch.selected], [0, 2, 4]);
  t.deepEqual([...batch.targets], [7, 9, 8]);
  t.deepEqual([...batch.weights], [...Float32Array.from([1 / 3, 1 / 3, 0.5 / 3])]);
  t.is(tokens, 5 + 7 + 4);
  t.is(selectedTokens, 3);
});

test('micro-batches respect the token limit; a longer sequence makes one of its own', (t) => {
  const examples = [example(4, [0]), example(4, [1]), example(20, [2]), example(3, [0]), example(4, [3])];
  const lengths = (microBatchTokens: number, microBatchSequences?: number): number[][] =>
    packStep(examples, 0, { microBatchTokens, microBatchSequences }, 'step').batches.map((batch) =>
      [...batch.sequenceStarts].slice(1).map((end, i) => end - batch.sequenceStarts[i]!),
    );
  t.deepEqual(lengths(8), [[4, 4], [20], [3, 4]]);
  t.deepEqual(lengths(1), [[4], [4], [20], [3], [4]]);
  t.deepEqual(lengths(1000, 2), [[4, 4], [20, 3], [4]]);
  const { batches } = packStep(examples, 3, { microBatchTokens: 8 }, 'step');
  t.deepEqual(
    batches.map(({ dropoutCounter, firstToken }) => [dropoutCounter, firstToken]),
    [
      [3, 0],
      [3, 8],
      [3, 28],
    ],
  );
});

test('which responses a step has, and every weight in it, do not depend on the size of the micro-batches', (t) => {
  const plan = planTraining({ responses: 24, batchSize: 8, epochs: 2, seed: 3 });
  const examples = Array.from({ length: 24 }, (_, i) =>
    example(
      5 + i,
      Array.from({ length: 1 + (i % 4) }, (_, j) => j),
    ),
  );
  const terms = (limits: BatchLimits): number[][] =>
    Array.from({ length: plan.steps }, (_, step) => {
      const members = Array.from(batchOfStep(plan, step), (index) => examples[index]!);
      return packStep(members, step, limits, 'step').batches.flatMap(({ tokenIds, targets, weights }) => [
        ...tokenIds,
        ...targets,
        ...weights,
      ]);
    }).map((all) => all.sort((a, b) => a - b));
  const whole = terms({ microBatchTokens: 1e6 });
  t.deepEqual(terms({ microBatchTokens: 1 }), whole);
  t.deepEqual(terms({ microBatchTokens: 40 }), whole);
  t.deepEqual(terms({ microBatchTokens: 1e6, microBatchSequences: 3 }), whole);
});

test('the loss weights of 8x1 and 2x4 are the same under step and sequence', (t) => {
  const examples = Array.from({ length: 8 }, (_, i) =>
    example(
      10,
      Array.from({ length: i }, (_, j) => j),
    ),
  );
  for (const normalization of ['step', 'sequence'] as const) {
    const weights = (microBatchSequences: number): number[] =>
      packStep(examples, 0, { microBatchTokens: 1e6, microBatchSequences }, normalization).batches.flatMap(
        (batch) => [...batch.weights],
      );
    t.deepEqual(weights(1), weights(4));
    t.true(Math.abs(weights(4).reduce((a, b) => a + b, 0) - 1) < 1e-6);
  }
});

test('sequence averages sequences, microbatch averages micro-batches, both over those with loss', (t) => {
  const examples = [example(5, [0]), example(5, [0, 1, 2]), example(5, []), example(5, [1, 2])];
  const weights = (normalization: 'sequence' | 'microbatch'): number[][] =>
    packStep(examples, 0, { microBatchTokens: 1e6, microBatchSequences: 2 }, normalization).batches.map(
      (batch) => [...batch.weights].map((w) => Number(w.toFixed(6))),
    );
  const third = Number((1 / 3).toFixed(6));
  const ninth = Number((1 / 9).toFixed(6));
  t.deepEqual(weights('sequence'), [
    [third, ninth, ninth, ninth],
    [Number((1 / 6).toFixed(6)), Number((1 / 6).toFixed(6))],
  ]);
  t.deepEqual(weights('microbatch'), [
    [0.125, 0.125, 0.125, 0.125],
    [0.25, 0.25],
  ]);
});

test('a step without a selected token has no batches and no NaN', (t) => {
  const packed = packStep([example(5, []), example(6, [])], 0, { microBatchTokens: 10 }, 'step');
  t.deepEqual(packed, { batches: [], tokens: 15, selectedTokens: 0 });
});
