/** The training loop: accumulate micro-batches, step, record, measure, checkpoint; stops between steps, resumes exactly. */
import { join } from 'node:path';
import { CftError } from '../errors.js';
import type { NativeTensorEntry, NativeTrainer } from '../native/binding.js';
import { type BatchLimits, type LossNormalization, packStep } from './batches.js';
import {
  type BestModel,
  checkEnvironment,
  type Facts,
  findCheckpoint,
  freshState,
  type LoopState,
  newestCheckpoint,
  pruneCheckpoints,
  saveBest,
  saveCheckpoint,
} from './checkpoints.js';
import type { TrainingExample } from './examples.js';
import { measureProbe, type Probe, validate } from './held-out.js';
import {
  appendMetrics,
  appendProbe,
  appendValidation,
  type ProbeMetrics,
  readAllMetrics,
  rewindMetrics,
  type StepMetrics,
  type ValidationMetrics,
} from './metrics.js';
import { batchOfStep, type TrainingPlan } from './plan.js';
import { learningRateAt, type Schedule } from './schedule.js';
import { EventWriter } from './tensorboard.js';

/** So many steps in a row without a finite gradient, or with an absurd loss, end the run. */
const mostBadInARow = 5;

export interface LoopOptions {
  trainer: NativeTrainer;
  examples: readonly TrainingExample[];
  plan: TrainingPlan;
  schedule: Schedule;
  /** A resumed run packs as it did before, whatever is said here. */
  limits: BatchLimits;
  normalization: LossNormalization;
  /** Steps between checkpoints, 0 = at the end of each epoch. */
  checkpointEvery: number;
  /** The last so many are kept. */
  keepCheckpoints: number;
  /** Holds metrics.jsonl, tensorboard/ and checkpoints/. */
  folder: string;
  /** Model, data and settings that a checkpoint belongs to. */
  configuration: Facts;
  /** Machine and libraries that decide the last bits. */
  environment: Facts;
  /** Go on from a checkpoint that was made in another environment. */
  force: boolean;
  /** Mean loss per token of a model that knows nothing: the logarithm of the vocabulary's size. */
  guessLoss: number;
  /** Held-out responses with the strategy's tokens; measured after each epoch. */
  validation?: readonly TrainingExample[] | undefined;
  /** Keep the model with the lowest validation loss. */
  keepBest: boolean;
  /** Stop after so many validations in a row that are no better than the best one; 0 = never. */
  earlyStoppingPatience: number;
  /** Measured every `probeEvery` steps. */
  probe?: Probe | undefined;
  probeEvery: number;
  /** Writes the model as it is now into a folder that does not exist yet. */
  saveModel: (path: string) => Promise<void>;
  /** Reads the header of a safetensors file. */
  readTensors: (path: string) => NativeTensorEntry[];
  /** High-water mark of the process's memory. */
  peakMemoryBytes: () => number;
  signal?: AbortSignal | undefined;
}

export type LoopEvent =
  | ({ type: 'step'; steps: number } & StepMetrics)
  /** `best`: the lowest loss so far; never of step 0, the model before training. */
  | ({ type: 'validated'; best: boolean } & ValidationMetrics)
  | ({ type: 'probe' } & ProbeMetrics)
  /** The validation loss has not fallen for as long as early stopping waits. */
  | { type: 'stopped-early'; step: number; steps: number; bestStep: number }
  | { type: 'checkpoint'; step: number; path: string }
  | { type: 'resumed'; step: number; steps: number }
  | { type: 'warning'; message: string };

/** One validation in the result. */
export interface ValidationSummary {
  step: number;
  loss: number;
  accuracy: number;
}

export interface LoopResult {
  steps: number;
  skippedSteps: number;
  /** Mean loss of the first and of the last quarter of the steps that had selected tokens; NaN where none had. */
  firstLoss: number;
  lastLoss: number;
  /** Prompt and response tokens, and those with loss, summed over the steps. */
  tokens: number;
  selectedTokens: number;
  /** Time in optimizer steps, summed over resumes. */
  seconds: number;
  /** Time in validations and probes. */
  heldOutSeconds: number;
  /** Before training, at the lowest loss and at the end. Absent without validation. */
  validation?: { before: ValidationSummary; best: ValidationSummary; last: ValidationSummary };
}

const meanLoss = (metrics: readonly StepMetrics[]): number =>
  metrics.reduce((sum, one) => sum + one.loss, 0) / metrics.length;

function summarizeValidations(validations: readonly ValidationMetrics[]): LoopResult['validation'] {
  const all = validations.map(
    ({ step, validationLoss, validationAccuracy }): ValidationSummary => ({
      step,
      loss: validationLoss,
      accuracy: validationAccuracy,
    }),
  );
  const [before, ...trained] = all;
  if (before === undefined || trained.length === 0) return undefined;
  const best = trained.reduce((lowest, one) =>
    one.loss < lowest.loss || Number.isNaN(lowest.loss) ? one : lowest,
  );
  return { before, best, last: trained.at(-1)! };
}

/** What the metrics of a finished training say. */
export function summarizeMetrics(path: string): LoopResult {
  const { steps: metrics, validations, probes } = readAllMetrics(path);
  const withLoss = metrics.filter((one) => one.selectedTokens > 0 && !one.skipped);
  const quarter = Math.max(1, Math.round(withLoss.length / 4));
  const sum = (pick: (one: StepMetrics) => number): number =>
    metrics.reduce((total, one) => total + pick(one), 0);
  const validation = summarizeValidations(validations);
  return {
    steps: metrics.length,
    skippedSteps: metrics.filter((one) => one.skipped).length,
    firstLoss: meanLoss(withLoss.slice(0, quarter)),
    lastLoss: meanLoss(withLoss.slice(-quarter)),
    tokens: sum((one) => one.tokens),
    selectedTokens: sum((one) => one.selectedTokens),
    seconds: sum((one) => (one.tokensPerSecond > 0 ? one.tokens / one.tokensPerSecond : 0)),
    heldOutSeconds: [...validations, ...probes].reduce((total, one) => total + one.seconds, 0),
    ...(validation && { validation }),
  };
}

class Loop {
  readonly #options: LoopOptions;
  readonly #emit: (event: LoopEvent) => void;
  readonly #metrics: string;
  readonly #checkpoints: string;
  #limits: BatchLimits;
  #state: LoopState = freshState();
  /** Whether the newest checkpoint speaks of this state. */
  #saved = true;
  #board: EventWriter | undefined;

  constructor(options: LoopOptions, emit: (event: LoopEvent) => void) {
    this.#options = options;
    this.#emit = emit;
    this.#limits = options.limits;
    this.#metrics = join(options.folder, 'metrics.jsonl');
    this.#checkpoints = join(options.folder, 'checkpoints');
  }

  async run(): Promise<BestModel | undefined> {
    const { plan, checkpointEvery, signal } = this.#options;
    const every = checkpointEvery || plan.stepsPerEpoch;
    await this.#restore();
    for (;;) {
      try {
        await this.#measure();
      } catch (error) {
        // Measured again after the resume, from the weights that are saved here.
        if (signal?.aborted && error === signal.reason) await this.#save();
        throw error;
      }
      const over = this.#isOver();
      if (over || this.#state.step % every === 0) await this.#save();
      if (over) break;
      if (signal?.aborted) {
        await this.#save();
        throw signal.reason;
      }
      await this.#step();
    }
    this.#checkTrained();
    return this.#state.best;
  }

  /** Continues from the newest good checkpoint in the folder, or starts at step 0. */
  async #restore(): Promise<void> {
    const { trainer, folder, configuration, environment, force, plan, readTensors } = this.#options;
    const refused = (path: string, reason: string): void =>
      this.#warn(`${path} is not used: ${reason}; looking for the one before`);
    const checkpoint = await findCheckpoint(this.#checkpoints, configuration, refused);
    if (checkpoint !== undefined) {
      const warning = checkEnvironment(checkpoint, environment, force);
      if (warning !== undefined) this.#warn(warning);
      await trainer.loadState(readTensors(checkpoint.tensors));
      this.#state = checkpoint.state;
      this.#limits = { ...this.#limits, microBatchTokens: checkpoint.microBatchTokens };
    }
    rewindMetrics(this.#metrics, checkpoint === undefined ? { ...this.#state, step: -1 } : this.#state);
    this.#board = new EventWriter(
      join(folder, 'tensorboard'),
      checkpoint === undefined ? 0 : this.#state.step + 1,
    );
    if (checkpoint !== undefined) this.#emit({ type: 'resumed', step: this.#state.step, steps: plan.steps });
  }

  async #step(): Promise<void> {
    const { trainer, examples, plan, schedule, normalization } = this.#options;
    const { step } = this.#state;
    const start = performance.now();
    const members = Array.from(batchOfStep(plan, step), (index) => examples[index]!);
    const packed = packStep(members, step, this.#limits, normalization);
    let loss = 0;
    const partsBefore = trainer.parts ?? 1;
    for (const batch of packed.batches) loss += await trainer.accumulate(batch);
    if ((trainer.parts ?? 1) > partsBefore) {
      this.#warn(
        `memory did not suffice for ${this.#limits.microBatchTokens} tokens at once: from step ${step + 1} on each ` +
          `batch runs in ${trainer.parts} parts, for the same gradient`,
      );
    }
    const learningRate = learningRateAt(schedule, step);
    const { gradNorm, applied } = await trainer.step(learningRate);
    const metrics: StepMetrics = {
      step: step + 1,
      epoch: (step + 1) / plan.stepsPerEpoch,
      loss,
      learningRate,
      gradNorm: Number.isFinite(gradNorm) ? gradNorm : null,
      tokens: packed.tokens,
      selectedTokens: packed.selectedTokens,
      tokensPerSecond: packed.tokens / ((performance.now() - start) / 1000),
      peakMemoryBytes: this.#options.peakMemoryBytes(),
      skipped: !applied,
    };
    const weight = packed.batches.reduce(
      (sum, { weights }) => weights.reduce((total, one) => total + one, sum),
      0,
    );
    this.#record(metrics);
    if (weight > 0) this.#watchLoss(metrics, loss / weight);
    this.#watchGradient(metrics);
  }

  #record(metrics: StepMetrics): void {
    const { step, loss, learningRate, gradNorm, tokensPerSecond } = metrics;
    this.#state.step = step;
    this.#saved = false;
    appendMetrics(this.#metrics, metrics);
    this.#board!.scalars(step, {
      'train/loss': loss,
      'train/learning_rate': learningRate,
      'train/grad_norm': gradNorm,
      'train/tokens_per_second': tokensPerSecond,
    });
    this.#emit({ type: 'step', steps: this.#options.plan.steps, ...metrics });
  }

  #watchGradient({ step, skipped, learningRate }: StepMetrics): void {
    const state = this.#state;
    if (!skipped) {
      state.skippedInARow = 0;
      return;
    }
    state.skippedSteps++;
    state.skippedInARow++;
    this.#warn(
      `step ${step}: the gradient was not finite; the step was skipped (${state.skippedSteps} so far, ` +
        `${state.skippedInARow} in a row)`,
    );
    if (state.skippedInARow >= mostBadInARow) {
      this.#diverged(
        `the gradient was not finite in ${mostBadInARow} steps in a row, up to step ${step}`,
        learningRate,
      );
    }
  }

  /** A finite gradient may lead nowhere too: far worse than guessing and than at the start, again and again. */
  #watchLoss({ step, learningRate }: StepMetrics, tokenLoss: number): void {
    const state = this.#state;
    if (!Number.isFinite(tokenLoss)) return; // its gradient is not finite either
    state.firstTokenLoss ??= tokenLoss;
    const most = 2 * Math.max(this.#options.guessLoss, state.firstTokenLoss);
    state.absurdInARow = tokenLoss > most ? state.absurdInARow + 1 : 0;
    if (state.absurdInARow >= mostBadInARow) {
      this.#diverged(
        `the loss was ${tokenLoss.toPrecision(3)} per token at step ${step}, more than twice that of guessing ` +
          `(${this.#options.guessLoss.toPrecision(3)}) and of the first step ` +
          `(${state.firstTokenLoss.toPrecision(3)}), in ${mostBadInARow} steps in a row`,
        learningRate,
      );
    }
  }

  #diverged(what: string, learningRate: number): never {
    throw new CftError(
      'ERR_CFT_DIVERGED',
      `${what} (learning rate ${learningRate.toPrecision(3)}); try a lower --learning-rate, a longer --warmup or ` +
        `--dtype float32, in a new folder. ${this.#kept(true)}`,
    );
  }

  /** What is left after a run that failed. */
  #kept(diverging = false): string {
    const checkpoint = newestCheckpoint(this.#checkpoints);
    const { best } = this.#state;
    const kept = [
      ...(checkpoint === undefined
        ? []
        : [`the checkpoint ${checkpoint}${diverging ? ' (it may lie among those steps)' : ''}`]),
      ...(best === undefined ? [] : [`the best model so far (of step ${best.step}) beside it`]),
      `the losses in ${this.#metrics}`,
    ];
    return `Kept: ${kept.join(', ')}`;
  }

  /** Validation and probe, where they are due and not yet done. */
  async #measure(): Promise<void> {
    const { plan, validation, probe, probeEvery } = this.#options;
    const { step } = this.#state;
    const epochEnds = step % plan.stepsPerEpoch === 0 || step === plan.steps;
    if (validation !== undefined && epochEnds && this.#state.validated < step)
      await this.#validate(validation);
    const probed = step % probeEvery === 0 || this.#isOver();
    if (probe !== undefined && probed && this.#state.probed < step) await this.#probe(probe);
  }

  async #validate(examples: readonly TrainingExample[]): Promise<void> {
    const { trainer, plan, keepBest, saveModel, signal } = this.#options;
    const state = this.#state;
    const { step } = state;
    const start = performance.now();
    const result = await validate(trainer, examples, this.#limits, signal);
    const metrics: ValidationMetrics = {
      step,
      epoch: step / plan.stepsPerEpoch,
      ...result,
      seconds: (performance.now() - start) / 1000,
    };
    const loss = metrics.validationLoss;
    // Not the model before training: a run ends with a trained one. The lowest of equal ones is the first.
    const better = step > 0 && loss < (state.lowest?.loss ?? Number.POSITIVE_INFINITY);
    if (better) state.lowest = { step, loss };
    if (better && keepBest) state.best = await saveBest(this.#checkpoints, step, saveModel);
    if (step > 0) state.validationsSinceBest = better ? 0 : state.validationsSinceBest + 1;
    appendValidation(this.#metrics, metrics);
    state.validated = step;
    this.#saved = step === 0;
    this.#board!.scalars(step, {
      'validation/loss': loss,
      'validation/accuracy': metrics.validationAccuracy,
    });
    this.#emit({ type: 'validated', best: better, ...metrics });
    if (this.#stopsEarly() && step < plan.steps)
      this.#emit({ type: 'stopped-early', step, steps: plan.steps, bestStep: state.lowest?.step ?? step });
  }

  async #probe(probe: Probe): Promise<void> {
    const { trainer, plan, signal } = this.#options;
    const { step } = this.#state;
    const start = performance.now();
    const result = await measureProbe(trainer, probe, this.#limits, signal);
    const seconds = (performance.now() - start) / 1000;
    const metrics: ProbeMetrics = { step, epoch: step / plan.stepsPerEpoch, ...result, seconds };
    appendProbe(this.#metrics, metrics);
    this.#state.probed = step;
    this.#board!.scalars(step, {
      'probe/critical_loss': result.criticalLoss,
      'probe/other_loss': result.otherLoss,
      'probe/critical_entropy': result.criticalEntropy,
      'probe/other_entropy': result.otherEntropy,
    });
    this.#emit({ type: 'probe', ...metrics });
  }

  #stopsEarly(): boolean {
    const { earlyStoppingPatience: patience } = this.#options;
    return patience > 0 && this.#state.validationsSinceBest >= patience;
  }

  #isOver(): boolean {
    return this.#state.step >= this.#options.plan.steps || this.#stopsEarly();
  }

  /** Writes a checkpoint unless the newest speaks of this state. */
  async #save(): Promise<void> {
    const { trainer, configuration, environment, keepCheckpoints } = this.#options;
    const state = this.#state;
    // What a run that was killed left to remove.
    if (this.#saved) return pruneCheckpoints(this.#checkpoints, state, keepCheckpoints);
    const origin = { configuration, environment, microBatchTokens: this.#limits.microBatchTokens };
    const path = await saveCheckpoint(this.#checkpoints, state, origin, keepCheckpoints, (file) =>
      trainer.saveState(file),
    );
    this.#saved = true;
    this.#emit({ type: 'checkpoint', step: state.step, path });
  }

  #checkTrained(): void {
    const { step, skippedSteps } = this.#state;
    if (step === 0 || skippedSteps < step) return;
    throw new CftError(
      'ERR_CFT_DIVERGED',
      `not one of ${step} steps was applied: the gradient was never finite, so the weights are untrained; try ` +
        `a lower --learning-rate, --dtype float32, or look for absurd token_weights. ${this.#kept()}`,
    );
  }

  #warn(message: string): void {
    this.#emit({ type: 'warning', message });
  }
}

/**
 * Runs all steps that are left, or until early stopping. The weights after an interrupted and resumed run equal those
 * of an undisturbed one bit for bit (same device, same environment).
 * @returns where the best model lies, with `keepBest` (see bestFolder).
 * @throws the signal's reason after saving a checkpoint; CftError ERR_CFT_DIVERGED after five steps in a row whose
 *   gradient was not finite or whose loss was absurd, or where no step was applied; ERR_CFT_BAD_OUTPUT
 *   for checkpoints that cannot be gone on from; ERR_CFT_IO where writing fails.
 */
export async function trainingLoop(
  options: LoopOptions,
  emit: (event: LoopEvent) => void,
): Promise<LoopResult & { best?: BestModel }> {
  const best = await new Loop(options, emit).run();
  const result = summarizeMetrics(join(options.folder, 'metrics.jsonl'));
  return best === undefined ? result : { ...result, best };
}
