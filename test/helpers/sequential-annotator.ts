/**
 * The simple annotator, kept as the reference for the scheduling one: one response at a time, every verdict awaited
 * before the next branches are submitted, nothing started before it is known to be needed.
 */
import { CftError } from '../../lib/errors.js';
import { Judge, type Judgement } from '../../lib/counterfactual/judge.js';
import { type Prompt, type RolloutModel, textOf } from '../../lib/counterfactual/rollout-model.js';
import type { AnnotatedResponse, AnnotationSettings } from '../../lib/counterfactual/rollouts.js';
import { positionWeight, triesEverything } from '../../lib/counterfactual/rules.js';
import type { Rollout } from '../../lib/model/rollouts.js';
import type {
  NativeBranch,
  NativeBranchResult,
  NativeRolloutEngine,
  NativeTrunk,
} from '../../lib/native/binding.js';
import type { AlternativeRecord, Question, ResponseRecord } from '../../lib/types.js';
import type { DetailedVerifier } from '../../lib/verify/verifier.js';

/** Decoded tokens per branch and native call: the time between two looks at the signal and the progress. */
const tokensPerStep = 16;

/** Steps an engine until branches finish, looking at the abort signal in between. */
export class EngineDriver implements Disposable {
  readonly engine: NativeRolloutEngine;
  readonly #signal: AbortSignal | undefined;
  readonly #onTokens: (count: number) => void;
  readonly #interrupt: () => void;

  constructor(
    engine: NativeRolloutEngine,
    { signal, onTokens = () => {} }: { signal?: AbortSignal | undefined; onTokens?: (count: number) => void },
  ) {
    this.engine = engine;
    this.#signal = signal;
    this.#onTokens = onTokens;
    this.#interrupt = () => engine.interrupt();
    signal?.addEventListener('abort', this.#interrupt);
  }

  /** @throws the signal's reason once it is aborted. */
  throwIfAborted(): void {
    this.#signal?.throwIfAborted();
  }

  /** The branches that finish next, by id; rejects with the signal's reason. Branches must be under way. */
  async nextFinished(): Promise<NativeBranchResult[]> {
    for (;;) {
      this.throwIfAborted();
      const { finished, decodedTokens } = await this.engine.step(tokensPerStep);
      this.#onTokens(decodedTokens);
      if (finished.length > 0) return finished.sort((a, b) => a.id - b.id);
    }
  }

  [Symbol.dispose](): void {
    this.#signal?.removeEventListener('abort', this.#interrupt);
    this.engine.dispose();
  }
}
/** A counterfactual response before its verdict. */
interface Counterfactual {
  position: number;
  rank: number;
  /** Tokens after the alternative, without the end token. */
  continuation: Int32Array;
  ended: boolean;
}

/** Four decimals, as in the files; never minus zero, which JSON would not keep. */
const rounded = (logProb: number): number => Math.round(logProb * 1e4) / 1e4 + 0;

function concatenated(...parts: (Int32Array | readonly number[])[]): Int32Array {
  const whole = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export class ResponseAnnotator {
  readonly #driver: EngineDriver;
  readonly #model: RolloutModel;
  readonly #judge: Judge;
  readonly #settings: AnnotationSettings;
  readonly #question: Question;
  readonly #prompt: Int32Array;
  readonly #response: Rollout;
  /** Positions that are perturbed: the response, and with `includeEos` its end token. */
  readonly #positions: Int32Array;
  readonly #budget: number;
  readonly #onVerdict: () => void;
  readonly #alternatives = new Map<number, AlternativeRecord>();
  #scores: NativeTrunk | undefined;
  #decodedTokens = 0;

  /** @param budget most tokens of a response to this prompt, end token included. */
  constructor(options: {
    driver: EngineDriver;
    model: RolloutModel;
    judge: Judge;
    settings: AnnotationSettings;
    question: Question;
    prompt: Int32Array;
    response: Rollout;
    budget: number;
    onVerdict: () => void;
  }) {
    this.#driver = options.driver;
    this.#model = options.model;
    this.#judge = options.judge;
    this.#settings = options.settings;
    this.#question = options.question;
    this.#prompt = options.prompt;
    this.#response = options.response;
    this.#budget = options.budget;
    this.#onVerdict = options.onVerdict;
    const { tokenIds, endTokenId } = options.response;
    this.#positions = options.settings.includeEos ? concatenated(tokenIds, [endTokenId]) : tokenIds;
  }

  async annotate(): Promise<AnnotatedResponse> {
    if (this.#positions.length > 0) {
      const { engine } = this.#driver;
      const scores = await engine.addTrunk({
        tokenIds: concatenated(this.#prompt, this.#positions),
        scoreFrom: this.#prompt.length,
        alternatives: this.#settings.k - 1,
      });
      this.#scores = scores;
      this.#checkScores(scores);
      await this.#rollOut(scores);
      engine.releaseTrunk(scores.trunk);
    }
    return this.#result();
  }

  #checkScores({ logProbs, alternativeLogProbs }: NativeTrunk): void {
    if (logProbs.every(Number.isFinite) && alternativeLogProbs.every(Number.isFinite)) return;
    throw new CftError(
      'ERR_CFT_BAD_WEIGHTS',
      `question ${this.#question.id}: expected finite log-probabilities, found NaN or infinity: the weights are ` +
        'damaged, or too large for this dtype',
    );
  }

  /** Ranks from 2 up that the floor leaves at a position. */
  #lastRank(position: number): number {
    const { k, minAlternativeProb } = this.#settings;
    let rank = 1;
    while (rank < k && Math.exp(this.#logProb(position, rank + 1)) >= minAlternativeProb) rank++;
    return rank;
  }

  #token(position: number, rank: number): number {
    return this.#scores!.alternativeIds[position * (this.#settings.k - 1) + rank - 2]!;
  }

  #logProb(position: number, rank: number): number {
    return this.#scores!.alternativeLogProbs[position * (this.#settings.k - 1) + rank - 2]!;
  }

  async #rollOut(scores: NativeTrunk): Promise<void> {
    const everything = triesEverything(this.#settings);
    // Early positions have the longest way to go, so they start first.
    let wanted: { position: number; rank: number }[] = [];
    for (let position = 0; position < this.#positions.length; position++) {
      const last = everything ? this.#lastRank(position) : Math.min(2, this.#lastRank(position));
      for (let rank = 2; rank <= last; rank++) wanted.push({ position, rank });
    }
    let underWay = 0;
    while (wanted.length > 0 || underWay > 0) {
      const done: Counterfactual[] = [];
      const branches: NativeBranch[] = [];
      for (const { position, rank } of wanted) {
        const token = this.#token(position, rank);
        const left = this.#budget - position - 1;
        const isEnd = this.#model.endTokenIds.includes(token);
        if (isEnd || left <= 0) {
          done.push({ position, rank, continuation: new Int32Array(0), ended: isEnd });
          continue;
        }
        branches.push({
          id: this.#key(position, rank),
          trunk: scores.trunk,
          length: this.#prompt.length + position,
          forcedTokens: Int32Array.of(token),
          maxNewTokens: left,
          temperature: 0,
          topP: 1,
          seed: 0,
        });
      }
      if (branches.length > 0) this.#driver.engine.submit(branches);
      underWay += branches.length;
      if (done.length === 0) {
        for (const { id, tokenIds, endTokenId } of await this.#driver.nextFinished()) {
          const { k } = this.#settings;
          done.push({
            position: Math.floor(id / k),
            rank: (id % k) + 1,
            continuation: tokenIds,
            ended: endTokenId >= 0,
          });
          this.#decodedTokens += tokenIds.length;
          underWay--;
        }
      }
      const verdicts = await Promise.all(done.map((rollout) => this.#judgeRollout(rollout)));
      wanted = [];
      done.forEach(({ position, rank }, i) => {
        const isLast = everything || verdicts[i] === 'correct' || rank >= this.#lastRank(position);
        if (!isLast) wanted.push({ position, rank: rank + 1 });
      });
    }
  }

  /** Orders by position, then rank; also the id of the branch. */
  #key(position: number, rank: number): number {
    return position * this.#settings.k + rank - 1;
  }

  async #judgeRollout({
    position,
    rank,
    continuation,
    ended,
  }: Counterfactual): Promise<Judgement['verdict']> {
    const { keepRollouts } = this.#settings;
    const { endTokenIds } = this.#model;
    const token = this.#token(position, rank);
    const kept = this.#positions.subarray(0, position);
    const head = endTokenIds.includes(token) ? kept : concatenated(kept, [token]);
    const whole = concatenated(head, continuation);
    const text = ended || keepRollouts ? textOf(this.#model, whole) : '';
    const judgement: Judgement = ended
      ? await this.#judge.judge(text, this.#question, whole)
      : { verdict: 'truncated' };
    const record: AlternativeRecord = {
      position,
      rank,
      token_id: token,
      logprob: rounded(this.#logProb(position, rank)),
      ...judgement,
    };
    if (keepRollouts) {
      // Cut from the whole text: a tokenizer may decode a fragment's first token without its leading space.
      const start = textOf(this.#model, head);
      record.continuation = text.startsWith(start)
        ? text.slice(start.length)
        : textOf(this.#model, continuation);
    }
    this.#alternatives.set(this.#key(position, rank), record);
    this.#onVerdict();
    return judgement.verdict;
  }

  #result(): AnnotatedResponse {
    const { rule, truncated } = this.#settings;
    const alternatives = [...this.#alternatives.entries()]
      .sort(([a], [b]) => a - b)
      .map(([, record]) => record);
    const verdictsOf: AlternativeRecord['verdict'][][] = Array.from(this.#positions, () => []);
    for (const { position, verdict } of alternatives) verdictsOf[position]!.push(verdict);
    const weights = verdictsOf.map((verdicts) => positionWeight(verdicts, rule, truncated));
    const filled = weights.map((weight) => weight ?? 0);
    let allowed = 0;
    for (let position = 0; position < this.#positions.length; position++)
      allowed += this.#lastRank(position) - 1;
    const { id, question, answer } = this.#question;
    const { tokenIds, endTokenId } = this.#response;
    return {
      record: {
        id,
        question,
        answer,
        response: textOf(this.#model, tokenIds),
        prompt_token_ids: [...this.#prompt],
        response_token_ids: [...this.#positions],
        end_token_id: endTokenId,
        logprobs: Array.from(this.#scores?.logProbs ?? [], rounded),
        ...(rule === 'graded' ? { token_weights: filled } : { critical_mask: filled }),
        alternatives,
        rollouts: alternatives.length,
      },
      unjudged: weights.filter((weight) => weight === undefined).length,
      rolloutsSaved: allowed - alternatives.length,
      decodedTokens: this.#decodedTokens,
    };
  }
}
