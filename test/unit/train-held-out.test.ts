/** Validation, the best model, early stopping and the probe, on the trainer without tensors. */
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { strategies } from '../../lib/strategies/index.js';
import { toExample } from '../../lib/train/examples.js';
import { makeProbe, measureProbe, validate } from '../../lib/train/held-out.js';
import { type LoopEvent, type LoopOptions, trainingLoop } from '../../lib/train/loop.js';
import { readAllMetrics } from '../../lib/train/metrics.js';
import { makeAnnotations } from '../helpers/annotation-file.js';
import { FakeTrainer } from '../helpers/fake-trainer.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { makeOptions, run } from '../helpers/loop.js';

const records = makeAnnotations(5);
const examples = records.map((record) => toExample(record, strategies.cft, 128, 'a'));
const limits = { microBatchTokens: 40 };

/** Nll is a hundredth of the target, so that means can be told by hand. */
class CountingTrainer extends FakeTrainer {
  override async score(batch: Parameters<FakeTrainer['score']>[0]) {
    return {
      nll: Float32Array.from(batch.targets, (target) => target / 100),
      entropies: Float32Array.from(batch.targets, (target) => target / 10),
      correct: Float32Array.from(batch.targets, (target) => target % 2),
    };
  }
}

const close = (a: number, b: number): boolean => Math.abs(a - b) < 1e-6 * Math.max(1, Math.abs(b));
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

test("validation is over the strategy's own tokens, whatever the micro-batches", async (t) => {
  const targets = records.flatMap(({ response_token_ids, critical_mask }) =>
    response_token_ids.filter((_, i) => critical_mask![i] === 1),
  );
  for (const microBatchTokens of [1, 40, 1e6]) {
    const result = await validate(new CountingTrainer(), examples, { microBatchTokens });
    t.is(result.validationTokens, targets.length);
    t.true(close(result.validationLoss, mean(targets) / 100));
    t.true(close(result.validationAccuracy, mean(targets.map((target) => target % 2))));
  }
});

test('the probe is dense: every response token, critical and other apart, whatever the strategy', async (t) => {
  const of = (critical: 0 | 1): number[] =>
    records.flatMap(({ response_token_ids, critical_mask }) =>
      response_token_ids.filter((_, i) => critical_mask![i] === critical),
    );
  const probe = makeProbe(records)!;
  const result = await measureProbe(new CountingTrainer(), probe, limits);
  t.is(result.criticalTokens, of(1).length);
  t.is(result.otherTokens, of(0).length);
  t.true(close(result.criticalLoss, mean(of(1)) / 100));
  t.true(close(result.otherLoss, mean(of(0)) / 100));
  t.true(close(result.criticalEntropy, mean(of(1)) / 10));
  t.true(close(result.otherEntropy, mean(of(0)) / 10));
  // Weights of other tools stand for a mask: what is not 0 is critical.
  const weighted = records.map(({ critical_mask, ...record }) => ({
    ...record,
    token_weights: critical_mask!.map((critical) => critical * 0.3),
  }));
  t.deepEqual(await measureProbe(new CountingTrainer(), makeProbe(weighted)!, limits), result);
  t.is(makeProbe([]), undefined);
  t.is(makeProbe(Array.from({ length: 50 }, () => records[0]!))!.examples.length, 32);
});

/** Validation losses as listed, by call: before training, then after each epoch of three steps. */
function scripted(folder: string, losses: readonly number[], more: Partial<LoopOptions> = {}): LoopOptions {
  const trainer = new FakeTrainer();
  const base = makeOptions(folder, trainer, { validation: examples, keepBest: true, ...more });
  trainer.score = async (batch) => {
    const epoch = Math.round(readAllMetrics(join(folder, 'metrics.jsonl')).steps.length / 3);
    const all = new Float32Array(batch.targets.length);
    return { nll: all.fill(losses[epoch]!), entropies: all, correct: all };
  };
  return base;
}

const stateIn = (path: string): string => readFileSync(join(path, 'model.safetensors'), 'utf8');

test('each epoch is validated and the model with the lowest loss kept', async (t) => {
  const folder = temporaryFolder(t);
  const states: Record<number, string> = {};
  const options = scripted(folder, [0.5, 0.9, 0.7, 0.8]);
  const events: LoopEvent[] = [];
  const result = await trainingLoop(options, (event) => {
    events.push(event);
    if (event.type === 'step') states[event.step] = JSON.stringify((options.trainer as FakeTrainer).state);
  });
  t.deepEqual(
    events.flatMap((event) => (event.type === 'validated' ? [[event.step, event.best]] : [])),
    [
      [0, false],
      [3, true],
      [6, true],
      [9, false],
    ],
  );
  t.is(result.best!.step, 6);
  t.deepEqual(
    readdirSync(join(folder, 'checkpoints')).filter((name) => name.startsWith('best')),
    ['best-6'],
  );
  t.true(stateIn(join(folder, 'checkpoints/best-6')).includes(states[6]!.slice(1, 20)));
  const { before, best, last } = result.validation!;
  t.deepEqual(
    [before, best, last].map(({ step, loss }) => [step, Math.fround(loss)]),
    [
      [0, Math.fround(0.5)],
      [6, Math.fround(0.7)],
      [9, Math.fround(0.8)],
    ],
  );
});

test('a validation loss that is not finite is no best one and hides none', async (t) => {
  const folder = temporaryFolder(t);
  const { result } = await run(scripted(folder, [1, Number.NaN, 0.9, Number.NaN]));
  t.is(result.validation!.best.step, 6);
  t.true(Number.isNaN(result.validation!.last.loss));
  t.true(readFileSync(join(folder, 'metrics.jsonl'), 'utf8').includes('"validation_loss":null'));
});

test('early stopping waits for so many epochs without a lower loss, also over a resume', async (t) => {
  const losses = [1, 0.9, 0.95, 0.92];
  for (const [patience, steps] of [
    [1, 6],
    [2, 9],
    [3, 9],
  ] as const) {
    const folder = temporaryFolder(t);
    const { result, events } = await run(scripted(folder, losses, { earlyStoppingPatience: patience }));
    t.is(result.steps, steps);
    t.is(
      events.some((event) => event.type === 'stopped-early'),
      patience === 1,
    );
  }
  const folder = temporaryFolder(t);
  const controller = new AbortController();
  const options = scripted(folder, losses, { earlyStoppingPatience: 1, signal: controller.signal });
  await t.throwsAsync(
    trainingLoop(options, (event) => {
      if (event.type === 'step' && event.step === 5) controller.abort(new Error('stop here'));
    }),
  );
  const { result, events } = await run(scripted(folder, losses, { earlyStoppingPatience: 1 }));
  t.is(result.steps, 6);
  t.like(
    events.find((event) => event.type === 'stopped-early'),
    { step: 6, steps: 9, bestStep: 3 },
  );
  // Once more: nothing is left to do.
  const again = await run(scripted(folder, losses, { earlyStoppingPatience: 1 }));
  t.is(again.events.filter((event) => event.type === 'step').length, 0);
});

test('interrupted in a validation: the weights are kept, and it is measured after the resume, once', async (t) => {
  const folder = temporaryFolder(t);
  const controller = new AbortController();
  const losses = [1, 0.9, 0.8, 0.7];
  const options = scripted(folder, losses, { signal: controller.signal, limits: { microBatchTokens: 20 } });
  const { score } = options.trainer;
  let calls = 0;
  options.trainer.score = (batch) => {
    // Four examples have terms, each in a micro-batch of its own: in the second of the second validation.
    if (++calls === 6) controller.abort(new Error('stop here'));
    return score(batch);
  };
  await t.throwsAsync(
    trainingLoop(options, () => {}),
    { message: 'stop here' },
  );
  t.is(calls, 6);
  t.true(existsSync(join(folder, 'checkpoints/step-3')));
  // A second run measured it and was killed before its next checkpoint.
  appendFileSync(join(folder, 'metrics.jsonl'), '{"step":3,"epoch":1,"validation_loss":0.9}\n');
  const { events } = await run(
    scripted(folder, losses, { limits: { microBatchTokens: 20 }, keepCheckpoints: 5 }),
  );
  t.is(events.filter((event) => event.type === 'step').length, 6);
  const saved = readJson<{ state: object }>(join(folder, 'checkpoints/step-3/state.json'));
  t.like(saved.state, { validated: 3, best: { step: 3 } }, 'saved again with what it found');
  const { validations } = readAllMetrics(join(folder, 'metrics.jsonl'));
  t.deepEqual(
    validations.map(({ step }) => step),
    [0, 3, 6, 9],
  );
});

test('a best model that is damaged: the checkpoint that speaks of it is not used', async (t) => {
  const folder = temporaryFolder(t);
  const controller = new AbortController();
  const losses = [1, 0.9, 0.95, 0.96];
  await t.throwsAsync(
    trainingLoop(scripted(folder, losses, { signal: controller.signal, checkpointEvery: 2 }), (event) => {
      if (event.type === 'step' && event.step === 4) controller.abort(new Error('stop here'));
    }),
  );
  writeFileSync(join(folder, 'checkpoints/best-3/model.safetensors'), 'x');
  const { events } = await run(scripted(folder, losses, { checkpointEvery: 2 }));
  const warning = events.find((event) => event.type === 'warning');
  t.regex(
    warning?.type === 'warning' ? warning.message : '',
    /step-4 is not used: the best model .*best-3.*damaged/,
  );
  t.like(
    events.find((event) => event.type === 'resumed'),
    { step: 2 },
  );
});

test('the checkpoint before the newest keeps the best model that it speaks of', async (t) => {
  const folder = temporaryFolder(t);
  const controller = new AbortController();
  const losses = [1, 0.9, 0.8, 0.7];
  const options = { checkpointEvery: 3, keepCheckpoints: 2 };
  await t.throwsAsync(
    trainingLoop(scripted(folder, losses, { ...options, signal: controller.signal }), (event) => {
      if (event.type === 'checkpoint' && event.step === 6) controller.abort(new Error('stop here'));
    }),
  );
  const kept = readdirSync(join(folder, 'checkpoints')).sort();
  const newest = kept.filter((name) => name.startsWith('step')).at(-1)!;
  writeFileSync(join(folder, 'checkpoints', newest, 'state.json'), 'damaged');
  const { events } = await run(scripted(folder, losses, options));
  t.true(events.some((event) => event.type === 'warning' && event.message.includes(newest)));
  const resumed = events.find((event) => event.type === 'resumed');
  t.true(resumed?.type === 'resumed' && resumed.step === 3, kept.join());
});

test('the probe is measured before, every so many steps and at the end, outside of the steps and their rate', async (t) => {
  const folder = temporaryFolder(t);
  const trainer = new FakeTrainer();
  const score = trainer.score.bind(trainer);
  trainer.score = async (batch) => {
    await new Promise((resolve) => setTimeout(resolve, 60));
    return score(batch);
  };
  const probe = makeProbe(records);
  const { events, result } = await run(makeOptions(folder, trainer, { probe, probeEvery: 4 }));
  t.deepEqual(
    events.flatMap((event) => (event.type === 'probe' ? [event.step] : [])),
    [0, 4, 8, 9],
  );
  const { probes, steps } = readAllMetrics(join(folder, 'metrics.jsonl'));
  t.is(steps.length, 9);
  t.true(probes.every(({ seconds }) => seconds > 0.05));
  t.true(result.heldOutSeconds > 0.2);
  t.true(result.seconds < result.heldOutSeconds, `${result.seconds} ${result.heldOutSeconds}`);
  const line = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').split('\n')[0]!;
  t.deepEqual(Object.keys(JSON.parse(line)), [
    ...['step', 'epoch', 'critical_loss', 'other_loss', 'critical_entropy', 'other_entropy'],
    ...['critical_tokens', 'other_tokens', 'seconds'],
  ]);
});
