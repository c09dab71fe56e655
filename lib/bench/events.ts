/** What a measurement tells while it runs, and its rows. */
import type { Agreement } from './agreement.js';
import type { RowFacts } from './row-facts.js';
import type { Spread } from './statistics.js';
import type { TrainRow } from './train.js';

/** One line of bench/results/rollouts.jsonl: one side of one case in one run. Keys become snake_case in the file. */
export interface BenchRow extends RowFacts {
  bench: 'rollouts';
  responses: number;
  /** Decoded per repeat, and of how many; `every` says which share of the positions a slow side was given. */
  rollouts: number;
  allRollouts: number;
  every: number;
  /** Useful tokens per repeat: decoded ones without prompts, alternatives and end tokens. */
  tokens: number;
  tokensPerSecond: Spread;
  /** All of the case's rollouts; scaled up from the share that was run where `every` is above 1. */
  secondsPerResponse: Spread;
  /** The public `annotate` with everything on, trunk and verdicts included; ours, on real weights. */
  annotate?: {
    secondsPerResponse: Spread;
    decodedTokens: number;
    rolloutsSaved: number;
    p2: number;
  };
  /** Repeats that count, and those that did not because others took the processor. */
  repeats: number;
  voidRepeats: number;
  /** False where too few repeats were undisturbed and disturbed ones had to count. */
  quiet: boolean;
  /** Cores that others kept busy in the repeats that count, at most. */
  otherCpu: number | null;
  /** Loading, and the first few rollouts after it. */
  cold: { loadSeconds: number; firstRollouts: number; firstSeconds: number };
  peakMemoryBytes: number | null;
  /** Tokens per second that matrix products alone would allow, by rows; ours. */
  gemmLimit?: { kernel: string; rows: Record<string, number>; batchRows: number; share: number };
  /** Tokens per second that a GPU's best rate of products and its bandwidth would allow, see roofline.ts; ours. */
  roofline?: { flopsPerSecond: number; bytesPerSecond: number; tokensPerSecond: number; share: number };
  /** Ours divided by this side, repeat by repeat; a peer's. */
  ratio?: { tokensPerSecond: Spread; secondsPerResponse?: Spread };
  /** A peer's verdicts against ours; absent where the weights are random. */
  agreement?: Agreement;
}

export type BenchEvent =
  | { type: 'case'; case: string; what: string }
  | { type: 'prepared'; case: string; questions: number; responses: number; rollouts: number }
  | { type: 'side'; side: string; dtype: string; setting: string; loadSeconds: number; rollouts: number }
  | { type: 'absent'; side: string; reason: string; install: string | undefined }
  | {
      type: 'repeat';
      side: string;
      /** From 1; void repeats are done again. */
      round: number;
      what: 'rollouts' | 'annotate' | 'train';
      seconds: number;
      tokensPerSecond: number;
      otherCpu: number | undefined;
      void: boolean;
    }
  | { type: 'row'; row: BenchRow }
  | { type: 'train-row'; row: TrainRow }
  | { type: 'written'; file: string; rows: number };

export type EmitBench = (event: BenchEvent) => void;

export interface BenchResult {
  rows: BenchRow[];
  /** Of `bench train`. */
  trainRows: TrainRow[];
  absent: { side: string; reason: string }[];
}
