/**
 * What crosses between `bench train` and its sides. Each side is a process of its own that gets the path of a job file,
 * says `ready` (or `absent`, see protocol.ts), trains when it reads a line, says what came of it, and ends when its
 * input does.
 */

/** A sequence and the positions whose NEXT token is trained, ascending; none is the last one. */
export interface TrainSequence {
  token_ids: number[];
  selected: number[];
}

/** The job file; snake_case because peers in Python read it. */
export interface TrainJob {
  /** Hugging Face folder (ours: or a name that loadModel knows). */
  model: string;
  /** Folder of a tokenizer, which TRL wants to see; nothing is tokenized. */
  tokenizer: string;
  device: string;
  /** float32, or bfloat16 with fp32 masters (peers: autocast over fp32 weights). */
  dtype: 'float32' | 'bfloat16';
  threads: number;
  batch_size: number;
  learning_rate: number;
  max_grad_norm: number;
  sequences: TrainSequence[];
  /** Indices of the sequences of each optimizer step. */
  steps: number[][];
}

/** In the order of the steps. */
export interface TrainReply {
  type: 'result';
  step_seconds: number[];
  losses: number[];
  /** On a GPU: the most of its memory that the process has held, blocks kept for later included. */
  device_bytes?: number;
  /** Ours: rows that went through the model, and what a plan said of the memory before the start. */
  rows?: number;
  planned_bytes?: number;
  /** Ours: tokens per second of the step's matrix products alone, at the rows of one pass, every token a row. */
  gemm_limit?: { tokens_per_second: number; rows: number; kernel: string };
}

/** Asked of our side before anything is measured: makes the sequences of a case. */
export interface TrainPrepareRequest {
  type: 'prepare';
  questions: { id: string; question: string; answer: string }[];
  system: string;
  userTemplate: string;
  maxNewTokens: number;
  /** Annotates, and selects the critical tokens of correct responses; otherwise every ended response counts. */
  annotate: boolean;
  /** File for a PreparedTraining. */
  results: string;
}

/** A response with its end token; `critical` indexes tokenIds, undefined where nothing was annotated. */
export interface PreparedResponse {
  promptTokens: number;
  tokenIds: number[];
  critical?: number[];
}
