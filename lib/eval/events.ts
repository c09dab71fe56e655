/** What an evaluation tells while it works. */
import type { EvalSummary } from './summary.js';

/** `S` is the name of the stage: `eval` for the command, others inside a training run. */
export type EvalStageEvent<S extends string = string> =
  /** `total` counts responses. */
  | { type: 'stage'; stage: S; total: number }
  | {
      type: 'prediction';
      stage: S;
      id: string;
      sample: number;
      correct: boolean;
      extracted?: string;
      /** Without the end token. */
      tokens: number;
      truncated: boolean;
    }
  /** At most every half second. */
  | {
      type: 'progress';
      stage: S;
      done: number;
      total: number;
      share: number;
      tokensPerSecond: number;
      secondsLeft?: number;
    }
  | { type: 'evaluated'; stage: S; summary: EvalSummary };
