/** The trainer's handle: what crosses, what is refused, and whose life depends on whom. Its numbers: test/parity. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test, { type ExecutionContext } from 'ava';
import { CftError, type CftErrorCode } from '../../lib/errors.js';
import { loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import { readSafetensorsHeader } from '../../lib/model/safetensors.js';
import { nativeEntry } from '../../lib/model/tensors.js';
import type { NativeTrainBatch, NativeTrainer, NativeTrainerOptions } from '../../lib/native/binding.js';
import { projectRoot } from '../helpers/data.js';
import { fixturePath, temporaryFolder } from '../helpers/fixtures.js';

const options: NativeTrainerOptions = {
  masterWeights: true,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxGradNorm: 1,
  seed: 1,
};
const lora = { rank: 2, alpha: 4, dropout: 0, targets: ['q_proj'], rankStabilized: false };

/** Two sequences of 5 and 3 tokens, three selected positions. */
const batch: NativeTrainBatch = {
  tokenIds: Int32Array.of(5, 6, 7, 8, 9, 10, 11, 12),
  sequenceStarts: Int32Array.of(0, 5, 8),
  selected: Int32Array.of(0, 2, 7),
  targets: Int32Array.of(6, 8, 1),
  weights: Float32Array.of(0.25, 0.25, 0.5),
  dropoutCounter: 0,
};
const nothingSelected: NativeTrainBatch = {
  ...batch,
  selected: new Int32Array(0),
  targets: new Int32Array(0),
  weights: new Float32Array(0),
};

const loadTiny = (): Promise<Model> =>
  loadModel(fixturePath('models/qwen2'), { device: 'cpu', dtype: 'float32' });

async function rejects(
  t: ExecutionContext,
  code: CftErrorCode,
  message: RegExp,
  work: () => Promise<unknown>,
): Promise<void> {
  const error = await t.throwsAsync(work, { instanceOf: CftError });
  t.is((error as CftError).code, code);
  t.regex(error!.message, message);
}

test('losses, gradients and scores of a batch', async (t) => {
  await using model = await loadTiny();
  const trainer = await model.createTrainer(options);
  t.is(trainer.trainableParameters, model.parameterCount);
  t.deepEqual(trainer.parameterNames(), model.native.tensorNames());

  const scores = await trainer.score(batch);
  t.is(scores.nll.length, 3);
  t.is(scores.entropies.length, 3);
  const { data, shape } = await model.logits([5, 6, 7, 8, 9]);
  const best = [0, 2].map((position) => {
    const row = data.subarray(position * shape[1], (position + 1) * shape[1]);
    return row.indexOf(Math.max(...row));
  });
  t.deepEqual([...scores.correct.subarray(0, 2)], [best[0] === 6 ? 1 : 0, best[1] === 8 ? 1 : 0]);
  const greedy = await trainer.score({ ...batch, targets: Int32Array.of(best[0]!, best[1]!, 1) });
  t.deepEqual([...greedy.correct.subarray(0, 2)], [1, 1]);
  const { logProbs, entropies } = await model.scores([5, 6, 7, 8, 9]);
  t.true(Math.abs(scores.nll[0]! + logProbs[0]!) < 1e-4);
  t.true(Math.abs(scores.nll[1]! + logProbs[2]!) < 1e-4);
  t.true(Math.abs(scores.entropies[1]! - entropies[2]!) < 1e-4);

  const loss = await trainer.accumulate(batch);
  const expected = scores.nll.reduce((sum, nll, i) => sum + nll * batch.weights[i]!, 0);
  t.true(Math.abs(loss - expected) < 1e-4 * expected);
  const norms = await Promise.all(
    trainer.parameterNames().map(async (name) => Math.hypot(...(await trainer.gradient(name)))),
  );
  const { gradNorm, applied } = await trainer.step(1e-3);
  t.true(applied);
  t.true(Math.abs(gradNorm - Math.hypot(...norms)) < 1e-4 * gradNorm);
  t.true((await trainer.gradient('model.norm.weight')).every((value) => value === 0));
  t.true((await trainer.accumulate(batch)) < loss);

  t.is(await trainer.accumulate(nothingSelected), 0);
  t.deepEqual(await trainer.score(nothingSelected), {
    nll: new Float32Array(0),
    entropies: new Float32Array(0),
    correct: new Float32Array(0),
  });
  trainer.dispose();
});

test('a step changes the model and its version; an adapter leaves both alone', async (t) => {
  await using model = await loadTiny();
  const before = await model.scores([5, 6, 7]);
  const adapter = await model.createTrainer({ ...options, lora });
  await adapter.accumulate(batch);
  const version = model.native.weightVersion;
  t.true((await adapter.step(1e-2)).applied);
  t.is(model.native.weightVersion, version);
  t.deepEqual(await model.scores([5, 6, 7]), before);
  t.deepEqual(adapter.parameterNames().slice(0, 2), [
    'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight',
    'base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight',
  ]);
  adapter.dispose();

  const full = await model.createTrainer(options);
  await full.accumulate(batch);
  await full.step(1e-2);
  t.is(model.native.weightVersion, version + 1);
  t.notDeepEqual(await model.scores([5, 6, 7]), before);
  full.dispose();
});

test('state goes through a file and back; another configuration is refused', async (t) => {
  const path = join(temporaryFolder(t), 'state.safetensors');
  const run = async (trainer: NativeTrainer, steps: number): Promise<number[]> => {
    const losses = [];
    for (let i = 0; i < steps; i++) {
      losses.push(await trainer.accumulate(batch));
      await trainer.step(1e-2);
    }
    return losses;
  };
  await using model = await loadTiny();
  const trainer = await model.createTrainer(options);
  await run(trainer, 2);
  await trainer.saveState(path);
  const undisturbed = await run(trainer, 3);
  const entries = readSafetensorsHeader(path).map(nativeEntry);

  await using again = await loadTiny();
  const resumed = await again.createTrainer(options);
  await resumed.loadState(entries);
  t.deepEqual(await run(resumed, 3), undisturbed);

  const other = await again.createTrainer({ ...options, lora });
  await rejects(t, 'ERR_CFT_BAD_DATA', /state\.safetensors: LoRA rank was 0.* is 2/, () =>
    other.loadState(entries),
  );
  await rejects(t, 'ERR_CFT_IO', /cannot create/, () => trainer.saveState(join(path, 'below-a-file')));
  await rejects(t, 'ERR_CFT_BAD_OPTION', /no adapter/, () => trainer.saveAdapter(path));
  for (const each of [trainer, resumed, other]) each.dispose();
});

test('batches, options and calls that cannot be are refused', async (t) => {
  await using model = await loadTiny();
  const trainer = await model.createTrainer(options);
  const bad: [Partial<NativeTrainBatch>, RegExp][] = [
    [{ tokenIds: Int32Array.of(5, 6, 7, 8, 9, 10, 11, 96) }, /tokenIds\[7\] = 96, expected .* 0 to 95/],
    [{ selected: Int32Array.of(0, 2, 8) }, /selected\[2\] = 8/],
    [{ sequenceStarts: Int32Array.of(0, 5) }, /sequenceStarts/],
    [{ weights: Float32Array.of(0.25, Number.NaN, 0.5) }, /weights\[1\] = nan/],
    [{ weights: Float32Array.of(0.25, 0.25, Infinity) }, /weights\[2\] = inf/],
    [{ weights: Float32Array.of(-0.25, 0.25, 0.5) }, /weights\[0\] = -0\.25.*at least 0/],
  ];
  for (const [change, message] of bad) {
    await rejects(t, 'ERR_CFT_BAD_DATA', message, () => trainer.accumulate({ ...batch, ...change }));
    await rejects(t, 'ERR_CFT_BAD_DATA', message, () => trainer.score({ ...batch, ...change }));
  }
  const mistyped = { ...batch, weights: [1, 2, 3] as unknown as Float32Array };
  t.throws(() => trainer.accumulate(mistyped), { message: /weights: expected a Float32Array/ });
  await rejects(t, 'ERR_CFT_BAD_OPTION', /learning rate/, () => trainer.step(Number.NaN));
  await rejects(t, 'ERR_CFT_BAD_OPTION', /model\.none/, () => trainer.gradient('model.none'));
  await rejects(t, 'ERR_CFT_BAD_OPTION', /no module is named wq; this model has down_proj/, () =>
    model.createTrainer({ ...options, lora: { ...lora, targets: ['q_proj', 'wq'] } }),
  );
  await rejects(t, 'ERR_CFT_BAD_OPTION', /lm_head is tied to the embedding.*; down_proj, .*v_proj can$/, () =>
    model.createTrainer({ ...options, lora: { ...lora, targets: ['q_proj', 'lm_head'] } }),
  );
  const badOptions: [object, RegExp][] = [
    [{ loraRank: 4 }, /unknown option "loraRank" for createTrainer/],
    [{ lora: 4 }, /lora: expected an object, found 4/],
    [{ lora: { ...lora, r: 2 } }, /unknown option "r" for createTrainer's lora/],
    [{ lora: { ...lora, targets: 'q_proj' } }, /lora\.targets: expected a list of names/],
    [{ seed: 1.5 }, /seed: expected an integer of at least 0, found 1\.5/],
    [{ seed: -1 }, /seed/],
    [{ beta1: undefined }, /beta1: expected a number/],
    [{ beta1: 1 }, /beta1 is 1\.0*, expected 0 or more and less than 1/],
    [{ beta2: -0.1 }, /beta2/],
    [{ epsilon: 0 }, /epsilon/],
    [{ epsilon: Number.NaN }, /epsilon/],
    [{ weightDecay: Number.NaN }, /weight decay/],
    [{ maxGradNorm: -1 }, /gradient clipping is -1/],
    [{ maxGradNorm: Number.POSITIVE_INFINITY }, /gradient clipping is inf/],
  ];
  for (const [change, message] of badOptions)
    await rejects(t, 'ERR_CFT_BAD_OPTION', message, () => model.createTrainer({ ...options, ...change }));
  trainer.dispose();
  t.throws(() => trainer.step(1), { instanceOf: CftError, code: 'ERR_CFT_DISPOSED' });
  t.throws(() => trainer.trainableParameters, { instanceOf: CftError, code: 'ERR_CFT_DISPOSED' });
  trainer.dispose();
});

test('a trainer outlives its model handle, and what is under way ends when it is disposed', async (t) => {
  const model = await loadTiny();
  const trainer = await model.createTrainer(options);
  await model[Symbol.asyncDispose]();
  t.true((await trainer.accumulate(batch)) > 0);
  const calls = Array.from({ length: 50 }, () => trainer.accumulate(batch));
  trainer.dispose();
  const results = await Promise.allSettled(calls);
  const last = results.at(-1) as PromiseRejectedResult;
  t.is(last.status, 'rejected');
  t.is((last.reason as CftError).code, 'ERR_CFT_DISPOSED');
});

test('a call returns within a millisecond', async (t) => {
  await using model = await loadTiny();
  const trainer = await model.createTrainer(options);
  const tokens = 16_384;
  const long: NativeTrainBatch = {
    tokenIds: new Int32Array(tokens).fill(7),
    sequenceStarts: Int32Array.from({ length: tokens / 64 + 1 }, (_, i) => i * 64),
    selected: Int32Array.from({ length: tokens / 64 }, (_, i) => i * 64),
    targets: new Int32Array(tokens / 64).fill(8),
    weights: new Float32Array(tokens / 64).fill(1),
    dropoutCounter: 0,
  };
  const times: number[] = [];
  const calls: Promise<unknown>[] = [];
  for (let i = 0; i < 9; i++) {
    const start = performance.now();
    calls.push(trainer.score(long));
    times.push(performance.now() - start);
  }
  const start = performance.now();
  trainer.dispose();
  times.push(performance.now() - start);
  await Promise.allSettled(calls);
  const median = times.sort((a, b) => a - b)[5]!;
  t.log(`median ${median.toFixed(3)} ms`);
  t.true(median < 1);
});

test('the process can end in the middle of a step', (t) => {
  const script = `
    import { loadModel } from './lib/model/load.ts';
    const model = await loadModel('test/fixtures/models/qwen2', { device: 'cpu' });
    const trainer = await model.createTrainer(${JSON.stringify(options)});
    const tokens = 60_000;
    const batch = {
      tokenIds: new Int32Array(tokens).fill(7),
      sequenceStarts: Int32Array.from({ length: tokens / 100 + 1 }, (_, i) => i * 100),
      selected: Int32Array.from({ length: tokens - 1 }, (_, i) => i),
      targets: new Int32Array(tokens - 1).fill(8),
      weights: new Float32Array(tokens - 1).fill(1),
      dropoutCounter: 0,
    };
    for (let i = 0; i < 20; i++) void trainer.accumulate(batch).catch(() => {});
    setTimeout(() => process.exit(7), 100);
  `;
  const child = spawnSync(process.execPath, ['--import=tsx', '--input-type=module', '-e', script], {
    cwd: projectRoot,
    encoding: 'utf8',
    timeout: 120_000,
  });
  t.is(child.status, 7, child.stderr);
  t.is(child.stderr, '');
});

test('work that was asked for ends well though nobody holds the trainer any more', async (t) => {
  await using model = await loadTiny();
  setFlagsFromString('--expose-gc');
  const collectGarbage = runInNewContext('gc') as () => void;
  const [sequences, length] = [128, 100];
  const selected = Int32Array.from({ length: sequences * length }, (_, i) => i).filter(
    (i) => i % length < length - 1,
  );
  const begin = async (): Promise<Promise<number>[]> => {
    const trainer = await model.createTrainer(options);
    const long: NativeTrainBatch = {
      tokenIds: Int32Array.from({ length: sequences * length }, (_, i) => 5 + ((i * 7) % 50)),
      sequenceStarts: Int32Array.from({ length: sequences + 1 }, (_, i) => i * length),
      selected,
      targets: selected.map((i) => 5 + (i % 50)),
      weights: new Float32Array(selected.length).fill(1 / selected.length),
      dropoutCounter: 0,
    };
    return Array.from({ length: 12 }, () => trainer.accumulate(long));
  };
  const work = await begin();
  let pending = true;
  const losses = Promise.all(work).finally(() => {
    pending = false;
  });
  let collections = 0;
  for (; pending; collections++) {
    collectGarbage();
    await setImmediate();
  }
  for (const loss of await losses) t.true(loss > 0);
  t.true(collections > 1, String(collections));
});
