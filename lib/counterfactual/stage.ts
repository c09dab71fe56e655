/**
 * Annotation of a list of questions into a folder: trunks and their verdicts (responses.jsonl), then counterfactual
 * rollouts of the correct ones (annotations.jsonl and annotations.meta.json). Continues whatever an interrupted run of
 * the same options left in the folder; the caller has made sure that it is the same (see run-folder.ts).
 *
 * Memory does not grow with the number of responses: what is done is on disk, and only counts are kept.
 */
import { existsSync } from 'node:fs';
import { readAnnotations, readAnnotationsMeta } from '../data/annotations.js';
import { CftError } from '../errors.js';
import { readJsonLinesSync, writeFileAtomic, writeLinesAtomic } from '../files.js';
import { AnswerStop } from '../model/answer-stop.js';
import { RolloutDriver } from '../model/rollout-driver.js';
import type { AnnotationRecord, AnnotationsMeta, Question } from '../types.js';
import { type Emit, Progress } from './events.js';
import { Journal, type NewAnnotation } from './journal.js';
import type { DetailedVerifier } from './judge.js';
import { type Prompt, type RolloutModel, textOf } from './rollout-model.js';
import { ResponseAnnotation } from './rollouts.js';
import { triesEverything } from './rules.js';
import type { AnnotationSettings } from './settings.js';
import {
  type AnnotationOrigin,
  type AnnotationSummary,
  criticalTokens,
  metaOf,
  share,
  summaryOf,
  Totals,
} from './summary.js';
import { decodeTrunks, Responses } from './trunks.js';
import { WriteTimer } from './write-timer.js';

export interface AnnotationStageOptions {
  model: RolloutModel;
  questions: readonly Question[];
  /** Of the questions, in their order; see promptsOf. */
  prompts: readonly Prompt[];
  verifier: DetailedVerifier;
  settings: AnnotationSettings;
  /** Most branches decoded together. */
  maxBranches: number;
  /** Let the engine draft, see `annotate`'s option; default true. The records are the same. */
  draft?: boolean | undefined;
  /** Start rank r + 1 before rank r is judged where slots would idle; default false. The records are the same. */
  speculate?: boolean | undefined;
  /** Ends responses and rollouts where their answer is complete (`stopAtAnswer`); see Verifier.completed. */
  completed?: ((text: string) => boolean) | undefined;
  /** Full path of a file in the run folder. */
  file: (name: string) => string;
  origin: AnnotationOrigin;
  signal?: AbortSignal | undefined;
}

export interface AnnotateResult {
  /** Read from the run folder when it is first asked for. */
  readonly annotations: AnnotationRecord[];
  summary: AnnotationSummary;
}

/** Responses under way at once, however slow the verifier: each holds the keys and values of its trunk. */
const mostOpen = (maxBranches: number): number => Math.max(8, 2 * maxBranches);

const writeEvery = 100; // ms

/** Work on a response grows with the square of its length: T rollouts of T / 2 tokens. */
const workOf = (tokens: number): number => (tokens + 1) ** 2;

class AnnotationStage {
  readonly #options: AnnotationStageOptions;
  readonly #emit: Emit;
  readonly #totals = new Totals();
  readonly #journal: Journal;
  readonly #responses: Responses;
  readonly #stop: AnswerStop | undefined;
  /** Finished responses that are not in the journal yet. */
  #unwritten: NewAnnotation[] = [];

  constructor(options: AnnotationStageOptions, emit: Emit) {
    this.#options = options;
    this.#emit = emit;
    this.#responses = new Responses(options.file(responsesName), (record) =>
      this.#totals.addResponse(record),
    );
    this.#journal = new Journal(options.file(journalName), (annotation) =>
      this.#totals.addAnnotation(annotation),
    );
    const { model, completed } = options;
    this.#stop = completed && new AnswerStop((tokenIds) => textOf(model, tokenIds), completed);
  }

  async run(): Promise<AnnotateResult> {
    const { questions, maxBranches, file } = this.#options;
    this.#emit({
      type: 'start',
      output: file(''),
      questions: questions.length,
      resumed: { responses: this.#responses.count, annotations: this.#journal.annotated },
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

  async #trunks(): Promise<void> {
    const { model, questions, maxBranches } = this.#options;
    const total = questions.length;
    const progress = new Progress('trunks', total, this.#emit);
    if (this.#responses.count === total) return;
    let decoded = this.#responses.count;
    progress.at(decoded, decoded / total);
    const engine = model.createEngine({ maxBranches });
    try {
      await decodeTrunks({
        ...this.#options,
        engine,
        responses: this.#responses,
        stop: this.#stop,
        onTokens: (count) => progress.addTokens(count),
        onDecoded: () => progress.at(++decoded, decoded / total),
        onWritten: (first, records) => {
          this.#journal.addTime('trunks');
          records.forEach(({ id, verdict, extracted, response_token_ids }, i) => {
            const tokens = response_token_ids.length;
            const answer = extracted === undefined ? {} : { extracted };
            this.#emit({ type: 'trunk', index: first + i, id, verdict, ...answer, tokens });
          });
        },
      });
    } finally {
      engine.dispose();
    }
  }

  async #rollouts(): Promise<void> {
    const { correct } = this.#responses;
    if (correct.size === 0) throw this.#noSignal();
    this.#journal.check([...correct.keys()]);
    const { model, settings, maxBranches, signal, verifier, draft = true, speculate = false } = this.#options;
    const progress = new Progress('rollouts', correct.size, this.#emit, () => ({
      rolloutsSaved: this.#totals.rolloutsSaved,
      savedTokens: this.#totals.savedTokens,
      stoppedRollouts: this.#totals.stoppedRollouts,
      acceptedTokens: this.#journal.work.accepted_tokens,
      wastedTokens: this.#journal.work.wasted_tokens,
    }));
    // The longest first, so that the tail of the data set is made of short ones.
    const left = [...correct]
      .filter(([index]) => !this.#journal.has(index))
      .sort(([i, a], [j, b]) => b - a || i - j);
    if (left.length === 0) return;
    let totalWork = 0;
    for (const tokens of correct.values()) totalWork += workOf(tokens);
    let doneWork = totalWork;
    for (const [, tokens] of left) doneWork -= workOf(tokens);
    progress.at(this.#journal.annotated, doneWork / totalWork);

    const engine = model.createEngine({ maxBranches });
    const driver = new RolloutDriver(engine, {
      maxBranches,
      signal,
      onStep: (count) => progress.addTokens(count),
    });
    const writing = new WriteTimer(
      writeEvery,
      () => this.#write(),
      (error) => driver.fail(error),
    );
    const context = { driver, model, verifier, settings, draft, stop: this.#stop };
    const underWay = new Set<ResponseAnnotation>();
    const counted = { drafted: 0, accepted: 0 };

    const open = async (index: number, tokens: number, priority: number): Promise<void> => {
      const response = this.#responses.read(index);
      // As if every alternative were tried; the waves may end a response earlier, never later.
      const perVerdict = workOf(tokens) / Math.max(1, (tokens + 1) * (settings.k - 1));
      let credited = 0;
      const annotation = new ResponseAnnotation(context, {
        question: this.#options.questions[index]!,
        prompt: this.#options.prompts[index]!,
        response: {
          tokenIds: Int32Array.from(response.response_token_ids),
          endTokenId: response.end_token_id,
        },
        priority,
        onVerdict: () => {
          credited += perVerdict;
          doneWork += perVerdict;
          progress.at(this.#journal.annotated, doneWork / totalWork);
        },
        onDone: (annotated) => {
          underWay.delete(annotation);
          const { draftedTokens, acceptedTokens } = driver.counters;
          this.#journal.addWork({
            drafted_tokens: draftedTokens - counted.drafted,
            accepted_tokens: acceptedTokens - counted.accepted,
            wasted_tokens: annotated.wastedTokens,
          });
          counted.drafted = draftedTokens;
          counted.accepted = acceptedTokens;
          this.#unwritten.push({
            index,
            record: annotated.record,
            unjudged: annotated.unjudged,
            rollouts_saved: annotated.rolloutsSaved,
            stopped_rollouts: annotated.stoppedRollouts,
            decoded_tokens: annotated.decodedTokens,
          });
          writing.soon();
          doneWork += workOf(tokens) - credited;
          progress.at(this.#journal.annotated, doneWork / totalWork);
        },
      });
      underWay.add(annotation);
      await annotation.open();
    };
    let next = 0;
    try {
      await driver.run(
        () => {
          if (next === left.length || underWay.size >= mostOpen(maxBranches)) return undefined;
          const [index, tokens] = left[next]!;
          return open(index, tokens, next++);
        },
        (slots) => {
          if (!speculate || triesEverything(settings)) return;
          let free = slots;
          for (const annotation of underWay) {
            if (free === 0) break;
            free -= annotation.speculate(free);
          }
        },
      );
    } finally {
      engine.dispose();
      writing.now();
    }
  }

  /** Puts finished responses on disk. */
  #write(): void {
    const lines = this.#unwritten;
    this.#unwritten = [];
    if (lines.length === 0) return;
    for (const { index, record, decoded_tokens, seconds } of this.#journal.addAnnotations(lines)) {
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
        decodedTokens: decoded_tokens,
        seconds,
      });
    }
  }

  #noSignal(): CftError {
    const { file } = this.#options;
    const { truncated, count } = this.#responses;
    const limit =
      truncated > 0
        ? ` (${truncated} ran to the token limit: more of them end with a higher --max-new-tokens)`
        : '';
    return new CftError(
      'ERR_CFT_NO_SIGNAL',
      `not one of ${count} responses is correct${limit}, so there is nothing to annotate; look at ` +
        `${file(responsesName)}: does the prompt suit the model, and the verifier the answers?`,
    );
  }

  #finish(): AnnotateResult {
    const { file, settings, origin } = this.#options;
    const { seconds, work } = this.#journal;
    const summary = this.#totals.summary({ seconds, work, complete: triesEverything(settings) });
    const indices = [...this.#responses.correct.keys()].sort((a, b) => a - b);
    const journal = this.#journal;
    const path = file(annotationsName);
    writeLinesAtomic(
      path,
      (function* () {
        for (const index of indices) yield JSON.stringify(journal.record(index));
      })(),
    );
    writeFileAtomic(file(metaName), `${JSON.stringify(metaOf(summary, origin), null, 2)}\n`);
    journal.remove();
    this.#emit({ type: 'done', summary });
    let annotations: AnnotationRecord[] | undefined;
    return {
      get annotations() {
        annotations ??= readRecords(path, summary.correct);
        return annotations;
      },
      summary,
    };
  }
}

/** @throws CftError ERR_CFT_IO where the file is not as it was written. */
function readRecords(path: string, count: number): AnnotationRecord[] {
  const records = readJsonLinesSync<AnnotationRecord>(path);
  if (records.length === count) return records;
  throw new CftError(
    'ERR_CFT_IO',
    `${path}: expected ${count} annotations, found ${records.length}: the file was changed since the run`,
  );
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
 * Annotates, or continues to. What is finished is on disk: trunks after a second at most, annotations
 * after a tenth of one.
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
