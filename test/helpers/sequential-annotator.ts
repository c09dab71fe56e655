/**
 * The simple annotator, kept as the reference for the scheduling one: one response at a time, every verdict awaited
 * before the next branches are submitted, nothing started before it is known to be needed.
 */

import { type Judgement, judge } from '../../lib/counterfactual/judge.js';
import { type Prompt, type RolloutModel, textOf } from '../../lib/counterfactual/rollout-model.js';
import type { AnnotatedResponse } from '../../lib/counterfactual/rollouts.js';
import { positionWeight, triesEverything } from '../../lib/counterfactual/rules.js';
import type { AnnotationSettings } from '../../lib/counterfactual/settings.js';
import { CftError } from '../../lib/errors.js';
import type { Rollout } from '../../lib/model/rollouts.js';
import type {
  NativeBranch,
  NativeBranchResult,
  NativeRolloutEngine,
  NativeTrunk,
} from '../../lib/native/binding.js';
import type { AlternativeRecord, Question, ResponseRecord } from '../../lib/types.js';
import type { DetailedVerifier } from '../../lib/verify/verifier.js';

/** A counterfactual response before its verdict. */
interface Counterfactual {
  position: number;
  rank: number;
  /** Tokens after the alternative, without the end token. */
  continuation: Int32Array;
  ended: boolean;
  stopped: boolean;
}

/** The branches that finish next, by id. */
async function nextFinished(engine: NativeRolloutEngine): Promise<NativeBranchResult[]> {
  for (;;) {
    const { finished } = await engine.step(16);
    if (finished.length > 0) return finished.sort((a, b) => a.id - b.id);
  }
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

interface Shared {
  engine: NativeRolloutEngine;
  model: RolloutModel;
  verifier: DetailedVerifier;
  settings: AnnotationSettings;
  completed?: ((text: string) => boolean) | undefined;
}

/** Cuts a response after the first token that completes its answer, trying every length. */
function cutAtAnswer(
  { model, completed }: Shared,
  head: ArrayLike<number>,
  tokenIds: Int32Array,
): Int32Array | undefined {
  if (completed === undefined) return undefined;
  for (let count = 0; count <= tokenIds.length; count++) {
    const kept = tokenIds.slice(0, count);
    if (completed(textOf(model, concatenated(Int32Array.from(head), kept)))) return kept;
  }
  return undefined;
}

class SequentialAnnotator {
  readonly #shared: Shared;
  readonly #settings: AnnotationSettings;
  readonly #question: Question;
  readonly #prompt: Int32Array;
  readonly #response: Rollout;
  readonly #positions: Int32Array;
  readonly #budget: number;
  readonly #alternatives = new Map<number, AlternativeRecord>();
  #scores: NativeTrunk | undefined;
  #decodedTokens = 0;
  #stoppedRollouts = 0;

  constructor(shared: Shared, question: Question, prompt: Prompt, response: Rollout) {
    this.#shared = shared;
    this.#settings = shared.settings;
    this.#question = question;
    this.#prompt = prompt.tokenIds;
    this.#budget = prompt.budget;
    this.#response = response;
    const { tokenIds, endTokenId } = response;
    this.#positions =
      shared.settings.includeEos && endTokenId >= 0 ? concatenated(tokenIds, [endTokenId]) : tokenIds;
  }

  async annotate(): Promise<AnnotatedResponse> {
    if (this.#positions.length > 0) {
      const { engine } = this.#shared;
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
        const isEnd = this.#shared.model.endTokenIds.includes(token);
        const none = new Int32Array(0);
        const head = concatenated(this.#positions.subarray(0, position), [token]);
        const stopped = !isEnd && cutAtAnswer(this.#shared, head, none) !== undefined;
        if (isEnd || stopped || left <= 0) {
          done.push({ position, rank, continuation: none, ended: isEnd, stopped });
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
      if (branches.length > 0) this.#shared.engine.submit(branches);
      underWay += branches.length;
      if (done.length === 0) {
        for (const { id, tokenIds, endTokenId } of await nextFinished(this.#shared.engine)) {
          const { k } = this.#settings;
          const [position, rank] = [Math.floor(id / k), (id % k) + 1];
          const head = concatenated(this.#positions.subarray(0, position), [this.#token(position, rank)]);
          const cut = cutAtAnswer(this.#shared, head, tokenIds);
          const continuation = cut ?? tokenIds;
          const stopped = cut !== undefined;
          done.push({ position, rank, continuation, ended: endTokenId >= 0, stopped });
          this.#decodedTokens += continuation.length;
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
    stopped,
  }: Counterfactual): Promise<Judgement['verdict']> {
    const { keepRollouts } = this.#settings;
    const { endTokenIds } = this.#shared.model;
    const token = this.#token(position, rank);
    const kept = this.#positions.subarray(0, position);
    const head = endTokenIds.includes(token) ? kept : concatenated(kept, [token]);
    const whole = concatenated(head, continuation);
    const text = ended || stopped || keepRollouts ? textOf(this.#shared.model, whole) : '';
    const judgement: Judgement =
      ended || stopped
        ? await judge(this.#shared.verifier, text, this.#question, whole)
        : { verdict: 'truncated' };
    if (stopped) this.#stoppedRollouts++;
    const record: AlternativeRecord = {
      position,
      rank,
      token_id: token,
      logprob: rounded(this.#logProb(position, rank)),
      ...judgement,
    };
    if (keepRollouts) {
      // Cut from the whole text: a tokenizer may decode a fragment's first token without its leading space.
      const start = textOf(this.#shared.model, head);
      record.continuation = text.startsWith(start)
        ? text.slice(start.length)
        : textOf(this.#shared.model, continuation);
    }
    this.#alternatives.set(this.#key(position, rank), record);
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
        response: textOf(this.#shared.model, tokenIds),
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
      stoppedRollouts: this.#stoppedRollouts,
      decodedTokens: this.#decodedTokens,
      wastedTokens: 0,
    };
  }
}

/** Trunks, verdicts and annotations of questions, in their order. */
export async function annotateSequentially({
  questions,
  prompts,
  maxBranches,
  ...given
}: Omit<Shared, 'engine'> & {
  questions: readonly Question[];
  prompts: readonly Prompt[];
  maxBranches: number;
}): Promise<{ responses: ResponseRecord[]; annotated: AnnotatedResponse[] }> {
  const engine = given.model.createEngine({ maxBranches });
  const shared = { ...given, engine };
  const responses: ResponseRecord[] = [];
  const annotated: AnnotatedResponse[] = [];
  for (const [i, question] of questions.entries()) {
    const { tokenIds: prompt, budget } = prompts[i]!;
    const { trunk } = await engine.addTrunk({ tokenIds: prompt, scoreFrom: prompt.length, alternatives: 0 });
    const plain = { temperature: 0, topP: 1, seed: 0, forcedTokens: new Int32Array(0) };
    engine.submit([{ id: 0, trunk, length: prompt.length, maxNewTokens: budget, ...plain }]);
    const [decoded] = await nextFinished(engine);
    engine.releaseTrunk(trunk);
    const cut = cutAtAnswer(shared, [], decoded!.tokenIds);
    const response: Rollout = cut
      ? { tokenIds: cut, endTokenId: -1, stopped: true }
      : { tokenIds: decoded!.tokenIds, endTokenId: decoded!.endTokenId };
    const text = textOf(given.model, response.tokenIds);
    const ended = response.endTokenId >= 0 || response.stopped === true;
    const judgement: Judgement = ended
      ? await judge(given.verifier, text, question, response.tokenIds)
      : { verdict: 'truncated' };
    responses.push({
      id: question.id,
      question: question.question,
      answer: question.answer,
      response: text,
      prompt_token_ids: [...prompt],
      response_token_ids: [...response.tokenIds],
      end_token_id: response.endTokenId,
      ...judgement,
    });
    if (judgement.verdict === 'correct')
      annotated.push(await new SequentialAnnotator(shared, question, prompts[i]!, response).annotate());
  }
  engine.dispose();
  return { responses, annotated };
}
