/** Labels that test/fixtures/annotation/make_labels.py wrote, and what annotate's records must be by them. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { ExecutionContext } from 'ava';
import type { AlternativeRecord, AnnotationRecord, Question, Verdict } from '../../lib/types.js';

interface LabelledAlternative {
  position: number;
  rank: number;
  token_id: number;
  logprob: number;
  verdict: Verdict;
  /** One of the two: tokens after the alternative, or the start of the SHA-256 of the whole rollout's text. */
  continuation_token_ids?: number[];
  text_sha256?: string;
  /** Smallest difference of two candidates on the way, where it is below 1e-4: rounding may decide there. */
  gap?: number;
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

/** What of an alternative must agree exactly. */
const facts = ({ position, rank, token_id, verdict }: LabelledAlternative | AlternativeRecord) => ({
  position,
  rank,
  token_id,
  verdict,
});

export interface CheckOptions {
  includeEos?: boolean;
  /** The record has every alternative. */
  complete?: boolean;
  /** Truncated rollouts were not judged. */
  skip?: boolean;
  /** Only every Nth position is labelled. */
  every?: number;
  /** Text of tokens, for records that keep their rollouts. */
  textOf?: (ids: number[]) => string;
}

/**
 * A record against its label: tokens, mask, alternatives and verdicts exactly; rollouts by their text. Positions where
 * the label has a near tie are left out.
 */
export function checkRecord(
  t: ExecutionContext,
  record: AnnotationRecord,
  label: Label,
  { includeEos = false, complete = false, skip = false, every = 1, textOf }: CheckOptions,
): void {
  const positions = includeEos ? [...label.response_token_ids, label.end_token_id] : label.response_token_ids;
  const { id } = label;
  t.is(record.id, id);
  t.deepEqual(record.prompt_token_ids, label.prompt_token_ids, id);
  t.deepEqual(record.response_token_ids, positions, id);
  t.is(record.end_token_id, label.end_token_id, id);
  closeLogProbs(t, record.logprobs, label.logprobs!.slice(0, positions.length), id);
  t.is(record.rollouts, record.alternatives.length, id);
  const all = label.alternatives!.filter(({ position }) => position < positions.length);
  const unsure = new Set(all.filter(({ gap }) => gap !== undefined).map(({ position }) => position));
  const sure = ({ position }: { position: number }) => position % every === 0 && !unsure.has(position);
  const expected = (complete ? all : afterWaves(all)).filter(sure);
  const actual = record.alternatives.filter(sure);
  t.deepEqual(actual.map(facts), expected.map(facts), id);
  closeLogProbs(
    t,
    actual.map(({ logprob }) => logprob),
    expected.map(({ logprob }) => logprob),
    `${id}, alternatives`,
  );
  const mask = maskOf(positions.length, expected, skip);
  const labelled = (_: number, position: number) => sure({ position });
  t.deepEqual(record.critical_mask!.filter(labelled), mask.filter(labelled), id);
  if (textOf === undefined) return;
  actual.forEach(({ position, token_id, continuation }, i) => {
    const { continuation_token_ids: ids, text_sha256: hash } = expected[i]!;
    const what = `${id}, position ${position}, token ${token_id}`;
    if (ids !== undefined) t.is(continuation, textOf(ids), what);
    else {
      const text = textOf([...positions.slice(0, position), token_id]) + continuation;
      t.is(createHash('sha256').update(text).digest('hex').slice(0, 12), hash!, what);
    }
  });
}
