/**
 * Evaluation of one model on a list of questions into a folder: predictions.jsonl while it works, summary.json at the
 * end. Continues what an interrupted run of the same options left there.
 */
import { join } from 'node:path';
import { type DetailedVerifier, judge } from '../counterfactual/judge.js';
import { type Prompt, promptOf, type RolloutModel, textOf } from '../counterfactual/rollout-model.js';
import { makeFolder, writeLinesAtomic } from '../files.js';
import { AnswerStop } from '../model/answer-stop.js';
import { sampleSeed } from '../model/generation.js';
import { type Rollout, runRollouts } from '../model/rollouts.js';
import type { Question } from '../types.js';
import type { EvalStageEvent } from './events.js';
import { type Prediction, PredictionFile } from './predictions.js';
import { mean } from './statistics.js';
import { type EvalSummary, readSummary, summarizePredictions, writeSummary } from './summary.js';

export interface EvalModel extends RolloutModel {
  /** entropies[i] in nats of the distribution that predicts tokenIds[i + 1]. */
  scores(tokenIds: Int32Array): Promise<{ entropies: Float32Array }>;
}

export interface EvalSettings {
  /** Responses per question. */
  samples: number;
  temperature: number;
  topP: number;
  /** End token included. */
  maxNewTokens: number;
  system: string;
  userTemplate: string;
  seed: number;
}

export interface EvalStageOptions<S extends string> {
  /** Name of the stage in events. */
  stage: S;
  model: EvalModel;
  /** Name of the questions in summary.json. */
  name: string;
  questions: readonly Question[];
  verifier: DetailedVerifier;
  settings: EvalSettings;
  /** Most branches decoded together. */
  maxBranches: number;
  /** Ends responses where their answer is complete (`stopAtAnswer`); see Verifier.completed. */
  completed?: ((text: string) => boolean) | undefined;
  folder: string;
  signal?: AbortSignal | undefined;
}

export interface EvalStageResult {
  summary: EvalSummary;
  /** Responses of each question, in the order of the questions. */
  predictions: Prediction[][];
}

/** Where decoding does not tell entropies (CUDA) they cost a forward pass each: the first responses alone get one. */
const mostEntropyResponses = 64;
const progressEvery = 500; // ms

interface Job {
  /** Among the questions; with the sample it seeds the sampling, as in Model.generate. */
  index: number;
  question: Question;
  prompt: Prompt;
  /** Samples that are still to be made. */
  samples: number[];
}

const summaryName = 'summary.json';
const predictionsName = 'predictions.jsonl';

class EvalStage<S extends string> {
  readonly #options: EvalStageOptions<S>;
  readonly #emit: (event: EvalStageEvent<S>) => void;
  readonly #file: PredictionFile;
  readonly #total: number;
  readonly #start = performance.now();
  readonly #firstDone: number;
  #tokens = 0;
  #told = 0;
  /** Decoding has ended: a verdict that comes later belongs to no run, and the folder may be another one's. */
  #over = false;

  constructor(options: EvalStageOptions<S>, emit: (event: EvalStageEvent<S>) => void) {
    this.#options = options;
    this.#emit = emit;
    this.#file = new PredictionFile(join(options.folder, predictionsName));
    this.#firstDone = this.#file.size;
    this.#total = options.questions.length * options.settings.samples;
  }

  #prompt(question: Question): Prompt {
    return promptOf(this.#options.model, question, this.#options.settings);
  }

  /** What is still to be decoded. */
  #jobs(): Job[] {
    const { questions, settings } = this.#options;
    return questions.flatMap((question, index) => {
      const samples = Array.from({ length: settings.samples }, (_, sample) => sample).filter(
        (sample) => this.#file.get(question.id, sample) === undefined,
      );
      if (samples.length === 0) return [];
      return { index, question, prompt: this.#prompt(question), samples };
    });
  }

  async run(): Promise<EvalStageResult> {
    const { stage, settings, folder } = this.#options;
    this.#emit({ type: 'stage', stage, total: this.#total });
    const jobs = this.#jobs();
    if (jobs.length === 0) {
      const finished = readSummary(join(folder, summaryName), this.#options.name);
      if (finished !== undefined) {
        this.#emit({ type: 'evaluated', stage, summary: finished });
        return { summary: finished, predictions: this.#predictions() };
      }
    } else {
      await this.#decode(jobs);
    }
    const predictions = this.#predictions();
    const summary = summarizePredictions(predictions, settings, await this.#entropy(predictions));
    // In the order of the questions, whatever finished first.
    writeLinesAtomic(
      join(folder, predictionsName),
      predictions.flat().map((prediction) => JSON.stringify(prediction)),
    );
    writeSummary(join(folder, summaryName), this.#options.name, summary);
    this.#emit({ type: 'evaluated', stage, summary });
    return { summary, predictions };
  }

  #predictions(): Prediction[][] {
    const { questions, settings } = this.#options;
    return questions.map(({ id }) =>
      Array.from({ length: settings.samples }, (_, sample) => this.#file.get(id, sample)!),
    );
  }

  async #decode(jobs: readonly Job[]): Promise<void> {
    const { model, settings, maxBranches, completed, signal } = this.#options;
    const { temperature, topP, seed } = settings;
    const requests = jobs.map(({ index, prompt: { tokenIds, budget }, samples }) => ({
      tokenIds,
      branches: samples.map((sample) => ({
        maxNewTokens: budget,
        temperature,
        topP,
        seed: sampleSeed(seed, index, sample),
        entropy: true,
      })),
    }));
    const stop = completed && new AnswerStop((tokenIds) => textOf(model, tokenIds), completed);
    const engine = model.createEngine({ maxBranches });
    try {
      await runRollouts(engine, requests, {
        maxBranches,
        signal,
        stopAt: stop && (() => stop.whole()),
        onFinished: (request, branch, rollout) => {
          const job = jobs[request]!;
          return this.#finish(job, job.samples[branch]!, rollout);
        },
      });
    } finally {
      engine.dispose();
      this.#over = true;
      this.#file.flush();
    }
  }

  async #finish(
    job: Job,
    sample: number,
    { tokenIds, endTokenId, stopped, entropies }: Rollout,
  ): Promise<void> {
    const { stage, model, verifier } = this.#options;
    const { question } = job;
    const response = textOf(model, tokenIds);
    const { verdict, extracted } = await judge(verifier, response, question, tokenIds);
    if (this.#over) return;
    const correct = verdict === 'correct';
    const truncated = endTokenId < 0 && stopped !== true;
    const answer = extracted === undefined ? {} : { extracted };
    this.#file.add({
      id: question.id,
      sample,
      answer: question.answer,
      response,
      response_token_ids: [...tokenIds],
      finish_reason: truncated ? 'length' : 'stop',
      correct,
      ...answer,
      ...(entropies !== undefined && entropies.length > 0 && { mean_entropy: mean(entropies) }),
    });
    const tokens = tokenIds.length;
    this.#tokens += tokens;
    this.#emit({ type: 'prediction', stage, id: question.id, sample, correct, ...answer, tokens, truncated });
    this.#tellProgress();
  }

  #tellProgress(): void {
    const now = performance.now();
    if (now - this.#told < progressEvery) return;
    this.#told = now;
    const done = this.#file.size;
    const seconds = (now - this.#start) / 1000;
    const fresh = done - this.#firstDone;
    this.#emit({
      type: 'progress',
      stage: this.#options.stage,
      done,
      total: this.#total,
      share: done / this.#total,
      tokensPerSecond: this.#tokens / seconds,
      ...(fresh > 0 ? { secondsLeft: (seconds * (this.#total - done)) / fresh } : {}),
    });
  }

  async #entropy(
    predictions: readonly (readonly Prediction[])[],
  ): Promise<{ mean: number | null; responses: number }> {
    const all = predictions.flat().filter(({ response_token_ids: ids }) => ids.length > 0);
    if (all.every(({ mean_entropy }) => mean_entropy !== undefined)) return entropyOf(all);
    const { model, questions, signal } = this.#options;
    const measured: Prediction[] = [];
    for (let i = 0; i < questions.length && measured.length < mostEntropyResponses; i++) {
      const prediction = predictions[i]![0]!;
      const ids = prediction.response_token_ids;
      if (ids.length === 0) continue;
      signal?.throwIfAborted();
      const { tokenIds: prompt } = this.#prompt(questions[i]!);
      const { entropies } = await model.scores(Int32Array.from([...prompt, ...ids]));
      measured.push({ ...prediction, mean_entropy: mean(entropies.subarray(prompt.length - 1)) });
    }
    return entropyOf(measured);
  }
}

/** Mean over the tokens of responses with a mean of their own. */
function entropyOf(predictions: readonly Prediction[]): { mean: number | null; responses: number } {
  let sum = 0;
  let tokens = 0;
  for (const { mean_entropy: entropy = 0, response_token_ids: ids } of predictions) {
    sum += entropy * ids.length;
    tokens += ids.length;
  }
  return { mean: tokens === 0 ? null : sum / tokens, responses: predictions.length };
}

/**
 * Evaluates, or continues to; a finished evaluation is read and left as it is.
 * @throws CftError ERR_CFT_VERIFIER, ERR_CFT_IO, ERR_CFT_BAD_DATA for a prompt that does not fit the model; the
 *   signal's reason when it is aborted, with what was decoded on disk.
 */
export async function runEvaluationStage<S extends string>(
  options: EvalStageOptions<S>,
  emit: (event: EvalStageEvent<S>) => void,
): Promise<EvalStageResult> {
  options.signal?.throwIfAborted();
  makeFolder(options.folder);
  return new EvalStage(options, emit).run();
}
