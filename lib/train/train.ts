/**
 * `train`: the whole method in one run folder, from questions or from annotations. What is wrong with options, data or
 * model is found here, before any work; the stages are in pipeline.ts.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { promptsOf } from '../counterfactual/rollout-model.js';
import { CftError } from '../errors.js';
import { loadModel, tellDownloads } from '../model/load.js';
import type { Model } from '../model/model.js';
import type { ResolvedOptions } from '../options.js';
import { Run } from '../run.js';
import { type DataIdentity, defaultRunFolder, hashQuestions, hashRecords, RunFolder } from '../run-folder.js';
import type { AnnotationRecord } from '../types.js';
import { completionOf, createVerifier } from '../verify/verifier.js';
import { checkLoraTargets } from './adapter.js';
import type { EmitTrain, TrainEvent } from './events.js';
import {
  checkAnnotationsOrigin,
  inMemory,
  readTrainData,
  resolveTrainInputs,
  type TrainData,
  type TrainInputs,
  type TrainOptions,
} from './inputs.js';
import { makeTrainingSets, TrainingRun, type TrainingSets } from './pipeline.js';
import { readResult, type TrainResult } from './result.js';

async function identityOf(
  model: Model,
): Promise<{ name: string; weightsSha256: string; tokenizerSha256: string }> {
  return {
    name: model.name,
    weightsSha256: await model.weightsSha256(),
    tokenizerSha256: model.tokenizerSha256(),
  };
}

/** Weights in fp32 have no copies that could be left out. */
function checkMasterWeights({ masterWeights }: ResolvedOptions<'train'>, dtype: Model['dtype']): void {
  if (masterWeights !== 'none' || dtype === 'bfloat16') return;
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `masterWeights (--master-weights): none: expected a model in bfloat16, found ${dtype}; leave it out, or take ` +
      '--dtype bfloat16',
  );
}

async function runTraining(given: TrainOptions, emit: EmitTrain): Promise<TrainResult> {
  const { signal } = given;
  signal?.throwIfAborted();
  const inputs = resolveTrainInputs(given);
  const { options, loadedModel } = inputs;
  const output = options.output ?? defaultRunFolder();
  using folder = RunFolder.open(output, { resume: options.resume });
  const verifier = await createVerifier(inputs.verifier);
  completionOf(verifier, inputs.options); // refused before any work
  const base =
    loadedModel ??
    (await loadModel(options.model, {
      device: options.device,
      dtype: options.dtype,
      threads: options.threads,
      revision: options.revision,
      signal,
      onProgress: tellDownloads(emit),
    }));
  try {
    checkMasterWeights(options, base.dtype);
    checkLoraTargets(options, base.config);
    const data = await readTrainData(inputs, base.config.vocabSize, signal);
    const promptWarning = await checkAnnotationsOrigin(inputs, base);
    const sets = data.records && givenSets(inputs, data, data.records, base.config.maxPositions);
    // A question that does not fit is found before the folder is begun.
    promptsOf(base, [...data.questions, ...data.evalQuestions], options);
    const resumed = existsSync(folder.file('run.json'));
    folder.begin({
      command: 'train',
      options,
      seed: options.seed,
      device: base.device,
      dtype: base.dtype,
      model: await identityOf(base),
      data: dataIdentity(inputs, data),
      evalData: evalIdentity(inputs, data),
      libtorch: base.addon.info().libtorch,
    });
    emit({
      type: 'start',
      output,
      model: options.model,
      parameters: base.parameterCount,
      device: base.device,
      dtype: base.dtype,
      strategy: options.strategy,
      resumed,
    });
    const common = commonQuestions(data);
    if (common > 0) {
      const total = data.evalQuestions.length;
      emit({
        type: 'warning',
        message: `${common} of ${total} evaluation questions are trained on as well: the accuracy after says little`,
      });
    }
    if (data.records !== undefined && inputs.evalData === undefined && data.evalQuestions.length > 0)
      emit({ type: 'warning', message: selectedQuestions(data.evalQuestions.length) });
    const known = commonPrompts(data);
    if (known > 0) {
      const total = data.validationRecords.length;
      emit({
        type: 'warning',
        message: `${known} of ${total} validation prompts are trained on as well: the validation loss says little`,
      });
    }
    if (promptWarning !== undefined && data.evalQuestions.length > 0)
      emit({ type: 'warning', message: promptWarning });
    if (folder.finished) {
      const result = readResult(folder.file('result.json'));
      if (result !== undefined) return result;
    }
    try {
      const run = new TrainingRun(
        { inputs, data, folder, base, ownsBase: loadedModel === undefined, verifier, sets, signal },
        emit,
      );
      const result = await run.run();
      folder.end('done');
      return result;
    } catch (error) {
      try {
        folder.end(signal?.aborted ? 'interrupted' : 'failed', error);
      } catch {
        // A full disk, most likely; the first error is the one to report, and --resume takes the folder all the same.
      }
      throw error;
    }
  } finally {
    if (loadedModel === undefined) await base[Symbol.asyncDispose]();
  }
}

/** Examples of given annotations; what is wrong with them is bad input. */
function givenSets(
  inputs: TrainInputs,
  { validationRecords }: TrainData,
  records: readonly AnnotationRecord[],
  maxPositions: number,
): TrainingSets {
  const { annotations, validationAnnotations } = inputs.options;
  try {
    return makeTrainingSets(
      inputs,
      { records, name: annotations ?? inMemory },
      { records: validationRecords, name: validationAnnotations ?? annotations ?? inMemory },
      maxPositions,
    );
  } catch (error) {
    if (!(error instanceof CftError)) throw error;
    throw new CftError(error.code, error.message, { cause: error, exitStatus: 2 });
  }
}

const selectedQuestions = (questions: number): string =>
  `the evaluation asks ${questions} held-out questions of the annotations, which are of responses that came out right: ` +
  'the accuracy before is high by selection, and can hardly rise; give --eval-data for one that says something';

/** How many evaluation questions are among those that are trained on. */
function commonQuestions({ questions, heldOut, records, evalQuestions }: TrainData): number {
  const trained = new Set(
    (records ?? questions.filter(({ id }) => !heldOut.has(id))).map(({ question }) => question),
  );
  return evalQuestions.filter(({ question }) => trained.has(question)).length;
}

/** How many given validation records have the prompt of one that is trained on. */
function commonPrompts({ records = [], validationRecords }: TrainData): number {
  const trained = new Set(records.map(({ prompt_token_ids }) => prompt_token_ids.join()));
  return validationRecords.filter(({ prompt_token_ids }) => trained.has(prompt_token_ids.join())).length;
}

/** What the run is trained and validated on: the questions, or the annotations. */
function dataIdentity(
  { options }: TrainInputs,
  { questions, records, validationRecords }: TrainData,
): DataIdentity {
  const trained = records === undefined ? hashQuestions(questions) : hashRecords(records);
  return {
    name: (records ? options.annotations : options.data) ?? inMemory,
    sha256:
      validationRecords.length === 0
        ? trained
        : createHash('sha256')
            .update(trained + hashRecords(validationRecords))
            .digest('hex'),
    questions: (records ?? questions).length,
  };
}

/** What it is evaluated on, where that is a source of its own. */
function evalIdentity(
  { options, evalData }: TrainInputs,
  { evalQuestions }: TrainData,
): DataIdentity | undefined {
  if (evalData === undefined) return undefined;
  return {
    name: options.evalData ?? inMemory,
    sha256: hashQuestions(evalQuestions),
    questions: evalQuestions.length,
  };
}

/**
 * Trains on critical tokens, or with another strategy.
 * @returns a Run: iterate it for events, await it for the result.
 * @throws (rejects) CftError: ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA, ERR_CFT_BAD_MODEL, ERR_CFT_BAD_OUTPUT, and
 *   ERR_CFT_NO_SIGNAL of given annotations before any work; ERR_CFT_NO_SIGNAL of annotations made in the run,
 *   ERR_CFT_DIVERGED, ERR_CFT_IO later, with what was done on disk; the signal's reason.
 */
export function train(options: TrainOptions = {}): Run<TrainEvent, TrainResult> {
  return new Run((emit) => runTraining(options, emit));
}
