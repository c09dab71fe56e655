/** `evaluate`: accuracy, pass@k, diversity and entropy of a model on questions, into a folder. */
import { basename, extname } from 'node:path';
import { promptsOf } from '../counterfactual/rollout-model.js';
import { type QuestionSource, readQuestions } from '../data/questions.js';
import { CftError } from '../errors.js';
import type { HubEvent } from '../model/hub.js';
import { loadModel, tellDownloads } from '../model/load.js';
import { branchesFor, Model } from '../model/model.js';
import { type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedPreset } from '../preset.js';
import { Run } from '../run.js';
import { defaultRunFolder, hashQuestions, RunFolder } from '../run-folder.js';
import type { Verifier } from '../types.js';
import { completionOf, createVerifier } from '../verify/verifier.js';
import type { EvalStageEvent } from './events.js';
import type { Prediction } from './predictions.js';
import { runEvaluationStage } from './stage.js';
import type { EvalSummary } from './summary.js';

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
  | EvalStageEvent<'eval'>;

export interface EvaluateResult {
  /** The run folder, with summary.json and predictions.jsonl. */
  output: string;
  /** Name of the questions in summary.json. */
  name: string;
  summary: EvalSummary;
  /** Responses of each question, in the order of the questions. */
  predictions: Prediction[][];
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
    { defaults: name === undefined || name === 'embedded' ? embeddedPreset('eval') : {} },
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
  return typeof verifier === 'function' ? { ...options, verifier: 'function' } : options;
}

async function work(given: EvaluateOptions, emit: (event: EvaluateEvent) => void): Promise<EvaluateResult> {
  const { signal } = given;
  signal?.throwIfAborted();
  const options = resolve(given);
  const source = given.data ?? options.data;
  if (source === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'data (--data): expected a file of questions (.jsonl, .json, .csv or .parquet), found none',
    );
  }
  const verifier = await createVerifier(given.verifier ?? options.verifier);
  const completed = completionOf(verifier, options);
  const output = options.output ?? defaultRunFolder();
  using folder = RunFolder.open(output, { resume: options.resume });
  const { questionField, answerField, limit, device, dtype, threads, revision } = options;
  const questions = await readQuestions(source, { questionField, answerField, limit, signal });
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
    const name = typeof source === 'string' ? basename(source, extname(source)) : 'questions';
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
        name: typeof source === 'string' ? source : 'in memory',
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
    try {
      const result = await runEvaluationStage(
        {
          stage: 'eval',
          model,
          name,
          questions,
          verifier,
          settings: options,
          maxBranches: branchesFor(model, options.maxConcurrency),
          completed,
          folder: folder.path,
          signal,
        },
        emit,
      );
      folder.end('done');
      return { output, name, ...result };
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
