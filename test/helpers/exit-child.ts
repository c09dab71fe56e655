/**
 * Ends a process, or a thread, in the middle of a native step in the way that the first argument names. Prints
 * `stepping` when the step is under way, and what the mode's test wants to see.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { loadModel } from '../../lib/model/load.js';
import type { NativeRolloutEngine } from '../../lib/native/binding.js';
import { fixturePath } from './fixtures.js';

const mode = isMainThread ? process.argv[2] : (workerData as string);

/** An engine with work for seconds: no end token, so every branch decodes to its limit. */
async function startLongStep(): Promise<{
  engine: NativeRolloutEngine;
  step: ReturnType<NativeRolloutEngine['step']>;
}> {
  const model = await loadModel('embedded', { device: 'cpu', dtype: 'float32' });
  const engine = model.addon.createRolloutEngine(model.native, {
    maxBranches: 64,
    endTokenIds: new Int32Array(),
  });
  const { trunk } = await engine.addTrunk({
    tokenIds: Int32Array.of(2, 3, 4),
    scoreFrom: 3,
    alternatives: 0,
  });
  const common = {
    trunk,
    length: 3,
    forcedTokens: new Int32Array(),
    maxNewTokens: 500,
    temperature: 1,
    topP: 1,
  };
  engine.submit(Array.from({ length: 64 }, (_, id) => ({ ...common, id, seed: id })));
  return { engine, step: engine.step(500) };
}

async function midStep(then: (engine: NativeRolloutEngine) => void): Promise<void> {
  const { engine, step } = await startLongStep();
  step.then(
    () => console.log('step done'),
    (error) => console.log('step failed', error.code),
  );
  console.log('stepping');
  setTimeout(() => then(engine), 100);
}

/** A micro-batch of 64 sequences of 400 tokens, every one selected: seconds of work. */
async function startLongBatch(): Promise<void> {
  const model = await loadModel('embedded', { device: 'cpu', dtype: 'float32' });
  const trainer = await model.createTrainer({
    masterWeights: false,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: 1,
    seed: 0,
  });
  const [sequences, length] = [64, 400];
  const selected = Int32Array.from(
    { length: sequences * (length - 1) },
    (_, i) => i + Math.floor(i / (length - 1)),
  );
  void trainer.accumulate({
    tokenIds: Int32Array.from({ length: sequences * length }, (_, i) => (i * 7) % 500),
    sequenceStarts: Int32Array.from({ length: sequences + 1 }, (_, i) => i * length),
    selected,
    targets: selected.map((i) => (i * 5) % 500),
    weights: new Float32Array(selected.length).fill(1 / selected.length),
    dropoutCounter: 0,
  });
}

async function smallLogits(): Promise<number> {
  const model = await loadModel(fixturePath('models/llama'), { device: 'cpu', dtype: 'float32' });
  const { data } = await model.logits([5, 6, 7]);
  model.native.dispose();
  return data.reduce((sum, value) => sum + value, 0);
}

// Node does not pass `--import tsx` on to worker threads.
const spawnThread = (work: string) =>
  new Worker(
    `import('tsx/esm/api').then(({ register }) => (register(), import(${JSON.stringify(import.meta.url)})))`,
    { eval: true, workerData: work },
  );

const threadResult = (thread: Worker) =>
  new Promise<unknown>((resolve, reject) => {
    thread.once('message', resolve);
    thread.once('error', reject);
  });

const modes: Record<string, () => Promise<void>> = {
  async load() {
    (await import('../../lib/native/loader.js')).loadAddon();
  },
  async idle() {
    await smallLogits();
  },
  undisposed: async () => {
    const { engine, step } = await startLongStep();
    engine.interrupt();
    await step;
  },
  exit: () => midStep(() => process.exit(7)),
  async 'exit-training'() {
    await startLongBatch();
    console.log('stepping');
    setTimeout(() => process.exit(7), 100);
  },
  throw: () =>
    midStep(() => {
      throw new Error('thrown in mid-step');
    }),
  signal: () => midStep(() => {}),
  handler: () =>
    midStep((engine) => {
      process.once('SIGINT', () => {
        engine.interrupt();
        process.exitCode = 130;
      });
      console.log('listening');
    }),
  async threads() {
    const own = await smallLogits();
    const others = await Promise.all([1, 2, 3].map(() => threadResult(spawnThread('thread-logits'))));
    console.log(others.every((sum) => sum === own) ? 'equal' : `different: ${own} ${others}`);
  },
  'thread-logits': async () => {
    parentPort?.postMessage(await smallLogits());
  },
  async terminate() {
    const thread = spawnThread('thread-step');
    await threadResult(thread);
    await thread.terminate();
    console.log('terminated');
    await smallLogits();
    console.log('still works');
  },
  'thread-step': async () => {
    await startLongStep();
    parentPort?.postMessage('stepping');
  },
};

await modes[mode ?? '']!();
