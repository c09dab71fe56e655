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
  /** A bf16 weight is widened to fp32 as a whole while it is used: where products are libtorch's. */
  widens: boolean;
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
  const widens = half && request.widens;
  const weights = parameters * (half ? 2 : 4);
  const moments = request.bf16Moments ? 4 : 8;
  const optimizer = lora
    ? lora.parameters * (8 + moments)
    : parameters * (4 + moments + (half && request.masterWeights ? 4 : 0));
  const kept = keptValues(config);
  const perToken = checkpoint ? config.layers * config.hiddenSize + kept : config.layers * kept;
  const activations = 4 * microBatchTokens * perToken;
  const selected = Math.min(request.selectedTokens, Math.max(64, Math.floor(chunkLogits / config.vocabSize)));
  const head = 4 * selected * config.vocabSize + (widens ? 4 * config.vocabSize * config.hiddenSize : 0);
  const layer = 4 * microBatchTokens * passingValues(config);
  const widened = widens ? 4 * 2 * config.intermediateSize * config.hiddenSize : 0;
  const temporary = Math.max(head, layer + widened);
  const runtime = runtimeBytes + Math.min(mostKeptBytes, (activations + temporary) / 2);
  const total = weights + optimizer + activations + temporary + runtime;
  return { weights, optimizer, activations, temporary, runtime, total };
}

/** Fewer rows waste matrix products, more gain nothing. */
const fewestTokens = 512;
const mostTokens = 4096;

/** What a GPU gives activations and logits; a batch that does not fit all the same is run in parts. */
const gpuBytes = 16e9;

/** Logits of a chunk of selected positions at most, on a GPU (native/core/train/loss.cc): rows, and values. */
const gpuChunk = { rows: 1024, logits: 2 ** 26 };

/**
 * Bytes per token that autograd keeps on a GPU, counted, not measured: per layer its input, the two normed ones and the sum
 * between attention and MLP; queries and attention's output twice, keys and values as often (fp32 spreads them over the
 * query heads); gate, up and their product.
 */
function gpuBytesPerToken({ config, dtype }: MemorySettings, checkpoint: boolean): number {
  const { layers, hiddenSize, intermediateSize, heads, headDim } = config;
  const layer = 6 * hiddenSize + 5 * heads * headDim + 3 * intermediateSize;
  const values = checkpoint ? layers * hiddenSize + layer : layers * layer;
  return (dtype === 'bfloat16' ? 2 : 4) * values;
}

/**
 * Tokens per micro-batch: as many as keep the activations below a fifth of what weights and optimizer take anyway, or
 * 300 MB, within bounds. Depends on model, settings and the longest sequence alone, so that a resumed run packs alike
 * whatever it says about checkpointing. That is done, where it is left to us, if a single sequence needs more than all the
 * rest.
 */
export function planMicroBatch(
  settings: MemorySettings,
  longestSequence: number,
  onCpu = true,
  checkpointing: 'auto' | 'on' | 'off' = 'auto',
): { microBatchTokens: number; checkpoint: boolean } {
  const { vocabSize } = settings.config;
  const choose = (needed: boolean): boolean => (checkpointing === 'auto' ? needed : checkpointing === 'on');
  if (!onCpu) {
    // fp32 logits, and their gradients in the model's dtype.
    const logits = Math.min(gpuChunk.rows * vocabSize, gpuChunk.logits);
    const left = gpuBytes - logits * (settings.dtype === 'bfloat16' ? 6 : 4);
    const needed = longestSequence * gpuBytesPerToken(settings, false) > left;
    const fitting = Math.floor(left / gpuBytesPerToken(settings, needed));
    return { microBatchTokens: Math.max(256, Math.min(16_384, fitting)), checkpoint: choose(needed) };
  }
  const common = { ...settings, selectedTokens: 0, bf16Moments: false, masterWeights: true };
  const one = planMemory({ ...common, microBatchTokens: 1, checkpoint: false });
  const fixed = one.weights + one.optimizer;
  const tokensWithin = (bytes: number, checkpoint: boolean): number =>
    Math.floor(bytes / planMemory({ ...common, microBatchTokens: 1, checkpoint }).activations);
  const most = Math.max(fixed + 1e9, 2e9);
  const needed = longestSequence > tokensWithin(most, false);
  const wanted = tokensWithin(Math.max(fixed / 5, 300e6), needed);
  return {
    microBatchTokens: Math.max(fewestTokens, Math.min(mostTokens, wanted)),
    checkpoint: choose(needed),
  };
}
