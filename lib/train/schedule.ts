/** The learning rate of each optimizer step. */
import type { ResolvedOptions } from '../options.js';

export type ScheduleName = ResolvedOptions<'train'>['schedule'];

export interface Schedule {
  name: ScheduleName;
  /** The highest rate. */
  peak: number;
  warmupSteps: number;
  steps: number;
}

/** @param warmup share of the steps, or a number of them. */
export function makeSchedule(
  name: ScheduleName,
  peak: number,
  warmup: number | { steps: number },
  steps: number,
): Schedule {
  const warmupSteps = typeof warmup === 'number' ? Math.ceil(warmup * steps - 1e-9) : warmup.steps;
  return { name, peak, warmupSteps: Math.min(warmupSteps, steps), steps };
}

/**
 * Rate of step `step` (from 0): rises linearly to the peak, then falls to zero by cosine or line, or stays. The
 * first and the last step are never zero, so that each step counts [ours; transformers' first step has rate 0].
 */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { name, peak, warmupSteps, steps } = schedule;
  if (step < warmupSteps) return (peak * (step + 1)) / (warmupSteps + 1);
  const progress = (step - warmupSteps) / (steps - warmupSteps);
  switch (name) {
    case 'cosine':
      return peak * 0.5 * (1 + Math.cos(Math.PI * progress));
    case 'linear':
      return peak * (1 - progress);
    case 'constant':
      return peak;
  }
}
