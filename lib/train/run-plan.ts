/** A training run's plan from its model, options and examples: the same for every start of the run. */
import type { ModelConfig } from '../model/config.js';
import type { NativeInfo, NativeLoraOptions } from '../native/binding.js';
import { loraParameters } from './adapter.js';
import type { BatchSize } from './batch-size.js';
import type { TrainingExample } from './examples.js';
import { type MemorySettings, planMemory, planMicroBatch } from './memory-plan.js';

/** What of a run's options it depends on, by the names that they have there. */
export interface PlannedOptions {
  batch: BatchSize;
  microBatchTokens: number | 'auto';
  gradientCheckpointing: 'auto' | 'on' | 'off';
  moments: 'float32' | 'bfloat16';
  masterWeights: 'float32' | 'none';
  lora: NativeLoraOptions | undefined;
  /** Memory that others hold in this process meanwhile. */
  heldBytes?: number | undefined;
}

export interface RunPlan {
  /** Tokens that go through the model at once. */
  microBatchTokens: number;
  checkpoint: boolean;
  /** Predicted high-water mark of the process's memory while it trains; undefined on a GPU. */
  peakBytes: number | undefined;
}

/**
 * About how many rows `count` sequences have at most when common beginnings are one row: those of the ones that have
 * most beyond the sequence that is most like them.
 */
export function mostRows(examples: readonly Pick<TrainingExample, 'tokenIds'>[], count: number): number {
  const ownRows = (sorted: readonly Int32Array[]): number[] =>
    sorted.map((ids, i) => ids.length - (i === 0 ? 0 : commonLength(sorted[i - 1]!, ids)));
  const all = examples.map(({ tokenIds }) => tokenIds).sort(compareIds);
  const own = ownRows(all);
  const most = [...all.keys()].sort((a, b) => own[b]! - own[a]! || a - b).slice(0, count);
  return ownRows(most.sort((a, b) => a - b).map((i) => all[i]!)).reduce((sum, rows) => sum + rows, 0);
}

function commonLength(a: Int32Array, b: Int32Array): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i++;
  return i;
}

function compareIds(a: Int32Array, b: Int32Array): number {
  const i = commonLength(a, b);
  return (a[i] ?? -1) - (b[i] ?? -1);
}

export function planRun(
  model: {
    config: ModelConfig;
    device: string;
    dtype: 'float32' | 'bfloat16';
    parameterCount: number;
    addon: { info(): Pick<NativeInfo, 'ownProducts'> };
  },
  options: PlannedOptions,
  examples: readonly Pick<TrainingExample, 'tokenIds' | 'selected'>[],
): RunPlan {
  const { config, device, dtype, parameterCount: parameters } = model;
  const { batch, lora } = options;
  const { ownProducts } = model.addon.info();
  const settings: MemorySettings = {
    config,
    dtype,
    parameters,
    lora: lora && { parameters: loraParameters(config, lora) },
    widens: !ownProducts,
  };
  const lengths = Int32Array.from(examples, ({ tokenIds }) => tokenIds.length)
    .sort()
    .reverse();
  const longest = Math.max(1, lengths[0] ?? 1);
  const together = Math.min(batch.batchSize, batch.microBatchSequences ?? batch.batchSize);
  const fullest = lengths.subarray(0, together).reduce((sum, length) => sum + length, 0);
  // Shared beginnings are run once, but with dropout, whose masks differ (native/core/train/prefix_tree.h).
  const shares = device === 'cpu' && (lora === undefined || lora.dropout === 0);
  const rows = shares ? Math.min(fullest, mostRows(examples, together)) : fullest;
  const planned = planMicroBatch(settings, longest, device === 'cpu', options.gradientCheckpointing);
  const microBatchTokens =
    options.microBatchTokens === 'auto' ? planned.microBatchTokens : options.microBatchTokens;
  const { checkpoint } = planned;
  const tokens = examples.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  const selected = examples.reduce((sum, example) => sum + example.selected.length, 0);
  const packed = Math.min(microBatchTokens, fullest);
  const most = Math.max(longest, Math.ceil((packed * rows) / Math.max(1, fullest)));
  const { total } = planMemory({
    ...settings,
    microBatchTokens: most,
    selectedTokens: Math.ceil((most * selected) / Math.max(1, tokens)),
    checkpoint,
    bf16Moments: options.moments === 'bfloat16',
    masterWeights: options.masterWeights === 'float32',
  });
  return {
    microBatchTokens,
    checkpoint,
    peakBytes: device === 'cpu' ? total + (options.heldBytes ?? 0) : undefined,
  };
}
