/** From annotation records to training examples: which tokens go in, which predictions carry loss, and how much. */
import { CftError } from '../errors.js';
import type { Strategy } from '../strategies/index.js';
import type { AnnotationRecord } from '../types.js';

/** One sequence with its loss terms. S selected positions; S may be 0: the example then only keeps its place. */
export interface TrainingExample {
  /** Prompt and response up to the last selected position: later tokens cannot change the loss. */
  tokenIds: Int32Array;
  /** Prompt and response tokens before that cut. */
  tokens: number;
  /** Response tokens, with the end token where the strategy gives it a weight. */
  responseTokens: number;
  /** [S] index in `tokenIds` whose NEXT token is trained, ascending. */
  selected: Int32Array;
  /** [S] the token to predict there. */
  targets: Int32Array;
  /** [S] non-zero weights, before normalisation. */
  weights: Float64Array;
}

/**
 * Applies a strategy to one record, as readAnnotations checked it.
 * @param maxPositions longest sequence that the model takes.
 * @param source what to call the records in messages: the path of the file.
 * @throws CftError ERR_CFT_BAD_DATA for a sequence that is too long.
 */
export function toExample(
  record: AnnotationRecord,
  strategy: Strategy,
  maxPositions: number,
  source: string,
): TrainingExample {
  const prompt = record.prompt_token_ids;
  const response = record.response_token_ids;
  const all = [...prompt, ...response];
  if (all.length > maxPositions) {
    throw new CftError(
      'ERR_CFT_BAD_DATA',
      `${source}: annotation ${record.id}: expected at most ${maxPositions} tokens (the model's ` +
        `max_position_embeddings), found ${all.length} in prompt and response`,
    );
  }
  const weights = strategy.weights(record);
  const selected: number[] = [];
  for (let t = 0; t < weights.length; t++) if (weights[t] !== 0) selected.push(t);
  const last = selected.at(-1);
  return {
    tokenIds: Int32Array.from(last === undefined ? [] : all.slice(0, prompt.length + last)),
    tokens: all.length,
    responseTokens: Math.max(response.length, weights.length),
    selected: Int32Array.from(selected, (t) => prompt.length + t - 1),
    targets: Int32Array.from(selected, (t) => response[t] ?? record.end_token_id),
    weights: Float64Array.from(selected, (t) => weights[t]!),
  };
}
