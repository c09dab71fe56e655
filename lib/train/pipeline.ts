/**
 * The stages of a training run in its folder: annotation → evaluation before → training → evaluation after → the same
 * for the baseline → report. Every stage continues what an interrupted run left.
 */
import { existsSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { annotationStageOptions } from '../counterfactual/annotate.js';
import { annotationsName, runAnnotationStage } from '../counterfactual/stage.js';
import { comparePredictions } from '../eval/comparison.js';
import { type EvalStageResult, runEvaluationStage } from '../eval/stage.js';
import { loadModel } from '../model/load.js';
import { branchesFor, type Model } from '../model/model.js';
import { embeddedFolder } from '../preset.js';
import { writeRunReport } from '../report/report.js';
import type { RunFolder } from '../run-folder.js';
import type { StrategyName } from '../strategies/index.js';
import type { AnnotationRecord, Question } from '../types.js';
import { completionOf, type DetailedVerifier } from '../verify/verifier.js';
import type { EmitTrain, TrainStage } from './events.js';
import type { TrainingExample } from './examples.js';
import { makeProbe, makeValidation, type Probe } from './held-out.js';
import type { TrainData, TrainInputs } from './inputs.js';
import { type EvaluationComparison, type TrainedModel, type TrainResult, writeResult } from './result.js';
import { makeExamples, runTrainingStage } from './stage.js';
import { Stopwatch } from './stopwatch.js';

/** What one strategy trains on, and is validated on where responses are held out. */
interface StrategyExamples {
  strategy: StrategyName;
  examples: TrainingExample[];
  validation: TrainingExample[] | undefined;
}

/** What is trained: the strategy and, where asked for, the baseline on the same responses. */
export interface TrainingSets {
  main: StrategyExamples;
  baseline?: StrategyExamples;
  /** The same for all strategies. */
  probe: Probe | undefined;
}

/** Annotations and what to call them in messages. */
interface Source {
  records: readonly AnnotationRecord[];
  name: string;
}

/** @throws CftError ERR_CFT_BAD_DATA, ERR_CFT_NO_SIGNAL as makeExamples does. */
export function makeTrainingSets(
  { options }: TrainInputs,
  training: Source,
  heldOut: Source,
  maxPositions: number,
): TrainingSets {
  const { strategy, baseline } = options;
  const isAsked = options.validation > 0 || options.validationAnnotations !== undefined;
  const make = (name: StrategyName): StrategyExamples => ({
    strategy: name,
    examples: makeExamples(training.records, name, maxPositions, training.name),
    validation: isAsked
      ? makeValidation(heldOut.records, name, maxPositions, heldOut.name, options)
      : undefined,
  });
  const main = make(strategy);
  const probe = options.probeEvery > 0 ? makeProbe(heldOut.records) : undefined;
  if (baseline === undefined || baseline === 'none' || baseline === strategy) return { main, probe };
  return { main, baseline: make(baseline), probe };
}

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

/** See TrainResult.example. */
function exampleOf(
  questions: readonly Question[],
  records: readonly AnnotationRecord[],
  before: Evaluated | undefined,
  after: Evaluated | undefined,
): TrainResult['example'] {
  const first = (evaluated: Evaluated | undefined, i: number) =>
    evaluated?.greedy.predictions[i]?.[0]?.correct;
  const tried = questions.map(({ question, answer }, i) => {
    const [was, is] = [first(before, i), first(after, i)];
    return {
      question,
      answer,
      ...(was !== undefined && { before: was }),
      ...(is !== undefined && { after: is }),
    };
  });
  const known = records.find(({ question }) => question !== '');
  return (
    tried.find((one) => one.after && !one.before) ??
    tried.find((one) => one.after) ??
    tried[0] ??
    (known && { question: known.question, answer: known.answer })
  );
}

export class TrainingRun {
  readonly #inputs: TrainInputs;
  readonly #data: TrainData;
  readonly #folder: RunFolder;
  readonly #base: Model;
  readonly #ownsBase: boolean;
  readonly #verifier: DetailedVerifier;
  readonly #emit: EmitTrain;
  readonly #signal: AbortSignal | undefined;
  /** Known beforehand where annotations are given. */
  readonly #sets: TrainingSets | undefined;
  readonly #watch: Stopwatch;

  constructor(
    parts: {
      inputs: TrainInputs;
      data: TrainData;
      folder: RunFolder;
      base: Model;
      /** Whether nobody else uses the base: its weights are then freed before training. */
      ownsBase: boolean;
      verifier: DetailedVerifier;
      sets: TrainingSets | undefined;
      signal: AbortSignal | undefined;
    },
    emit: EmitTrain,
  ) {
    this.#inputs = parts.inputs;
    this.#data = parts.data;
    this.#folder = parts.folder;
    this.#base = parts.base;
    this.#ownsBase = parts.ownsBase;
    this.#verifier = parts.verifier;
    this.#sets = parts.sets;
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
    const annotated = this.#data.records === undefined ? await this.#annotate() : undefined;
    const split = annotated && splitHeldOut(annotated.annotations, this.#data);
    const records = split?.training ?? this.#data.records!;
    const sets = this.#sets ?? this.#makeSets(split!);
    if (sets.main.validation === undefined && options.validation > 0) {
      const message = 'no held-out response has a token of the strategy, so there is no validation loss';
      this.#emit({ type: 'warning', message });
    }
    const before = await this.#evaluate(this.#base, 'before', ['eval-before', 'eval-before-sampled']);
    // Training loads its own copy; of this one only tokenizer and facts are needed from here on.
    if (this.#ownsBase) this.#base.native.dispose();
    const { trained, evaluated } = await this.#train('train', sets.main, sets.probe, before);
    const baseline =
      sets.baseline && (await this.#train('train-baseline', sets.baseline, sets.probe, before));

    this.#watch.start('report');
    this.#emit({ type: 'stage', stage: 'report', total: 1 });
    const report = this.#folder.file('report.html');
    const example = exampleOf(this.#data.evalQuestions, records, before, evaluated);
    const result: TrainResult = {
      output: this.#folder.path,
      report,
      model: options.model,
      strategy: options.strategy,
      seed: options.seed,
      ...(annotated && { annotation: annotated.summary }),
      ...(before && { evaluatedOn: this.#data.evalName, before: summariesOf(before) }),
      trained,
      ...(baseline && { baseline: baseline.trained }),
      ...(baseline?.evaluated &&
        evaluated && { againstBaseline: compare(baseline.evaluated, evaluated, options.seed) }),
      ...(example && { example }),
      seconds: this.#watch.seconds,
    };
    await writeRunReport(report, { result, records, tokenizer: this.#base.tokenizer });
    this.#watch.stop();
    writeResult(this.#folder.file('result.json'), result);
    this.#emit({ type: 'done', report });
    return result;
  }

  #makeSets({ training, validation }: ReturnType<typeof splitHeldOut>): TrainingSets {
    const name = this.#folder.file(annotationsName);
    const { validationAnnotations } = this.#inputs.options;
    return makeTrainingSets(
      this.#inputs,
      { records: training, name },
      { records: validation, name: validationAnnotations ?? name },
      this.#base.config.maxPositions,
    );
  }

  #maxBranches(): number {
    return branchesFor(this.#base, this.#inputs.options.maxConcurrency);
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
          completed: completionOf(this.#verifier, this.#inputs.options),
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
    { strategy, examples, validation }: StrategyExamples,
    probe: Probe | undefined,
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
        validation,
        probe,
        options,
        batch,
        loadBase: () => this.#load(options.model),
        loadOther: (name) => this.#load(name),
        heldBytes: this.#ownsBase ? 0 : this.#base.native.weightBytes,
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
    const { model, revision } = this.#inputs.options;
    return loadModel(name, {
      device,
      dtype,
      revision: name === model ? revision : undefined,
      signal: this.#signal,
    });
  }
}

/** Annotations made in this run: those of held-out questions are for validation, unless other records are. */
export function splitHeldOut(
  annotations: readonly AnnotationRecord[],
  { heldOut, validationRecords }: Pick<TrainData, 'heldOut' | 'validationRecords'>,
): { training: AnnotationRecord[]; validation: AnnotationRecord[] } {
  const own = annotations.filter(({ id }) => heldOut.has(id));
  return {
    training: annotations.filter(({ id }) => !heldOut.has(id)),
    validation: own.length > 0 ? own : validationRecords,
  };
}

const afterStages = ['eval-after', 'eval-after-sampled'] as const;
const baselineStages = ['eval-baseline', 'eval-baseline-sampled'] as const;

/** What an adapter_config.json can be loaded by from anywhere: a full path, or the hub id. */
function baseName(model: string): string {
  if (model === 'embedded') return embeddedFolder;
  return !isAbsolute(model) && existsSync(model) ? resolve(model) : model;
}
