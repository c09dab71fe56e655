/** train() and evaluate() as a program calls them, on a tiny model with annotations made by hand. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError, evaluate, loadModel, type TrainEvent, type TrainOptions, train } from '../../lib/index.js';
import { readMetrics } from '../../lib/train/metrics.js';
import type { AnnotationRecord } from '../../lib/types.js';
import { makeAnnotations, writeAnnotations } from '../helpers/annotation-file.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const tinyModel = fixturePath('models/qwen2');
const ids = Int32Array.from([5, 17, 33, 64, 9]);

const base = (output: string, more: TrainOptions = {}): TrainOptions => ({
  model: tinyModel,
  annotations: makeAnnotations(16),
  output,
  batchSize: 8,
  epochs: 5,
  learningRate: 3e-3,
  ...more,
});

/** Weights of a saved model, all in one. */
function weightsOf(folder: string, file = 'model.safetensors'): Float32Array {
  const bytes = readFileSync(join(folder, file));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length));
}

const largestDifference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

test('training lowers the loss of the critical tokens, and the saved folder is the trained model', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const run = train(base(join(folder, 'run')));
  const events: TrainEvent[] = [];
  for await (const event of run) events.push(event);
  const { trained } = await run;
  t.is(trained.steps, 10);
  t.true(trained.lastLoss < 0.8 * trained.firstLoss, `${trained.firstLoss} → ${trained.lastLoss}`);
  t.is(events.filter((event) => event.type === 'step').length, 10);
  t.is(events[0]!.type, 'start');
  t.is(events.at(-1)!.type, 'done');
  await using before = await loadModel(tinyModel);
  await using after = await loadModel(trained.model);
  const difference = largestDifference((await before.logits(ids)).data, (await after.logits(ids)).data);
  t.true(difference > 0.01, String(difference));
});

test('the loss of the first step is the mean over the critical tokens under the untouched model', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const annotations = makeAnnotations(16);
  await train(base(join(folder, 'run'), { annotations, batchSize: 16, epochs: 1 }));
  const [first] = readMetrics(join(folder, 'run/metrics.jsonl'));
  await using model = await loadModel(tinyModel);
  const losses: number[] = [];
  for (const { prompt_token_ids: prompt, response_token_ids: response, critical_mask } of annotations) {
    const { logProbs } = await model.scores([...prompt, ...response]);
    critical_mask!.forEach((critical, i) => {
      if (critical) losses.push(-logProbs[prompt.length + i - 1]!);
    });
  }
  t.is(first!.selectedTokens, losses.length);
  const mean = losses.reduce((a, b) => a + b, 0) / losses.length;
  t.true(Math.abs(first!.loss - mean) < 1e-5 * mean, `${first!.loss} ${mean}`);
});

test('8 x 1 and 2 x 4 accumulation train the same weights', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const weights: Float32Array[] = [];
  for (const [perDeviceTrainBatchSize, gradientAccumulationSteps] of [
    [8, 1],
    [2, 4],
    [1, 8],
  ] as const) {
    const { batchSize: _, ...rest } = base(join(folder, String(perDeviceTrainBatchSize)));
    const { trained } = await train({ ...rest, perDeviceTrainBatchSize, gradientAccumulationSteps });
    t.is(trained.steps, 10);
    weights.push(weightsOf(trained.model));
  }
  const start = weightsOf(tinyModel);
  const moved = largestDifference(weights[0]!, start);
  t.true(moved > 0.01, String(moved));
  for (const other of weights.slice(1)) t.true(largestDifference(weights[0]!, other) < 1e-4 * moved);
});

test('the size of the micro-batches changes nothing with LoRA dropout either: each token keeps its mask', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const adapters: Float32Array[] = [];
  for (const microBatchTokens of [4096, 40, 1]) {
    const lora = { loraRank: 4, loraDropout: 0.3, learningRate: 1e-2, microBatchTokens };
    const { trained } = await train(base(join(folder, String(microBatchTokens)), lora));
    adapters.push(weightsOf(trained.model, 'adapter_model.safetensors'));
  }
  const moved = Math.max(...adapters[0]!.map(Math.abs));
  for (const other of adapters.slice(1)) t.true(largestDifference(adapters[0]!, other) < 1e-3 * moved);
});

test('cft and sft take the same steps on the same responses; only the tokens differ', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const { trained, baseline } = await train(base(join(folder, 'run'), { baseline: 'sft' }));
  t.is(baseline!.strategy, 'sft');
  t.is(baseline!.steps, trained.steps);
  t.is(baseline!.tokens, trained.tokens);
  t.true(baseline!.selectedTokens > 2.5 * trained.selectedTokens);
  t.is(baseline!.model, join(folder, 'run/baseline-sft/model'));
  t.true(existsSync(join(folder, 'run/baseline-sft/metrics.jsonl')));
  // The second starts from the same weights as the first, not from where that ended.
  const alone = await train(base(join(folder, 'alone'), { strategy: 'sft' }));
  t.deepEqual(weightsOf(alone.trained.model), weightsOf(baseline!.model));
});

test('LoRA becomes a PEFT folder that loads as the base with the adapter merged', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const { trained } = await train(base(join(folder, 'run'), { loraRank: 4, learningRate: 1e-2 }));
  t.deepEqual(readdirSync(trained.model).sort(), [
    'README.md',
    'adapter_config.json',
    'adapter_model.safetensors',
  ]);
  t.like(readJson<Record<string, unknown>>(join(trained.model, 'adapter_config.json')), {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: tinyModel,
    r: 4,
    lora_alpha: 8,
    target_modules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
  });
  t.true(trained.lastLoss < trained.firstLoss);
  await using before = await loadModel(tinyModel);
  await using after = await loadModel(trained.model);
  t.true(largestDifference((await before.logits(ids)).data, (await after.logits(ids)).data) > 0.01);
  await t.throwsAsync(async () => train(base(join(folder, 'b'), { model: trained.model, loraRank: 4 })), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /is an adapter already/,
  });
});

test('a model that is handed over stays as it is, and what it holds is in the plan', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const planned = async (options: TrainOptions): Promise<number> => {
    let bytes = 0;
    for await (const event of train(options)) if (event.type === 'plan') bytes = event.peakBytes!;
    return bytes;
  };
  await using model = await loadModel(tinyModel);
  const before = (await model.logits(ids)).data;
  const beside = await planned(base(join(folder, 'run'), { model }));
  t.deepEqual((await model.logits(ids)).data, before);
  t.is(
    beside - (await planned(base(join(folder, 'other'), { dtype: model.dtype }))),
    model.native.weightBytes,
  );
});

test('weights of other tools are trained too, one more for the end token', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const annotations = makeAnnotations(4).map(
    ({ critical_mask, ...record }): AnnotationRecord => ({
      ...record,
      token_weights: [...critical_mask!.map((critical) => 0.5 * critical), 1],
    }),
  );
  const { trained } = await train(base(join(folder, 'run'), { annotations, epochs: 1 }));
  const critical = makeAnnotations(4).flatMap((record) => record.critical_mask!.filter((c) => c === 1));
  t.is(trained.selectedTokens, critical.length + 4);
});

test('evaluation before and after on a share of the annotated questions, which is kept out of training', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const output = join(folder, 'run');
  const asked: string[] = [];
  const result = await train(
    base(output, {
      validation: 0.25,
      evalSamples: 2,
      maxNewTokens: 4,
      verifier: (_, { id }) => {
        asked.push(id);
        return id === '1' || id === '8';
      },
    }),
  );
  t.is(result.trained.responses, 12);
  t.is(result.evaluatedOn, 'validation');
  t.is(result.before!.greedy.n, 4);
  t.is(result.before!.sampled!.samples, 2);
  t.is(asked.length, 2 * (4 + 8));
  t.is(result.trained.change!.greedy.verdict, 'no difference detected');
  for (const name of ['before', 'before/sampled', 'after', 'after/sampled'])
    t.true(existsSync(join(output, 'eval', name, 'summary.json')), name);
  t.regex(readFileSync(result.report, 'utf8'), /no difference detected/);
});

test('an evaluation that asks in other words than the annotations were made with is warned of', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(8));
  const options = { system: 'Be brief.', user_template: '{question}' };
  const meta = { format: 'cft-annotations/1', model: 'm', options };
  writeFileSync(join(folder, 'a.meta.json'), JSON.stringify(meta));
  const warnings = async (name: string, more: TrainOptions): Promise<string[]> => {
    const found: string[] = [];
    const given = base(join(folder, name), { annotations, epochs: 1, maxNewTokens: 2, system: '', ...more });
    for await (const event of train(given)) if (event.type === 'warning') found.push(event.message);
    return found;
  };
  const [selected, warning, ...others] = await warnings('a', { validation: 0.2, userTemplate: '{question}' });
  t.regex(selected!, /held-out questions of the annotations, .*the accuracy before is high by selection/);
  t.regex(warning!, /a\.meta\.json: .*another prompt \(system\); the evaluation uses --system ""/);
  t.is(others.length, 0);
  t.deepEqual(
    await warnings('b', { validation: 0.2, ...{ system: 'Be brief.', userTemplate: '{question}' } }),
    [selected],
  );
  t.deepEqual(await warnings('c', {}), [], 'nothing is evaluated');
});

test('an abort between steps rejects with its reason', async (t) => {
  t.timeout(120_000);
  const controller = new AbortController();
  const reason = new Error('enough');
  const run = train(base(join(temporaryFolder(t), 'run'), { signal: controller.signal }));
  const error = await t.throwsAsync(async () => {
    for await (const event of run) if (event.type === 'step' && event.step === 2) controller.abort(reason);
  });
  t.is(error, reason);
});

test('bad options reject with a CftError, at once and without a folder', async (t) => {
  const output = join(temporaryFolder(t), 'run');
  const error = await t.throwsAsync(async () => train(base(output, { batchSize: 0 })));
  t.true(error instanceof CftError && error.code === 'ERR_CFT_BAD_OPTION');
  t.false(existsSync(output));
});

test('fp32 weights without masters are refused: they have none', async (t) => {
  const output = join(temporaryFolder(t), 'run');
  const given = base(output, { masterWeights: 'none', dtype: 'float32' });
  await t.throwsAsync(async () => train(given), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /--master-weights\): none: expected a model in bfloat16, found float32/,
  });
});

test('evaluate() on questions in memory: summary on disk and in hand', async (t) => {
  t.timeout(120_000);
  const output = join(temporaryFolder(t), 'eval');
  const data = Array.from({ length: 6 }, (_, i) => ({ question: `what is ${i}?`, answer: i }));
  const run = evaluate({
    model: tinyModel,
    data,
    output,
    samples: 3,
    temperature: 1,
    maxNewTokens: 5,
    verifier: (text, { answer }) => (text.length + Number(answer)) % 2 === 0,
  });
  const { summary, predictions } = await run;
  t.is(summary.n, 6);
  t.is(predictions.flat().length, 18);
  t.is(summary.majAtK, null);
  t.true(summary.meanEntropy! > 0 && summary.meanEntropy! < Math.log(96));
  t.true(summary.passAtK['3']! >= summary.passAtK['1']!);
  const file = readJson<Record<string, { accuracy: number }>>(join(output, 'summary.json'));
  t.true(Math.abs(file.questions!.accuracy - summary.accuracy) < 1e-6);
});
