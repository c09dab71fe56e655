/** What a training run starts from, read and checked before any work: options, questions, annotations. */
import { basename, extname } from 'node:path';
import { checkRule } from '../counterfactual/rules.js';
import { annotationsMetaPath, readAnnotations, readAnnotationsMeta } from '../data/annotations.js';
import { type QuestionSource, readQuestions } from '../data/questions.js';
import { splitValidation } from '../data/split.js';
import { CftError } from '../errors.js';
import { isAdapterFolder } from '../model/adapter.js';
import type { Model } from '../model/model.js';
import { annotation } from '../option-table/annotation.js';
import { optionTable } from '../option-table.js';
import { flagOf, type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedPreset } from '../preset.js';
import { optionsForFile } from '../run-folder.js';
import type { AnnotationRecord, Question, Verifier } from '../types.js';
import { loraOptions } from './adapter.js';
import { type BatchSize, resolveBatchSize } from './batch-size.js';

type Replaced = 'model' | 'data' | 'evalData' | 'annotations' | 'validationAnnotations' | 'verifier';
type Records = string | Iterable<unknown> | AsyncIterable<unknown>;

/** Every option of the command, and what only a program can hand over. */
export interface TrainOptions extends Omit<GivenOptions<'train'>, Replaced> {
  /** A loaded model is used for annotation and evaluation and stays as it is: training loads a copy of its own. */
  model?: string | Model | undefined;
  data?: QuestionSource | undefined;
  evalData?: QuestionSource | undefined;
  /** Records instead of making them: a file, or records in memory. */
  annotations?: Records | undefined;
  /** Held-out records: a file, or records in memory. */
  validationAnnotations?: Records | undefined;
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
  validationAnnotations: TrainOptions['validationAnnotations'];
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
  if (given.loraMerge && !given.loraRank)
    refuse('loraMerge', 'expected loraRank (--lora-rank) above 0 beside it: without, there is no adapter');
  if (given.validation && given.validationAnnotations !== undefined)
    refuse('validation', 'expected none beside validationAnnotations (--validation-annotations), found both');
  if (given.warmup !== undefined && given.warmupSteps !== undefined)
    refuse('warmup', 'expected none beside warmupSteps (--warmup-steps), found both');
  for (const name of ['saveBest', 'earlyStoppingPatience', 'probeEvery'] as const) {
    if (given[name] && !given.validation && given.validationAnnotations === undefined)
      refuse(
        name,
        'expected held-out responses beside it: validation (--validation 0.1) or validationAnnotations ' +
          '(--validation-annotations file)',
      );
  }
  if (given.baseline !== undefined && given.baseline === (given.strategy ?? optionTable.strategy.default))
    refuse('baseline', `expected another strategy than ${given.baseline}, which is trained anyway`);
  for (const name of ['loraAlpha', 'loraDropout', 'loraTargets', 'loraRankStabilized'] as const) {
    if (given[name] !== undefined && !given.loraRank)
      refuse(name, 'expected loraRank (--lora-rank) above 0 beside it: without, training is full');
  }
}

/** @throws CftError ERR_CFT_BAD_OPTION naming option, expected and found. */
export function resolveTrainInputs(given: TrainOptions): TrainInputs {
  const { signal: _, model, data, evalData, annotations, validationAnnotations, verifier, ...plain } = given;
  const loadedModel = typeof model === 'string' ? undefined : model;
  const modelName = loadedModel?.name ?? (model as string | undefined) ?? 'embedded';
  const own = modelName === 'embedded' ? embeddedPreset('train') : {};
  if (data !== undefined || annotations !== undefined) {
    // Comparing and evaluating on the embedded questions is for the embedded run alone.
    for (const name of ['data', 'evalData', 'evalSamples', 'baseline', 'limit']) delete own[name];
  }
  checkMeant(given);
  // Who asks for a share of the questions does not mean the preset's own.
  if (given.validation !== undefined && evalData === undefined) delete own.evalData;
  const named = {
    ...plain,
    model: modelName,
    data: nameOf(data),
    evalData: nameOf(evalData),
    annotations: nameOf(annotations),
    validationAnnotations: nameOf(validationAnnotations),
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
    validationAnnotations,
    verifier: verifier ?? options.verifier,
  };
  if (annotations !== undefined) {
    if (data !== undefined)
      throw new CftError('ERR_CFT_BAD_OPTION', 'data (--data): expected none beside annotations, found both');
    for (const name of Object.keys(annotation) as (keyof typeof annotation)[]) {
      if (plain[name] === undefined) continue;
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `${name} (${flagOf(name)}): expected none beside annotations, which are made already, found ` +
          JSON.stringify(plain[name]),
      );
    }
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
  /** Questions to annotate, those for validation among them; empty where annotations are given. */
  questions: Question[];
  /** Ids of the questions that are kept out of training. */
  heldOut: ReadonlySet<string>;
  /** Given annotations to train on. */
  records: AnnotationRecord[] | undefined;
  /** Given annotations for validation; those of `heldOut` questions are still to be made. */
  validationRecords: AnnotationRecord[];
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
  const { options, data, evalData, annotations, validationAnnotations } = inputs;
  const { questionField, answerField, limit, validation, seed } = options;
  const fields = { questionField, answerField, signal };
  const questions = data === undefined ? [] : await readQuestions(data, { ...fields, limit });
  let records =
    annotations === undefined ? undefined : await readAnnotations(annotations, { vocabSize, signal });
  if (limit !== undefined) records = records?.slice(0, limit);
  const ofRecords = records && splitValidation(records, validation, seed);
  const ofQuestions = splitValidation(questions, validation, seed);
  const validationRecords =
    validationAnnotations === undefined
      ? (ofRecords?.validation ?? [])
      : await readAnnotations(validationAnnotations, { vocabSize, signal });
  const ownQuestions = ofRecords ? questionsOf(ofRecords.validation) : ofQuestions.validation;
  return {
    questions,
    heldOut: new Set(ofQuestions.validation.map(({ id }) => id)),
    records: ofRecords?.training,
    validationRecords,
    evalQuestions: evalData === undefined ? ownQuestions : await readQuestions(evalData, fields),
    evalName: evalData === undefined ? 'validation' : dataName(evalData),
  };
}

/**
 * Annotations belong to the model that made them: its weights chose the responses, its tokenizer the ids.
 * @returns a warning where the evaluation would ask in other words than the annotations were made with.
 * @throws CftError ERR_CFT_BAD_DATA unless `force`.
 */
export async function checkAnnotationsOrigin(inputs: TrainInputs, model: Model): Promise<string | undefined> {
  if (typeof inputs.validationAnnotations === 'string')
    await checkOrigin(inputs.validationAnnotations, inputs, model);
  return typeof inputs.annotations === 'string' ? checkOrigin(inputs.annotations, inputs, model) : undefined;
}

async function checkOrigin(
  annotations: string,
  { options }: TrainInputs,
  model: Model,
): Promise<string | undefined> {
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
