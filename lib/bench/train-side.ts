/** Our side of `bench train`, in a process of its own: `node train-side.js job.json`, see train-protocol.ts. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { annotate } from '../counterfactual/annotate.js';
import { readAnnotations } from '../data/annotations.js';
import type { Model } from '../model/model.js';
import { packStep } from '../train/batches.js';
import type { TrainingExample } from '../train/examples.js';
import { planRun } from '../train/run-plan.js';
import { serveSide } from './serve-side.js';
import type {
  PreparedResponse,
  TrainJob,
  TrainPrepareRequest,
  TrainReply,
  TrainSequence,
} from './train-protocol.js';

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
  const examples = job.sequences.map(exampleOf);
  const { microBatchTokens, checkpoint, peakBytes } = planRun(
    model,
    {
      batch: { batchSize: job.batch_size },
      microBatchTokens: 'auto',
      gradientCheckpointing: 'auto',
      moments: 'float32',
      masterWeights: 'float32',
      lora: undefined,
    },
    examples,
  );
  const trainer = await model.createTrainer({
    masterWeights: true,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: job.max_grad_norm,
    seed: 1,
    checkpoint,
  });
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
  if (peakBytes !== undefined) reply.planned_bytes = peakBytes;
  const deviceBytes = model.native.peakDeviceBytes();
  if (deviceBytes > 0) reply.device_bytes = deviceBytes;
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

async function answer(model: Model, job: TrainJob, request: { type: string }): Promise<object> {
  switch (request.type) {
    case 'prepare':
      return prepare(model, request as TrainPrepareRequest);
    case 'run':
      return train(model, job);
    case 'gemm': {
      const { rows, headRows } = request as unknown as { rows: number; headRows: number };
      return { type: 'gemm', ...(await model.native.trainGemmLimit(rows, headRows)) };
    }
    default:
      return { type: 'error', message: `unknown request "${request.type}"` };
  }
}

const job = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as TrainJob;
await serveSide(
  job,
  ({ dtype }) => ({ setting: dtype === 'bfloat16' ? 'packed, bf16 weights, fp32 masters' : 'packed' }),
  (model, request) => answer(model, job, request),
);
