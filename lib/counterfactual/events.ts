/** What an annotation run tells while it works. */
import type { HubEvent } from '../model/hub.js';
import type { Verdict } from '../types.js';
import type { AnnotationSummary } from './summary.js';

export type AnnotateStage = 'trunks' | 'rollouts';

/** What each technique did so far, in the whole run. */
export type Savings = Pick<
  AnnotationSummary,
  'rolloutsSaved' | 'savedTokens' | 'acceptedTokens' | 'stoppedRollouts' | 'wastedTokens'
>;

export type AnnotateEvent =
  | {
      type: 'start';
      /** The run folder. */
      output: string;
      questions: number;
      /** What an earlier, interrupted run left finished. */
      resumed: { responses: number; annotations: number };
      /** Most branches decoded together. */
      maxBranches: number;
    }
  /** `total` counts questions in `trunks`, correct responses in `rollouts`. */
  | { type: 'stage'; stage: AnnotateStage; total: number }
  /** One question has its response and verdict, on disk; in the order of the questions. `tokens` is without the end token. */
  | { type: 'trunk'; index: number; id: string; verdict: Verdict; extracted?: string; tokens: number }
  /** One correct response is annotated, on disk; in the order in which they finish. `tokens` counts positions. */
  | {
      type: 'response';
      index: number;
      id: string;
      tokens: number;
      criticalTokens: number;
      criticalShare: number;
      rollouts: number;
      decodedTokens: number;
      /** Since the last one. */
      seconds: number;
    }
  /** At most every half second. `done` and `total` as in `stage`; `share` of the stage's work, 0 to 1. */
  | {
      type: 'progress';
      stage: AnnotateStage;
      done: number;
      total: number;
      share: number;
      tokensPerSecond: number;
      /** Absent until there is something to judge by. */
      secondsLeft?: number;
      /** With `rollouts`. */
      savings?: Savings;
    }
  /** Before `start`, where the model comes from the hub. */
  | HubEvent
  | { type: 'done'; summary: AnnotationSummary };

export type Emit = (event: AnnotateEvent) => void;

const interval = 500; // ms

/** Turns counts into progress events. */
export class Progress {
  readonly #stage: AnnotateStage;
  readonly #total: number;
  readonly #emit: Emit;
  readonly #savings: (() => Savings) | undefined;
  readonly #start = performance.now();
  #firstShare: number | undefined;
  #last = 0;
  #tokens = 0;
  #done = 0;
  #share = 0;

  constructor(stage: AnnotateStage, total: number, emit: Emit, savings?: () => Savings) {
    this.#stage = stage;
    this.#total = total;
    this.#emit = emit;
    this.#savings = savings;
    emit({ type: 'stage', stage, total });
  }

  /** Tokens were decoded. */
  addTokens(count: number): void {
    this.#tokens += count;
    this.#tell();
  }

  /** @param done questions or responses finished; @param share of the stage's work, counting what is under way. */
  at(done: number, share: number): void {
    this.#firstShare ??= share;
    this.#done = done;
    this.#share = share;
    this.#tell();
  }

  #tell(): void {
    const now = performance.now();
    if (now - this.#last < interval) return;
    this.#last = now;
    const elapsed = (now - this.#start) / 1000;
    const advanced = this.#share - (this.#firstShare ?? 0);
    this.#emit({
      type: 'progress',
      stage: this.#stage,
      done: this.#done,
      total: this.#total,
      share: this.#share,
      tokensPerSecond: elapsed > 0 ? this.#tokens / elapsed : 0,
      ...(advanced > 0 ? { secondsLeft: (elapsed * (1 - this.#share)) / advanced } : {}),
      ...(this.#savings ? { savings: this.#savings() } : {}),
    });
  }
}
