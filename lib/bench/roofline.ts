/**
 * The roofline of a decode step: with so many rows it takes at least as long as reading weights, keys and values once,
 * and at least as long as its matrix products at the device's best rate. Attention's own products are left out.
 */
import type { ModelConfig } from '../model/config.js';
import type { JobRollout } from './protocol.js';

export interface StepCosts {
  /** Read in every step: all matrices, and the head once. */
  weightBytes: number;
  /** Of the matrix products, per row. */
  flopsPerRow: number;
  /** Keys and values of one position in all layers. */
  positionBytes: number;
}

/** @param parameterCount without a tied output matrix, as Model has it. */
export function stepCosts(config: ModelConfig, parameterCount: number, dtype: string): StepCosts {
  const bytes = dtype === 'float32' ? 4 : 2;
  const { vocabSize, hiddenSize, layers, kvHeads, headDim, tieWordEmbeddings } = config;
  // An embedding that is not the head, too, is only looked up.
  const multiplied = parameterCount - (tieWordEmbeddings ? 0 : vocabSize * hiddenSize);
  return {
    weightBytes: multiplied * bytes,
    flopsPerRow: 2 * multiplied,
    positionBytes: 2 * layers * kvHeads * headDim * bytes,
  };
}

/**
 * Tokens per second of a batch of `rows` at the roofline, for rollouts that took so many steps. Each row reads its own
 * suffix, half grown on average; the rows of a trunk share one reading of it.
 */
export function rooflineOf(
  { weightBytes, flopsPerRow, positionBytes }: StepCosts,
  { flopsPerSecond, bytesPerSecond }: { flopsPerSecond: number; bytesPerSecond: number },
  rollouts: readonly (Pick<JobRollout, 'trunk' | 'length'> & { steps: number })[],
  rows: number,
): number {
  let tokens = 0;
  let suffixes = 0;
  let prefixes = 0;
  for (const { length, steps } of rollouts) {
    tokens += steps;
    suffixes += (steps * (steps + 1)) / 2;
    prefixes += steps * length;
  }
  const trunks = new Set(rollouts.map(({ trunk }) => trunk)).size;
  const together = Math.min(rows, rollouts.length);
  const openTrunks = Math.max(1, (together * trunks) / rollouts.length);
  const positions = (together * suffixes + openTrunks * prefixes) / tokens;
  const reading = (weightBytes + positions * positionBytes) / bytesPerSecond;
  return together / Math.max(reading, (together * flopsPerRow) / flopsPerSecond);
}
