/** Training one model with one strategy into a folder: examples, trainer, loop, saved model. Resumes what is there. */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CftError } from '../errors.js';
import { makeOutputFolder, syncFolder } from '../files.js';
import type { Model } from '../model/model.js';
import { readSafetensorsHeader } from '../model/safetensors.js';
import { nativeEntry } from '../model/tensors.js';
import type { NativeTrainerOptions } from '../native/binding.js';
import type { ResolvedOptions } from '../options.js';
import { optionsForFile } from '../run-folder.js';
import { type StrategyName, strategies } from '../strategies/index.js';
import type { AnnotationRecord } from '../types.js';
import { loraOptions, saveAdapter } from './adapter.js';
import type { BatchSize } from './batch-size.js';
import { type BestModel, bestFolder, type Facts, removeBestModels, writeFailure } from './checkpoints.js';
import type { EmitTrain, TrainStage } from './events.js';
import { type TrainingExample, toExample } from './examples.js';
import type { Probe } from './held-out.js';
import { type LoopEvent, type LoopResult, summarizeMetrics, trainingLoop } from './loop.js';
import { planTraining, type TrainingPlan } from './plan.js';
import { planRun } from './run-plan.js';
import { makeSchedule, type Schedule } from './schedule.js';

/** Peak learning rates where nobody names one; LoRA's small matrices want more [ours, see docs/training.md]. */
const defaultLearningRates = { full: 5e-6, lora: 1e-4 };

export interface TrainingStageOptions {
  stage: Extract<TrainStage, 'train' | 'train-baseline'>;
  strategy: StrategyName;
  examples: readonly TrainingExample[];
  /** Held-out responses, where there are any. */
  validation: readonly TrainingExample[] | undefined;
  probe: Probe | undefined;
  options: ResolvedOptions<'train'>;
  batch: BatchSize;
  /** Loads a copy of the starting model that the stage may change. */
  loadBase: () => Promise<Model>;
  /** Loads another model, to merge an adapter. */
  loadOther: (name: string) => Promise<Model>;
  /** Bytes of a model that stays loaded beside the one that is trained. */
  heldBytes: number;
  /** How an adapter names its base. */
  base: { name: string; revision: string | undefined };
  /** Gets metrics.jsonl, checkpoints/ and model/. */
  folder: string;
  signal?: AbortSignal | undefined;
}

export interface TrainingResult extends LoopResult {
  strategy: StrategyName;
  learningRate: number;
  responses: number;
  /** Share of the response tokens that carry loss, end tokens counted. */
  selectedShare: number;
  /** The trained model: a Hugging Face folder, for LoRA a PEFT adapter folder unless it was merged. */
  model: string;
}

/**
 * Examples of a strategy.
 * @throws CftError ERR_CFT_BAD_DATA for a sequence that the model cannot take, ERR_CFT_NO_SIGNAL where no response has
 *   a token to train.
 */
export function makeExamples(
  records: readonly AnnotationRecord[],
  strategy: StrategyName,
  maxPositions: number,
  source: string,
): TrainingExample[] {
  const examples = records.map((record) => toExample(record, strategies[strategy], maxPositions, source));
  if (examples.some((example) => example.selected.length > 0)) return examples;
  if (records.every(({ token_weights: weights }) => weights?.every((weight) => weight === 0))) {
    throw new CftError(
      'ERR_CFT_NO_SIGNAL',
      `${source}: token_weights: expected some above 0, found only zeros in ${records.length} records, so ` +
        `${strategy} has nothing to train`,
    );
  }
  throw new CftError(
    'ERR_CFT_NO_SIGNAL',
    `${source}: not one critical token in ${records.length} annotated responses, so ${strategy} has nothing to ` +
      'train: every counterfactual that was tried still ends right. Try more or harder questions, a larger --k, ' +
      '--rule any with --complete, or --strategy sft',
  );
}

function trainerOptions(options: ResolvedOptions<'train'>, checkpoint: boolean): NativeTrainerOptions {
  const lora = loraOptions(options);
  return {
    ...(lora && { lora }),
    masterWeights: options.masterWeights === 'float32',
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: options.weightDecay,
    maxGradNorm: options.maxGradNorm,
    seed: options.seed,
    bf16Moments: options.moments === 'bfloat16',
    checkpoint,
  };
}

function hashExamples(examples: readonly TrainingExample[]): string {
  const hash = createHash('sha256');
  for (const { tokenIds, selected, targets, weights } of examples) {
    for (const array of [tokenIds, selected, targets, weights]) {
      hash.update(`${array.length} `);
      hash.update(array);
    }
  }
  return hash.digest('hex');
}

/** What a checkpoint belongs to: everything that the weights depend on, under the names that its file has. */
async function configurationOf(
  { examples, validation, options, batch }: TrainingStageOptions,
  model: Model,
  settings: NativeTrainerOptions,
  plan: TrainingPlan,
  schedule: Schedule,
): Promise<Facts> {
  // What is planned is left out: a checkpoint says how it was packed, and layers that run again give the same bits.
  const { lora, checkpoint: _, ...plain } = settings;
  return {
    weights_sha256: await model.weightsSha256(),
    dtype: model.dtype,
    device: model.device.split(':')[0]!,
    examples_sha256: hashExamples(examples),
    validation_sha256: validation === undefined ? null : hashExamples(validation),
    ...factsOf('trainer', plain),
    ...(lora && factsOf('lora', { ...lora, targets: lora.targets.join(',') })),
    ...factsOf('plan', { ...plan }),
    ...factsOf('schedule', { ...schedule }),
    loss_normalization: options.lossNormalization,
    micro_batch_tokens: options.microBatchTokens,
    micro_batch_sequences: batch.microBatchSequences ?? null,
    keeps_best: keepsBest(options),
    early_stopping_patience: options.earlyStoppingPatience,
  };
}

const factsOf = (
  group: string,
  values: Record<string, string | number | boolean | undefined>,
): Record<string, string | number | boolean> =>
  Object.fromEntries(
    Object.entries(optionsForFile(values)).map(([name, value]) => [`${group}.${name}`, value as string]),
  );

/** What decides the last bits beside the configuration. */
function environmentOf({ addon, device }: Model): Facts {
  const { libtorch, cpuCapability, cpuKernels, fastBfloat16, ownProducts, threads } = addon.info();
  if (!device.startsWith('cuda')) {
    return {
      libtorch,
      cpu_capability: cpuCapability,
      cpu_kernels: cpuKernels,
      fast_bfloat16: fastBfloat16,
      // Of one instruction set they are ours on one make of CPU and libtorch's on another.
      own_products: ownProducts,
      threads,
    };
  }
  const index = Number(device.split(':')[1] ?? 0);
  return { libtorch, gpu: addon.cudaDevices()[index]?.name ?? null };
}

/** To stop early is to say that the last models are worse than an earlier one. */
const keepsBest = ({ saveBest, earlyStoppingPatience }: ResolvedOptions<'train'>): boolean =>
  saveBest || earlyStoppingPatience > 0;

class ProgressTeller {
  readonly #emit: EmitTrain;
  readonly #stage: TrainStage;
  readonly #start = performance.now();
  #first: number | undefined;
  #tokens = 0;
  #stepSeconds = 0;

  constructor(emit: EmitTrain, stage: TrainStage) {
    this.#emit = emit;
    this.#stage = stage;
  }

  /** The rate is that of the steps; the time left takes in what lies between them. */
  step(
    done: number,
    total: number,
    { tokens, tokensPerSecond, loss }: Extract<LoopEvent, { type: 'step' }>,
  ): void {
    this.#first ??= done - 1;
    this.#tokens += tokens;
    this.#stepSeconds += tokens / Math.max(tokensPerSecond, 1);
    const seconds = (performance.now() - this.#start) / 1000;
    this.#emit({
      type: 'progress',
      stage: this.#stage,
      done,
      total,
      share: done / total,
      tokensPerSecond: this.#tokens / this.#stepSeconds,
      secondsLeft: (seconds * (total - done)) / (done - this.#first),
      loss,
    });
  }
}

async function trainAndSave(
  stageOptions: TrainingStageOptions,
  plan: TrainingPlan,
  schedule: Schedule,
  target: string,
  emit: EmitTrain,
): Promise<void> {
  const { stage, strategy, examples, validation, probe, options, batch, folder, signal } = stageOptions;
  makeOutputFolder(folder);
  await using model = await stageOptions.loadBase();
  const { microBatchTokens, checkpoint, peakBytes } = planRun(
    model,
    { ...options, batch, lora: loraOptions(options), heldBytes: stageOptions.heldBytes },
    examples,
  );
  emit({ type: 'plan', strategy, microBatchTokens, checkpoint, peakBytes });
  const settings = trainerOptions(options, checkpoint);
  const trainer = await model.createTrainer(settings);
  try {
    const progress = new ProgressTeller(emit, stage);
    const saveModel = (path: string): Promise<void> =>
      settings.lora ? saveAdapter(path, trainer, settings.lora, stageOptions.base) : model.save(path);
    const onEvent = (event: LoopEvent): void => {
      emit(event.type === 'warning' ? event : { ...event, strategy });
      if (event.type === 'step') progress.step(event.step, event.steps, event);
    };
    const { best } = await trainingLoop(
      {
        trainer,
        examples,
        plan,
        schedule,
        limits: { microBatchTokens, microBatchSequences: batch.microBatchSequences },
        normalization: options.lossNormalization,
        checkpointEvery: options.checkpointEvery,
        keepCheckpoints: options.keepCheckpoints,
        folder,
        configuration: await configurationOf(stageOptions, model, settings, plan, schedule),
        environment: environmentOf(model),
        force: options.force,
        guessLoss: Math.log(model.config.vocabSize),
        validation,
        keepBest: validation !== undefined && keepsBest(options),
        earlyStoppingPatience: options.earlyStoppingPatience,
        probe,
        probeEvery: options.probeEvery,
        saveModel,
        readTensors: (path) => readSafetensorsHeader(path).map(nativeEntry),
        peakMemoryBytes: () => model.addon.peakMemoryBytes(),
        signal,
      },
      onEvent,
    );
    await deliver(stageOptions, best, target, saveModel);
  } finally {
    trainer.dispose();
  }
}

/** Puts the trained model, the best or the last, in its place; it appears there as a whole. */
async function deliver(
  { options, folder, loadOther }: TrainingStageOptions,
  best: BestModel | undefined,
  target: string,
  saveModel: (path: string) => Promise<void>,
): Promise<void> {
  const checkpoints = join(folder, 'checkpoints');
  try {
    // With --lora-merge the adapter goes beside the merged model, which is made last: it says that all is done.
    const first = options.loraMerge ? join(folder, 'adapter') : target;
    rmSync(first, { recursive: true, force: true });
    if (best !== undefined) {
      const kept = bestFolder(checkpoints, best.step);
      if (options.loraMerge) cpSync(kept, first, { recursive: true });
      else renameSync(kept, first);
      syncFolder(folder);
    } else {
      await saveModel(first);
    }
    if (options.loraMerge) {
      await using merged = await loadOther(first);
      await merged.save(target);
    }
  } catch (error) {
    throw writeFailure(error, `training is done, but writing ${target} failed`, checkpoints);
  }
}

function warnOfNoGain({ validation }: LoopResult, emit: EmitTrain): void {
  if (validation === undefined || validation.best.loss < validation.before.loss) return;
  emit({
    type: 'warning',
    message:
      `the validation loss was ${validation.before.loss.toFixed(4)} before training and never lower after ` +
      `(${validation.best.loss.toFixed(4)} at best, step ${validation.best.step}); the model before may be the better one`,
  });
}

/** Trains, or continues to, or reads what a finished training left in the folder. */
export async function runTrainingStage(
  stageOptions: TrainingStageOptions,
  emit: EmitTrain,
): Promise<TrainingResult> {
  const { stage, strategy, examples, options, batch, folder } = stageOptions;
  const plan = planTraining({
    responses: examples.length,
    batchSize: batch.batchSize,
    epochs: options.epochs,
    seed: options.seed,
  });
  const learningRate =
    options.learningRate ?? (options.loraRank > 0 ? defaultLearningRates.lora : defaultLearningRates.full);
  const warmup = options.warmupSteps === undefined ? options.warmup : { steps: options.warmupSteps };
  const schedule = makeSchedule(options.schedule, learningRate, warmup, plan.steps);
  const target = join(folder, 'model');
  emit({ type: 'stage', stage, total: plan.steps });
  if (!existsSync(target)) await trainAndSave(stageOptions, plan, schedule, target, emit);
  removeBestModels(join(folder, 'checkpoints'));
  const result = summarizeMetrics(join(folder, 'metrics.jsonl'));
  warnOfNoGain(result, emit);
  emit({ type: 'saved', strategy, path: target });
  const sum = (pick: (example: TrainingExample) => number): number =>
    examples.reduce((total, example) => total + pick(example), 0);
  return {
    ...result,
    strategy,
    learningRate,
    responses: examples.length,
    selectedShare: sum((example) => example.selected.length) / sum((example) => example.responseTokens),
    model: target,
  };
}
