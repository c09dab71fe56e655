/** `annotate`: from a model and questions to a run folder with trunks, verdicts and critical tokens. */
import { type QuestionSource, readQuestions } from '../data/questions.js';
import { CftError } from '../errors.js';
import { loadModel, tellDownloads } from '../model/load.js';
import { branchesFor, type Model } from '../model/model.js';
import { type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedPreset } from '../preset.js';
import { Run } from '../run.js';
import { defaultRunFolder, hashQuestions, RunFolder } from '../run-folder.js';
import type { Question, Verifier } from '../types.js';
import { completionOf, createVerifier } from '../verify/verifier.js';
import type { AnnotateEvent, Emit } from './events.js';
import type { DetailedVerifier } from './judge.js';
import { promptsOf } from './rollout-model.js';
import { checkRule } from './rules.js';
import { settingsOf } from './settings.js';
import {
  type AnnotateResult,
  type AnnotationStageOptions,
  finishedAnnotations,
  runAnnotationStage,
} from './stage.js';

export interface AnnotateOptions extends Omit<GivenOptions<'annotate'>, 'model' | 'data' | 'verifier'> {
  /** A loaded model, which stays loaded, or what loadModel takes. */
  model?: Model | string | undefined;
  /** A path, or the questions themselves. */
  data?: QuestionSource | undefined;
  verifier?: string | Verifier | undefined;
  signal?: AbortSignal | undefined;
}

/** The options that annotation reads, as `annotate` and `train` resolve them. */
export type AnnotationOptions = Pick<
  ResolvedOptions<'annotate'>,
  | 'maxNewTokens'
  | 'k'
  | 'complete'
  | 'rule'
  | 'includeEos'
  | 'truncated'
  | 'minAlternativeProb'
  | 'waves'
  | 'keepRollouts'
  | 'draft'
  | 'stopAtAnswer'
  | 'maxConcurrency'
  | 'system'
  | 'userTemplate'
  | 'verifier'
>;

/**
 * What the annotation stage needs, from a loaded model and resolved options.
 * @throws CftError ERR_CFT_BAD_DATA for a question whose prompt does not fit the model.
 */
export async function annotationStageOptions({
  model,
  questions,
  options,
  verifier,
  folder,
  signal,
}: {
  model: Model;
  questions: readonly Question[];
  options: AnnotationOptions;
  verifier: DetailedVerifier;
  folder: RunFolder;
  signal?: AbortSignal | undefined;
}): Promise<AnnotationStageOptions> {
  const maxBranches = branchesFor(model, options.maxConcurrency);
  const settings = settingsOf(options);
  const { draft, stopAtAnswer, system, userTemplate } = options;
  return {
    model,
    questions,
    prompts: promptsOf(model, questions, { maxNewTokens: settings.maxNewTokens, system, userTemplate }),
    verifier,
    settings,
    maxBranches,
    // The engine drafts where it has rows to spare; --no-draft forbids it.
    draft: draft ?? true,
    speculate: speculates(model.device),
    completed: completionOf(verifier, options),
    file: (name) => folder.file(name),
    origin: {
      model: {
        name: model.name,
        weightsSha256: await model.weightsSha256(),
        tokenizerSha256: model.tokenizerSha256(),
      },
      options: {
        ...settings,
        draft: draft ?? 'auto',
        stopAtAnswer,
        maxConcurrency: maxBranches,
        system,
        userTemplate,
        verifier: options.verifier,
      },
      libtorch: model.addon.info().libtorch,
      device: model.device,
    },
    signal,
  };
}

/**
 * Where slots that idle cost next to nothing. On a CPU a row more makes the step longer, and the one that turns out
 * needless was paid in full (docs/decisions/0007).
 */
const speculates = (device: string): boolean => device !== 'cpu';

/** What options are recorded as that a program handed over in place of a name. */
const inMemory = '(in memory)';

/** Options as resolved, all of them plain. */
function resolve({
  model,
  data,
  verifier,
  signal: _,
  ...rest
}: AnnotateOptions): ResolvedOptions<'annotate'> {
  const modelName = typeof model === 'object' ? model.name : (model ?? 'embedded');
  const defaults = modelName === 'embedded' ? embeddedPreset('annotate') : {};
  // How many of the embedded questions to take says nothing about others.
  if (data !== undefined) delete defaults.limit;
  const options = resolveOptions(
    'annotate',
    {
      ...rest,
      model: modelName,
      data: typeof data === 'object' ? inMemory : data,
      verifier: typeof verifier === 'function' ? inMemory : verifier,
    },
    { defaults },
  );
  checkRule(options);
  if (options.resume && options.output === undefined) {
    throw new CftError('ERR_CFT_BAD_OPTION', 'resume (--resume): expected the run folder as well (--output)');
  }
  if (options.data === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'data (--data): expected a file of questions (.jsonl, .json, .csv or .parquet), found none',
    );
  }
  return options;
}

async function work(given: AnnotateOptions, emit: Emit): Promise<AnnotateResult> {
  const { signal } = given;
  signal?.throwIfAborted();
  const options = resolve(given);
  const verifier = await createVerifier(given.verifier ?? options.verifier);
  completionOf(verifier, options); // refused before any work
  using folder = RunFolder.open(options.output ?? defaultRunFolder(), { resume: options.resume });
  const questions = await readQuestions(given.data ?? (options.data as string), {
    questionField: options.questionField,
    answerField: options.answerField,
    limit: options.limit,
    signal,
  });
  const loaded =
    typeof given.model === 'object'
      ? undefined
      : await loadModel(options.model, {
          ...loadOptions(options),
          signal,
          onProgress: tellDownloads(emit),
        });
  try {
    const model = loaded ?? (given.model as Model);
    const stage = await annotationStageOptions({ model, questions, options, verifier, folder, signal });
    folder.begin({
      command: 'annotate',
      options: { ...options },
      seed: options.seed,
      device: model.device,
      dtype: model.dtype,
      model: stage.origin.model,
      data: {
        name: options.data as string,
        sha256: hashQuestions(questions),
        questions: questions.length,
      },
      libtorch: stage.origin.libtorch,
    });
    if (folder.finished && (await finishedAnnotations(stage.file)) === undefined) {
      throw new CftError(
        'ERR_CFT_BAD_OUTPUT',
        `${folder.path}: expected the files of a finished run (run.json says "done"), found some missing; choose ` +
          'another --output',
      );
    }
    try {
      const result = await runAnnotationStage(stage, emit);
      folder.end('done');
      return result;
    } catch (error) {
      endBadly(folder, error, signal);
      throw error;
    }
  } finally {
    await loaded?.[Symbol.asyncDispose]();
  }
}

const loadOptions = ({ device, dtype, threads, revision }: ResolvedOptions<'annotate'>) => ({
  device,
  dtype: dtype as 'auto' | 'float32' | 'bfloat16',
  threads,
  revision,
});

/** Records the end of a run that did not reach it; the error itself matters more than that this may fail too. */
function endBadly(folder: RunFolder, error: unknown, signal: AbortSignal | undefined): void {
  try {
    folder.end(signal?.aborted ? 'interrupted' : 'failed', error);
  } catch {
    // A full disk, most likely; run.json then still says "running", and --resume takes it the same.
  }
}

/**
 * Annotates questions with a model: its greedy response to each, the verdicts, and for the correct ones which tokens
 * are critical. Everything lands in the run folder; see docs/method.md for the method.
 * @throws (as the run's rejection) CftError; the signal's reason when it is aborted, with what was done on disk.
 */
export function annotate(options: AnnotateOptions = {}): Run<AnnotateEvent, AnnotateResult> {
  return new Run((emit) => work(options, emit));
}
