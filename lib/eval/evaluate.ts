/** `evaluate`: accuracy, pass@k, diversity and entropy of a model on questions, into a folder. */
import { basename, extname, join } from 'node:path';
import { promptsOf } from '../counterfactual/rollout-model.js';
import { type QuestionSource, readQuestions } from '../data/questions.js';
import { CftError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { forFile } from '../json-names.js';
import type { HubEvent } from '../model/hub.js';
import { loadModel, tellDownloads } from '../model/load.js';
import { branchesFor, Model } from '../model/model.js';
import { flagOf, type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedPreset } from '../preset.js';
import { Run } from '../run.js';
import { defaultRunFolder, hashQuestions, RunFolder } from '../run-folder.js';
import type { Question, Verifier } from '../types.js';
import { completionOf, createVerifier } from '../verify/verifier.js';
import { checkAgainst, compareWithFolder, type EvaluationComparisons, writeComparisons } from './against.js';
import { readBenchmark, resolveBenchmarks } from './benchmarks.js';
import type { EvalStageEvent } from './events.js';
import { entropyOnTrunks, type TrunkEntropy } from './fixed-trunks.js';
import { findDuplicates, findOverlap } from './overlap.js';
import type { Prediction } from './predictions.js';
import { runEvaluationStage } from './stage.js';
import { averageOf, type EvalAverage, type EvalSummary, writeSummaries } from './summary.js';

export interface EvaluateOptions extends Omit<GivenOptions<'eval'>, 'model' | 'data' | 'verifier'> {
  /** A loaded model, which stays loaded, or what loadModel takes. */
  model?: Model | string | undefined;
  /** A path, or the questions themselves. */
  data?: QuestionSource | undefined;
  verifier?: string | Verifier | undefined;
  signal?: AbortSignal | undefined;
}

export type EvaluateEvent =
  | {
      type: 'start';
      output: string;
      model: string;
      parameters: number;
      device: string;
      dtype: string;
      questions: number;
    }
  /** Before `start`, where the model comes from the hub. */
  | HubEvent
  /** Questions asked twice or trained on, too few responses for pass@k. */
  | { type: 'warning'; message: string }
  /** What the events up to the next one are about, where there are several. */
  | { type: 'benchmark'; name: string; questions: number }
  | EvalStageEvent<'eval'>;

/** One benchmark, or the questions of a file. */
export interface EvaluatedSet {
  /** Its name in summary.json. */
  name: string;
  summary: EvalSummary;
  /** Responses of each question, in the order of the questions. */
  predictions: Prediction[][];
}

export interface EvaluateResult {
  /** The run folder, with summary.json and predictions.jsonl. */
  output: string;
  /** Name, summary and responses of the first set. */
  name: string;
  summary: EvalSummary;
  predictions: Prediction[][];
  /** All benchmarks in their order. */
  sets: EvaluatedSet[];
  /** Of several benchmarks. */
  average?: EvalAverage;
  /** With `against`. */
  comparison?: EvaluationComparisons;
  /** With `trunks`. */
  trunkEntropy?: TrunkEntropy;
}

function resolve(given: EvaluateOptions): ResolvedOptions<'eval'> {
  const { model, data, verifier, signal: _, ...plain } = given;
  const name = model instanceof Model ? model.name : model;
  const options = resolveOptions(
    'eval',
    {
      ...plain,
      model: name,
      data: typeof data === 'string' ? data : undefined,
      verifier: typeof verifier === 'string' ? verifier : undefined,
    },
    { defaults: name === undefined || name === 'embedded' ? presetFor(given) : {} },
  );
  if (options.resume && options.output === undefined)
    throw new CftError('ERR_CFT_BAD_OPTION', 'resume (--resume): expected the run folder as well (--output)');
  if (options.samples > 1 && options.temperature === 0) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `samples (--samples): expected 1 at temperature 0, found ${options.samples}: greedy responses are all the ` +
        'same; add --temperature 1',
    );
  }
  // The training file's questions are read by questionField.
  const unused = given.answerField !== undefined ? 'answerField' : 'questionField';
  const isUnused =
    unused === 'answerField' || (given.questionField !== undefined && options.trainData === undefined);
  if (options.benchmark !== undefined && isUnused) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `${unused} (${flagOf(unused)}): expected none beside benchmark (--benchmark), which knows its fields, found ` +
        `"${given[unused]}"`,
    );
  }
  return typeof verifier === 'function' ? { ...options, verifier: 'function' } : options;
}

/** The embedded model's own questions are for an evaluation that names none. */
function presetFor({ benchmark }: EvaluateOptions): Record<string, unknown> {
  const { data, ...preset } = embeddedPreset('eval') as Record<string, unknown>;
  return benchmark === undefined ? { data, ...preset } : preset;
}

interface QuestionSet {
  name: string;
  questions: Question[];
}

const sourceName = (source: QuestionSource): string =>
  typeof source === 'string' ? basename(source, extname(source)) : 'questions';

async function readSets(
  given: EvaluateOptions,
  options: ResolvedOptions<'eval'>,
  warn: (message: string) => void,
): Promise<QuestionSet[]> {
  const { questionField, answerField, limit, benchmark } = options;
  const { signal } = given;
  if (benchmark !== undefined && given.data !== undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'benchmark (--benchmark): expected none beside data (--data), found both; the evaluation takes one of them',
    );
  }
  if (benchmark !== undefined) {
    const sets: QuestionSet[] = [];
    for (const name of resolveBenchmarks(benchmark)) {
      const { questions, withoutAnswer, found, expected } = await readBenchmark(name, { limit, signal });
      if (found < expected)
        warn(
          `${name}: expected ${expected} questions, found ${found}: the accuracy is of a part of the benchmark`,
        );
      if (withoutAnswer > 0)
        warn(
          `${name}: ${withoutAnswer} of ${questions.length} questions have no gold answer and count as wrong`,
        );
      sets.push({ name, questions });
    }
    return sets;
  }
  const source = given.data ?? options.data;
  if (source === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'data (--data): expected a file of questions (.jsonl, .json, .csv or .parquet) or benchmark (--benchmark), ' +
        'found neither',
    );
  }
  const questions = await readQuestions(source, { questionField, answerField, limit, signal });
  return [{ name: sourceName(source), questions }];
}

/** Warns of what makes the figures say less than they seem to. */
async function warnOf(
  sets: readonly QuestionSet[],
  options: ResolvedOptions<'eval'>,
  warn: (message: string) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const set of sets) {
    const { repeated, questions } = findDuplicates(set);
    if (repeated > 0) warn(`${set.name}: ${repeated} of ${questions} questions are asked more than once`);
  }
  if (options.trainData !== undefined) {
    const { questionField, trainData } = options;
    const trained = await readQuestions(trainData, { questionField, answerField: questionField, signal });
    for (const set of sets) {
      const { shared, questions } = findOverlap(set, { name: trainData, questions: trained });
      if (shared > 0)
        warn(
          `${set.name}: ${shared} of ${questions} questions are in ${trainData}: the accuracy says little of them`,
        );
    }
  }
  const { samples } = options;
  if (samples > 1) {
    const reliable = Math.max(1, Math.floor(samples / 4));
    warn(`${samples} responses per question: pass@k for k above ${reliable} wants at least 4 k of them`);
  }
}

/** What is said about all sets together, into the folder. */
async function summarize(
  folder: string,
  sets: readonly EvaluatedSet[],
  model: Model,
  { seed, against, trunks, limit }: ResolvedOptions<'eval'>,
  signal: AbortSignal | undefined,
): Promise<Pick<EvaluateResult, 'average' | 'comparison' | 'trunkEntropy'>> {
  const average = sets.length > 1 ? averageOf(sets, seed) : undefined;
  if (average !== undefined) writeSummaries(join(folder, 'summary.json'), sets, average);
  const comparison = against === undefined ? undefined : compareWithFolder(against, sets, seed);
  if (comparison !== undefined) writeComparisons(join(folder, 'comparison.json'), comparison);
  const trunkEntropy =
    trunks === undefined ? undefined : await entropyOnTrunks(model, trunks, { limit, signal });
  if (trunkEntropy !== undefined)
    writeFileAtomic(join(folder, 'trunks.json'), `${JSON.stringify(forFile(trunkEntropy), null, 2)}\n`);
  return {
    ...(average && { average }),
    ...(comparison && { comparison }),
    ...(trunkEntropy && { trunkEntropy }),
  };
}

async function work(given: EvaluateOptions, emit: (event: EvaluateEvent) => void): Promise<EvaluateResult> {
  const { signal } = given;
  signal?.throwIfAborted();
  const options = resolve(given);
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const verifier = await createVerifier(given.verifier ?? options.verifier);
  const completed = completionOf(verifier, options);
  const output = options.output ?? defaultRunFolder();
  using folder = RunFolder.open(output, { resume: options.resume });
  const sets = await readSets(given, options, warn);
  if (options.against !== undefined) checkAgainst(options.against, sets);
  await warnOf(sets, options, warn, signal);
  const questions = sets.flatMap((set) => set.questions);
  const { device, dtype, threads, revision } = options;
  const loaded =
    given.model instanceof Model
      ? undefined
      : await loadModel(options.model, {
          ...{ device, dtype, threads, revision, signal },
          onProgress: tellDownloads(emit),
        });
  try {
    const model = loaded ?? (given.model as Model);
    // A question that does not fit is found before the folder is begun.
    promptsOf(model, questions, options);
    folder.begin({
      command: 'eval',
      options: { ...options },
      seed: options.seed,
      device: model.device,
      dtype: model.dtype,
      model: {
        name: model.name,
        weightsSha256: await model.weightsSha256(),
        tokenizerSha256: model.tokenizerSha256(),
      },
      data: {
        name: options.benchmark ? sets.map(({ name }) => name).join(',') : (options.data ?? 'in memory'),
        sha256: hashQuestions(questions),
        questions: questions.length,
      },
      libtorch: model.addon.info().libtorch,
    });
    emit({
      type: 'start',
      output,
      model: model.name,
      parameters: model.parameterCount,
      device: model.device,
      dtype: model.dtype,
      questions: questions.length,
    });
    for (const message of warnings) emit({ type: 'warning', message });
    try {
      const evaluated: EvaluatedSet[] = [];
      for (const set of sets) {
        const several = sets.length > 1;
        if (several) emit({ type: 'benchmark', name: set.name, questions: set.questions.length });
        const result = await runEvaluationStage(
          {
            stage: 'eval',
            model,
            name: set.name,
            questions: set.questions,
            verifier,
            settings: options,
            maxBranches: branchesFor(model, options.maxConcurrency),
            completed,
            folder: several ? folder.file(set.name) : folder.path,
            signal,
          },
          emit,
        );
        evaluated.push({ name: set.name, ...result });
      }
      const extras = await summarize(folder.path, evaluated, model, options, signal);
      folder.end('done');
      return { output, ...(evaluated[0] as EvaluatedSet), sets: evaluated, ...extras };
    } catch (error) {
      try {
        folder.end(signal?.aborted ? 'interrupted' : 'failed', error);
      } catch {
        // A full disk, most likely; the first error is the one to report.
      }
      throw error;
    }
  } finally {
    await loaded?.[Symbol.asyncDispose]();
  }
}

/**
 * Evaluates a model on questions.
 * @returns a Run: iterate it for events, await it for the result.
 * @throws (as the run's rejection) CftError; the signal's reason when it is aborted, with what was done on disk.
 */
export function evaluate(options: EvaluateOptions = {}): Run<EvaluateEvent, EvaluateResult> {
  return new Run((emit) => work(options, emit));
}
