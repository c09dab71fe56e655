/** metrics.jsonl: one line per optimizer step. */
import { existsSync, readFileSync } from 'node:fs';
import { appendLines, writeFileAtomic } from '../files.js';

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

function toLine(metrics: StepMetrics): string {
  return JSON.stringify({
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
  });
}

function fromLine(line: string): StepMetrics | undefined {
  try {
    const value = JSON.parse(line) as Record<string, unknown>;
    if (typeof value.step !== 'number') return undefined;
    return {
      step: value.step,
      epoch: value.epoch as number,
      loss: (value.loss as number | null) ?? Number.NaN,
      learningRate: value.learning_rate as number,
      gradNorm: value.grad_norm as number | null,
      tokens: value.tokens as number,
      selectedTokens: value.selected_tokens as number,
      tokensPerSecond: value.tokens_per_second as number,
      peakMemoryBytes: value.peak_memory_bytes as number,
      skipped: value.skipped === true,
    };
  } catch {
    return undefined; // a torn last line
  }
}

export function readMetrics(path: string): StepMetrics[] {
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').split('\n');
  return lines.map(fromLine).filter((metrics) => metrics !== undefined);
}

export const appendMetrics = (path: string, metrics: StepMetrics): void =>
  appendLines(path, [toLine(metrics)]);

/** Forgets the steps after `step`: they are done again from the checkpoint. */
export function rewindMetrics(path: string, step: number): void {
  if (!existsSync(path)) return;
  const lines = readMetrics(path).filter((metrics) => metrics.step <= step);
  writeFileAtomic(path, lines.map((metrics) => `${toLine(metrics)}\n`).join(''));
}
