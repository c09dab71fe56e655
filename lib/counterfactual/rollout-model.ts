/** What annotation and evaluation need of a model, prompts, and the loop that drives a rollout engine. */
import { placeOf } from '../data/questions.js';
import { CftError } from '../errors.js';
import type { NativeBranchResult, NativeRolloutEngine } from '../native/binding.js';
import type { Question } from '../types.js';

export interface RolloutModel {
  readonly config: { readonly maxPositions: number };
  readonly tokenizer: {
    decode(tokenIds: Iterable<number>, options: { skipSpecialTokens: boolean }): string;
  };
  /** A response ends with one of these. */
  readonly endTokenIds: Int32Array;
  createEngine(options: { maxBranches: number }): NativeRolloutEngine;
  promptFor(question: string, options: { system: string; userTemplate: string }): Int32Array;
}

/** Text of a response as verifiers see it. */
export const textOf = ({ tokenizer }: RolloutModel, tokenIds: Iterable<number>): string =>
  tokenizer.decode(tokenIds, { skipSpecialTokens: true });

export interface Prompt {
  tokenIds: Int32Array;
  /** Most tokens of a response, end token included. */
  budget: number;
}

/**
 * The prompts of questions. A response's budget is `maxNewTokens`, or what the model's positions leave.
 * @throws CftError ERR_CFT_BAD_DATA for a question whose prompt leaves none.
 */
export function promptsOf(
  model: RolloutModel,
  questions: readonly Question[],
  settings: { maxNewTokens: number; system: string; userTemplate: string },
): Prompt[] {
  const { maxPositions } = model.config;
  return questions.map((question) => {
    const tokenIds = model.promptFor(question.question, settings);
    if (tokenIds.length >= maxPositions) {
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `${placeOf(question)}: expected a prompt of fewer than ${maxPositions} tokens (max_position_embeddings), found ` +
          `${tokenIds.length}`,
      );
    }
    return { tokenIds, budget: Math.min(settings.maxNewTokens, maxPositions - tokenIds.length) };
  });
}

/** Decoded tokens per branch and native call: the time between two looks at the signal and the progress. */
const tokensPerStep = 16;

/** Steps an engine until branches finish, looking at the abort signal in between. */
export class EngineDriver implements Disposable {
  readonly engine: NativeRolloutEngine;
  readonly #signal: AbortSignal | undefined;
  readonly #onTokens: (count: number) => void;
  readonly #interrupt: () => void;

  constructor(
    engine: NativeRolloutEngine,
    { signal, onTokens = () => {} }: { signal?: AbortSignal | undefined; onTokens?: (count: number) => void },
  ) {
    this.engine = engine;
    this.#signal = signal;
    this.#onTokens = onTokens;
    this.#interrupt = () => engine.interrupt();
    signal?.addEventListener('abort', this.#interrupt);
  }

  /** @throws the signal's reason once it is aborted. */
  throwIfAborted(): void {
    this.#signal?.throwIfAborted();
  }

  /** The branches that finish next, by id; rejects with the signal's reason. Branches must be under way. */
  async nextFinished(): Promise<NativeBranchResult[]> {
    for (;;) {
      this.throwIfAborted();
      const { finished, decodedTokens } = await this.engine.step(tokensPerStep);
      this.#onTokens(decodedTokens);
      if (finished.length > 0) return finished.sort((a, b) => a.id - b.id);
    }
  }

  [Symbol.dispose](): void {
    this.#signal?.removeEventListener('abort', this.#interrupt);
    this.engine.dispose();
  }
}
