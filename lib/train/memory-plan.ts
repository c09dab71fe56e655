/** What a training run will need in memory, before it starts, and how many tokens go through the model at once. */
import type { ModelConfig } from '../model/config.js';

export interface MemorySettings {
  config: Pick<
    ModelConfig,
    | 'vocabSize'
    | 'hiddenSize'
    | 'intermediateSize'
    | 'layers'
    | 'heads'
    | 'kvHeads'
    | 'headDim'
    | 'tieWordEmbeddings'
    | 'qkNorm'
    | 'normPlacement'
  >;
  dtype: 'float32' | 'bfloat16';
  parameters: number;
  /** Parameters of the adapter; undefined for full fine-tuning. */
  lora: { parameters: number } | undefined;
}

export interface MemoryRequest extends MemorySettings {
  /** Tokens that go through the model at once, the longest sequence at least. */
  microBatchTokens: number;
  /** Selected ones among them. */
  selectedTokens: number;
  /** The layers' inputs alone are kept, and each layer runs again in the backward. */
  checkpoint: boolean;
  bf16Moments: boolean;
  masterWeights: boolean;
}

/** Bytes. */
export interface MemoryPlan {
  weights: number;
  /** Gradients, masters and moments of what is trained. */
  optimizer: number;
  activations: number;
  /** Logits of a chunk, widened weights, what a layer's backward needs for a while. */
  temporary: number;
  /** Node.js, libtorch and its buffers. */
  runtime: number;
  total: number;
}

/** Measured: node and libtorch after loading a small model (docs/decisions/0008). */
const runtimeBytes = 190e6;

/** Measured: freed buffers that the allocator keeps, up to half of what was ever in use. */
const mostKeptBytes = 120e6;

/** Logits of a chunk of selected positions at most (native/core/train/loss.cc). */
const chunkLogits = 2 ** 24;

/** Values per token of one layer that wait for the backward (native/core/train/body.h, Tape). */
function keptValues({
  hiddenSize,
  intermediateSize,
  heads,
  kvHeads,
  headDim,
  qkNorm,
  normPlacement,
}: MemorySettings['config']): number {
  const queries = heads * headDim;
  const normedHeads =
    qkNorm === 'none' ? 0 : (heads + kvHeads) * headDim + (qkNorm === 'head' ? heads + kvHeads : 2);
  // Post-norm keeps what attention and MLP gave before their norms.
  const normed = normedHeads + (normPlacement === 'post' ? 2 * hiddenSize : 0);
  // Input, q k v, attention's output and its log-sums, the sum between attention and MLP, gate and up, two norms.
  return (
    hiddenSize +
    (queries + 2 * kvHeads * headDim) +
    queries +
    heads +
    hiddenSize +
    2 * intermediateSize +
    2 +
    normed
  );
}

/** Values per token that a layer's backward holds beside: gradients of its parts, its inputs made again. */
function passingValues({
  hiddenSize,
  intermediateSize,
  heads,
  kvHeads,
  headDim,
}: MemorySettings['config']): number {
  return Math.max(intermediateSize + 4 * hiddenSize, 2 * (heads + kvHeads) * headDim + 4 * hiddenSize);
}

export function planMemory(request: MemoryRequest): MemoryPlan {
  const { config, dtype, parameters, lora, microBatchTokens, checkpoint } = request;
  const half = dtype === 'bfloat16';
  const weights = parameters * (half ? 2 : 4);
  const moments = request.bf16Moments ? 4 : 8;
  const optimizer = lora
    ? lora.parameters * (8 + moments)
    : parameters * (4 + moments + (half && request.masterWeights ? 4 : 0));
  const kept = keptValues(config);
  const perToken = checkpoint ? config.layers * config.hiddenSize + kept : config.layers * kept;
  const activations = 4 * microBatchTokens * perToken;
  const selected = Math.min(request.selectedTokens, Math.max(64, Math.floor(chunkLogits / config.vocabSize)));
  const head = 4 * selected * config.vocabSize + (half ? 4 * config.vocabSize * config.hiddenSize : 0);
  const layer = 4 * microBatchTokens * passingValues(config);
  const widened = half ? 4 * 2 * config.intermediateSize * config.hiddenSize : 0;
  const temporary = Math.max(head, layer + widened);
  const runtime = runtimeBytes + Math.min(mostKeptBytes, (activations + temporary) / 2);
  const total = weights + optimizer + activations + temporary + runtime;
  return { weights, optimizer, activations, temporary, runtime, total };
}

/** Fewer rows waste matrix products, more gain nothing. */
const fewestTokens = 512;
const mostTokens = 4096;

/**
 * Tokens per micro-batch: as many as keep the activations below a fifth of what weights and optimizer take anyway, or
 * 300 MB, within bounds. Depends on model, settings and the longest sequence alone, so that a resumed run packs alike.
 * Checkpointing where a single sequence needs more than all the rest.
 */
export function planMicroBatch(
  settings: MemorySettings,
  longestSequence: number,
  onCpu = true,
): { microBatchTokens: number; checkpoint: boolean } {
  const { config } = settings;
  if (!onCpu) {
    // Autograd keeps about 16 rows of the hidden and 5 of the intermediate size per token and layer, fp32.
    const perToken = 4 * config.layers * (16 * config.hiddenSize + 5 * config.intermediateSize);
    return {
      microBatchTokens: Math.max(256, Math.min(16_384, Math.floor(16e9 / perToken))),
      checkpoint: false,
    };
  }
  const common = { ...settings, selectedTokens: 0, bf16Moments: false, masterWeights: true };
  const one = planMemory({ ...common, microBatchTokens: 1, checkpoint: false });
  const fixed = one.weights + one.optimizer;
  const tokensWithin = (bytes: number, checkpoint: boolean): number =>
    Math.floor(bytes / planMemory({ ...common, microBatchTokens: 1, checkpoint }).activations);
  const most = Math.max(fixed + 1e9, 2e9);
  const checkpoint = longestSequence > tokensWithin(most, false);
  const wanted = tokensWithin(Math.max(fixed / 5, 300e6), checkpoint);
  return { microBatchTokens: Math.max(fewestTokens, Math.min(mostTokens, wanted)), checkpoint };
}
