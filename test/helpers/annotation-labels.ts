/** Labels that test/fixtures/annotation/make_labels.py wrote, and what annotate's records must be by them. */
import { readFileSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import type { AlternativeRecord, AnnotationRecord, Question, Verdict } from '../../lib/types.js';

interface LabelledAlternative {
  position: number;
  rank: number;
  token_id: number;
  logprob: number;
  continuation_token_ids: number[];
  verdict: Verdict;
}

/** One question; with `logprobs` and `alternatives` where it is correct. Positions include the end token. */
export interface Label extends Question {
  prompt_token_ids: number[];
  response_token_ids: number[];
  end_token_id: number;
  verdict: Verdict;
  logprobs?: number[];
  alternatives?: LabelledAlternative[];
}

export interface Labels {
  header: {
    weights_sha256: string;
    max_new_tokens: number;
    user_template?: string;
    every?: number;
    near_ties: number;
  };
  labels: Label[];
}

export const readLabels = (path: string): Labels => JSON.parse(readFileSync(path, 'utf8')) as Labels;

export const questionsOf = ({ labels }: Labels): Question[] =>
  labels.map(({ id, question, answer }) => ({ id, question, answer }));

/** The alternatives that the waves try: rank r only where no lower rank was correct. */
export function afterWaves(alternatives: readonly LabelledAlternative[]): LabelledAlternative[] {
  return alternatives.filter(
    ({ position, rank }) =>
      !alternatives.some(
        (other) => other.position === position && other.rank < rank && other.verdict === 'correct',
      ),
  );
}

/** The ALL rule over what is judged. */
export function maskOf(
  positions: number,
  alternatives: readonly LabelledAlternative[],
  skip = false,
): number[] {
  return Array.from({ length: positions }, (_, position) => {
    const judged = alternatives.filter(
      (one) => one.position === position && !(skip && one.verdict === 'truncated'),
    );
    return judged.length > 0 && judged.every(({ verdict }) => verdict !== 'correct') ? 1 : 0;
  });
}

/** Log-probabilities agree to their last decimal, which rounding may shift. */
function closeLogProbs(
  t: ExecutionContext,
  actual: readonly number[],
  expected: readonly number[],
  what: string,
) {
  t.is(actual.length, expected.length, what);
  actual.forEach((value, i) => {
    if (Math.abs(value - expected[i]!) > 1.5e-4) t.is(value, expected[i]!, `${what}, log-probability ${i}`);
  });
}

/**
 * A record against its label: tokens, mask, alternatives and verdicts exactly; continuations by their text.
 * @param decode text of tokens, for records that keep their rollouts.
 */
export function checkRecord(
  t: ExecutionContext,
  record: AnnotationRecord,
  label: Label,
  {
    includeEos = false,
    complete = false,
    skip = false,
    decode,
  }: { includeEos?: boolean; complete?: boolean; skip?: boolean; decode?: (ids: number[]) => string },
): void {
  const positions = includeEos ? [...label.response_token_ids, label.end_token_id] : label.response_token_ids;
  const { id } = label;
  t.is(record.id, id);
  t.deepEqual(record.prompt_token_ids, label.prompt_token_ids, id);
  t.deepEqual(record.response_token_ids, positions, id);
  t.is(record.end_token_id, label.end_token_id, id);
  closeLogProbs(t, record.logprobs, label.logprobs!.slice(0, positions.length), id);
  const all = label.alternatives!.filter(({ position }) => position < positions.length);
  const expected = complete ? all : afterWaves(all);
  const facts = ({ position, rank, token_id, verdict }: LabelledAlternative | AlternativeRecord) => ({
    position,
    rank,
    token_id,
    verdict,
  });
  t.deepEqual(record.alternatives.map(facts), expected.map(facts), id);
  closeLogProbs(
    t,
    record.alternatives.map(({ logprob }) => logprob),
    expected.map(({ logprob }) => logprob),
    `${id}, alternatives`,
  );
  t.deepEqual(record.critical_mask, maskOf(positions.length, expected, skip), id);
  t.is(record.rollouts, expected.length, id);
  if (decode) {
    t.deepEqual(
      record.alternatives.map(({ continuation }) => continuation),
      expected.map(({ continuation_token_ids }) => decode(continuation_token_ids)),
      id,
    );
  }
}
