/** What an evaluation says: accuracy with its interval, pass@k, diversity, length, entropy. */
import { existsSync, readFileSync } from 'node:fs';
import { writeFileAtomic } from '../files.js';
import { forFile, fromFile, type Json } from '../json-names.js';
import { answerKey, type Diversity, diversityOf } from './diversity.js';
import type { Prediction } from './predictions.js';
import {
  bootstrapInterval,
  type Interval,
  mean,
  passAtK,
  quantile,
  standardError,
  stratifiedBootstrapInterval,
  wilsonInterval,
} from './statistics.js';

/** Members with a question mark are missing in files of the first version. */
export interface EvalSummary {
  /** Questions. */
  n: number;
  /** Responses per question. */
  samples: number;
  temperature: number;
  /** Mean over the questions of the share of their responses that are correct. */
  accuracy: number;
  /** Wilson for one greedy response per question, or where all questions came out alike; else a bootstrap over them. */
  accuracyCi95: Interval;
  accuracyStderr: number;
  /**
   * Accuracy of the most frequent answer; a tie counts by the share of its right members. null where the verifier
   * never says which answer it read.
   */
  majAtK: number | null;
  /** Unbiased, for k = 1, 2, 4, ... up to the samples. */
  passAtK: Record<string, number>;
  /** Bootstrap over the questions, for the same k; null for one response per question. */
  passAtKCi95?: Record<string, Interval> | null;
  /** The largest k with four times as many responses: beyond it one lucky response decides, see docs/evaluation.md. */
  passAtKReliableTo?: number;
  /** Mean share of a question's responses that differ from each other; 1 for a single response. */
  distinctShare: number;
  meanResponseTokens: number;
  /** Quantiles of the responses' lengths in tokens: 10, 50 and 90 %. */
  responseTokenQuantiles?: [number, number, number];
  /** Of all responses, and of the correct ones alone; null for one response per question. */
  diversity?: { all: Diversity; correct: Diversity } | null;
  /** Responses that ran to the token limit. */
  truncated: number;
  /** Nats per token along the model's own responses; null where every response is empty. */
  meanEntropy: number | null;
  /** Responses that meanEntropy was measured on. */
  entropyResponses: number;
}

/** Share of votes: responses without an answer do not vote. */
function majority(responses: readonly Prediction[]): number {
  const votes = new Map<string, { count: number; correct: number }>();
  for (const response of responses) {
    const answer = answerKey(response);
    if (answer === undefined) continue;
    const vote = votes.get(answer) ?? { count: 0, correct: 0 };
    vote.count++;
    if (response.correct) vote.correct++;
    votes.set(answer, vote);
  }
  const most = Math.max(0, ...[...votes.values()].map((vote) => vote.count));
  const winners = [...votes.values()].filter((vote) => vote.count === most);
  return winners.length === 0 ? 0 : mean(winners.map((vote) => vote.correct / vote.count));
}

const powersUpTo = (samples: number): number[] => {
  const ks: number[] = [];
  for (let k = 1; k < samples; k *= 2) ks.push(k);
  return [...ks, samples];
};

const countCorrect = (responses: readonly Prediction[]): number =>
  responses.filter((response) => response.correct).length;

/** Share of correct responses per question. */
export const perQuestionAccuracy = (questions: readonly (readonly Prediction[])[]): number[] =>
  questions.map((responses) => countCorrect(responses) / responses.length);

/**
 * Bootstrap over questions; where all questions came out alike it has no width, and says less than the number of
 * questions does: then Wilson with each question as one trial [ours].
 */
function clusterInterval(accuracies: readonly number[], accuracy: number, seed: number): Interval {
  const [low, high] = bootstrapInterval(accuracies, seed);
  const n = accuracies.length;
  return low < high ? [low, high] : wilsonInterval(accuracy * n, n);
}

/** @param questions the responses of each question, equally many each. */
export function summarizePredictions(
  questions: readonly (readonly Prediction[])[],
  settings: { samples: number; temperature: number; seed: number },
  entropy: { mean: number | null; responses: number },
): EvalSummary {
  const { samples, temperature, seed } = settings;
  const n = questions.length;
  const accuracies = perQuestionAccuracy(questions);
  const accuracy = mean(accuracies);
  const all = questions.flat();
  const lengths = all.map((response) => response.response_token_ids.length);
  const ks = powersUpTo(samples);
  const passes = (k: number): number[] =>
    questions.map((responses) => passAtK(samples, countCorrect(responses), k));
  const voters = all.some((response) => response.extracted !== undefined);
  return {
    n,
    samples,
    temperature,
    accuracy,
    accuracyCi95:
      samples === 1 && temperature === 0
        ? wilsonInterval(countCorrect(all), n)
        : clusterInterval(accuracies, accuracy, seed),
    accuracyStderr: standardError(accuracies),
    majAtK: samples === 1 ? accuracy : voters ? mean(questions.map(majority)) : null,
    passAtK: Object.fromEntries(ks.map((k) => [String(k), mean(passes(k))])),
    passAtKCi95:
      samples === 1
        ? null
        : Object.fromEntries(ks.map((k) => [String(k), clusterInterval(passes(k), mean(passes(k)), seed)])),
    passAtKReliableTo: Math.max(1, Math.floor(samples / 4)),
    distinctShare: mean(
      questions.map((responses) => new Set(responses.map((r) => r.response)).size / samples),
    ),
    meanResponseTokens: mean(lengths),
    responseTokenQuantiles: [quantile(lengths, 0.1), quantile(lengths, 0.5), quantile(lengths, 0.9)],
    diversity:
      samples === 1
        ? null
        : {
            all: diversityOf(questions),
            // They are one answer.
            correct: { ...diversityOf(questions, (one) => one.correct), distinctAnswerShare: null },
          },
    truncated: all.filter((response) => response.finish_reason === 'length').length,
    meanEntropy: entropy.mean,
    entropyResponses: entropy.responses,
  };
}

/** The figures that are averaged over benchmarks, each benchmark with the same weight, as the paper reports them. */
export interface EvalAverage {
  benchmarks: string[];
  /** Questions of all of them. */
  n: number;
  /** Responses per question. */
  samples: number;
  temperature: number;
  accuracy: number;
  /** Questions resampled within each benchmark. */
  accuracyCi95: Interval;
  majAtK: number | null;
  passAtK: Record<string, number>;
  meanResponseTokens: number;
  meanEntropy: number | null;
}

/** @param sets summary and responses of each benchmark. */
export function averageOf(
  sets: readonly { name: string; summary: EvalSummary; predictions: readonly (readonly Prediction[])[] }[],
  seed: number,
): EvalAverage {
  const summaries = sets.map(({ summary }) => summary);
  const known = (values: readonly (number | null)[]): number | null =>
    values.some((value) => value === null) ? null : mean(values as number[]);
  return {
    benchmarks: sets.map(({ name }) => name),
    n: summaries.reduce((sum, { n }) => sum + n, 0),
    samples: summaries[0]!.samples,
    temperature: summaries[0]!.temperature,
    accuracy: mean(summaries.map(({ accuracy }) => accuracy)),
    accuracyCi95: stratifiedBootstrapInterval(
      sets.map(({ predictions }) => perQuestionAccuracy(predictions)),
      seed,
    ),
    majAtK: known(summaries.map(({ majAtK }) => majAtK)),
    passAtK: Object.fromEntries(
      Object.keys(summaries[0]!.passAtK).map((k) => [k, mean(summaries.map((one) => one.passAtK[k]!))]),
    ),
    meanResponseTokens: mean(summaries.map((one) => one.meanResponseTokens)),
    meanEntropy: known(summaries.map((one) => one.meanEntropy)),
  };
}

/** summary.json of several benchmarks: each under its name, and their average. */
export const writeSummaries = (
  path: string,
  sets: readonly { name: string; summary: EvalSummary }[],
  average: EvalAverage,
): void =>
  writeFileAtomic(
    path,
    `${JSON.stringify(
      {
        ...Object.fromEntries(sets.map(({ name, summary }) => [name, forFile(summary)])),
        average: forFile(average),
      },
      null,
      2,
    )}\n`,
  );

/** summary.json: per name of questions; in full precision, so that a resumed run tells what an undisturbed one does. */
export const writeSummary = (path: string, name: string, summary: EvalSummary): void =>
  writeFileAtomic(path, `${JSON.stringify({ [name]: forFile(summary) }, null, 2)}\n`);

/** The summary of some questions in a summary.json; undefined where file or name are missing. */
export function readSummary(path: string, name: string): EvalSummary | undefined {
  if (!existsSync(path)) return undefined;
  const summaries = JSON.parse(readFileSync(path, 'utf8')) as Record<string, Json>;
  return Object.hasOwn(summaries, name) ? (fromFile(summaries[name]!) as EvalSummary) : undefined;
}
