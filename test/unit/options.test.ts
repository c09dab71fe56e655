import test from 'ava';
import { commands, optionGroups, optionTable } from '../../lib/option-table.js';
import { flagOf, nearest, optionNames, resolveOptions } from '../../lib/options.js';
import { resolveBatchSize } from '../../lib/train/batch-size.js';

test('every default passes its own check, for every command', (t) => {
  for (const command of commands) t.notThrows(() => resolveOptions(command, {}));
});

test('defaults are filled in, options without one are undefined', (t) => {
  const options = resolveOptions('train', {});
  t.is(options.epochs, 3);
  t.is(options.batchSize, 16);
  t.is(options.microBatchTokens, 'auto');
  t.deepEqual(options.loraTargets, ['all-linear']);
  t.is(options.learningRate, undefined);
  t.true('learningRate' in options);
  t.false('samples' in options);
});

test('given beats preset beats table', (t) => {
  const defaults = { epochs: 5, learningRate: 1e-3 };
  const options = resolveOptions('train', { epochs: 1 }, { defaults });
  t.is(options.epochs, 1);
  t.is(options.learningRate, 1e-3);
});

const refused: [name: string, value: unknown, expected: RegExp][] = [
  ['epochs', 0, /epochs \(--epochs\): expected a number above 0 and at most 1000, found 0/],
  ['learningRate', -1, /learningRate \(--learning-rate\): expected a number above 0 .*, found -1/],
  ['learningRate', 'fast', /expected a number above 0 .*, found "fast"/],
  ['learningRate', Number.NaN, /found null|found NaN/],
  ['limit', 1.5, /expected an integer of at least 1, found 1.5/],
  ['limit', '5', /expected an integer of at least 1, found "5"/],
  ['microBatchTokens', 'big', /expected an integer of at least 1 or auto, found "big"/],
  ['k', 65, /at least 2 and at most 64, found 65/],
  ['schedule', 'square', /expected one of cosine, linear, constant, found "square"/],
  ['strategy', 'cfd', /expected one of cft, sft, found "cfd"/],
  ['device', 'gpu', /expected auto, cpu, cuda or cuda:N, found "gpu"/],
  ['userTemplate', 'Solve!', /expected a text that contains \{question\}, found "Solve!"/],
  ['waves', 'yes', /expected true or false, found "yes"/],
  ['loraTargets', [], /expected a list of names/],
];
for (const [name, value, message] of refused) {
  test(`${name} = ${JSON.stringify(value)} is refused, naming flag, expected and found`, (t) => {
    t.throws(() => resolveOptions('train', { [name]: value }), { code: 'ERR_CFT_BAD_OPTION', message });
  });
}

test('an unknown name is refused with the nearest known one', (t) => {
  t.throws(() => resolveOptions('train', { learningRte: 1 }, { where: 'the configuration file x.yaml' }), {
    code: 'ERR_CFT_BAD_OPTION',
    message:
      'unknown option "learningRte" in the configuration file x.yaml for train; did you mean "learningRate"?',
  });
  t.throws(() => resolveOptions('eval', { loraRank: 8 }), {
    message: /unknown option "loraRank" for eval: it belongs to train$/,
  });
});

test('a list is given as text with commas or as a list', (t) => {
  t.deepEqual(resolveOptions('train', { loraTargets: 'q_proj, v_proj' }).loraTargets, ['q_proj', 'v_proj']);
  t.deepEqual(resolveOptions('train', { loraTargets: ['q_proj'] }).loraTargets, ['q_proj']);
});

test('nearest finds what is close and nothing else', (t) => {
  t.is(nearest('trian', commands), 'train');
  t.is(nearest('evaluate', commands), undefined);
  t.is(nearest('evl', commands), 'eval');
});

test('flags are kebab-case; no two options share a flag or an alias', (t) => {
  t.is(flagOf('microBatchTokens'), '--micro-batch-tokens');
  const seen = new Set<string>();
  for (const [name, spec] of Object.entries(optionTable)) {
    const aliases = 'aliases' in spec ? spec.aliases : [];
    for (const flag of [flagOf(name).slice(2), ...aliases]) {
      t.false(seen.has(flag), flag);
      seen.add(flag);
    }
  }
});

test('every option is in one group and on a command', (t) => {
  t.deepEqual(Object.values(optionGroups).flat(), Object.keys(optionTable));
  for (const spec of Object.values(optionTable)) t.true(spec.on.length > 0);
  for (const command of ['train', 'annotate', 'eval', 'generate', 'verify'] as const)
    t.true(optionNames(command).length > 0);
});

test('batch size: any two of size, per-device size and accumulation make the third', (t) => {
  t.deepEqual(resolveBatchSize({}, 16), { batchSize: 16 });
  t.deepEqual(resolveBatchSize({ batchSize: 8 }, 16), { batchSize: 8 });
  const both = { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 8 };
  t.deepEqual(resolveBatchSize(both, 16), { batchSize: 32, microBatchSequences: 4 });
  t.deepEqual(resolveBatchSize({ ...both, batchSize: 32 }, 16), { batchSize: 32, microBatchSequences: 4 });
  t.deepEqual(resolveBatchSize({ perDeviceTrainBatchSize: 4 }, 16), { batchSize: 4, microBatchSequences: 4 });
  t.deepEqual(resolveBatchSize({ perDeviceTrainBatchSize: 4, batchSize: 16 }, 1), {
    batchSize: 16,
    microBatchSequences: 4,
  });
  t.deepEqual(resolveBatchSize({ gradientAccumulationSteps: 4 }, 16), {
    batchSize: 16,
    microBatchSequences: 4,
  });
});

test('batch sizes that contradict each other are refused', (t) => {
  const bad = [
    { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 8, batchSize: 16 },
    { perDeviceTrainBatchSize: 3, batchSize: 16 },
    { gradientAccumulationSteps: 5 },
  ];
  for (const given of bad) t.throws(() => resolveBatchSize(given, 16), { code: 'ERR_CFT_BAD_OPTION' });
});
