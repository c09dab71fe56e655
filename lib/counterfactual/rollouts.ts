/**
 * Counterfactual annotation of one response: at each position the most probable other tokens are put in, the model
 * continues greedily, and the verdicts on those rollouts say whether the position is critical (arXiv 2510.10974).
 *
 * The branches share their batch with those of other responses, and verdicts come when they come. What is recorded
 * depends on neither: rank r of a position is recorded exactly when no lower rank was correct. A rank that was started
 * before that was known (speculation) is judged only once it is, or cancelled.
 */
import type { AnswerStop } from '../model/answer-stop.js';
import type { DriverBranch, Rollout, RolloutDriver, StopAt } from '../model/rollout-driver.js';
import type { AlternativeRecord, AnnotationRecord, Question } from '../types.js';
import { Alternatives } from './alternatives.js';
import { type DetailedVerifier, type Judgement, judge } from './judge.js';
import { type Prompt, type RolloutModel, textOf } from './rollout-model.js';
import { positionWeight, triesEverything } from './rules.js';
import type { AnnotationSettings } from './settings.js';

export interface AnnotatedResponse {
  record: AnnotationRecord;
  /** Positions none of whose alternatives was judged. */
  unjudged: number;
  /** Alternatives that the waves made needless. */
  rolloutsSaved: number;
  /** Recorded rollouts that were ended where their answer was complete. */
  stoppedRollouts: number;
  /** Greedy tokens of the recorded rollouts, without alternatives and end tokens. */
  decodedTokens: number;
  /** Tokens of speculative rollouts that were not needed. */
  wastedTokens: number;
}

/** What the responses of a run share. */
export interface AnnotationContext {
  driver: RolloutDriver;
  model: RolloutModel;
  verifier: DetailedVerifier;
  settings: AnnotationSettings;
  /** Let the engine verify tokens of the trunk and of its other rollouts as a draft. */
  draft: boolean;
  /** Ends rollouts where their answer is complete. */
  stop?: AnswerStop | undefined;
}

export interface ResponseToAnnotate {
  question: Question;
  prompt: Prompt;
  response: Rollout;
  /** Its branches enter the batch before those of responses with a higher number. */
  priority: number;
  onVerdict: () => void;
  onDone: (annotated: AnnotatedResponse) => void;
}

function joined(first: Int32Array, second: Int32Array): Int32Array {
  const whole = new Int32Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}

const noTokens = new Int32Array(0);
/** Speculative branches enter after everything that is known to be needed. */
const speculativePriority = 2 ** 40;

export class ResponseAnnotation {
  readonly #context: AnnotationContext;
  readonly #given: ResponseToAnnotate;
  /** Positions that are perturbed: the response, and with `includeEos` its end token. */
  readonly #positions: Int32Array;
  readonly #everything: boolean;
  #alternatives: Alternatives | undefined;
  #stopAfter: ReturnType<AnswerStop['along']> | undefined;
  #trunk = -1;
  #records: (AlternativeRecord | undefined)[] = [];
  /** By position: the rank whose verdict is wanted next; with everything tried, the number of verdicts. */
  #cursor = new Uint8Array(0);
  #settled = new Uint8Array(0);
  /** Positions without their last verdict. */
  #open = 0;
  /** Speculative branches by key: the driver's number, or the rollout where it has finished. */
  readonly #ahead = new Map<number, number | Rollout>();
  /** Whether there may be a next rank that `speculate` has not started. */
  #mayRunAhead = true;
  #batch: { branch: DriverBranch; speculative?: number }[] = [];
  #opening = true;
  #decodedTokens = 0;
  #stoppedRollouts = 0;
  #wastedTokens = 0;

  constructor(context: AnnotationContext, given: ResponseToAnnotate) {
    this.#context = context;
    this.#given = given;
    this.#everything = triesEverything(context.settings);
    const { tokenIds, endTokenId } = given.response;
    // A response that was stopped at its answer has no end token.
    this.#positions =
      context.settings.includeEos && endTokenId >= 0 ? joined(tokenIds, Int32Array.of(endTokenId)) : tokenIds;
  }

  /** Prefills the trunk and submits the first branches. */
  async open(): Promise<void> {
    const { driver, settings, stop } = this.#context;
    const { prompt, question } = this.#given;
    const { length } = this.#positions;
    if (length > 0) {
      const trunk = await driver.addTrunk({
        tokenIds: joined(prompt.tokenIds, this.#positions),
        scoreFrom: prompt.tokenIds.length,
        alternatives: settings.k - 1,
      });
      this.#trunk = trunk.trunk;
      const alternatives = new Alternatives(trunk, { id: question.id, ...settings });
      this.#alternatives = alternatives;
      this.#stopAfter = stop?.along(this.#positions);
      this.#cursor = new Uint8Array(length).fill(2);
      this.#settled = new Uint8Array(length);
      this.#open = length;
      // Early positions have the longest way to go, so they start first.
      for (let position = 0; position < length; position++) {
        const last = alternatives.lastRank(position);
        if (last < 2) this.#settle(position);
        else if (!this.#everything) this.#start(position, 2);
        else for (let rank = 2; rank <= last; rank++) this.#start(position, rank);
      }
    }
    this.#opening = false;
    this.#flush();
  }

  /**
   * Starts next ranks of positions whose verdict is still open, the longest first, into slots that nobody needs.
   * @returns how many, at most `slots`.
   */
  speculate(slots: number): number {
    const alternatives = this.#alternatives;
    if (this.#everything || alternatives === undefined || !this.#mayRunAhead) return 0;
    let started = 0;
    let position = 0;
    for (; position < this.#positions.length && started < slots; position++) {
      const rank = this.#cursor[position]! + 1;
      if (this.#settled[position] === 1 || rank > alternatives.lastRank(position)) continue;
      if (this.#ahead.has(alternatives.key(position, rank))) continue;
      this.#start(position, rank, true);
      started++;
    }
    // Seen to the end: asked again, which may be with every verdict, it need not look before a position has moved on.
    this.#mayRunAhead = position < this.#positions.length;
    this.#flush();
    return started;
  }

  #start(position: number, rank: number, speculative = false): void {
    const { draft } = this.#context;
    const { prompt, priority } = this.#given;
    const alternatives = this.#alternatives!;
    const token = alternatives.token(position, rank);
    const onFinished = (rollout: Rollout): void => {
      if (rank > this.#cursor[position]! && !this.#everything)
        this.#ahead.set(alternatives.key(position, rank), rollout);
      else this.#finished(position, rank, rollout);
      this.#flush();
    };
    const stopAt = this.#stopAfter?.(position, token);
    const known = this.#withoutDecoding(position, token, stopAt);
    if (known !== undefined) {
      onFinished(known);
      return;
    }
    const branch: DriverBranch = {
      trunk: this.#trunk,
      length: prompt.tokenIds.length + position,
      forcedTokens: Int32Array.of(token),
      maxNewTokens: prompt.budget - position - 1,
      temperature: 0,
      topP: 1,
      seed: 0,
      draft,
      priority: (speculative ? speculativePriority : priority) + position / (this.#positions.length + 1),
      counted: speculative,
      stopAt,
      onFinished,
    };
    this.#batch.push(speculative ? { branch, speculative: alternatives.key(position, rank) } : { branch });
  }

  /** The rollout of an alternative that leaves nothing to decode. */
  #withoutDecoding(position: number, token: number, stopAt: StopAt | undefined): Rollout | undefined {
    if (this.#context.model.endTokenIds.includes(token)) return { tokenIds: noTokens, endTokenId: token };
    // The alternative itself may complete an answer.
    if (stopAt?.([]) === 0) return { tokenIds: noTokens, endTokenId: -1, stopped: true };
    return this.#given.prompt.budget - position - 1 > 0 ? undefined : { tokenIds: noTokens, endTokenId: -1 };
  }

  /** Submits what was started; ends where nothing is open any more. */
  #flush(): void {
    if (this.#opening) return;
    if (this.#batch.length > 0) {
      const batch = this.#batch;
      this.#batch = [];
      const ids = this.#context.driver.submit(batch.map(({ branch }) => branch));
      batch.forEach(({ speculative }, i) => {
        if (speculative !== undefined) this.#ahead.set(speculative, ids[i]!);
      });
    }
    if (this.#open > 0) return;
    this.#opening = true; // once
    this.#context.driver.releaseTrunk(this.#trunk);
    this.#given.onDone(this.#result());
  }

  /** A rollout that is known to be needed. */
  #finished(position: number, rank: number, rollout: Rollout): void {
    const { model, settings, verifier, driver } = this.#context;
    const token = this.#alternatives!.token(position, rank);
    const { tokenIds, endTokenId, stopped } = rollout;
    const isEnd = model.endTokenIds.includes(token);
    // Nothing follows an end token.
    const whole = isEnd
      ? this.#positions.slice(0, position)
      : joined(this.#positions.subarray(0, position + 1), tokenIds);
    if (!isEnd) whole[position] = token;
    const ended = endTokenId >= 0 || stopped === true;
    const text = ended || settings.keepRollouts ? textOf(model, whole) : '';
    driver.track<Judgement>(
      () => (ended ? judge(verifier, text, this.#given.question, whole) : { verdict: 'truncated' }),
      (judgement) => {
        this.#judged(position, rank, rollout, judgement, text);
        this.#flush();
      },
    );
  }

  #judged(position: number, rank: number, rollout: Rollout, judgement: Judgement, text: string): void {
    const alternatives = this.#alternatives!;
    const record: AlternativeRecord = {
      position,
      rank,
      token_id: alternatives.token(position, rank),
      logprob: alternatives.logProb(position, rank),
      ...judgement,
    };
    if (this.#context.settings.keepRollouts)
      record.continuation = this.#continuation(position, record.token_id, rollout, text);
    this.#records[alternatives.key(position, rank)] = record;
    this.#decodedTokens += rollout.tokenIds.length;
    if (rollout.stopped) this.#stoppedRollouts++;
    this.#given.onVerdict();
    const last = alternatives.lastRank(position);
    if (this.#everything) {
      // The cursor counts verdicts here: which rank they are of does not matter.
      if (++this.#cursor[position]! > last) this.#settle(position);
      return;
    }
    if (judgement.verdict === 'correct' || rank >= last) {
      this.#settle(position);
      return;
    }
    const next = rank + 1;
    this.#cursor[position] = next;
    this.#mayRunAhead = true;
    const ahead = this.#ahead.get(alternatives.key(position, next));
    if (ahead === undefined) this.#start(position, next);
    else {
      this.#ahead.delete(alternatives.key(position, next));
      // Where it is still under way it arrives as any other.
      if (typeof ahead === 'object') this.#finished(position, next, ahead);
    }
  }

  /** No more verdicts of this position are wanted. */
  #settle(position: number): void {
    this.#settled[position] = 1;
    this.#open--;
    if (this.#ahead.size === 0) return;
    const { k } = this.#context.settings;
    for (let rank = this.#cursor[position]! + 1; rank <= k; rank++) {
      const key = this.#alternatives!.key(position, rank);
      const ahead = this.#ahead.get(key);
      if (ahead === undefined) continue;
      this.#ahead.delete(key);
      this.#wastedTokens +=
        typeof ahead === 'object' ? ahead.tokenIds.length : this.#context.driver.cancel(ahead);
    }
  }

  /** Text after the alternative. */
  #continuation(position: number, token: number, { tokenIds }: Rollout, text: string): string {
    const { model } = this.#context;
    const kept = [...this.#positions.subarray(0, position)];
    // Cut from the whole text: a tokenizer may decode a fragment's first token without its leading space.
    const start = textOf(model, model.endTokenIds.includes(token) ? kept : [...kept, token]);
    return text.startsWith(start) ? text.slice(start.length) : textOf(model, tokenIds);
  }

  #result(): AnnotatedResponse {
    const { settings, model } = this.#context;
    const alternatives = this.#records.filter((record) => record !== undefined);
    const verdictsOf: AlternativeRecord['verdict'][][] = Array.from(this.#positions, () => []);
    for (const { position, verdict } of alternatives) verdictsOf[position]!.push(verdict);
    const weights = verdictsOf.map((verdicts) => positionWeight(verdicts, settings.rule, settings.truncated));
    const filled = weights.map((weight) => weight ?? 0);
    let allowed = 0;
    for (let position = 0; position < this.#positions.length; position++)
      allowed += this.#alternatives!.lastRank(position) - 1;
    const { question, prompt, response } = this.#given;
    return {
      record: {
        id: question.id,
        question: question.question,
        answer: question.answer,
        response: textOf(model, response.tokenIds),
        prompt_token_ids: [...prompt.tokenIds],
        response_token_ids: [...this.#positions],
        end_token_id: response.endTokenId,
        logprobs: this.#alternatives?.logProbs ?? [],
        ...(settings.rule === 'graded' ? { token_weights: filled } : { critical_mask: filled }),
        alternatives,
        rollouts: alternatives.length,
      },
      unjudged: weights.filter((weight) => weight === undefined).length,
      rolloutsSaved: allowed - alternatives.length,
      stoppedRollouts: this.#stoppedRollouts,
      decodedTokens: this.#decodedTokens,
      wastedTokens: this.#wastedTokens,
    };
  }
}
