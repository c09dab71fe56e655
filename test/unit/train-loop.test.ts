import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type LoopEvent, type LoopOptions, type LoopResult, trainingLoop } from '../../lib/train/loop.js';
import { readMetrics } from '../../lib/train/metrics.js';
import { planTraining } from '../../lib/train/plan.js';
import { makeSchedule } from '../../lib/train/schedule.js';
import { FakeTrainer, fakeTensors } from '../helpers/fake-trainer.js';
import { temporaryFolder } from '../helpers/fixtures.js';

/** Ten responses in batches of four: three steps an epoch, nine in all. The third has no selected token. */
function makeOptions(folder: string, trainer: FakeTrainer, more: Partial<LoopOptions> = {}): LoopOptions {
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
    folder,
    fingerprint: 'f',
    readTensors: fakeTensors,
    peakMemoryBytes: () => 1000,
    ...more,
  };
}

async function run(options: LoopOptions): Promise<{ result: LoopResult; events: LoopEvent[] }> {
  const events: LoopEvent[] = [];
  const result = await trainingLoop(options, (event) => events.push(event));
  return { result, events };
}

/** Aborts when step `after` was done. */
async function interrupt(folder: string, after: number, more: Partial<LoopOptions> = {}): Promise<unknown> {
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

const checkpointsIn = (folder: string): string[] => readdirSync(join(folder, 'checkpoints')).sort();

async function undisturbed(t: ExecutionContext): Promise<number[]> {
  const trainer = new FakeTrainer();
  await run(makeOptions(temporaryFolder(t), trainer));
  return trainer.state;
}

test('runs every step, records each, keeps the last two checkpoints', async (t) => {
  const folder = temporaryFolder(t);
  const { result, events } = await run(makeOptions(folder, new FakeTrainer()));
  t.is(result.steps, 9);
  t.is(result.tokens, 3 * 10 * 6);
  t.is(result.selectedTokens, 3 * 9 * 2);
  t.true(result.firstLoss > 0 && result.lastLoss > 0);
  const lines = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  t.is(lines.length, 9);
  t.deepEqual(Object.keys(JSON.parse(lines[0]!)), [
    'step',
    'epoch',
    'loss',
    'learning_rate',
    'grad_norm',
    'tokens',
    'selected_tokens',
    'tokens_per_second',
    'peak_memory_bytes',
  ]);
  t.deepEqual(
    readMetrics(join(folder, 'metrics.jsonl')).map((m) => m.step),
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  t.is(readMetrics(join(folder, 'metrics.jsonl'))[5]?.epoch, 2);
  t.deepEqual(checkpointsIn(folder), ['step-6', 'step-9']);
  t.is(events.filter((event) => event.type === 'step').length, 9);
  t.is(events.filter((event) => event.type === 'checkpoint').length, 3);
});

test('stopped after any step and resumed, it ends with the same weights and the same records', async (t) => {
  const expected = await undisturbed(t);
  for (let after = 1; after < 9; after++) {
    const folder = temporaryFolder(t);
    const error = await interrupt(folder, after);
    t.is((error as Error).message, 'stop here');
    const trainer = new FakeTrainer();
    const { events, result } = await run(makeOptions(folder, trainer));
    t.deepEqual(trainer.state, expected, `after ${after}`);
    t.deepEqual(
      events.find((event) => event.type === 'resumed'),
      { type: 'resumed', step: after, steps: 9 },
    );
    t.is(result.steps, 9);
    t.is(readMetrics(join(folder, 'metrics.jsonl')).length, 9);
  }
});

test('killed between checkpoints: the steps since are done again and recorded once', async (t) => {
  const expected = await undisturbed(t);
  const folder = temporaryFolder(t);
  await interrupt(folder, 4, { checkpointEvery: 2 });
  // What a kill leaves: a record of a step after the checkpoint, a torn line, a half-written checkpoint.
  appendFileSync(join(folder, 'metrics.jsonl'), '{"step":5,"epoch":1.6,"loss":1}\n{"step":6,"ep');
  mkdirSync(join(folder, 'checkpoints', '.step-6.tmp'));
  writeFileSync(join(folder, 'checkpoints', '.step-6.tmp', 'trainer.safetensors'), 'half');
  const trainer = new FakeTrainer();
  await run(makeOptions(folder, trainer, { checkpointEvery: 2 }));
  t.deepEqual(trainer.state, expected);
  t.deepEqual(
    readMetrics(join(folder, 'metrics.jsonl')).map((m) => m.step),
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  t.deepEqual(checkpointsIn(folder), ['step-8', 'step-9']);
});

const damages: Record<string, (checkpoint: string) => void> = {
  'cut off': (path) => writeFileSync(join(path, 'trainer.safetensors'), '{"state":[1'),
  'a changed byte': (path) => {
    const bytes = readFileSync(join(path, 'trainer.safetensors'));
    bytes[12]! ^= 1;
    writeFileSync(join(path, 'trainer.safetensors'), bytes);
  },
  'a broken state.json': (path) => writeFileSync(join(path, 'state.json'), '{"step": 6'),
  'counts of another step': (path) => {
    const state = readFileSync(join(path, 'state.json'), 'utf8').replace('"step": 6', '"step": 5');
    writeFileSync(join(path, 'state.json'), state);
  },
};

for (const [name, damage] of Object.entries(damages)) {
  test(`a damaged checkpoint is refused and the one before used: ${name}`, async (t) => {
    const expected = await undisturbed(t);
    const folder = temporaryFolder(t);
    await interrupt(folder, 6);
    t.deepEqual(checkpointsIn(folder), ['step-3', 'step-6']);
    damage(join(folder, 'checkpoints', 'step-6'));
    const trainer = new FakeTrainer();
    const { events } = await run(makeOptions(folder, trainer));
    const warning = events.find((event) => event.type === 'warning');
    t.regex(warning?.type === 'warning' ? warning.message : '', /step-6 is not used: .*(trainer|state)/);
    t.like(
      events.find((event) => event.type === 'resumed'),
      { step: 3 },
    );
    t.deepEqual(trainer.state, expected);
  });
}

test('a checkpoint of other options is not used', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6);
  const { events } = await run(makeOptions(folder, new FakeTrainer(), { fingerprint: 'g' }));
  t.is(events.filter((event) => event.type === 'warning').length, 2);
  t.false(events.some((event) => event.type === 'resumed'));
});

test('steps with a gradient that is not finite are skipped, counted and shown', async (t) => {
  const folder = temporaryFolder(t);
  const { result, events } = await run(makeOptions(folder, new FakeTrainer([1, 2, 5])));
  t.is(result.skippedSteps, 3);
  t.is(events.filter((event) => event.type === 'warning').length, 3);
  const metrics = readMetrics(join(folder, 'metrics.jsonl'));
  t.deepEqual(
    metrics.filter((m) => m.skipped).map((m) => [m.step, m.gradNorm]),
    [
      [2, null],
      [3, null],
      [6, null],
    ],
  );
});

test('five steps in a row without a finite gradient stop the run, also over a resume', async (t) => {
  const folder = temporaryFolder(t);
  await t.throwsAsync(run(makeOptions(folder, new FakeTrainer([1, 2, 3, 4, 5, 6]))), {
    code: 'ERR_CFT_DIVERGED',
    message: /5 steps in a row, up to step 6 .*--learning-rate/,
  });
  t.is(readMetrics(join(folder, 'metrics.jsonl')).length, 6);
  // Resumed from step 3 with two bad steps behind it: three more are enough.
  await t.throwsAsync(run(makeOptions(folder, new FakeTrainer([1, 2, 3, 4, 5, 6]))), {
    message: /up to step 6/,
  });
});

test('a run in which not one step was applied is no success, also over a resume', async (t) => {
  const folder = temporaryFolder(t);
  const plan = planTraining({ responses: 10, batchSize: 4, epochs: 1, seed: 1 });
  const options = () => makeOptions(folder, new FakeTrainer([0, 1, 2]), { plan });
  const message = /not one of 3 steps was applied/;
  await t.throwsAsync(run(options()), { code: 'ERR_CFT_DIVERGED', message });
  await t.throwsAsync(run(options()), { code: 'ERR_CFT_DIVERGED', message });
});

test('a failed checkpoint leaves the earlier ones', async (t) => {
  const folder = temporaryFolder(t);
  const trainer = new FakeTrainer();
  let saves = 0;
  const save = trainer.saveState.bind(trainer);
  trainer.saveState = async (path) => {
    if (++saves === 2) throw new Error('no space left on device');
    await save(path);
  };
  await t.throwsAsync(run(makeOptions(folder, trainer)), { message: /no space/ });
  t.deepEqual(checkpointsIn(folder), ['step-3']);
  t.true(existsSync(join(folder, 'checkpoints', 'step-3', 'state.json')));
});
