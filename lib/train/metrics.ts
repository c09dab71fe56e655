/** metrics.jsonl: one line per optimizer step, and lines of their own for validation and probe. */
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
  /** Of the step alone: validation, probe and checkpoints are outside of it. */
  tokensPerSecond: number;
  peakMemoryBytes: number;
  /** True where the gradient was not finite and the step was not applied. */
  skipped: boolean;
}

/** The strategy's own tokens of the held-out responses, after `step` steps (0: the model before training). */
export interface ValidationMetrics {
  step: number;
  epoch: number;
  /** Weighted mean negative log-likelihood, nats; NaN where it was not finite. */
  validationLoss: number;
  /** Share of the tokens that the model would have chosen itself (greedy). */
  validationAccuracy: number;
  validationTokens: number;
  seconds: number;
}

/** Critical and other response tokens of the probe, means over tokens, nats. */
export interface ProbeMetrics {
  step: number;
  epoch: number;
  criticalLoss: number;
  otherLoss: number;
  criticalEntropy: number;
  otherEntropy: number;
  criticalTokens: number;
  otherTokens: number;
  seconds: number;
}

export interface Metrics {
  steps: StepMetrics[];
  validations: ValidationMetrics[];
  probes: ProbeMetrics[];
}

interface StepLine {
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

interface ValidationLine {
  step: number;
  epoch: number;
  validation_loss: number | null;
  validation_accuracy: number;
  validation_tokens: number;
  seconds: number;
}

interface ProbeLine {
  step: number;
  epoch: number;
  critical_loss: number | null;
  other_loss: number | null;
  critical_entropy: number | null;
  other_entropy: number | null;
  critical_tokens: number;
  other_tokens: number;
  seconds: number;
}

type Line = StepLine | ValidationLine | ProbeLine;

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
const number = (value: number | null): number => value ?? Number.NaN;

function stepLine(metrics: StepMetrics): StepLine {
  return {
    step: metrics.step,
    epoch: rounded(metrics.epoch, 4),
    loss: finite(metrics.loss),
    learning_rate: metrics.learningRate,
    grad_norm: metrics.gradNorm,
    tokens: metrics.tokens,
    selected_tokens: metrics.selectedTokens,
    tokens_per_second: Number(metrics.tokensPerSecond.toPrecision(4)),
    peak_memory_bytes: metrics.peakMemoryBytes,
    ...(metrics.skipped ? { skipped: true } : {}),
  };
}

const readStep = (line: StepLine): StepMetrics => ({
  step: line.step,
  epoch: line.epoch,
  loss: number(line.loss),
  learningRate: line.learning_rate,
  gradNorm: line.grad_norm,
  tokens: line.tokens,
  selectedTokens: line.selected_tokens,
  tokensPerSecond: line.tokens_per_second,
  peakMemoryBytes: line.peak_memory_bytes,
  skipped: line.skipped === true,
});

const readValidation = (line: ValidationLine): ValidationMetrics => ({
  step: line.step,
  epoch: line.epoch,
  validationLoss: number(line.validation_loss),
  validationAccuracy: line.validation_accuracy,
  validationTokens: line.validation_tokens,
  seconds: line.seconds,
});

const readProbe = (line: ProbeLine): ProbeMetrics => ({
  step: line.step,
  epoch: line.epoch,
  criticalLoss: number(line.critical_loss),
  otherLoss: number(line.other_loss),
  criticalEntropy: number(line.critical_entropy),
  otherEntropy: number(line.other_entropy),
  criticalTokens: line.critical_tokens,
  otherTokens: line.other_tokens,
  seconds: line.seconds,
});

/** All lines on record, by kind; none where the file is missing. */
export function readAllMetrics(path: string): Metrics {
  const metrics: Metrics = { steps: [], validations: [], probes: [] };
  for (const line of recoverJsonLines<Line>(path)) {
    if ('validation_loss' in line) metrics.validations.push(readValidation(line));
    else if ('critical_loss' in line) metrics.probes.push(readProbe(line));
    else metrics.steps.push(readStep(line));
  }
  return metrics;
}

/** All steps on record; none where the file is missing. */
export const readMetrics = (path: string): StepMetrics[] => readAllMetrics(path).steps;

const append = (path: string, line: Line): void => appendLines(path, [JSON.stringify(line)]);

export const appendMetrics = (path: string, metrics: StepMetrics): void => append(path, stepLine(metrics));

export const appendValidation = (path: string, metrics: ValidationMetrics): void =>
  append(path, {
    step: metrics.step,
    epoch: rounded(metrics.epoch, 4),
    validation_loss: finite(metrics.validationLoss),
    validation_accuracy: rounded(metrics.validationAccuracy, 6),
    validation_tokens: metrics.validationTokens,
    seconds: rounded(metrics.seconds, 3),
  });

export const appendProbe = (path: string, metrics: ProbeMetrics): void =>
  append(path, {
    step: metrics.step,
    epoch: rounded(metrics.epoch, 4),
    critical_loss: finite(metrics.criticalLoss),
    other_loss: finite(metrics.otherLoss),
    critical_entropy: finite(metrics.criticalEntropy),
    other_entropy: finite(metrics.otherEntropy),
    critical_tokens: metrics.criticalTokens,
    other_tokens: metrics.otherTokens,
    seconds: rounded(metrics.seconds, 3),
  });

/** The last step of each kind of line that a checkpoint knows of; -1 where there is none. */
export interface Recorded {
  step: number;
  validated: number;
  probed: number;
}

/** Forgets what came after a checkpoint: it is done again from there. */
export function rewindMetrics(path: string, { step, validated, probed }: Recorded): void {
  const lines = recoverJsonLines<Line>(path);
  const kept = lines.filter((line) => {
    if ('validation_loss' in line) return line.step <= validated;
    return line.step <= ('critical_loss' in line ? probed : step);
  });
  if (kept.length < lines.length) {
    writeLinesAtomic(
      path,
      kept.map((line) => JSON.stringify(line)),
    );
  }
}
