/** Verdicts on responses and rollouts: the verifier's word, checked. */
import { CftError } from '../errors.js';
import type { Question, Verdict } from '../types.js';
import type { DetailedVerifier } from '../verify/verifier.js';

export type { DetailedVerifier };

export interface Judgement {
  verdict: Verdict;
  extracted?: string;
}

const typeName = (value: unknown): string => (value === null ? 'null' : typeof value);

function failure(id: string, error: unknown): unknown {
  if (error instanceof CftError && error.code !== 'ERR_CFT_VERIFIER') return error;
  const message = error instanceof Error ? error.message : String(error);
  return new CftError('ERR_CFT_VERIFIER', `the verifier failed on question ${id}: ${message}`, {
    cause: error,
  });
}

function judgementOf(id: string, result: unknown): Judgement {
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
}

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';

/**
 * Verdict of a text that ended; `tokenIds` has no end token. At once where the verifier answers at once.
 * @throws CftError ERR_CFT_VERIFIER naming the question where the verifier throws or answers neither true nor false.
 */
export function judge(
  verifier: DetailedVerifier,
  text: string,
  { id, question, answer }: Question,
  tokenIds: Int32Array,
): Judgement | Promise<Judgement> {
  let result: unknown;
  try {
    // Its own copy: what a verifier sorts or overwrites is recorded afterwards.
    result = verifier(text, { id, question, answer, tokenIds: tokenIds.slice() });
  } catch (error) {
    throw failure(id, error);
  }
  if (!isThenable(result)) return judgementOf(id, result);
  return Promise.resolve(result).then(
    (value) => judgementOf(id, value),
    (error: unknown) => {
      throw failure(id, error);
    },
  );
}
