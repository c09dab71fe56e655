/** metrics.jsonl: one line per optimizer step. */
import { appendLines, recoverJsonLines, writeLinesAtomic } from '../files.js';

/** One optimizer step. */
export interface StepMetrics {
  /** From 1. */
  step: number;
  /** Passes over the responses when the step was done. */
  epoch: number;
  /** Sum of weight x negative log-likelihood over the normaliser; 0 for a step without selected tokens. */
  loss: number;
  learningRate: number;
  /** Before clipping; null where it was not finite. */
  gradNorm: number | null;
  /** Prompt and response tokens before pruning. */
  tokens: number;
  selectedTokens: number;
  tokensPerSecond: number;
  peakMemoryBytes: number;
  /** True where the gradient was not finite and the step was not applied. */
  skipped: boolean;
}

interface Line {
  step: number;
  epoch: number;
  loss: number | null;
  learning_rate: number;
  grad_norm: number | null;
  tokens: number;
  selected_tokens: number;
  tokens_per_second: number;
  peak_memory_bytes: number;
  skipped?: true;
}

function toLine(metrics: StepMetrics): string {
  const line: Line = {
    step: metrics.step,
    epoch: Number(metrics.epoch.toFixed(4)),
    loss: Number.isFinite(metrics.loss) ? metrics.loss : null,
    learning_rate: metrics.learningRate,
    grad_norm: metrics.gradNorm,
    tokens: metrics.tokens,
    selected_tokens: metrics.selectedTokens,
    tokens_per_second: Math.round(metrics.tokensPerSecond),
    peak_memory_bytes: metrics.peakMemoryBytes,
    ...(metrics.skipped ? { skipped: true } : {}),
  };
  return JSON.stringify(line);
}

/** All steps on record; none where the file is missing. */
export function readMetrics(path: string): StepMetrics[] {
  return recoverJsonLines<Line>(path).map((line) => ({
    step: line.step,
    epoch: line.epoch,
    loss: line.loss ?? Number.NaN,
    learningRate: line.learning_rate,
    gradNorm: line.grad_norm,
    tokens: line.tokens,
    selectedTokens: line.selected_tokens,
    tokensPerSecond: line.tokens_per_second,
    peakMemoryBytes: line.peak_memory_bytes,
    skipped: line.skipped === true,
  }));
}

export const appendMetrics = (path: string, metrics: StepMetrics): void =>
  appendLines(path, [toLine(metrics)]);

/** Forgets the steps after `step`: they are done again from the checkpoint. */
export function rewindMetrics(path: string, step: number): void {
  const steps = readMetrics(path);
  const kept = steps.filter((metrics) => metrics.step <= step);
  if (kept.length < steps.length) writeLinesAtomic(path, kept.map(toLine));
}
