/**
 * The whole method in one run folder: trunks → verdicts → annotation → training → evaluation before and after →
 * report; or, with annotations given, from training on. Every stage continues what an interrupted run left.
 */
import { existsSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { annotationStageOptions } from '../counterfactual/annotate.js';
import type { DetailedVerifier } from '../counterfactual/judge.js';
import { checkRule } from '../counterfactual/rules.js';
import { annotationsName, runAnnotationStage } from '../counterfactual/stage.js';
import { CftError } from '../errors.js';
import { comparePredictions } from '../eval/comparison.js';
import { type EvalStageResult, runEvaluationStage } from '../eval/stage.js';
import { isAdapterFolder } from '../model/adapter.js';
import { loadModel } from '../model/load.js';
import { defaultBranches, type Model } from '../model/model.js';
import { embeddedFolder } from '../preset.js';
import { writeReport } from '../report/report.js';
import { Run } from '../run.js';
import { defaultRunFolder, hashQuestions, RunFolder } from '../run-folder.js';
import type { StrategyName } from '../strategies/index.js';
import type { AnnotationRecord, Question } from '../types.js';
import { createVerifier } from '../verify/verifier.js';
import type { EmitTrain, TrainEvent, TrainStage } from './events.js';
import type { TrainingExample } from './examples.js';
import {
  checkAnnotationsOrigin,
  inMemory,
  readTrainData,
  resolveTrainInputs,
  type TrainData,
  type TrainInputs,
  type TrainOptions,
} from './inputs.js';
import {
  type EvaluationComparison,
  readResult,
  type TrainedModel,
  type TrainResult,
  writeResult,
} from './result.js';
import { makeExamples, runTrainingStage } from './stage.js';
import { Stopwatch } from './stopwatch.js';

/** Greedy and sampled responses of one model. */
interface Evaluated {
  greedy: EvalStageResult;
  sampled?: EvalStageResult;
}

const summariesOf = ({ greedy, sampled }: Evaluated): Required<TrainedModel>['evaluation'] => ({
  greedy: greedy.summary,
  ...(sampled && { sampled: sampled.summary }),
});

function compare(before: Evaluated, after: Evaluated, seed: number): EvaluationComparison {
  return {
    greedy: comparePredictions(before.greedy.predictions, after.greedy.predictions, seed),
    ...(before.sampled &&
      after.sampled && {
        sampled: comparePredictions(before.sampled.predictions, after.sampled.predictions, seed),
      }),
  };
}

class TrainingRun {
  readonly #inputs: TrainInputs;
  readonly #data: TrainData;
  readonly #folder: RunFolder;
  readonly #base: Model;
  readonly #verifier: DetailedVerifier;
  readonly #emit: EmitTrain;
  readonly #signal: AbortSignal | undefined;
  readonly #watch: Stopwatch;

  constructor(
    parts: {
      inputs: TrainInputs;
      data: TrainData;
      folder: RunFolder;
      base: Model;
      verifier: DetailedVerifier;
      signal: AbortSignal | undefined;
    },
    emit: EmitTrain,
  ) {
    this.#inputs = parts.inputs;
    this.#data = parts.data;
    this.#folder = parts.folder;
    this.#base = parts.base;
    this.#verifier = parts.verifier;
    this.#signal = parts.signal;
    this.#emit = emit;
    this.#watch = new Stopwatch(parts.folder.file('stages.json'));
  }

  async run(): Promise<TrainResult> {
    try {
      return await this.#stages();
    } finally {
      this.#watch.stop();
    }
  }

  async #stages(): Promise<TrainResult> {
    const { options } = this.#inputs;
    const { baseline: baselineOption, strategy } = options;
    const annotated = this.#data.records === undefined ? await this.#annotate() : undefined;
    const records = annotated?.annotations ?? this.#data.records!;
    const source = this.#sourceName();
    const examplesOf = (name: StrategyName): TrainingExample[] =>
      makeExamples(records, name, this.#base.config.maxPositions, source);
    const examples = examplesOf(strategy);
    const hasBaseline =
      baselineOption !== undefined && baselineOption !== 'none' && baselineOption !== strategy;
    const baselineExamples = hasBaseline ? examplesOf(baselineOption) : undefined;

    const before = await this.#evaluate(this.#base, 'before', ['eval-before', 'eval-before-sampled']);
    const { trained, evaluated } = await this.#train('train', strategy, examples, before);
    const baseline =
      baselineExamples && hasBaseline
        ? await this.#train('train-baseline', baselineOption, baselineExamples, before)
        : undefined;

    this.#watch.start('report');
    this.#emit({ type: 'stage', stage: 'report', total: 1 });
    const report = this.#folder.file('report.html');
    const result: TrainResult = {
      output: this.#folder.path,
      report,
      model: options.model,
      strategy,
      seed: options.seed,
      ...(annotated && { annotation: annotated.summary }),
      ...(before && { evaluatedOn: this.#data.evalName, before: summariesOf(before) }),
      trained,
      ...(baseline && { baseline: baseline.trained }),
      ...(baseline?.evaluated &&
        evaluated && { againstBaseline: compare(baseline.evaluated, evaluated, options.seed) }),
      seconds: this.#watch.seconds,
    };
    writeReport(report, { result, options, records, tokenizer: this.#base.tokenizer });
    this.#watch.stop();
    writeResult(this.#folder.file('result.json'), result);
    this.#emit({ type: 'done', report });
    return result;
  }

  /** What to call the annotations in messages. */
  #sourceName(): string {
    const { annotations } = this.#inputs;
    if (annotations === undefined) return this.#folder.file(annotationsName);
    return typeof annotations === 'string' ? annotations : 'annotations';
  }

  #maxBranches(): number {
    const { maxConcurrency } = this.#inputs.options;
    return maxConcurrency === 'auto' ? defaultBranches(this.#base.device) : maxConcurrency;
  }

  async #annotate(): ReturnType<typeof runAnnotationStage> {
    this.#watch.start('trunks');
    const stage = await annotationStageOptions({
      model: this.#base,
      questions: this.#data.questions,
      options: this.#inputs.options,
      verifier: this.#verifier,
      folder: this.#folder,
      signal: this.#signal,
    });
    return runAnnotationStage(stage, (event) => {
      if (event.type === 'stage') this.#watch.start(event.stage);
      if (event.type === 'start') return;
      this.#emit(event.type === 'done' ? { type: 'annotated', summary: event.summary } : event);
    });
  }

  async #evaluate(
    model: Model,
    name: string,
    stages: readonly [greedy: TrainStage, sampled: TrainStage],
    within: string[] = [],
  ): Promise<Evaluated | undefined> {
    const { evalQuestions, evalName } = this.#data;
    const { maxNewTokens, system, userTemplate, seed, evalSamples } = this.#inputs.options;
    if (evalQuestions.length === 0) return undefined;
    const evaluate = (stage: TrainStage, samples: number, temperature: number, ...sub: string[]) => {
      this.#watch.start(stage);
      return runEvaluationStage(
        {
          stage,
          model,
          name: evalName,
          questions: evalQuestions,
          verifier: this.#verifier,
          settings: { samples, temperature, topP: 1, maxNewTokens, system, userTemplate, seed },
          maxBranches: this.#maxBranches(),
          folder: this.#folder.file(...within, 'eval', name, ...sub),
          signal: this.#signal,
        },
        this.#emit,
      );
    };
    const greedy = await evaluate(stages[0], 1, 0);
    if (evalSamples === 0) return { greedy };
    return { greedy, sampled: await evaluate(stages[1], evalSamples, 1, 'sampled') };
  }

  async #train(
    stage: 'train' | 'train-baseline',
    strategy: StrategyName,
    examples: readonly TrainingExample[],
    before: Evaluated | undefined,
  ): Promise<{ trained: TrainedModel; evaluated: Evaluated | undefined }> {
    const { options, batch } = this.#inputs;
    const within = stage === 'train' ? [] : [`baseline-${strategy}`];
    this.#watch.start(stage);
    const result = await runTrainingStage(
      {
        stage,
        strategy,
        examples,
        options,
        batch,
        loadBase: () => this.#load(options.model),
        base: { name: baseName(options.model), revision: options.revision },
        folder: this.#folder.file(...within),
        signal: this.#signal,
      },
      this.#emit,
    );
    if (before === undefined) return { trained: result, evaluated: undefined };
    // What is on disk is what the user gets, so that is what is evaluated.
    await using model = await this.#load(result.model);
    const stages = stage === 'train' ? afterStages : baselineStages;
    const evaluated = (await this.#evaluate(model, 'after', stages, within))!;
    const change = compare(before, evaluated, options.seed);
    return { trained: { ...result, evaluation: summariesOf(evaluated), change }, evaluated };
  }

  /** Another model of the same device and dtype as the base. */
  #load(name: string): Promise<Model> {
    const { device, dtype } = this.#base;
    const { revision } = this.#inputs.options;
    return loadModel(name, { device, dtype, revision, signal: this.#signal });
  }
}

const afterStages = ['eval-after', 'eval-after-sampled'] as const;
const baselineStages = ['eval-baseline', 'eval-baseline-sampled'] as const;

async function identityOf(
  model: Model,
): Promise<{ name: string; weightsSha256: string; tokenizerSha256: string }> {
  return {
    name: model.name,
    weightsSha256: await model.weightsSha256(),
    tokenizerSha256: model.tokenizerSha256(),
  };
}

/** What an adapter_config.json can be loaded by from anywhere: a full path, or the hub id. */
function baseName(model: string): string {
  if (model === 'embedded') return embeddedFolder;
  return !isAbsolute(model) && existsSync(model) ? resolve(model) : model;
}

function checkAdapterOnAdapter({ options }: TrainInputs): void {
  if (options.loraRank === 0 || options.model === 'embedded' || !isAdapterFolder(options.model)) return;
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `loraRank (--lora-rank): ${options.model} is an adapter already, and a new one would lose it; merge it into its ` +
      'base with PEFT first, or train in full (--lora-rank 0)',
  );
}

async function runTraining(given: TrainOptions, emit: EmitTrain): Promise<TrainResult> {
  const { signal } = given;
  signal?.throwIfAborted();
  const inputs = resolveTrainInputs(given);
  const { options, loadedModel } = inputs;
  checkAdapterOnAdapter(inputs);
  checkRule(options);
  if (options.resume && options.output === undefined)
    throw new CftError('ERR_CFT_BAD_OPTION', 'resume (--resume): expected the run folder as well (--output)');
  const output = options.output ?? defaultRunFolder();
  using folder = RunFolder.open(output, { resume: options.resume });
  const verifier = await createVerifier(inputs.verifier);
  const base =
    loadedModel ??
    (await loadModel(options.model, {
      device: options.device,
      dtype: options.dtype,
      threads: options.threads,
      revision: options.revision,
      signal,
    }));
  try {
    const data = await readTrainData(inputs, base.config.vocabSize, signal);
    await checkAnnotationsOrigin(inputs, base);
    const resumed = existsSync(folder.file('run.json'));
    folder.begin({
      command: 'train',
      options,
      seed: options.seed,
      device: base.device,
      dtype: base.dtype,
      model: await identityOf(base),
      data: dataIdentity(inputs, data),
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
    if (folder.finished) {
      const result = readResult(folder.file('result.json'));
      if (result !== undefined) return result;
    }
    try {
      const run = new TrainingRun({ inputs, data, folder, base, verifier, signal }, emit);
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

/** Hash of what the run is trained on: the questions, or the annotations. */
function dataIdentity(
  { options }: TrainInputs,
  { questions, records }: TrainData,
): { name: string; sha256: string; questions: number } {
  const items: readonly (Question | AnnotationRecord)[] = records ?? questions;
  return {
    name: (records ? options.annotations : options.data) ?? inMemory,
    sha256: hashQuestions(items),
    questions: items.length,
  };
}

/**
 * Trains on critical tokens, or with another strategy.
 * @returns a Run: iterate it for events, await it for the result.
 * @throws (rejects) CftError: ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA, ERR_CFT_BAD_MODEL, ERR_CFT_BAD_OUTPUT before any
 *   work; ERR_CFT_NO_SIGNAL, ERR_CFT_DIVERGED, ERR_CFT_IO later, with what was done on disk; the signal's reason.
 */
export function train(options: TrainOptions = {}): Run<TrainEvent, TrainResult> {
  return new Run((emit) => runTraining(options, emit));
}
