/** One optimizer step as packed micro-batches whose weights already hold the normaliser. */
import type { NativeTrainBatch } from '../native/binding.js';
import type { ResolvedOptions } from '../options.js';
import type { TrainingExample } from './examples.js';

export type LossNormalization = ResolvedOptions<'train'>['lossNormalization'];

export interface StepBatches {
  /** Empty where no response of the step has a selected token. */
  batches: NativeTrainBatch[];
  /** Prompt and response tokens before pruning, of every response in the step. */
  tokens: number;
  /** N of the loss: selected tokens in the whole step. */
  selectedTokens: number;
}

export interface BatchLimits {
  /** Tokens per micro-batch; a longer sequence makes one of its own. */
  microBatchTokens: number;
  /** Sequences per micro-batch; no limit where absent. */
  microBatchSequences?: number | undefined;
}

/** Groups in the order of the batch. Responses without selected tokens count as sequences but bring no tokens. */
function group(examples: readonly TrainingExample[], limits: BatchLimits): TrainingExample[][] {
  const groups: TrainingExample[][] = [];
  let current: TrainingExample[] = [];
  let tokens = 0;
  for (const example of examples) {
    const length = example.tokenIds.length;
    const full =
      (tokens > 0 && tokens + length > limits.microBatchTokens) ||
      current.length === limits.microBatchSequences;
    if (full) {
      groups.push(current);
      current = [];
      tokens = 0;
    }
    current.push(example);
    tokens += length;
  }
  if (current.length > 0) groups.push(current);
  return groups;
}

const selectedOf = (examples: readonly TrainingExample[]): number =>
  examples.reduce((sum, example) => sum + example.selected.length, 0);

function pack(
  examples: readonly TrainingExample[],
  divisorOf: (example: TrainingExample) => number,
  step: number,
  firstToken: number,
): NativeTrainBatch {
  const tokens = examples.reduce((sum, example) => sum + example.tokenIds.length, 0);
  const count = selectedOf(examples);
  const batch: NativeTrainBatch = {
    tokenIds: new Int32Array(tokens),
    sequenceStarts: new Int32Array(examples.length + 1),
    selected: new Int32Array(count),
    targets: new Int32Array(count),
    weights: new Float32Array(count),
    dropoutCounter: step,
    firstToken,
  };
  let start = 0;
  let term = 0;
  for (const [index, example] of examples.entries()) {
    batch.tokenIds.set(example.tokenIds, start);
    batch.targets.set(example.targets, term);
    const divisor = divisorOf(example);
    for (let i = 0; i < example.selected.length; i++, term++) {
      batch.selected[term] = start + example.selected[i]!;
      batch.weights[term] = example.weights[i]! / divisor;
    }
    start += example.tokenIds.length;
    batch.sequenceStarts[index + 1] = start;
  }
  return batch;
}

/**
 * Packs one optimizer step. With `step` the normaliser is N of the whole step, so that 8x1 and 2x4 accumulation give
 * the same gradient; `sequence` is the mean over sequences of their means, `microbatch` the mean over micro-batches
 * of theirs (both over those that have a selected token).
 * @param step counts from 0. LoRA's dropout goes by it and by a token's number in the step, so that masks, too, do not depend
 *   on the size of the micro-batches.
 */
export function packStep(
  examples: readonly TrainingExample[],
  step: number,
  limits: BatchLimits,
  normalization: LossNormalization,
): StepBatches {
  const groups = group(examples, limits)
    .map((members) => members.filter((example) => example.selected.length > 0))
    .filter((members) => members.length > 0);
  const selectedTokens = selectedOf(examples);
  const sequences = groups.reduce((sum, members) => sum + members.length, 0);
  let firstToken = 0;
  const batches = groups.map((members) => {
    const divisorOf = (example: TrainingExample): number => {
      switch (normalization) {
        case 'step':
          return selectedTokens;
        case 'sequence':
          return sequences * example.selected.length;
        case 'microbatch':
          return groups.length * selectedOf(members);
      }
    };
    const batch = pack(members, divisorOf, step, firstToken);
    firstToken += batch.tokenIds.length;
    return batch;
  });
  return {
    batches,
    tokens: examples.reduce((sum, example) => sum + example.tokens, 0),
    selectedTokens,
  };
}

/** Packs examples for scoring; `weights` are those of the examples, one per selected position of the batch. */
export function packScoring(
  examples: readonly TrainingExample[],
  limits: BatchLimits,
): { batch: NativeTrainBatch; weights: number[] }[] {
  const withTerms = examples.filter((example) => example.selected.length > 0);
  return group(withTerms, limits).map((members) => ({
    batch: pack(members, () => 1, 0, 0),
    weights: members.flatMap((example) => [...example.weights]),
  }));
}
