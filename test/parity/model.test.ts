/**
 * The decoder and the trainer against transformers: every family as a tiny random checkpoint, the real stories260K,
 * and PEFT adapters. make_models.py made the expected values.
 */
import { basename } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import type { NativeTrainBatch, NativeTrainerOptions } from '../../lib/native/binding.js';
import { needsData } from '../helpers/data.js';
import { fixturePath, readJson, readTensors, relativeError } from '../helpers/fixtures.js';

interface Expected {
  parameters: number;
  prompt: number[];
  greedy: number[];
  sequences: number[][];
  selected: number[][];
  weights: number[][];
  loss: number;
  training_losses: number[];
}

const families = [
  'llama',
  'llama-llama3',
  'llama-linear-bf16',
  'llama-yarn-f16',
  'qwen2',
  'qwen3-sharded',
  'olmo2',
  'olmo3',
  'mistral',
];

async function load(t: ExecutionContext, folder: string): Promise<Model> {
  const model = await loadModel(folder, { device: 'cpu', dtype: 'float32', threads: 1 });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

async function checkLogits(
  t: ExecutionContext,
  model: Model,
  prompt: readonly number[],
  expected: Float32Array,
): Promise<void> {
  const { data, shape } = await model.logits(prompt);
  t.deepEqual(shape, [prompt.length, model.config.vocabSize]);
  const error = relativeError(data.subarray(data.length - expected.length), expected);
  t.log(`logits: relative error ${error.toExponential(1)}`);
  t.true(error < 1e-4, `logits differ by ${error}`);
}

/** Greedy tokens without an end token, as the fixture's reference ran. */
async function greedy(model: Model, prompt: readonly number[], count: number): Promise<number[]> {
  const engine = model.createEngine({ maxBranches: 1, endTokenIds: new Int32Array(0) });
  try {
    const tokenIds = Int32Array.from(prompt);
    const { trunk } = await engine.addTrunk({ tokenIds, scoreFrom: prompt.length, alternatives: 0 });
    const forcedTokens = new Int32Array(0);
    const sampling = { temperature: 0, topP: 1, seed: 0 };
    engine.submit([{ id: 1, trunk, length: prompt.length, forcedTokens, maxNewTokens: count, ...sampling }]);
    for (;;) {
      const { finished } = await engine.step(count);
      if (finished[0]) return [...finished[0].tokenIds];
    }
  } finally {
    engine.dispose();
  }
}

/** The fixture's sequences laid end to end. */
function packed({ sequences, selected, weights }: Expected): NativeTrainBatch {
  const starts = [0];
  for (const ids of sequences) starts.push(starts.at(-1)! + ids.length);
  return {
    tokenIds: Int32Array.from(sequences.flat()),
    sequenceStarts: Int32Array.from(starts),
    selected: Int32Array.from(selected.flatMap((places, s) => places.map((place) => starts[s]! + place))),
    targets: Int32Array.from(
      selected.flatMap((places, s) => places.map((place) => sequences[s]![place + 1]!)),
    ),
    weights: Float32Array.from(weights.flat()),
    dropoutCounter: 0,
  };
}

const plainAdamW: NativeTrainerOptions = {
  masterWeights: true,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxGradNorm: 0,
  seed: 0,
};

const relative = (found: number, expected: number): number => Math.abs(found - expected) / Math.abs(expected);

for (const name of families) {
  const folder = fixturePath(`models/${name}`);
  const expected = readJson<Expected>(fixturePath(`expected/${name}.json`));
  const tensors = readTensors(fixturePath(`expected/${name}.safetensors`));

  test(`${name}: logits and greedy tokens are those of transformers`, async (t) => {
    const model = await load(t, folder);
    t.is(model.parameterCount, expected.parameters);
    await checkLogits(t, model, expected.prompt, tensors.get('logits')!);
    t.deepEqual(await greedy(model, expected.prompt, 64), expected.greedy);
  });

  test(`${name}: scores are those of the logits`, async (t) => {
    const model = await load(t, folder);
    const { logProbs, entropies } = await model.scores(expected.prompt);
    const logits = tensors.get('logits')!;
    const vocabulary = model.config.vocabSize;
    for (let i = 0; i + 1 < expected.prompt.length; i++) {
      const row = Array.from(logits.subarray(i * vocabulary, (i + 1) * vocabulary));
      const largest = Math.max(...row);
      const logSum = largest + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
      const entropy = row.reduce((sum, logit) => sum - Math.exp(logit - logSum) * (logit - logSum), 0);
      t.true(Math.abs(logProbs[i]! - (row[expected.prompt[i + 1]!]! - logSum)) < 1e-3);
      t.true(Math.abs(entropies[i]! - entropy) < 1e-3);
    }
    t.deepEqual(
      [logProbs.length, entropies.length],
      [expected.prompt.length - 1, expected.prompt.length - 1],
    );
  });

  test(`${name}: gradients are those of torch`, async (t) => {
    const model = await load(t, folder);
    const trainer = await model.createTrainer(plainAdamW);
    t.teardown(() => trainer.dispose());
    const loss = await trainer.accumulate(packed(expected));
    t.true(relative(loss, expected.loss) < 1e-4, `loss ${loss}, expected ${expected.loss}`);
    const names = [...tensors.keys()].filter((key) => key.startsWith('gradient.'));
    t.deepEqual(trainer.parameterNames().sort(), names.map((key) => key.slice('gradient.'.length)).sort());
    let worst = 0;
    for (const key of names) {
      const error = relativeError(await trainer.gradient(key.slice('gradient.'.length)), tensors.get(key)!);
      t.true(error < 1e-3, `${key} differs by ${error}`);
      worst = Math.max(worst, error);
    }
    t.log(`gradients: largest relative error ${worst.toExponential(1)}`);
  });

  test(`${name}: the losses of ten AdamW steps are those of torch`, async (t) => {
    const model = await load(t, folder);
    const trainer = await model.createTrainer(plainAdamW);
    t.teardown(() => trainer.dispose());
    const losses: number[] = [];
    for (let step = 0; step < 10; step++) {
      losses.push(await trainer.accumulate(packed(expected)));
      t.true((await trainer.step(1e-3)).applied);
    }
    const errors = losses.map((loss, i) => relative(loss, expected.training_losses[i]!));
    t.log(`losses: largest relative error ${Math.max(...errors).toExponential(1)}`);
    t.true(Math.max(...errors) < 1e-4, `losses ${losses}, expected ${expected.training_losses}`);
  });
}

for (const name of ['qwen2-lora', 'qwen2-rslora']) {
  test(`${name}: logits of a merged adapter are those of PEFT`, async (t) => {
    const { prompt } = readJson<Expected>(fixturePath(`expected/${name}.json`));
    const logits = readTensors(fixturePath(`expected/${name}.safetensors`)).get('logits')!;
    const model = await load(t, fixturePath(`models/${name}`));
    await checkLogits(t, model, prompt, logits);
    const base = await load(t, fixturePath('models/qwen2'));
    t.true(relativeError((await base.logits(prompt)).data, logits) > 0.1, 'the adapter matters');
  });
}

test('stories260K: logits, greedy tokens and text are those of transformers', async (t) => {
  const folder = needsData(t, 'models/stories260K-hf');
  if (folder === undefined) return;
  const expected = readJson<Expected & { text: string }>(fixturePath('expected/stories260K.json'));
  const model = await load(t, folder);
  t.is(basename(folder), 'stories260K-hf');
  t.is(model.parameterCount, 260_032);
  await checkLogits(
    t,
    model,
    expected.prompt,
    readTensors(fixturePath('expected/stories260K.safetensors')).get('logits')!,
  );
  const tokens = await greedy(model, expected.prompt, 64);
  t.deepEqual(tokens, expected.greedy);
  t.is(model.tokenizer.decode(tokens), expected.text);
});
