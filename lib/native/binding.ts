/**
 * The typed seam: everything the addon exports, in one file. JavaScript decides what to do next; each native call is
 * one bounded piece of tensor work. Data crosses as typed arrays and plain structs and is copied once. Every method
 * that returns a promise runs on the process's one compute thread, in the order of the calls; the others take less
 * than a millisecond. Native errors arrive as CftError (the loader converts them, see loader.ts).
 *
 * Shapes: T tokens of one sequence, N tokens of a packed batch, M selected tokens, V vocabulary, k alternatives.
 */

export interface NativeInfo {
  /** Version of the libtorch that was loaded, e.g. "2.13.0". */
  libtorch: string;
  /** Version of the libtorch that the addon was built against. */
  builtAgainst: string;
  flavour: 'cpu' | 'cuda';
  /** CPU capability that ATen chose: "DEFAULT", "AVX2", "AVX512". */
  cpuCapability: string;
  /** Instruction set of our own kernels: "generic", "avx2", "avx512"; CFT_CPU_KERNELS chooses another. */
  cpuKernels: string;
  /** True where the CPU multiplies bf16 matrices in hardware (AVX512_BF16 or AMX). */
  fastBfloat16: boolean;
  /** Whether training's fp32 products on the CPU are our own, from bf16 weights as they are, or libtorch's. */
  ownProducts: boolean;
  threads: number;
}

export interface NativeCudaDevice {
  index: number;
  name: string;
  totalBytes: number;
  /** e.g. "9.0". */
  computeCapability: string;
}

/** One tensor in a safetensors file. TypeScript parsed and checked the header; native maps `file` read-only. */
export interface NativeTensorEntry {
  name: string;
  file: string;
  dtype: 'F32' | 'F16' | 'BF16';
  shape: number[];
  /** From the start of the file, in bytes. */
  offset: number;
  byteLength: number;
}

/** Rotary embedding of a group of layers: angle = position * inverseFrequencies[i], result times `scale`. */
export interface NativeRope {
  /** headDim / 2 values. */
  inverseFrequencies: Float32Array;
  /** Attention factor of yarn; 1 otherwise. */
  scale: number;
}

/** Structural facts of a decoder, read off config.json by lib/model/config.ts. */
export interface NativeModelConfig {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  rmsNormEps: number;
  tieWordEmbeddings: boolean;
  /** Bias on q, k and v projections. */
  qkvBias: boolean;
  /** Bias on the attention's output projection. */
  outputBias: boolean;
  /** Bias on gate, up and down projections. */
  mlpBias: boolean;
  /** RMSNorm on queries and keys: per head (Qwen3), over the whole projection (OLMo2, OLMo3), or none. */
  qkNorm: 'none' | 'head' | 'projection';
  /** Norms before attention and MLP (Llama, Qwen, Mistral), or after them, before the residual add (OLMo2, OLMo3). */
  normPlacement: 'pre' | 'post';
  maxPositions: number;
  ropes: NativeRope[];
  /** Index into `ropes` per layer. */
  ropeOfLayer: Int32Array;
  /** Sliding window per layer in tokens (a query sees itself and window - 1 before it); 0 = full attention. */
  windowOfLayer: Int32Array;
}

/** What loadModel needs: facts, tensors and where they go; an adapter is merged: W += scale * B A. */
export interface NativeModelSpec {
  config: NativeModelConfig;
  tensors: NativeTensorEntry[];
  device: string; // 'cpu' | 'cuda:N'
  dtype: 'float32' | 'bfloat16';
  /** PEFT adapter to merge into the weights while loading; absent for a full model. */
  adapter?: { tensors: NativeTensorEntry[]; scale: number };
}

export interface NativeLogits {
  data: Float32Array; // [T * V]
  shape: [number, number];
}

export interface NativeModel {
  readonly parameterCount: number;
  /** Bytes of the weights on the device. */
  readonly weightBytes: number;
  readonly device: string;
  readonly dtype: 'float32' | 'bfloat16';
  /** Grows whenever training changes the weights; engines drop what they derived from older ones. */
  readonly weightVersion: number;
  /** Logits at every position of one sequence, fp32. */
  logits(tokenIds: Int32Array): Promise<NativeLogits>;
  /** logProbs[i] = log p(ids[i+1] | ids[..i]) and entropies[i] of that distribution in nats; T - 1 of each. */
  scores(tokenIds: Int32Array): Promise<{ logProbs: Float32Array; entropies: Float32Array }>;
  /** Tokens per second of a training step's matrix products alone, forward and backward, `headRows` of the rows
   * through the head: the limit of full fine-tuning without shared prefixes. */
  trainGemmLimit(rows: number, headRows: number): Promise<{ tokensPerSecond: number; kernel: string }>;
  /**
   * Tokens per second that the matrix products of a decode step alone would allow with so many rows: all layers'
   * weights once per step, the head included. Takes about half a second.
   */
  gemmLimit(rows: number): Promise<{ tokensPerSecond: number; steps: number; kernel: string }>;
  /** What the device does at best: products of large matrices in the model's dtype, copies of memory. About a second. */
  deviceLimits(): Promise<{ flopsPerSecond: number; bytesPerSecond: number }>;
  /** The most bytes of a GPU's memory that this process has held, blocks kept for later included; 0 on a CPU. */
  peakDeviceBytes(): number;
  /** Hugging Face names of all weights in a fixed order, without a tied lm_head. */
  tensorNames(): string[];
  /** Shape of a weight by its name. */
  tensorShape(name: string): number[];
  /** Writes the named weights to a safetensors file atomically, in the model's dtype. Returns bytes written. */
  saveTensors(path: string, names: string[]): Promise<number>;
  /** Frees the weights once engines and trainers on them are gone; later calls reject with ERR_CFT_DISPOSED. */
  dispose(): void;
}

export interface NativeRolloutEngineOptions {
  /** Most branches decoded together; the engine shrinks its batch under memory pressure by itself. */
  maxBranches: number;
  /** A branch ends when it produces one of these. */
  endTokenIds: Int32Array;
  /** Budget for keys and values; 0 or absent: planned from what is free. */
  memoryBytes?: number;
}

/** A prefix whose KV is computed once. */
export interface NativeTrunkSpec {
  tokenIds: Int32Array; // [T], at least one token
  /**
   * First position whose distribution is wanted: for i in [scoreFrom, T), logProbs and alternatives describe the
   * prediction OF tokenIds[i]. T for none; at least 1.
   */
  scoreFrom: number;
  /** Alternatives per scored position (most probable tokens other than the trunk's own). */
  alternatives: number;
}

export interface NativeTrunk {
  trunk: number;
  /** [T - scoreFrom], natural logarithm, fp32. */
  logProbs: Float32Array;
  /** [(T - scoreFrom) * k], most probable first, never the trunk's own token. */
  alternativeIds: Int32Array;
  /** [(T - scoreFrom) * k] */
  alternativeLogProbs: Float32Array;
}

/** One continuation to decode from a trunk. */
export interface NativeBranch {
  /** Chosen by the caller, comes back in the result; unique among the branches that are not finished. */
  id: number;
  trunk: number;
  /** Trunk tokens that the branch keeps, 1..T. */
  length: number;
  /** Tokens put after the prefix before decoding starts (counterfactual: the alternative). May be empty. */
  forcedTokens: Int32Array;
  /** Most tokens to decode after the forced ones; the end token counts. 0 finishes at once as 'length'. */
  maxNewTokens: number;
  /** 0 = greedy. */
  temperature: number;
  /** Nucleus, 1 = off. Ignored when greedy. */
  topP: number;
  /** Sampling depends on (seed, position in the sequence) alone, whatever else is in the batch. Up to 2^53. */
  seed: number;
  /** The engine may verify what the trunk or its branches said before as a draft (greedy only, same result). */
  draft?: boolean;
  /** Entropies of its tokens are wanted; on CUDA there are none. */
  entropy?: boolean;
  /** Waiting branches with the lowest number enter first, equal ones in the order of submission; default 0. */
  priority?: number;
}

export interface NativeBranchResult {
  id: number;
  /** Decoded tokens after the forced ones, without the end token. */
  tokenIds: Int32Array;
  /** The end token that was decoded, -1 when the budget ran out. */
  endTokenId: number;
}

export interface NativeStepResult {
  finished: NativeBranchResult[];
  /** Tokens decoded in this call, branch by branch in decoding order (for streaming); end tokens excluded. */
  tokens: {
    branchIds: Float64Array;
    tokenIds: Int32Array;
    /** Of the distribution before temperature, nats; NaN where it was not asked for. */
    entropies?: Float32Array;
  };
  /** Branches in the batch and branches that wait, after this call. */
  active: number;
  waiting: number;
  /** Tokens decoded by this call, end tokens excluded. */
  decodedTokens: number;
  /** Counters of this call: draft tokens tried and accepted, rows through the model, decode steps. */
  draftedTokens?: number;
  acceptedTokens?: number;
  forwardRows?: number;
  steps?: number;
}

export interface NativeRolloutEngine {
  /** Prefills a prefix and keeps its KV until releaseTrunk. */
  addTrunk(spec: NativeTrunkSpec): Promise<NativeTrunk>;
  /** Queues branches; they enter the batch by priority, then in this order, as slots become free. */
  submit(branches: NativeBranch[]): void;
  /** Decodes at most maxSteps tokens per active branch; returns early when the first branches finish. */
  step(maxSteps: number): Promise<NativeStepResult>;
  /** Forgets branches, waiting or active; they give no result. */
  cancel(branchIds: number[]): void;
  /** Frees the trunk's KV once no branch uses it. */
  releaseTrunk(trunk: number): void;
  /** Makes a step that is under way stop at the next token; its promise resolves with what it has. */
  interrupt(): void;
  dispose(): void;
}

export interface NativeLoraOptions {
  rank: number;
  alpha: number;
  dropout: number;
  /** Module names, e.g. "q_proj", "gate_proj" (matched as PEFT does: the last part of the module path). */
  targets: string[];
  /** scale = alpha / sqrt(rank) instead of alpha / rank. */
  rankStabilized: boolean;
}

export interface NativeTrainerOptions {
  /** Full fine-tuning where absent. */
  lora?: NativeLoraOptions;
  /** fp32 master copies of bf16 weights; ignored where the weights are fp32. */
  masterWeights: boolean;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Clip to this global norm; 0 = no clipping. */
  maxGradNorm: number;
  /** For LoRA's initialisation and dropout, and for stochastic rounding. */
  seed: number;
  /** Moments in bf16, rounded stochastically; default false. */
  bf16Moments?: boolean;
  /** Keep the layers' inputs alone and run each layer again in the backward; default false. */
  checkpoint?: boolean;
}

/** Packed sequences without padding: sequence s is tokenIds[sequenceStarts[s] .. sequenceStarts[s + 1]). */
export interface NativeTrainBatch {
  tokenIds: Int32Array; // [N]
  sequenceStarts: Int32Array; // [S + 1], first 0, last N
  /** Packed index of the position whose NEXT token is trained, ascending. */
  selected: Int32Array; // [M]
  /** The token to predict there. */
  targets: Int32Array; // [M]
  /** Weight of each loss term, already divided by the normaliser; loss = sum(weight * nll). */
  weights: Float32Array; // [M]
  /** Counter for LoRA dropout: of the step. */
  dropoutCounter: number;
  /**
   * Of the first token in the step, so that dropout does not depend on how a step is packed; default 0. Counts tokens that
   * are run: sequences must end with their last selected position.
   */
  firstToken?: number;
}

export interface NativeBatchScores {
  nll: Float32Array; // [M], fp32
  entropies: Float32Array; // [M], nats
  /** 1 where the target is the model's most probable token, else 0. */
  correct: Float32Array; // [M]
}

export interface NativeTrainer {
  /** Trained parameters. */
  readonly trainableParameters: number;
  /** Parts that each batch is run in: above 1 once memory did not suffice for it as a whole. */
  readonly parts?: number;
  /** Adds the gradients of one micro-batch; resolves with sum(weight * nll). A batch with M = 0 does nothing. */
  accumulate(batch: NativeTrainBatch): Promise<number>;
  /**
   * One optimizer update from the accumulated gradients (zero where none), which it clears. `applied` is false when
   * a gradient was not finite: nothing changed then.
   */
  step(learningRate: number): Promise<{ gradNorm: number; applied: boolean }>;
  /** Forward only. */
  score(batch: NativeTrainBatch): Promise<NativeBatchScores>;
  /** Gradients so far by Hugging Face weight name (LoRA: PEFT name); for tests. */
  gradient(name: string): Promise<Float32Array>;
  parameterNames(): string[];
  /** Writes trained parameters, masters, moments and the step count to one safetensors file, atomically. */
  saveState(path: string): Promise<void>;
  /** Restores what saveState wrote; rejects a file of another configuration with ERR_CFT_BAD_DATA. */
  loadState(entries: NativeTensorEntry[]): Promise<void>;
  /** LoRA: writes the adapter's tensors under PEFT's names (adapter_model.safetensors). */
  saveAdapter(path: string): Promise<void>;
  dispose(): void;
}

export interface NativeAddon {
  info(): NativeInfo;
  cudaDevices(): NativeCudaDevice[];
  /** Threads of libtorch's intra-op pool; before the first work. */
  setThreads(count: number): void;
  /** High-water mark of this process's resident memory, in bytes. */
  peakMemoryBytes(): number;
  loadModel(spec: NativeModelSpec): Promise<NativeModel>;
  createRolloutEngine(model: NativeModel, options: NativeRolloutEngineOptions): NativeRolloutEngine;
  createTrainer(model: NativeModel, options: NativeTrainerOptions): Promise<NativeTrainer>;
}
