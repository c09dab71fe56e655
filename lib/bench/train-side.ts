/** Our side of `bench train`, in a process of its own: `node train-side.js job.json`, see train-protocol.ts. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { annotate } from '../counterfactual/annotate.js';
import { readAnnotations } from '../data/annotations.js';
import { CftError } from '../errors.js';
import { loadModel } from '../model/load.js';
import type { Model } from '../model/model.js';
import { packageVersion } from '../run-folder.js';
import { packStep } from '../train/batches.js';
import type { TrainingExample } from '../train/examples.js';
import { planMemory, planMicroBatch } from '../train/memory-plan.js';
import type {
  PreparedResponse,
  TrainJob,
  TrainPrepareRequest,
  TrainReply,
  TrainSequence,
} from './train-protocol.js';

const say = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);

function exampleOf({ token_ids: tokenIds, selected }: TrainSequence): TrainingExample {
  return {
    tokenIds: Int32Array.from(tokenIds),
    tokens: tokenIds.length,
    responseTokens: tokenIds.length,
    selected: Int32Array.from(selected),
    targets: Int32Array.from(selected, (position) => tokenIds[position + 1]!),
    weights: new Float64Array(selected.length).fill(1),
  };
}

async function train(model: Model, job: TrainJob): Promise<TrainReply> {
  const trainer = await model.createTrainer({
    masterWeights: true,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: job.max_grad_norm,
    seed: 1,
  });
  const examples = job.sequences.map(exampleOf);
  const settings = {
    config: model.config,
    dtype: model.dtype,
    parameters: model.parameterCount,
    lora: undefined,
  };
  const longest = Math.max(...examples.map(({ tokenIds }) => tokenIds.length));
  const { microBatchTokens } = planMicroBatch(settings, longest);
  const reply: TrainReply = { type: 'result', step_seconds: [], losses: [] };
  for (const [step, members] of job.steps.entries()) {
    const start = performance.now();
    const packed = packStep(
      members.map((index) => examples[index]!),
      step,
      { microBatchTokens },
      'step',
    );
    let loss = 0;
    for (const batch of packed.batches) loss += await trainer.accumulate(batch);
    await trainer.step(job.learning_rate);
    reply.step_seconds.push((performance.now() - start) / 1000);
    reply.losses.push(loss);
  }
  const selected = job.sequences.reduce((sum, sequence) => sum + sequence.selected.length, 0);
  const tokens = job.sequences.reduce((sum, sequence) => sum + sequence.token_ids.length, 0);
  const largest = Math.max(longest, Math.min(microBatchTokens, longest * job.batch_size));
  reply.planned_bytes = planMemory({
    ...settings,
    microBatchTokens: largest,
    selectedTokens: Math.ceil((largest * selected) / tokens),
    checkpoint: false,
    bf16Moments: false,
    masterWeights: true,
  }).total;
  trainer.dispose();
  return reply;
}

async function prepare(model: Model, request: TrainPrepareRequest): Promise<{ type: 'prepared' }> {
  const { questions, system, userTemplate, maxNewTokens, results } = request;
  let responses: PreparedResponse[];
  if (request.annotate) {
    const folder = mkdtempSync(join(tmpdir(), 'cft-bench-'));
    try {
      const output = join(folder, 'run');
      await annotate({ model, data: questions, system, userTemplate, maxNewTokens, output });
      const records = await readAnnotations(join(output, 'annotations.jsonl'));
      responses = records.map((record) => {
        const { prompt_token_ids: prompt, response_token_ids: response, critical_mask: mask } = record;
        return {
          promptTokens: prompt.length,
          tokenIds: [...prompt, ...response],
          critical: response.flatMap((_, t) => (mask?.[t] ? [prompt.length + t] : [])),
        };
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  } else {
    const prompts = questions.map(({ question }) => model.promptFor(question, { system, userTemplate }));
    const generated = await model.generate(prompts, { maxNewTokens });
    responses = prompts.flatMap((prompt, i) => {
      const { tokenIds, finishReason } = generated[i]![0]!;
      if (finishReason !== 'stop' || tokenIds.length === 0) return [];
      return [{ promptTokens: prompt.length, tokenIds: [...prompt, ...tokenIds] }];
    });
  }
  writeFileSync(results, JSON.stringify(responses));
  return { type: 'prepared' };
}

const job = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as TrainJob;
const start = performance.now();
try {
  await using model = await loadModel(job.model, {
    device: job.device,
    dtype: job.dtype,
    threads: job.threads,
  });
  const info = model.addon.info();
  say({
    type: 'ready',
    versions: {
      cft_native: packageVersion,
      libtorch: info.libtorch,
      cpu_capability: info.cpuCapability,
      flavour: info.flavour,
      node: process.versions.node,
    },
    dtype: model.dtype,
    setting: model.dtype === 'bfloat16' ? 'packed, bf16 weights, fp32 masters' : 'packed',
    load_seconds: (performance.now() - start) / 1000,
    device: model.device,
    device_name: model.addon.cudaDevices().find(({ index }) => model.device === `cuda:${index}`)?.name,
    parameters: model.parameterCount,
  });
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line) as { type: string };
    if (request.type === 'prepare') say(await prepare(model, request as TrainPrepareRequest));
    else if (request.type === 'run') say(await train(model, job));
    else if (request.type === 'gemm') {
      const { rows, headRows } = request as unknown as { rows: number; headRows: number };
      say({ type: 'gemm', ...(await model.native.trainGemmLimit(rows, headRows)) });
    } else say({ type: 'error', message: `unknown request "${request.type}"` });
  }
} catch (error) {
  // The harness throws it as if it had happened there.
  const code = error instanceof CftError ? error.code : undefined;
  say({ type: 'error', code, message: error instanceof Error ? error.message : String(error) });
  process.exitCode = 1;
}
