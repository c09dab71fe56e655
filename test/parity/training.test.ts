/**
 * Fifty optimizer steps, full and LoRA, against PyTorch and PEFT (test/fixtures/training/make_training.py): dense
 * cross-entropy with ignore_index, accumulation, clipping, AdamW with weight decay, warm-up and cosine; every gradient
 * of the first step, and weights and moments after ten.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { loadModel } from '../../lib/model/load.js';
import { readSafetensorsHeader } from '../../lib/model/safetensors.js';
import { nativeEntry } from '../../lib/model/tensors.js';
import type { NativeTrainBatch, NativeTrainer } from '../../lib/native/binding.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

interface Sequence {
  tokens: number[];
  selected: number[];
  targets: number[];
}

interface Expected {
  model: string;
  settings: { beta1: number; beta2: number; epsilon: number; weight_decay: number; max_grad_norm: number };
  lora: { rank: number; alpha: number; rank_stabilized: boolean; targets: string[] } | null;
  learning_rates: number[];
  losses: number[];
  grad_norms: number[];
  probe: Sequence & { nll: number[]; entropies: number[] };
  /** Batches that the steps go through in turn, micro-batches, sequences. */
  steps: Sequence[][][];
}

function pack(sequences: Sequence[], divisor: number): NativeTrainBatch {
  const starts = [0];
  const selected: number[] = [];
  for (const sequence of sequences) {
    const start = starts.at(-1)!;
    selected.push(...sequence.selected.map((position) => start + position));
    starts.push(start + sequence.tokens.length);
  }
  return {
    tokenIds: Int32Array.from(sequences.flatMap(({ tokens }) => tokens)),
    sequenceStarts: Int32Array.from(starts),
    selected: Int32Array.from(selected),
    targets: Int32Array.from(sequences.flatMap(({ targets }) => targets)),
    weights: new Float32Array(selected.length).fill(1 / divisor),
    dropoutCounter: 0,
  };
}

/** Puts the weights of a PEFT file in the place of the trainer's own first ones, through its saved state. */
async function startFrom(t: ExecutionContext, trainer: NativeTrainer, adapter: string): Promise<void> {
  const path = join(temporaryFolder(t), 'state.safetensors');
  await trainer.saveState(path);
  const state = readSafetensorsHeader(path);
  const bytes = readFileSync(path);
  const source = readFileSync(adapter);
  const tensors = readSafetensorsHeader(adapter);
  t.deepEqual(tensors.map(({ name }) => name).sort(), trainer.parameterNames().sort(), "PEFT's names");
  for (const tensor of tensors) {
    const place = state.find(({ name }) => name === `weight.${tensor.name}`)!;
    t.deepEqual(place.shape, tensor.shape);
    source.copy(bytes, place.offset, tensor.offset, tensor.offset + tensor.byteLength);
  }
  writeFileSync(path, bytes);
  await trainer.loadState(state.map(nativeEntry));
}

/** fp32 tensors of a safetensors file by name. */
function readTensors(path: string): Map<string, Float32Array> {
  const bytes = readFileSync(path);
  return new Map(
    readSafetensorsHeader(path).map(({ name, offset, byteLength }) => [
      name,
      new Float32Array(Uint8Array.from(bytes.subarray(offset, offset + byteLength)).buffer),
    ]),
  );
}

/** |found - expected| / |expected|, as norms of the whole tensors. */
function tensorError(found: Float32Array, expected: Float32Array): number {
  const norm = (values: Float32Array): number =>
    Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return norm(expected.map((value, i) => found[i]! - value)) / Math.max(norm(expected), 1e-12);
}

function worst(found: ArrayLike<number>, expected: readonly number[]): number {
  return Math.max(...expected.map((value, i) => Math.abs(found[i]! - value) / Math.abs(value)));
}

for (const name of ['full-qwen2', 'full-llama', 'lora-qwen2', 'lora-llama']) {
  test(`${name}: losses, gradients, moments and scores over fifty steps are PyTorch's`, async (t) => {
    const expected = readJson<Expected>(fixturePath(`training/${name}.json`));
    const { settings, lora } = expected;
    await using model = await loadModel(fixturePath(`models/${expected.model}`), {
      device: 'cpu',
      dtype: 'float32',
    });
    const trainer = await model.createTrainer({
      ...(lora && {
        lora: {
          rank: lora.rank,
          alpha: lora.alpha,
          dropout: 0,
          targets: lora.targets,
          rankStabilized: lora.rank_stabilized,
        },
      }),
      masterWeights: true,
      beta1: settings.beta1,
      beta2: settings.beta2,
      epsilon: settings.epsilon,
      weightDecay: settings.weight_decay,
      maxGradNorm: settings.max_grad_norm,
      seed: 1,
    });
    if (lora) await startFrom(t, trainer, fixturePath(`training/${name}-start.safetensors`));

    const losses: number[] = [];
    const norms: number[] = [];
    const state = readTensors(fixturePath(`training/${name}-state.safetensors`));
    let gradients = 0;
    const stateErrors = { weight: 0, exp_avg: 0, exp_avg_sq: 0 };
    for (let i = 0; i < expected.losses.length; i++) {
      const microBatches = expected.steps[i % expected.steps.length]!;
      const count = microBatches.flat().reduce((sum, { selected }) => sum + selected.length, 0);
      let loss = 0;
      for (const sequences of microBatches) loss += await trainer.accumulate(pack(sequences, count));
      for (const parameter of i === 0 ? trainer.parameterNames() : []) {
        const wanted = state.get(`gradient.${parameter}`)!;
        const found = await trainer.gradient(parameter);
        t.is(found.length, wanted.length, parameter);
        gradients = Math.max(gradients, tensorError(found, wanted));
      }
      const { gradNorm, applied } = await trainer.step(expected.learning_rates[i]!);
      t.true(applied);
      losses.push(loss);
      norms.push(gradNorm);
      if (i + 1 !== 10) continue;
      const path = join(temporaryFolder(t), 'ten.safetensors');
      await trainer.saveState(path);
      const found = readTensors(path);
      for (const parameter of trainer.parameterNames()) {
        for (const part of ['weight', 'exp_avg', 'exp_avg_sq'] as const) {
          const error = tensorError(found.get(`${part}.${parameter}`)!, state.get(`${part}.${parameter}`)!);
          stateErrors[part] = Math.max(stateErrors[part], error);
        }
      }
    }
    t.is(losses.length, 50);
    const scores = await trainer.score(pack([expected.probe], 1));
    const errors = {
      losses: worst(losses, expected.losses),
      norms: worst(norms, expected.grad_norms),
      nll: worst(scores.nll, expected.probe.nll),
      entropies: worst(scores.entropies, expected.probe.entropies),
      gradients,
      ...stateErrors,
    };
    t.log(
      Object.entries(errors)
        .map(([what, error]) => `${what} ${error.toExponential(1)}`)
        .join(', '),
    );
    t.true(errors.losses < 1e-4);
    t.true(errors.norms < 1e-3);
    t.true(errors.nll < 1e-4);
    t.true(errors.entropies < 1e-4);
    t.true(errors.gradients < 1e-4);
    for (const error of Object.values(stateErrors)) t.true(error < 1e-4);
    trainer.dispose();
  });
}

test('the adapter that was trained loads over its base and scores as the trainer did', async (t) => {
  const expected = readJson<Expected>(fixturePath('training/lora-llama.json'));
  const folder = temporaryFolder(t);
  const base = fixturePath(`models/${expected.model}`);
  await using model = await loadModel(base, { device: 'cpu', dtype: 'float32' });
  const trainer = await model.createTrainer({
    lora: { rank: 2, alpha: 4, dropout: 0.1, targets: ['v_proj', 'up_proj'], rankStabilized: false },
    masterWeights: true,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: 0,
    seed: 5,
  });
  const before = await trainer.score(pack([expected.probe], 1));
  for (const [i, microBatches] of expected.steps.entries()) {
    await trainer.accumulate({ ...pack(microBatches.flat(), 20), dropoutCounter: i });
    await trainer.step(1e-2);
  }
  const after = await trainer.score(pack([expected.probe], 1));
  t.true(worst(after.nll, [...before.nll]) > 0.01, 'training moved the scores');
  await trainer.saveAdapter(join(folder, 'adapter_model.safetensors'));
  writeFileSync(
    join(folder, 'adapter_config.json'),
    JSON.stringify({
      peft_type: 'LORA',
      base_model_name_or_path: base,
      r: 2,
      lora_alpha: 4,
      target_modules: ['v_proj', 'up_proj'],
    }),
  );
  await using merged = await loadModel(folder, { device: 'cpu', dtype: 'float32' });
  const { logProbs } = await merged.scores(expected.probe.tokens);
  const nll = expected.probe.selected
    .filter((i) => i + 1 < expected.probe.tokens.length)
    .map((i) => -logProbs[i]!);
  t.true(worst(after.nll, nll) < 1e-4);
  trainer.dispose();
});
