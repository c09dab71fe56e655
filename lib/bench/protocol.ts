/**
 * What crosses between the harness and the sides that it measures. Each side is a process of its own, so that its
 * memory can be told, and stays alive for all repeats, so that loading is counted once. It gets the path of a job file,
 * says `ready` (or `absent`), and then answers one line of JSON per line of JSON that it reads.
 */
import type { StepCosts } from './roofline.js';

/** One continuation: `trunks[trunk][0 .. length)`, then the forced token, then up to maxNewTokens greedy tokens. */
export interface JobRollout {
  trunk: number;
  length: number;
  forced_token: number;
  max_new_tokens: number;
}

/** The job file. Names are snake_case because peers in other languages read it. */
export interface Job {
  /** Hugging Face folder. */
  model: string;
  /** For peers that read no Hugging Face folder. */
  gguf?: string | undefined;
  device: string;
  dtype: 'auto' | 'float32' | 'bfloat16';
  threads: number;
  /** A rollout ends with one of these; empty where lengths are fixed. */
  end_token_ids: number[];
  trunks: number[][];
  rollouts: JobRollout[];
  /** Branches that our engine decodes together. */
  max_concurrency: number | 'auto';
}

/** What a side says first. */
export type Greeting =
  | {
      type: 'ready';
      /** What the figures depend on, e.g. { torch: '2.13.0', transformers: '5.18.0' }. */
      versions: Record<string, string>;
      /** Of weights and arithmetic, as the side calls it: float32, bfloat16, F16, Q4_1. */
      dtype: string;
      /** How the side was used: batch size, number of sequences. */
      setting: string;
      /** From the start of loading to the first token that could be decoded. */
      load_seconds: number;
    }
  | { type: 'absent'; reason: string };

/**
 * `run` decodes the first `count` rollouts and writes `[[token, ...], endTokenId]` per rollout to `results`, in the
 * job's order; the end token is -1 where the budget ran out, and not among the tokens.
 */
export interface RunRequest {
  type: 'run';
  count: number;
  results: string;
}

/** `seconds` is the decoding alone, without writing the results. */
export interface RunReply {
  type: 'result';
  seconds: number;
}

export type RolloutResult = [tokenIds: number[], endTokenId: number];

/** Our side also prepares cases, annotates through the public function, and times matrix products. */
export interface PrepareRequest {
  type: 'prepare';
  questions: { id: string; question: string; answer: string }[];
  system: string;
  userTemplate: string;
  /** Budget of a trunk. */
  trunkTokens: number;
  /** File that the responses are written to, as a PreparedCase. */
  results: string;
}

/** A correct response whose counterfactuals are measured. */
export interface CaseResponse {
  id: string;
  question: string;
  answer: string;
  promptTokens: number;
  /** Prompt and response, without the end token. */
  tokenIds: number[];
  /** Ranks 2 and 3 at each position. */
  alternatives: { position: number; rank: number; tokenId: number }[];
}

export interface PreparedCase {
  responses: CaseResponse[];
  endTokenIds: number[];
}

export interface AnnotateRequest {
  type: 'annotate';
  questions: { id: string; question: string; answer: string }[];
  system: string;
  userTemplate: string;
  maxNewTokens: number;
}

export interface AnnotateReply {
  type: 'annotated';
  /** From the loaded model to the last verdict. */
  seconds: number;
  responses: number;
  decodedTokens: number;
  rolloutsSaved: number;
  p2: number;
}

/** What the device does at best, and what a step of this model costs. */
export interface LimitsRequest {
  type: 'limits';
}

export interface LimitsReply {
  type: 'limits';
  flopsPerSecond: number;
  bytesPerSecond: number;
  costs: StepCosts;
}

export interface GemmRequest {
  type: 'gemm';
  rows: number;
}

export interface GemmReply {
  type: 'gemm';
  tokensPerSecond: number;
  /** Whose matrix product. */
  kernel: string;
}
