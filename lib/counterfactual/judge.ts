/** Verdicts on responses and rollouts: the verifier's word, or the token limit's. */
import { CftError } from '../errors.js';
import type { Question, Verdict } from '../types.js';
import type { DetailedVerifier } from '../verify/verifier.js';

export type { DetailedVerifier };

export interface Judgement {
  verdict: Verdict;
  extracted?: string;
}

const typeName = (value: unknown): string => (value === null ? 'null' : typeof value);

export class Judge {
  readonly #verifier: DetailedVerifier;
  readonly #signal: AbortSignal | undefined;
  /** Rejects each verdict that is awaited. */
  readonly #waiting = new Set<(reason: unknown) => void>();
  readonly #onAbort = (): void => {
    for (const reject of this.#waiting) reject(this.#signal?.reason);
  };

  constructor(verifier: DetailedVerifier, signal?: AbortSignal) {
    this.#verifier = verifier;
    this.#signal = signal;
  }

  /** Rejects with the signal's reason once it is aborted, so that a verifier that hangs cannot hold up a stop. */
  async #abortable<T>(work: () => Promise<T>): Promise<T> {
    const signal = this.#signal;
    if (signal === undefined) return work();
    signal.throwIfAborted();
    let stop: (reason: unknown) => void = () => {};
    const aborted = new Promise<never>((_, reject) => {
      stop = reject;
    });
    // One listener however many verdicts are awaited.
    if (this.#waiting.size === 0) signal.addEventListener('abort', this.#onAbort);
    this.#waiting.add(stop);
    try {
      return await Promise.race([work(), aborted]);
    } finally {
      this.#waiting.delete(stop);
      if (this.#waiting.size === 0) signal.removeEventListener('abort', this.#onAbort);
    }
  }

  /**
   * Verdict of a text that ended by itself; `tokenIds` has no end token.
   * @throws CftError ERR_CFT_VERIFIER naming the question where the verifier throws or answers neither true nor false.
   */
  async judge(text: string, question: Question, tokenIds: Int32Array): Promise<Judgement> {
    const { id, question: asked, answer } = question;
    return this.#abortable(async () => {
      let result: unknown;
      try {
        result = await this.#verifier(text, { id, question: asked, answer, tokenIds });
      } catch (error) {
        if (error instanceof CftError && error.code !== 'ERR_CFT_VERIFIER') throw error;
        const message = error instanceof Error ? error.message : String(error);
        throw new CftError('ERR_CFT_VERIFIER', `the verifier failed on question ${id}: ${message}`, {
          cause: error,
        });
      }
      const { correct, extracted } = (
        typeof result === 'object' && result !== null ? result : { correct: result }
      ) as { correct: unknown; extracted?: unknown };
      if (typeof correct !== 'boolean') {
        throw new CftError(
          'ERR_CFT_VERIFIER',
          `the verifier's result on question ${id}: expected true or false, found ${typeName(correct)}`,
        );
      }
      const verdict: Verdict = correct ? 'correct' : 'incorrect';
      return typeof extracted === 'string' ? { verdict, extracted } : { verdict };
    });
  }
}
