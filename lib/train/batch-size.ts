/** Sequences per optimizer step, also for those who think in transformers' two factors. */
import { CftError } from '../errors.js';
import type { GivenOptions } from '../options.js';

export interface BatchSize {
  batchSize: number;
  /** Sequences per micro-batch; absent where only tokens limit it. */
  microBatchSequences?: number;
}

/**
 * batchSize = perDeviceTrainBatchSize x gradientAccumulationSteps. Of the three any two make the third; the per-device
 * size alone is the batch size, as in transformers, and accumulation alone divides the default.
 * @param given what the user gave, checked one by one.
 * @throws CftError ERR_CFT_BAD_OPTION where they contradict each other.
 */
export function resolveBatchSize(given: GivenOptions<'train'>, defaultSize: number): BatchSize {
  const { perDeviceTrainBatchSize: perDevice, gradientAccumulationSteps: accumulation } = given;
  if (perDevice === undefined && accumulation === undefined)
    return { batchSize: given.batchSize ?? defaultSize };
  if (perDevice === undefined) {
    const batchSize = given.batchSize ?? defaultSize;
    const sequences = batchSize / accumulation!;
    if (!Number.isInteger(sequences)) {
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `gradientAccumulationSteps (--gradient-accumulation-steps): expected a divisor of the batch size ` +
          `${batchSize}, found ${accumulation}`,
      );
    }
    return { batchSize, microBatchSequences: sequences };
  }
  const product = accumulation === undefined ? (given.batchSize ?? perDevice) : perDevice * accumulation;
  if (product % perDevice !== 0 || (given.batchSize !== undefined && given.batchSize !== product)) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `batchSize (--batch-size): expected ${accumulation === undefined ? `a multiple of ${perDevice}` : product}` +
        ` (perDeviceTrainBatchSize x gradientAccumulationSteps), found ${given.batchSize}`,
    );
  }
  return { batchSize: product, microBatchSequences: perDevice };
}
