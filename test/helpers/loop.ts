/** The training loop on the trainer without tensors. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensorsHeader } from '../../lib/model/safetensors.js';
import { nativeEntry } from '../../lib/model/tensors.js';
import { type LoopEvent, type LoopOptions, type LoopResult, trainingLoop } from '../../lib/train/loop.js';
import { planTraining } from '../../lib/train/plan.js';
import { makeSchedule } from '../../lib/train/schedule.js';
import { FakeTrainer } from './fake-trainer.js';

/** Ten responses in batches of four: three steps an epoch, nine in all. The third has no selected token. */
export function makeOptions(
  folder: string,
  trainer: FakeTrainer,
  more: Partial<LoopOptions> = {},
): LoopOptions {
  const plan = planTraining({ responses: 10, batchSize: 4, epochs: 3, seed: 1 });
  return {
    trainer,
    examples: Array.from({ length: 10 }, (_, i) => ({
      tokenIds: Int32Array.from({ length: i === 2 ? 0 : 4 }, (_, t) => i + t),
      tokens: 6,
      responseTokens: 4,
      selected: Int32Array.from(i === 2 ? [] : [1, 3]),
      targets: Int32Array.from(i === 2 ? [] : [i, i + 1]),
      weights: Float64Array.from(i === 2 ? [] : [1, 1]),
    })),
    plan,
    schedule: makeSchedule('cosine', 0.1, 0.1, plan.steps),
    limits: { microBatchTokens: 8 },
    normalization: 'step',
    checkpointEvery: 0,
    keepCheckpoints: 2,
    folder,
    configuration: { 'plan.seed': 1, weights_sha256: 'f' },
    environment: { libtorch: '2.13.0', cpu_capability: 'AVX2', threads: 2 },
    force: false,
    guessLoss: 10,
    keepBest: false,
    earlyStoppingPatience: 0,
    probeEvery: 0,
    saveModel: async (path) => {
      mkdirSync(path);
      await trainer.saveState(join(path, 'model.safetensors'));
    },
    readTensors: (path) => readSafetensorsHeader(path).map(nativeEntry),
    peakMemoryBytes: () => 1000,
    ...more,
  };
}

export async function run(options: LoopOptions): Promise<{ result: LoopResult; events: LoopEvent[] }> {
  const events: LoopEvent[] = [];
  const result = await trainingLoop(options, (event) => events.push(event));
  return { result, events };
}

/** Aborts when step `after` was done. */
export async function interrupt(
  folder: string,
  after: number,
  more: Partial<LoopOptions> = {},
): Promise<unknown> {
  const controller = new AbortController();
  const options = makeOptions(folder, new FakeTrainer(), { ...more, signal: controller.signal });
  try {
    await trainingLoop(options, (event) => {
      if (event.type === 'step' && event.step === after) controller.abort(new Error('stop here'));
    });
  } catch (error) {
    return error;
  }
  return undefined;
}
