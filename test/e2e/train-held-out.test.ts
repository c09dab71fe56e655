/** Validation, the best model, the probe, event files and merged adapters of train(), on a tiny model. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { loadModel, type TrainEvent, type TrainOptions, train } from '../../lib/index.js';
import { embeddedFolder } from '../../lib/preset.js';
import { readAllMetrics } from '../../lib/train/metrics.js';
import type { AnnotationRecord } from '../../lib/types.js';
import { makeAnnotations } from '../helpers/annotation-file.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const tinyModel = fixturePath('models/qwen2');
const records = makeAnnotations(20);
const heldOut = records.slice(16);

const base = (output: string, more: TrainOptions = {}): TrainOptions => ({
  model: tinyModel,
  annotations: records.slice(0, 16),
  validationAnnotations: heldOut,
  output,
  batchSize: 8,
  epochs: 4,
  learningRate: 1e-2,
  ...more,
});

interface TokenScore {
  critical: boolean;
  nll: number;
  entropy: number;
  correct: boolean;
}

/** Every response token of the records under a model, one sequence at a time and from its logits. */
async function scoreAll(folder: string, of: readonly AnnotationRecord[]): Promise<TokenScore[]> {
  await using model = await loadModel(folder, { dtype: 'float32' });
  const all: TokenScore[] = [];
  for (const { prompt_token_ids: prompt, response_token_ids: response, critical_mask } of of) {
    const { data, shape } = await model.logits([...prompt, ...response]);
    response.forEach((token, i) => {
      const row = data.subarray((prompt.length + i - 1) * shape[1], (prompt.length + i) * shape[1]);
      const most = Math.max(...row);
      const logSum = most + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
      all.push({
        critical: critical_mask![i] === 1,
        nll: logSum - row[token]!,
        entropy: row.reduce((sum, logit) => sum - Math.exp(logit - logSum) * (logit - logSum), 0),
        correct: row.indexOf(most) === token,
      });
    });
  }
  return all;
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const near = (a: number, b: number): boolean => Math.abs(a - b) < 1e-4 * Math.max(1, Math.abs(b));

async function follow(options: TrainOptions) {
  const run = train(options);
  const events: TrainEvent[] = [];
  for await (const event of run) events.push(event);
  return { events, result: await run };
}

test('validation and probe are what the model before and the saved one have on the held-out responses', async (t) => {
  t.timeout(240_000);
  const output = join(temporaryFolder(t), 'run');
  const { events, result } = await follow(base(output, { probeEvery: 3, epochs: 2, learningRate: 1e-3 }));
  t.is(result.trained.responses, 16);
  const { validations, probes, steps } = readAllMetrics(join(output, 'metrics.jsonl'));
  t.is(steps.length, 4);
  t.deepEqual(
    validations.map(({ step }) => step),
    [0, 2, 4],
  );
  t.deepEqual(
    probes.map(({ step }) => step),
    [0, 3, 4],
  );
  for (const [folder, validation, probe] of [
    [tinyModel, validations[0]!, probes[0]!],
    [result.trained.model, validations[2]!, probes[2]!],
  ] as const) {
    const all = await scoreAll(folder, heldOut);
    const critical = all.filter((one) => one.critical);
    const other = all.filter((one) => !one.critical);
    const nll = (of: TokenScore[]): number => mean(of.map((one) => one.nll));
    const entropy = (of: TokenScore[]): number => mean(of.map((one) => one.entropy));
    t.true(near(validation.validationLoss, nll(critical)), `${validation.validationLoss} ${nll(critical)}`);
    t.true(near(validation.validationAccuracy, mean(critical.map((one) => (one.correct ? 1 : 0)))));
    t.is(validation.validationTokens, critical.length);
    t.true(near(probe.criticalLoss, nll(critical)));
    t.true(near(probe.otherLoss, nll(other)));
    t.true(near(probe.criticalEntropy, entropy(critical)));
    t.true(near(probe.otherEntropy, entropy(other)));
  }
  t.is(events.filter((event) => event.type === 'validated').length, 3);
  t.like(result.trained.validation, { before: { step: 0 }, last: { step: 4 } });
  const [file] = readdirSync(join(output, 'tensorboard'));
  const board = readFileSync(join(output, 'tensorboard', file!), 'latin1');
  for (const tag of ['train/loss', 'validation/loss', 'validation/accuracy', 'probe/other_entropy'])
    t.true(board.includes(tag), tag);
});

test('the best model is the one in model/, early stopping ends the run, and a second look changes nothing', async (t) => {
  t.timeout(240_000);
  const output = join(temporaryFolder(t), 'run');
  // Random responses: what is learnt of some is no good for others, so the loss soon rises.
  const options = base(output, { epochs: 12, learningRate: 3e-2, earlyStoppingPatience: 2 });
  const { events, result } = await follow(options);
  const { validation, steps } = result.trained;
  t.true(steps < 24, String(steps));
  t.is(steps, validation!.best.step + 4, 'two epochs of two steps after the best');
  t.true(validation!.best.loss < validation!.last.loss);
  t.like(
    events.find((event) => event.type === 'stopped-early'),
    { step: steps, steps: 24, bestStep: validation!.best.step },
  );
  const critical = (await scoreAll(result.trained.model, heldOut)).filter((one) => one.critical);
  t.true(near(mean(critical.map((one) => one.nll)), validation!.best.loss));
  const again = await follow({ ...options, resume: true });
  t.deepEqual(again.result.trained.validation, validation);
});

test('validation on what is trained is warned of', async (t) => {
  t.timeout(240_000);
  const known = records.slice(14, 18);
  const options = base(join(temporaryFolder(t), 'run'), { validationAnnotations: known, epochs: 1 });
  const { events } = await follow(options);
  const messages = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
  t.regex(messages[0] ?? '', /^2 of 4 validation prompts are trained on as well/);
});

test('a share is kept out, and save-best without early stopping goes on to the end', async (t) => {
  t.timeout(240_000);
  const output = join(temporaryFolder(t), 'run');
  const { validationAnnotations: _, ...rest } = base(output, { maxNewTokens: 2, verifier: () => true });
  const { result } = await follow({ ...rest, validation: 0.25, saveBest: true, learningRate: 3e-2 });
  t.is(result.trained.responses, 12);
  t.is(result.trained.steps, 8);
  t.is(result.evaluatedOn, 'validation');
  t.true(existsSync(join(output, 'model/model.safetensors')));
  t.false(readdirSync(join(output, 'checkpoints')).some((name) => name.startsWith('best')));
});

test('questions held out are annotated, validated and evaluated on, and not trained on', async (t) => {
  t.timeout(240_000);
  const output = join(temporaryFolder(t), 'run');
  const questions = readFileSync(join(embeddedFolder, 'questions/train.jsonl'), 'utf8').split('\n');
  const data = questions.slice(0, 24).map((line) => JSON.parse(line) as { question: string; answer: string });
  const { result } = await follow({ data, output, validation: 0.25, saveBest: true, probeEvery: 100 });
  t.is(result.evaluatedOn, 'validation');
  t.is(result.before!.greedy.n, 6);
  t.is(readFileSync(join(output, 'responses.jsonl'), 'utf8').trimEnd().split('\n').length, 24);
  // Who of the held-out questions was answered rightly before training is annotated, and so not trained on.
  const right = Math.round(result.before!.greedy.accuracy * 6);
  t.true(right > 0);
  t.is(result.trained.responses, result.annotation!.correct - right);
  t.true(result.trained.validation!.best.step > 0);
});

test('rsLoRA: the folder says so, loads with the same scale, and merged it is the same model', async (t) => {
  t.timeout(240_000);
  const folder = temporaryFolder(t);
  const lora = { loraRank: 4, loraTargets: ['q_proj', 'v_proj', 'down_proj'], loraRankStabilized: true };
  const { result } = await follow(base(join(folder, 'run'), { ...lora, loraMerge: true, loraAlpha: 6 }));
  const adapter = join(folder, 'run/adapter');
  t.deepEqual(readdirSync(adapter).sort(), ['adapter_config.json', 'adapter_model.safetensors']);
  t.like(readJson<Record<string, unknown>>(join(adapter, 'adapter_config.json')), {
    use_rslora: true,
    lora_alpha: 6,
    r: 4,
    target_modules: lora.loraTargets,
  });
  t.true(existsSync(join(result.trained.model, 'model.safetensors')));
  t.false(existsSync(join(result.trained.model, 'adapter_config.json')));
  const last = result.trained.validation!.last.loss;
  t.false(near(result.trained.validation!.before.loss, last), 'it learnt something');
  for (const model of [adapter, result.trained.model]) {
    const critical = (await scoreAll(model, heldOut)).filter((one) => one.critical);
    t.true(near(mean(critical.map((one) => one.nll)), last), model);
  }
});

test('LoRA on a head of its own: the adapter and the merged model are the model that was trained', async (t) => {
  t.timeout(240_000);
  const folder = temporaryFolder(t);
  const options = {
    model: fixturePath('models/mistral'),
    loraRank: 4,
    loraTargets: ['all-linear', 'lm_head'],
  };
  const { result } = await follow(base(join(folder, 'run'), { ...options, loraMerge: true }));
  const adapter = join(folder, 'run/adapter');
  const { target_modules } = readJson<{ target_modules: string[] }>(join(adapter, 'adapter_config.json'));
  t.is(target_modules.length, 8);
  t.true(target_modules.includes('lm_head'));
  const { before, last } = result.trained.validation!;
  t.false(near(before.loss, last.loss), 'it learnt something');
  for (const model of [adapter, result.trained.model]) {
    const critical = (await scoreAll(model, heldOut)).filter((one) => one.critical);
    t.true(near(mean(critical.map((one) => one.nll)), last.loss), model);
  }
});

test('a learning rate that diverges ends with the reason, and what was done is kept', async (t) => {
  t.timeout(240_000);
  const output = join(temporaryFolder(t), 'run');
  const options = base(output, {
    learningRate: 10,
    schedule: 'constant',
    warmup: 0,
    epochs: 20,
    maxGradNorm: 0,
  });
  await t.throwsAsync(async () => train(options), {
    code: 'ERR_CFT_DIVERGED',
    message:
      /5 steps in a row.*try a lower --learning-rate.*Kept: the checkpoint .*step-\d+ \(it may lie among those steps\), the losses in .*metrics\.jsonl/,
  });
  t.is(readJson<{ status: string }>(join(output, 'run.json')).status, 'failed');
  t.true(readAllMetrics(join(output, 'metrics.jsonl')).steps.length >= 5);
});
