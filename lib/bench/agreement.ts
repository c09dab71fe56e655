/** Verdicts on what each side decoded, and how far two sides agree: a faster wrong label is no gain. */
import { judge } from '../counterfactual/judge.js';
import type { Tokenizer } from '../model/tokenizer.js';
import type { Verdict } from '../types.js';
import type { DetailedVerifier } from '../verify/verifier.js';
import type { CaseResponse, RolloutResult } from './protocol.js';

/** A rollout of a case; `response` indexes its responses. */
export interface CaseRollout {
  response: number;
  position: number;
  rank: number;
  tokenId: number;
  maxNewTokens: number;
}

/** What a side made of one rollout. */
export interface JudgedRollout {
  tokenIds: number[];
  verdict: Verdict;
}

/** Cuts what a side decoded beyond a rollout's own budget; transformers' batches have one budget for all. */
export function withinBudget([tokenIds, endTokenId]: RolloutResult, maxNewTokens: number): RolloutResult {
  const used = tokenIds.length + (endTokenId >= 0 ? 1 : 0);
  return used <= maxNewTokens ? [tokenIds, endTokenId] : [tokenIds.slice(0, maxNewTokens), -1];
}

export class Referee {
  readonly #verifier: DetailedVerifier;
  readonly #tokenizer: Tokenizer;
  readonly #responses: readonly CaseResponse[];

  constructor(tokenizer: Tokenizer, responses: readonly CaseResponse[], verifier: DetailedVerifier) {
    this.#verifier = verifier;
    this.#tokenizer = tokenizer;
    this.#responses = responses;
  }

  /** The verdict on a counterfactual response: what was kept of the trunk, the alternative, what was decoded. */
  async judge(rollout: CaseRollout, [tokenIds, endTokenId]: RolloutResult): Promise<JudgedRollout> {
    if (endTokenId < 0) return { tokenIds, verdict: 'truncated' };
    const response = this.#responses[rollout.response]!;
    const kept = response.tokenIds.slice(response.promptTokens, response.promptTokens + rollout.position);
    const whole = Int32Array.from([...kept, rollout.tokenId, ...tokenIds]);
    const text = this.#tokenizer.decode(whole, { skipSpecialTokens: true });
    const { verdict } = await judge(this.#verifier, text, response, whole);
    return { tokenIds, verdict };
  }
}

export interface Agreement {
  /** Rollouts that both sides decoded, those with the same verdict, and those with the same tokens. */
  rollouts: number;
  sameVerdict: number;
  sameTokens: number;
  /** Positions whose alternatives both sides decoded all, and how the critical ones agree. */
  positions: number;
  critical: number;
  criticalPeer: number;
  criticalBoth: number;
}

const same = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((id, i) => id === b[i]);

/**
 * Compares two sides on the rollouts that both have; `ours[i]` and `theirs[i]` belong to `rollouts[i]`. A position is
 * critical where no alternative ends correct.
 */
export function agreementOf(
  rollouts: readonly CaseRollout[],
  ours: readonly (JudgedRollout | undefined)[],
  theirs: readonly (JudgedRollout | undefined)[],
): Agreement {
  const result = { rollouts: 0, sameVerdict: 0, sameTokens: 0 };
  const positions = new Map<string, { complete: boolean; ours: boolean; theirs: boolean }>();
  rollouts.forEach(({ response, position }, i) => {
    const key = `${response}:${position}`;
    const label = positions.get(key) ?? { complete: true, ours: true, theirs: true };
    positions.set(key, label);
    const [a, b] = [ours[i], theirs[i]];
    if (a === undefined || b === undefined) {
      label.complete = false;
      return;
    }
    result.rollouts++;
    if (a.verdict === b.verdict) result.sameVerdict++;
    if (a.verdict === b.verdict && same(a.tokenIds, b.tokenIds)) result.sameTokens++;
    if (a.verdict === 'correct') label.ours = false;
    if (b.verdict === 'correct') label.theirs = false;
  });
  const labels = [...positions.values()].filter(({ complete }) => complete);
  const count = (is: (label: { ours: boolean; theirs: boolean }) => boolean) => labels.filter(is).length;
  return {
    ...result,
    positions: labels.length,
    critical: count((label) => label.ours),
    criticalPeer: count((label) => label.theirs),
    criticalBoth: count((label) => label.ours && label.theirs),
  };
}
