/**
 * Annotation of a list of questions into a folder: trunks and their verdicts (responses.jsonl), then counterfactual
 * rollouts of the correct ones (annotations.jsonl and annotations.meta.json). Continues whatever an interrupted run of
 * the same options left in the folder; the caller has made sure that it is the same (see run-folder.ts).
 */
import { existsSync } from 'node:fs';
import { readAnnotations, readAnnotationsMeta } from '../data/annotations.js';
import { CftError } from '../errors.js';
import { appendLines, recoverJsonLines, writeFileAtomic, writeLinesAtomic } from '../files.js';
import { type Rollout, runRollouts } from '../model/rollouts.js';
import type { AnnotationRecord, AnnotationsMeta, Question, ResponseRecord } from '../types.js';
import { type Emit, Progress } from './events.js';
import { Journal } from './journal.js';
import { type DetailedVerifier, Judge, type Judgement } from './judge.js';
import { EngineDriver, type Prompt, type RolloutModel, textOf } from './rollout-model.js';
import { type AnnotationSettings, ResponseAnnotator } from './rollouts.js';
import {
  type AnnotationOrigin,
  type AnnotationSummary,
  criticalTokens,
  metaOf,
  share,
  summarize,
  summaryOf,
} from './summary.js';

export interface AnnotationStageOptions {
  model: RolloutModel;
  questions: readonly Question[];
  /** Of the questions, in their order; see promptsOf. */
  prompts: readonly Prompt[];
  verifier: DetailedVerifier;
  settings: AnnotationSettings;
  /** Branches decoded together; also the questions whose trunks are decoded together. */
  maxBranches: number;
  /** Full path of a file in the run folder. */
  file: (name: string) => string;
  origin: AnnotationOrigin;
  signal?: AbortSignal | undefined;
}

export interface AnnotateResult {
  annotations: AnnotationRecord[];
  summary: AnnotationSummary;
}

class AnnotationStage {
  readonly #options: AnnotationStageOptions;
  readonly #emit: Emit;
  readonly #judge: Judge;
  readonly #journal: Journal;
  readonly #responses: ResponseRecord[];

  constructor(options: AnnotationStageOptions, emit: Emit) {
    this.#options = options;
    this.#emit = emit;
    this.#judge = new Judge(options.verifier, options.signal);
    this.#journal = new Journal(options.file(journalName));
    this.#responses = recoverJsonLines<ResponseRecord>(options.file(responsesName));
  }

  async run(): Promise<AnnotateResult> {
    const { questions, maxBranches, file } = this.#options;
    this.#emit({
      type: 'start',
      output: file(''),
      questions: questions.length,
      resumed: { responses: this.#responses.length, annotations: this.#journal.annotations.length },
      maxBranches,
    });
    try {
      await this.#trunks();
      await this.#rollouts();
    } catch (error) {
      try {
        this.#journal.addTime('stopped');
      } catch {
        // The disk may be what failed; the first error is the one to report.
      }
      throw error;
    }
    return this.#finish();
  }

  /** Greedy responses and their verdicts, in chunks that depend on the index alone. */
  async #trunks(): Promise<void> {
    const { model, questions, maxBranches, signal } = this.#options;
    const total = questions.length;
    const progress = new Progress('trunks', total, this.#emit);
    if (this.#responses.length === total) return;
    const engine = model.createEngine({ maxBranches });
    try {
      for (let first = Math.floor(this.#responses.length / maxBranches) * maxBranches; first < total; ) {
        progress.at(first, first / total);
        const chunk = this.#options.prompts.slice(first, first + maxBranches);
        let finished = first;
        const decoded = await runRollouts(
          engine,
          chunk.map(({ tokenIds, budget }) => ({ tokenIds, branches: [{ maxNewTokens: budget }] })),
          {
            maxBranches,
            signal,
            onFinished: (_request, _branch, { tokenIds }) => {
              progress.addTokens(tokenIds.length);
              progress.at(++finished, finished / total);
            },
          },
        );
        await this.#addResponses(
          first,
          decoded.map(([response]) => response!),
        );
        first += chunk.length;
      }
    } finally {
      engine.dispose();
    }
  }

  /** Judges a chunk and appends what the file does not hold yet: a crash of the machine may have kept a part. */
  async #addResponses(first: number, decoded: readonly Rollout[]): Promise<void> {
    const judged = await Promise.all(decoded.map((response, i) => this.#judgeTrunk(first + i, response)));
    const fresh = judged.slice(this.#responses.length - first);
    appendLines(
      this.#options.file(responsesName),
      fresh.map((record) => JSON.stringify(record)),
    );
    for (const record of fresh) this.#tellTrunk(this.#responses.push(record) - 1, record);
    this.#journal.addTime('trunks');
  }

  async #judgeTrunk(index: number, { tokenIds, endTokenId }: Rollout): Promise<ResponseRecord> {
    const question = this.#options.questions[index]!;
    const text = textOf(this.#options.model, tokenIds);
    const judgement: Judgement =
      endTokenId >= 0 ? await this.#judge.judge(text, question, tokenIds) : { verdict: 'truncated' };
    return {
      id: question.id,
      question: question.question,
      answer: question.answer,
      response: text,
      prompt_token_ids: [...this.#options.prompts[index]!.tokenIds],
      response_token_ids: [...tokenIds],
      end_token_id: endTokenId,
      ...judgement,
    };
  }

  #tellTrunk(index: number, { id, verdict, extracted, response_token_ids }: ResponseRecord): void {
    const tokens = response_token_ids.length;
    this.#emit({
      type: 'trunk',
      index,
      id,
      verdict,
      ...(extracted === undefined ? {} : { extracted }),
      tokens,
    });
  }

  /** Indices of the questions whose response is correct. */
  #correct(): number[] {
    return this.#responses.flatMap(({ verdict }, index) => (verdict === 'correct' ? [index] : []));
  }

  async #rollouts(): Promise<void> {
    const correct = this.#correct();
    if (correct.length === 0) throw this.#noSignal();
    this.#journal.check(correct);
    const progress = new Progress('rollouts', correct.length, this.#emit);
    const left = correct.slice(this.#journal.annotations.length);
    if (left.length === 0) return;
    // The work on a response grows with the square of its length: T rollouts of T / 2 tokens.
    const workOf = (index: number) => (this.#responses[index]!.response_token_ids.length + 1) ** 2;
    const work = (indices: readonly number[]) => indices.reduce((sum, index) => sum + workOf(index), 0);
    const totalWork = work(correct);
    let doneWork = totalWork - work(left);
    let done = correct.length - left.length;
    const { model, maxBranches, signal } = this.#options;
    using driver = new EngineDriver(model.createEngine({ maxBranches }), {
      signal,
      onTokens: (count) => progress.addTokens(count),
    });
    for (const index of left) {
      progress.at(done, doneWork / totalWork);
      const most = this.#responses[index]!.response_token_ids.length * (this.#options.settings.k - 1);
      let verdicts = 0;
      await this.#annotate(driver, index, () => {
        // As if every alternative were tried; the waves may end a response earlier, never later.
        progress.at(
          done,
          (doneWork + workOf(index) * share(++verdicts, Math.max(most, verdicts))) / totalWork,
        );
      });
      doneWork += workOf(index);
      done++;
    }
  }

  async #annotate(driver: EngineDriver, index: number, onVerdict: () => void): Promise<void> {
    const { model, settings, questions } = this.#options;
    const response = this.#responses[index]!;
    const prompt = this.#options.prompts[index]!;
    const { record, unjudged, rolloutsSaved, decodedTokens } = await new ResponseAnnotator({
      driver,
      model,
      judge: this.#judge,
      settings,
      question: questions[index]!,
      prompt: prompt.tokenIds,
      budget: prompt.budget,
      response: {
        tokenIds: Int32Array.from(response.response_token_ids),
        endTokenId: response.end_token_id,
      },
      onVerdict,
    }).annotate();
    const { seconds } = this.#journal.addAnnotation({
      index,
      record,
      unjudged,
      rollouts_saved: rolloutsSaved,
      decoded_tokens: decodedTokens,
    });
    const tokens = record.response_token_ids.length;
    const critical = criticalTokens(record);
    this.#emit({
      type: 'response',
      index,
      id: record.id,
      tokens,
      criticalTokens: critical,
      criticalShare: share(critical, tokens),
      rollouts: record.rollouts,
      decodedTokens,
      seconds,
    });
  }

  #noSignal(): CftError {
    const { file } = this.#options;
    const truncated = this.#responses.filter(({ verdict }) => verdict === 'truncated').length;
    const limit = truncated > 0 ? ` (${truncated} ran to the token limit)` : '';
    return new CftError(
      'ERR_CFT_NO_SIGNAL',
      `not one of ${this.#responses.length} responses is correct${limit}, so there is nothing to annotate; look at ` +
        `${file(responsesName)}: does the prompt suit the model, and the verifier the answers?`,
    );
  }

  #finish(): AnnotateResult {
    const { file, settings, origin } = this.#options;
    const entries = this.#journal.annotations;
    const summary = summarize(this.#responses, entries, settings, this.#journal.seconds);
    const annotations = entries.map(({ record }) => record);
    writeLinesAtomic(
      file(annotationsName),
      annotations.map((record) => JSON.stringify(record)),
    );
    writeFileAtomic(file(metaName), `${JSON.stringify(metaOf(summary, origin), null, 2)}\n`);
    this.#journal.remove();
    this.#emit({ type: 'done', summary });
    return { annotations, summary };
  }
}

export const responsesName = 'responses.jsonl';
export const annotationsName = 'annotations.jsonl';
const metaName = 'annotations.meta.json';
const journalName = 'annotations.journal.jsonl';

/** The annotations of a folder whose annotation is finished; undefined where it is not. Changes nothing. */
export async function finishedAnnotations(
  file: (name: string) => string,
): Promise<AnnotateResult | undefined> {
  if (existsSync(file(journalName)) || !existsSync(file(metaName)) || !existsSync(file(annotationsName))) {
    return undefined;
  }
  const meta = await readAnnotationsMeta(file(annotationsName));
  const annotations = await readAnnotations(file(annotationsName));
  return { annotations, summary: summaryOf(meta as AnnotationsMeta) };
}

/**
 * Annotates, or continues to. What is finished is on disk: after every chunk of trunks and every response.
 * @throws CftError ERR_CFT_NO_SIGNAL where no response is correct (responses.jsonl is written), ERR_CFT_VERIFIER,
 *   ERR_CFT_IO; the signal's reason when it is aborted.
 */
export async function runAnnotationStage(
  options: AnnotationStageOptions,
  emit: Emit,
): Promise<AnnotateResult> {
  options.signal?.throwIfAborted();
  const finished = await finishedAnnotations(options.file);
  if (finished !== undefined) {
    emit({ type: 'done', summary: finished.summary });
    return finished;
  }
  return new AnnotationStage(options, emit).run();
}
