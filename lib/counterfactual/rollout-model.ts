/** What annotation and evaluation need of a model, and prompts. */
import { placeOf } from '../data/questions.js';
import { CftError } from '../errors.js';
import type { NativeRolloutEngine } from '../native/binding.js';
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
 * The prompt of a question. The response's budget is `maxNewTokens`, or what the model's positions leave.
 * @throws CftError ERR_CFT_BAD_DATA for a question whose prompt leaves none.
 */
export function promptOf(
  model: RolloutModel,
  question: Question,
  settings: { maxNewTokens: number; system: string; userTemplate: string },
): Prompt {
  const { maxPositions } = model.config;
  const tokenIds = model.promptFor(question.question, settings);
  if (tokenIds.length >= maxPositions) {
    throw new CftError(
      'ERR_CFT_BAD_DATA',
      `${placeOf(question)}: expected a prompt of fewer than ${maxPositions} tokens (max_position_embeddings), found ` +
        `${tokenIds.length}`,
    );
  }
  return { tokenIds, budget: Math.min(settings.maxNewTokens, maxPositions - tokenIds.length) };
}

/** The prompts of questions, in their order. */
export const promptsOf = (
  model: RolloutModel,
  questions: readonly Question[],
  settings: { maxNewTokens: number; system: string; userTemplate: string },
): Prompt[] => questions.map((question) => promptOf(model, question, settings));
