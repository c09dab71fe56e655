/** Counts over a whole annotation run, and annotations.meta.json, which holds them. */
import { optionsForFile, packageVersion } from '../run-folder.js';
import type { AnnotationRecord, AnnotationsMeta, ResponseRecord } from '../types.js';
import type { JournalAnnotation } from './journal.js';

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
  /** Estimate: as many tokens as these rollouts would have had at the mean length of the others. */
  savedTokens: number;
  /** Share of the rank-2 rollouts that were correct; waves save 2 / (2 - p2) with k = 3. 0 where there were none. */
  p2: number;
  /** Responses and recorded rollouts that `stopAtAnswer` ended. */
  stoppedResponses: number;
  stoppedRollouts: number;
  /** Tokens that were tried as drafts of rollouts, and those of them that the model wrote itself. */
  draftedTokens: number;
  acceptedTokens: number;
  /** Tokens of rollouts that were started before they were known to be needed, and then were not. */
  wastedTokens: number;
  /** Greedy tokens of all trunks and rollouts, without prompts, alternatives and end tokens. */
  decodedTokens: number;
  /** From the loaded model to the last verdict, summed over resumes. */
  seconds: number;
  tokensPerSecond: number;
  /** Every alternative has its verdict. */
  complete: boolean;
}

/** Work beside the decoding of what is recorded; it depends on timing, the records do not. */
export interface Work {
  drafted_tokens: number;
  accepted_tokens: number;
  wasted_tokens: number;
}

export const noWork = (): Work => ({ drafted_tokens: 0, accepted_tokens: 0, wasted_tokens: 0 });

export function addWork(to: Work, work: Partial<Work>): void {
  to.drafted_tokens += work.drafted_tokens ?? 0;
  to.accepted_tokens += work.accepted_tokens ?? 0;
  to.wasted_tokens += work.wasted_tokens ?? 0;
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

/** Number of positions with a weight. */
export function criticalTokens(record: AnnotationRecord): number {
  return count(record.critical_mask ?? record.token_weights ?? [], (weight) => weight > 0);
}

/** Divides, with 0 for nothing out of nothing. */
export const share = (part: number, whole: number): number => (whole > 0 ? part / whole : 0);

/** Adds up responses and annotations as they come. */
export class Totals {
  #responses = 0;
  #responseTokens = 0;
  #truncatedResponses = 0;
  #stoppedResponses = 0;
  #annotated = 0;
  #tokens = 0;
  #critical = 0;
  #unjudged = 0;
  #truncatedRollouts = 0;
  #rank2 = 0;
  #rank2Correct = 0;
  #decodedTokens = 0;
  rollouts = 0;
  rolloutsSaved = 0;
  stoppedRollouts = 0;

  get savedTokens(): number {
    return Math.round(this.rolloutsSaved * share(this.#decodedTokens, this.rollouts));
  }

  addResponse({ verdict, response_token_ids, end_token_id }: ResponseRecord): void {
    this.#responses++;
    this.#responseTokens += response_token_ids.length;
    if (verdict === 'truncated') this.#truncatedResponses++;
    else if (end_token_id < 0) this.#stoppedResponses++;
  }

  addAnnotation(annotation: JournalAnnotation): void {
    const { record } = annotation;
    this.#annotated++;
    this.#tokens += record.response_token_ids.length;
    this.#critical += criticalTokens(record);
    this.#unjudged += annotation.unjudged;
    this.#decodedTokens += annotation.decoded_tokens;
    this.rollouts += record.rollouts;
    this.rolloutsSaved += annotation.rollouts_saved;
    this.stoppedRollouts += annotation.stopped_rollouts;
    for (const { rank, verdict } of record.alternatives) {
      if (verdict === 'truncated') this.#truncatedRollouts++;
      if (rank !== 2) continue;
      this.#rank2++;
      if (verdict === 'correct') this.#rank2Correct++;
    }
  }

  summary({
    seconds,
    work,
    complete,
  }: {
    seconds: number;
    work: Work;
    complete: boolean;
  }): AnnotationSummary {
    const decodedTokens = this.#responseTokens + this.#decodedTokens;
    return {
      questions: this.#responses,
      correct: this.#annotated,
      truncatedResponses: this.#truncatedResponses,
      tokens: this.#tokens,
      criticalTokens: this.#critical,
      criticalShare: share(this.#critical, this.#tokens),
      unjudged: this.#unjudged,
      rollouts: this.rollouts,
      truncatedRollouts: this.#truncatedRollouts,
      rolloutsSaved: this.rolloutsSaved,
      savedTokens: this.savedTokens,
      p2: share(this.#rank2Correct, this.#rank2),
      stoppedResponses: this.#stoppedResponses,
      stoppedRollouts: this.stoppedRollouts,
      draftedTokens: work.drafted_tokens,
      acceptedTokens: work.accepted_tokens,
      wastedTokens: work.wasted_tokens,
      decodedTokens,
      seconds,
      tokensPerSecond: share(decodedTokens, seconds),
      complete,
    };
  }
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
    saved_tokens: summary.savedTokens,
    p2: summary.p2,
    stopped_responses: summary.stoppedResponses,
    stopped_rollouts: summary.stoppedRollouts,
    drafted_tokens: summary.draftedTokens,
    accepted_tokens: summary.acceptedTokens,
    wasted_tokens: summary.wastedTokens,
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
    savedTokens: meta.saved_tokens ?? 0, // absent in files of before
    p2: meta.p2,
    stoppedResponses: meta.stopped_responses,
    stoppedRollouts: meta.stopped_rollouts,
    draftedTokens: meta.drafted_tokens,
    acceptedTokens: meta.accepted_tokens,
    wastedTokens: meta.wasted_tokens,
    decodedTokens: meta.decoded_tokens,
    seconds: meta.seconds,
    tokensPerSecond: share(meta.decoded_tokens, meta.seconds),
    complete: meta.complete,
  };
}
