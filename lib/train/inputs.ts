/** What a training run starts from, read and checked before any work: options, questions, annotations. */
import { basename, extname } from 'node:path';
import { checkRule } from '../counterfactual/rules.js';
import { annotationsMetaPath, readAnnotations, readAnnotationsMeta } from '../data/annotations.js';
import { type QuestionSource, readQuestions } from '../data/questions.js';
import { splitValidation } from '../data/split.js';
import { CftError } from '../errors.js';
import { isAdapterFolder } from '../model/adapter.js';
import type { Model } from '../model/model.js';
import { optionTable } from '../option-table.js';
import { flagOf, type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedPreset } from '../preset.js';
import { optionsForFile } from '../run-folder.js';
import type { AnnotationRecord, Question, Verifier } from '../types.js';
import { loraOptions } from './adapter.js';
import { type BatchSize, resolveBatchSize } from './batch-size.js';

type Replaced = 'model' | 'data' | 'evalData' | 'annotations' | 'verifier';

/** Every option of the command, and what only a program can hand over. */
export interface TrainOptions extends Omit<GivenOptions<'train'>, Replaced> {
  /** A loaded model is used for annotation and evaluation and stays as it is: training loads a copy of its own. */
  model?: string | Model | undefined;
  data?: QuestionSource | undefined;
  evalData?: QuestionSource | undefined;
  /** Records instead of making them: a file, or records in memory. */
  annotations?: string | Iterable<unknown> | AsyncIterable<unknown> | undefined;
  verifier?: string | Verifier | undefined;
  /** Stops between steps; the rejection is the signal's reason, and what was done is on disk. */
  signal?: AbortSignal | undefined;
}

/** Where the options are to be recorded: what is not plain is named, not kept. */
export const inMemory = '(in memory)';

export interface TrainInputs {
  options: ResolvedOptions<'train'>;
  batch: BatchSize;
  /** Undefined where annotations are given. */
  data: QuestionSource | undefined;
  evalData: QuestionSource | undefined;
  /** What a program handed over in place of names. */
  loadedModel: Model | undefined;
  annotations: TrainOptions['annotations'];
  verifier: string | Verifier;
}

/** Names stand for themselves, everything else for being in memory. */
const nameOf = (value: unknown): string | undefined =>
  typeof value === 'string' || value === undefined ? value : inMemory;

function checkAdapterOnAdapter(options: ResolvedOptions<'train'>): void {
  if (options.loraRank === 0 || options.model === 'embedded' || !isAdapterFolder(options.model)) return;
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `loraRank (--lora-rank): ${options.model} is an adapter already, and a new one would lose it; merge it into its ` +
      'base with PEFT first, or train in full (--lora-rank 0)',
  );
}

/** Refuses what was asked for and would have no effect. */
function checkMeant(given: TrainOptions): void {
  const refuse = (name: string, why: string): never => {
    throw new CftError('ERR_CFT_BAD_OPTION', `${name} (${flagOf(name)}): ${why}`);
  };
  if (given.validation && given.evalData !== undefined)
    refuse(
      'validation',
      'expected none beside evalData (--eval-data), found both; the evaluation takes one of them',
    );
  if (given.baseline !== undefined && given.baseline === (given.strategy ?? optionTable.strategy.default))
    refuse('baseline', `expected another strategy than ${given.baseline}, which is trained anyway`);
  for (const name of ['loraAlpha', 'loraDropout', 'loraTargets', 'loraRankStabilized'] as const) {
    if (given[name] !== undefined && !given.loraRank)
      refuse(name, 'expected loraRank (--lora-rank) above 0 beside it: without, training is full');
  }
}

/** @throws CftError ERR_CFT_BAD_OPTION naming option, expected and found. */
export function resolveTrainInputs(given: TrainOptions): TrainInputs {
  const { signal: _, model, data, evalData, annotations, verifier, ...plain } = given;
  const loadedModel = typeof model === 'string' ? undefined : model;
  const modelName = loadedModel?.name ?? (model as string | undefined) ?? 'embedded';
  const own = modelName === 'embedded' ? embeddedPreset('train') : {};
  if (data !== undefined || annotations !== undefined) {
    // Comparing and evaluating on the embedded questions is for the embedded run alone.
    for (const name of ['data', 'evalData', 'evalSamples', 'baseline', 'limit']) delete own[name];
  }
  checkMeant(given);
  // Who asks for a share of the questions does not mean the preset's own.
  if (given.validation !== undefined) delete own.evalData;
  const named = {
    ...plain,
    model: modelName,
    data: nameOf(data),
    evalData: nameOf(evalData),
    annotations: nameOf(annotations),
    verifier: typeof verifier === 'function' ? inMemory : verifier,
  };
  const options = resolveOptions('train', named, { defaults: own });
  checkRule(options);
  checkAdapterOnAdapter(options);
  loraOptions(options);
  if (options.resume && options.output === undefined)
    throw new CftError('ERR_CFT_BAD_OPTION', 'resume (--resume): expected the run folder as well (--output)');
  const batch = resolveBatchSize(plain, options.batchSize);
  const inputs: TrainInputs = {
    options: { ...options, batchSize: batch.batchSize },
    batch,
    data: data ?? options.data,
    evalData: evalData ?? options.evalData,
    loadedModel,
    annotations,
    verifier: verifier ?? options.verifier,
  };
  if (annotations !== undefined) {
    if (data !== undefined)
      throw new CftError('ERR_CFT_BAD_OPTION', 'data (--data): expected none beside annotations, found both');
    inputs.data = undefined;
  } else if (inputs.data === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'data (--data): expected a file of questions (or --annotations), found nothing',
    );
  }
  return inputs;
}

export interface TrainData {
  /** Questions to annotate; empty where annotations are given. */
  questions: Question[];
  /** Given annotations. */
  records: AnnotationRecord[] | undefined;
  /** Questions of the evaluation before and after; empty for none. */
  evalQuestions: Question[];
  /** What the evaluation's questions are called in summary.json. */
  evalName: string;
}

const dataName = (source: QuestionSource | undefined): string =>
  typeof source === 'string' ? basename(source, extname(source)) : 'questions';

/** Questions of annotations, for an evaluation on a share of them; each id once. */
function questionsOf(records: readonly AnnotationRecord[]): Question[] {
  const byId = new Map(records.map(({ id, question, answer }) => [id, { id, question, answer }]));
  return [...byId.values()].filter(({ question, answer }) => question !== '' && answer !== '');
}

/**
 * Reads questions and annotations.
 * @param vocabSize of the model: token ids of the annotations must be below it.
 * @throws CftError ERR_CFT_BAD_DATA naming file, line and field.
 */
export async function readTrainData(
  inputs: TrainInputs,
  vocabSize: number,
  signal?: AbortSignal,
): Promise<TrainData> {
  const { options, data, evalData, annotations } = inputs;
  const { questionField, answerField, limit, validation, seed } = options;
  const fields = { questionField, answerField, signal };
  const questions = data === undefined ? [] : await readQuestions(data, { ...fields, limit });
  let records =
    annotations === undefined ? undefined : await readAnnotations(annotations, { vocabSize, signal });
  if (limit !== undefined) records = records?.slice(0, limit);
  if (evalData !== undefined) {
    return {
      questions,
      records,
      evalQuestions: await readQuestions(evalData, fields),
      evalName: dataName(evalData),
    };
  }
  if (records !== undefined) {
    const split = splitValidation(records, validation, seed);
    const evalQuestions = questionsOf(split.validation);
    if (validation > 0 && evalQuestions.length === 0) {
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `${nameOf(annotations)}: validation (--validation): expected records with "question" and "answer" to evaluate ` +
          'on, found none; give --eval-data',
      );
    }
    return { questions, records: split.training, evalQuestions, evalName: 'validation' };
  }
  const split = splitValidation(questions, validation, seed);
  return { questions: split.training, records, evalQuestions: split.validation, evalName: 'validation' };
}

/**
 * Annotations belong to the model that made them: its weights chose the responses, its tokenizer the ids.
 * @returns a warning where the evaluation would ask in other words than the annotations were made with.
 * @throws CftError ERR_CFT_BAD_DATA unless `force`.
 */
export async function checkAnnotationsOrigin(inputs: TrainInputs, model: Model): Promise<string | undefined> {
  const { annotations, options } = inputs;
  if (typeof annotations !== 'string') return undefined;
  const meta = await readAnnotationsMeta(annotations);
  if (meta === undefined) return undefined;
  const place = annotationsMetaPath(annotations);
  const check = (field: string, what: string, expected: string | undefined, found: string): void => {
    if (options.force || expected === undefined || expected === found) return;
    throw new CftError(
      'ERR_CFT_BAD_DATA',
      `${place}: ${field}: these annotations were made with ${what} ${expected.slice(0, 12)}... ` +
        `(model ${meta.model ?? 'unknown'}), ${options.model} has ${found.slice(0, 12)}...; annotate with this ` +
        'model, or say --force to train on them all the same',
    );
  };
  check('tokenizer_sha256', 'the tokenizer', meta.tokenizer_sha256, model.tokenizerSha256());
  check('weights_sha256', 'the weights', meta.weights_sha256, await model.weightsSha256());
  const differing = (['system', 'userTemplate'] as const).filter((name) => {
    const used = optionsForFile({ [name]: options[name] });
    return Object.entries(used).some(([key, value]) => (meta.options?.[key] ?? value) !== value);
  });
  if (differing.length === 0) return undefined;
  return (
    `${place}: the annotations were made with another prompt (${differing.join(', ')}); the evaluation uses ` +
    `${differing.map((name) => `${flagOf(name)} ${JSON.stringify(options[name])}`).join(', ')}`
  );
}
