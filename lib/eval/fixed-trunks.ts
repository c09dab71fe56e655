/**
 * Entropy of a model along responses that are not its own: the same tokens for every checkpoint, so that a difference is
 * the model's and not that of what it happened to say.
 */

import { badData } from '../data/errors.js';
import { readJsonLines } from '../data/json-lines.js';

export interface TrunkEntropy {
  /** Nats per token, mean over all tokens of the responses. */
  meanEntropy: number;
  /** Mean log-probability of the responses' tokens, in nats. */
  meanLogprob: number;
  responses: number;
  tokens: number;
}

/** What is needed of a model: Model.scores. */
export interface ScoringModel {
  readonly config: { readonly maxPositions: number };
  scores(tokenIds: Int32Array): Promise<{ logProbs: Float32Array; entropies: Float32Array }>;
}

const isTokens = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((id) => Number.isInteger(id) && (id as number) >= 0);

/**
 * @param path annotations.jsonl, responses.jsonl, or other JSON Lines with `prompt_token_ids` and `response_token_ids`
 *   of this model's tokenizer.
 * @param limit only the first so many responses.
 * @throws CftError ERR_CFT_BAD_DATA naming line and field; the signal's reason.
 */
export async function entropyOnTrunks(
  model: ScoringModel,
  path: string,
  { limit = Infinity, signal }: { limit?: number | undefined; signal?: AbortSignal | undefined } = {},
): Promise<TrunkEntropy> {
  let responses = 0;
  let tokens = 0;
  let entropy = 0;
  let logprob = 0;
  for await (const { line, value } of readJsonLines(path, { signal })) {
    if (responses >= limit) break;
    const { prompt_token_ids: prompt, response_token_ids: response } = value;
    for (const [name, ids] of Object.entries({ prompt_token_ids: prompt, response_token_ids: response }))
      if (!isTokens(ids)) throw badData(`${path}:${line}`, `field "${name}": expected token ids, found none`);
    const all = [...(prompt as number[]), ...(response as number[])];
    if ((response as number[]).length === 0 || all.length > model.config.maxPositions) continue;
    const { entropies, logProbs } = await model.scores(Int32Array.from(all));
    for (let t = Math.max(0, (prompt as number[]).length - 1); t < entropies.length; t++) {
      entropy += entropies[t]!;
      logprob += logProbs[t]!;
      tokens++;
    }
    responses++;
  }
  if (tokens === 0) throw badData(path, 'expected at least one response with tokens, found none');
  return { meanEntropy: entropy / tokens, meanLogprob: logprob / tokens, responses, tokens };
}
