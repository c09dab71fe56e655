/** The training loop: accumulate micro-batches, step, record, checkpoint; stops between steps and resumes exactly. */
import { join } from 'node:path';
import { CftError } from '../errors.js';
import type { NativeTensorEntry, NativeTrainer } from '../native/binding.js';
import { type BatchLimits, type LossNormalization, packStep } from './batches.js';
import { findCheckpoint, type LoopState, saveCheckpoint } from './checkpoints.js';
import type { TrainingExample } from './examples.js';
import { appendMetrics, readMetrics, rewindMetrics, type StepMetrics } from './metrics.js';
import { batchOfStep, type TrainingPlan } from './plan.js';
import { learningRateAt, type Schedule } from './schedule.js';

const mostSkippedInARow = 5;

export interface LoopOptions {
  trainer: NativeTrainer;
  examples: readonly TrainingExample[];
  plan: TrainingPlan;
  schedule: Schedule;
  limits: BatchLimits;
  normalization: LossNormalization;
  /** Steps between checkpoints, 0 = at the end of each epoch. */
  checkpointEvery: number;
  /** Holds metrics.jsonl and checkpoints/. */
  folder: string;
  /** Says which options and examples a checkpoint belongs to. */
  fingerprint: string;
  /** Reads the header of a safetensors file. */
  readTensors: (path: string) => NativeTensorEntry[];
  /** High-water mark of the process's memory. */
  peakMemoryBytes: () => number;
  signal?: AbortSignal | undefined;
}

export type LoopEvent =
  | ({ type: 'step'; steps: number } & StepMetrics)
  | { type: 'checkpoint'; step: number; path: string }
  | { type: 'resumed'; step: number; steps: number }
  | { type: 'warning'; message: string };

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
}

/** Continues from the newest good checkpoint in the folder, or starts at step 0. */
async function restore(options: LoopOptions, emit: (event: LoopEvent) => void): Promise<LoopState> {
  const { trainer, folder, fingerprint, plan } = options;
  const refused = (path: string, reason: string): void =>
    emit({ type: 'warning', message: `${path} is not used: ${reason}; looking for the one before` });
  const checkpoint = await findCheckpoint(join(folder, 'checkpoints'), fingerprint, refused);
  rewindMetrics(join(folder, 'metrics.jsonl'), checkpoint?.step ?? 0);
  if (checkpoint === undefined) return { step: 0, skippedSteps: 0, skippedInARow: 0 };
  await trainer.loadState(options.readTensors(checkpoint.tensors));
  emit({ type: 'resumed', step: checkpoint.step, steps: plan.steps });
  const { step, skippedSteps, skippedInARow } = checkpoint;
  return { step, skippedSteps, skippedInARow };
}

async function runStep(options: LoopOptions, step: number): Promise<StepMetrics> {
  const { trainer, examples, plan, schedule } = options;
  const start = performance.now();
  const members = Array.from(batchOfStep(plan, step), (index) => examples[index]!);
  const packed = packStep(members, step, options.limits, options.normalization);
  let loss = 0;
  for (const batch of packed.batches) loss += await trainer.accumulate(batch);
  const learningRate = learningRateAt(schedule, step);
  const { gradNorm, applied } = await trainer.step(learningRate);
  return {
    step: step + 1,
    epoch: (step + 1) / plan.stepsPerEpoch,
    loss,
    learningRate,
    gradNorm: Number.isFinite(gradNorm) ? gradNorm : null,
    tokens: packed.tokens,
    selectedTokens: packed.selectedTokens,
    tokensPerSecond: packed.tokens / ((performance.now() - start) / 1000),
    peakMemoryBytes: options.peakMemoryBytes(),
    skipped: !applied,
  };
}

function meanLoss(metrics: readonly StepMetrics[]): number {
  return metrics.reduce((sum, one) => sum + one.loss, 0) / metrics.length;
}

/** What the metrics of a finished training say. */
export function summarizeMetrics(path: string): LoopResult {
  const metrics = readMetrics(path);
  const withLoss = metrics.filter((one) => one.selectedTokens > 0 && !one.skipped);
  const quarter = Math.max(1, Math.round(withLoss.length / 4));
  const sum = (pick: (one: StepMetrics) => number): number =>
    metrics.reduce((total, one) => total + pick(one), 0);
  return {
    steps: metrics.length,
    skippedSteps: metrics.filter((one) => one.skipped).length,
    firstLoss: meanLoss(withLoss.slice(0, quarter)),
    lastLoss: meanLoss(withLoss.slice(-quarter)),
    tokens: sum((one) => one.tokens),
    selectedTokens: sum((one) => one.selectedTokens),
    seconds: sum((one) => one.tokens / Math.max(one.tokensPerSecond, 1)),
  };
}

/**
 * Runs all steps that are left. The weights after an interrupted and resumed run equal those of an undisturbed one
 * bit for bit (same device, same threads).
 * @throws the signal's reason after saving a checkpoint; CftError ERR_CFT_DIVERGED after five steps in a row whose
 *   gradient was not finite, or where no step was applied.
 */
export async function trainingLoop(
  options: LoopOptions,
  emit: (event: LoopEvent) => void,
): Promise<LoopResult> {
  const { trainer, plan, folder, signal } = options;
  const metricsPath = join(folder, 'metrics.jsonl');
  const every = options.checkpointEvery || plan.stepsPerEpoch;
  const state = await restore(options, emit);
  let savedStep = state.step;
  const save = async (): Promise<void> => {
    const path = await saveCheckpoint(join(folder, 'checkpoints'), state, options.fingerprint, (file) =>
      trainer.saveState(file),
    );
    savedStep = state.step;
    emit({ type: 'checkpoint', step: state.step, path });
  };
  while (state.step < plan.steps) {
    if (signal?.aborted) {
      if (savedStep < state.step) await save();
      throw signal.reason;
    }
    const metrics = await runStep(options, state.step);
    state.step++;
    state.skippedInARow = metrics.skipped ? state.skippedInARow + 1 : 0;
    if (metrics.skipped) {
      state.skippedSteps++;
      emit({
        type: 'warning',
        message: `step ${state.step}: the gradient was not finite; the step was skipped (${state.skippedSteps} so far)`,
      });
    }
    appendMetrics(metricsPath, metrics);
    emit({ type: 'step', steps: plan.steps, ...metrics });
    if (state.skippedInARow >= mostSkippedInARow) {
      throw new CftError(
        'ERR_CFT_DIVERGED',
        `the gradient was not finite in ${mostSkippedInARow} steps in a row, up to step ${state.step} ` +
          `(learning rate ${metrics.learningRate.toPrecision(3)}); try a lower --learning-rate, a longer --warmup ` +
          'or --dtype float32',
      );
    }
    if (state.step % every === 0 || state.step === plan.steps) await save();
  }
  if (state.step > 0 && state.skippedSteps === state.step) {
    throw new CftError(
      'ERR_CFT_DIVERGED',
      `not one of ${state.step} steps was applied: the gradient was never finite, so the weights are untrained; try ` +
        'a lower --learning-rate, --dtype float32, or look for absurd token_weights',
    );
  }
  return summarizeMetrics(metricsPath);
}
