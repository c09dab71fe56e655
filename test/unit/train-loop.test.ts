import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CftError } from '../../lib/errors.js';
import type { LoopOptions } from '../../lib/train/loop.js';
import { readMetrics } from '../../lib/train/metrics.js';
import { planTraining } from '../../lib/train/plan.js';
import { FakeTrainer } from '../helpers/fake-trainer.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { interrupt, makeOptions, run } from '../helpers/loop.js';

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
  'a changed digit of state.json': (path) => {
    const text = readFileSync(join(path, 'state.json'), 'utf8');
    const changed = text.replace(
      /("first_token_loss": \d+\.)(\d)/,
      (_, start, digit) => start + ((Number(digit) + 1) % 10),
    );
    if (changed === text) throw new Error(`no first_token_loss in ${text}`);
    writeFileSync(join(path, 'state.json'), changed);
  },
  'a changed letter of its configuration': (path) => {
    const text = readFileSync(join(path, 'state.json'), 'utf8');
    writeFileSync(join(path, 'state.json'), text.replace('"weights_sha256": "f"', '"weights_sha256": "g"'));
  },
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

test('a checkpoint from before state.json had a checksum of its own is gone on from', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6);
  const path = join(folder, 'checkpoints/step-6/state.json');
  const { content_sha256: _, ...rest } = readJson<Record<string, unknown>>(path);
  writeFileSync(path, JSON.stringify({ ...rest, format: 'cft-checkpoint/2' }));
  const { events } = await run(makeOptions(folder, new FakeTrainer()));
  t.like(
    events.find((event) => event.type === 'resumed'),
    { step: 6 },
  );
});

test('where every checkpoint is damaged the run says so and changes nothing', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6);
  damages['cut off']!(join(folder, 'checkpoints', 'step-6'));
  damages['a broken state.json']!(join(folder, 'checkpoints', 'step-3'));
  const before = readFileSync(join(folder, 'metrics.jsonl'), 'utf8');
  await t.throwsAsync(run(makeOptions(folder, new FakeTrainer())), {
    code: 'ERR_CFT_BAD_OUTPUT',
    message:
      /checkpoints: expected a checkpoint to go on from, found only damaged ones \(step-6: trainer.* has 11 bytes, expected \d+; step-3: state\.json cannot be read.*delete this folder/,
  });
  t.is(readFileSync(join(folder, 'metrics.jsonl'), 'utf8'), before);
  t.deepEqual(checkpointsIn(folder), ['step-3', 'step-6']);
});

test('a checkpoint of another configuration is refused by file and field', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6);
  const configuration = { 'plan.seed': 2, weights_sha256: 'f' };
  await t.throwsAsync(run(makeOptions(folder, new FakeTrainer(), { configuration })), {
    code: 'ERR_CFT_BAD_OUTPUT',
    message: /step-6\/state\.json: .*another configuration: plan\.seed: expected 2, found 1;/,
  });
  t.deepEqual(checkpointsIn(folder), ['step-3', 'step-6']);
});

test('a checkpoint of other surroundings needs a word of consent', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6);
  const at = (change: object, force = false) =>
    makeOptions(folder, new FakeTrainer(), {
      force,
      environment: { libtorch: '2.13.0', cpu_capability: 'AVX2', threads: 2, ...change },
    });
  await t.throwsAsync(run(at({ threads: 4 })), {
    code: 'ERR_CFT_BAD_OUTPUT',
    message: /step-6\/state\.json: .*threads was 2, is 4; .*resume with --threads 2, or say --force/,
  });
  await t.throwsAsync(run(at({ cpu_capability: 'AVX512', libtorch: '2.14.0' })), {
    message:
      /libtorch was "2\.13\.0", is "2\.14\.0"; cpu_capability was "AVX2", is "AVX512";.*resume where it was made/,
  });
  const { events, result } = await run(at({ threads: 4 }, true));
  const warning = events.find((event) => event.type === 'warning');
  t.regex(warning?.type === 'warning' ? warning.message : '', /threads was 2, is 4/);
  t.is(result.steps, 9);
});

test('so many checkpoints are kept as asked for, and a damaged later one does not crowd out a good one', async (t) => {
  const folder = temporaryFolder(t);
  await interrupt(folder, 6, { checkpointEvery: 2, keepCheckpoints: 3 });
  t.deepEqual(checkpointsIn(folder), ['step-2', 'step-4', 'step-6']);
  damages['cut off']!(join(folder, 'checkpoints', 'step-6'));
  await interrupt(folder, 5, { checkpointEvery: 2, keepCheckpoints: 1 });
  t.deepEqual(checkpointsIn(folder), ['step-5']);
});

test('a resumed run packs as before, whatever would be planned now', async (t) => {
  const expected = await undisturbed(t);
  const folder = temporaryFolder(t);
  await interrupt(folder, 4);
  const trainer = new FakeTrainer();
  await run(makeOptions(folder, trainer, { limits: { microBatchTokens: 1000 } }));
  t.deepEqual(trainer.state, expected);
  const other = new FakeTrainer();
  await run(makeOptions(temporaryFolder(t), other, { limits: { microBatchTokens: 1000 } }));
  t.notDeepEqual(other.state, expected, 'packing shows in the state');
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
    message:
      /5 steps in a row, up to step 6 .*--learning-rate.* Kept: the checkpoint .*step-3 \(it may lie among those steps\), the losses in .*metrics/,
  });
  t.is(readMetrics(join(folder, 'metrics.jsonl')).length, 6);
  // Resumed from step 3 with two bad steps behind it: three more are enough.
  await t.throwsAsync(run(makeOptions(folder, new FakeTrainer([1, 2, 3, 4, 5, 6]))), {
    message: /up to step 6/,
  });
});

test('a loss that is far worse than guessing and than at the start in five steps in a row stops the run, also over a resume', async (t) => {
  const folder = temporaryFolder(t);
  const trainer = new FakeTrainer();
  let calls = 0;
  trainer.accumulate = async ({ weights }) => (++calls <= 2 ? 1 : 21) * weights.reduce((a, b) => a + b, 0);
  const options = (): LoopOptions => makeOptions(folder, trainer, { limits: { microBatchTokens: 1000 } });
  const expected = {
    code: 'ERR_CFT_DIVERGED',
    message:
      /loss was 21\.0 per token at step 7, more than twice .*guessing \(10\.0\).*first step \(1\.00\), in 5 steps in a row \(learning rate .*Kept: .*step-6/,
  };
  await t.throwsAsync(run(options()), expected);
  // Resumed from step 6 with four such steps behind it.
  await t.throwsAsync(run(options()), expected);
  // A model that is as bad from the start does not diverge.
  const bad = new FakeTrainer();
  bad.accumulate = async ({ weights }) => 25 * weights.reduce((a, b) => a + b, 0);
  t.is((await run(makeOptions(temporaryFolder(t), bad))).result.steps, 9);
});

test('a run in which not one step was applied is no success, also over a resume', async (t) => {
  const folder = temporaryFolder(t);
  const plan = planTraining({ responses: 10, batchSize: 4, epochs: 1, seed: 1 });
  const options = () => makeOptions(folder, new FakeTrainer([0, 1, 2]), { plan });
  const message = /not one of 3 steps was applied/;
  await t.throwsAsync(run(options()), { code: 'ERR_CFT_DIVERGED', message });
  await t.throwsAsync(run(options()), { code: 'ERR_CFT_DIVERGED', message });
});

test('a failed checkpoint leaves the earlier ones and says so', async (t) => {
  const folder = temporaryFolder(t);
  const trainer = new FakeTrainer();
  let saves = 0;
  const save = trainer.saveState.bind(trainer);
  trainer.saveState = async (path) => {
    if (++saves === 2) throw new CftError('ERR_CFT_IO', `cannot write ${path}: No space left on device`);
    await save(path);
  };
  await t.throwsAsync(run(makeOptions(folder, trainer)), {
    code: 'ERR_CFT_IO',
    message:
      /writing the checkpoint of step 6 failed: cannot write .*trainer\.safetensors: No space left.*; the last good checkpoint, .*step-3, is kept; go on with --resume/,
  });
  t.deepEqual(checkpointsIn(folder), ['step-3']);
  t.true(existsSync(join(folder, 'checkpoints', 'step-3', 'state.json')));
});
