import test from 'ava';
import { rooflineOf, stepCosts } from '../../lib/bench/roofline.js';
import type { ModelConfig } from '../../lib/model/config.js';

const config = {
  vocabSize: 100,
  hiddenSize: 10,
  layers: 3,
  kvHeads: 2,
  headDim: 8,
  tieWordEmbeddings: true,
} as ModelConfig;

test('costs of a step: an untied embedding is not multiplied', (t) => {
  t.deepEqual(stepCosts(config, 5000, 'bfloat16'), {
    weightBytes: 10_000,
    flopsPerRow: 10_000,
    positionBytes: 192,
  });
  t.is(stepCosts({ ...config, tieWordEmbeddings: false }, 5000, 'float32').weightBytes, 16_000);
});

test('the roofline is the slower of reading and multiplying', (t) => {
  const costs = { weightBytes: 1000, flopsPerRow: 100, positionBytes: 10 };
  // Two trunks with two rollouts each, of three steps after a prefix of 20: suffixes of 1, 2 and 3 positions.
  const rollouts = [0, 0, 1, 1].map((trunk) => ({ trunk, length: 20, steps: 3 }));
  const few = { flopsPerSecond: 1e9, bytesPerSecond: 1e5 };
  // Four rows read four suffixes of 2 positions and two trunks: 48 positions.
  t.is(rooflineOf(costs, few, rollouts, 4), 4 / ((1000 + 480) / 1e5));
  // Two rows: one trunk and two suffixes.
  t.is(rooflineOf(costs, few, rollouts, 2), 2 / ((1000 + 240) / 1e5));
  // More rows than rollouts do not count.
  t.is(rooflineOf(costs, few, rollouts, 64), 4 / ((1000 + 480) / 1e5));
  t.is(rooflineOf(costs, { flopsPerSecond: 1e4, bytesPerSecond: 1e9 }, rollouts, 4), 4 / (400 / 1e4));
});
