/** Counts over a whole annotation run, and annotations.meta.json, which holds them. */
import { optionsForFile, packageVersion } from '../run-folder.js';
import type { AnnotationRecord, AnnotationsMeta, ResponseRecord } from '../types.js';
import type { JournalAnnotation } from './journal.js';
import type { AnnotationSettings } from './rollouts.js';
import { triesEverything } from './rules.js';

export interface AnnotationSummary {
  questions: number;
  /** Questions whose response was correct; these are annotated. */
  correct: number;
  /** Responses that ran to the token limit. */
  truncatedResponses: number;
  /** Positions of all annotated responses. */
  tokens: number;
  criticalTokens: number;
  criticalShare: number;
  /** Positions none of whose alternatives was judged. */
  unjudged: number;
  rollouts: number;
  truncatedRollouts: number;
  /** Rollouts that the waves made needless. */
  rolloutsSaved: number;
  /** Share of the rank-2 rollouts that were correct; waves save 2 / (2 - p2) with k = 3. 0 where there were none. */
  p2: number;
  /** Greedy tokens of all trunks and rollouts, without prompts, alternatives and end tokens. */
  decodedTokens: number;
  /** From the loaded model to the last verdict, summed over resumes. */
  seconds: number;
  tokensPerSecond: number;
  /** Every alternative has its verdict. */
  complete: boolean;
}

/** Where the run's model and options are recorded. */
export interface AnnotationOrigin {
  model: { name: string; weightsSha256: string; tokenizerSha256: string };
  /** Options that the records depend on, in camelCase. */
  options: Record<string, unknown>;
  libtorch: string;
  device: string;
}

const count = <T>(items: readonly T[], is: (item: T) => boolean): number =>
  items.reduce((sum, item) => sum + (is(item) ? 1 : 0), 0);
const total = <T>(items: readonly T[], of: (item: T) => number): number =>
  items.reduce((sum, item) => sum + of(item), 0);

/** Number of positions with a weight. */
export function criticalTokens(record: AnnotationRecord): number {
  return count(record.critical_mask ?? record.token_weights ?? [], (weight) => weight > 0);
}

/** Divides, with 0 for nothing out of nothing. */
export const share = (part: number, whole: number): number => (whole > 0 ? part / whole : 0);

export function summarize(
  responses: readonly ResponseRecord[],
  annotations: readonly JournalAnnotation[],
  settings: AnnotationSettings,
  seconds: number,
): AnnotationSummary {
  const tokens = total(annotations, ({ record }) => record.response_token_ids.length);
  const critical = total(annotations, ({ record }) => criticalTokens(record));
  const rank2 = total(annotations, ({ record }) => count(record.alternatives, ({ rank }) => rank === 2));
  const rank2Correct = total(annotations, ({ record }) =>
    count(record.alternatives, ({ rank, verdict }) => rank === 2 && verdict === 'correct'),
  );
  const decodedTokens =
    total(responses, (response) => response.response_token_ids.length) +
    total(annotations, (annotation) => annotation.decoded_tokens);
  return {
    questions: responses.length,
    correct: annotations.length,
    truncatedResponses: count(responses, ({ verdict }) => verdict === 'truncated'),
    tokens,
    criticalTokens: critical,
    criticalShare: share(critical, tokens),
    unjudged: total(annotations, ({ unjudged }) => unjudged),
    rollouts: total(annotations, ({ record }) => record.rollouts),
    truncatedRollouts: total(annotations, ({ record }) =>
      count(record.alternatives, ({ verdict }) => verdict === 'truncated'),
    ),
    rolloutsSaved: total(annotations, ({ rollouts_saved }) => rollouts_saved),
    p2: share(rank2Correct, rank2),
    decodedTokens,
    seconds,
    tokensPerSecond: share(decodedTokens, seconds),
    complete: triesEverything(settings),
  };
}

export function metaOf(summary: AnnotationSummary, origin: AnnotationOrigin): AnnotationsMeta {
  return {
    format: 'cft-annotations/1',
    model: origin.model.name,
    weights_sha256: origin.model.weightsSha256,
    tokenizer_sha256: origin.model.tokenizerSha256,
    options: optionsForFile(origin.options),
    questions: summary.questions,
    correct: summary.correct,
    truncated_responses: summary.truncatedResponses,
    tokens: summary.tokens,
    critical_tokens: summary.criticalTokens,
    critical_share: summary.criticalShare,
    unjudged: summary.unjudged,
    complete: summary.complete,
    rollouts: summary.rollouts,
    truncated_rollouts: summary.truncatedRollouts,
    rollouts_saved: summary.rolloutsSaved,
    p2: summary.p2,
    decoded_tokens: summary.decodedTokens,
    seconds: summary.seconds,
    cft_native: packageVersion,
    libtorch: origin.libtorch,
    device: origin.device,
  };
}

/** The summary of a finished run, from its meta file. */
export function summaryOf(meta: AnnotationsMeta): AnnotationSummary {
  return {
    questions: meta.questions,
    correct: meta.correct,
    truncatedResponses: meta.truncated_responses,
    tokens: meta.tokens,
    criticalTokens: meta.critical_tokens,
    criticalShare: meta.critical_share,
    unjudged: meta.unjudged,
    rollouts: meta.rollouts,
    truncatedRollouts: meta.truncated_rollouts,
    rolloutsSaved: meta.rollouts_saved,
    p2: meta.p2,
    decodedTokens: meta.decoded_tokens,
    seconds: meta.seconds,
    tokensPerSecond: share(meta.decoded_tokens, meta.seconds),
    complete: meta.complete,
  };
}
