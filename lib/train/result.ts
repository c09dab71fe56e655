/** What a training run came to, and result.json, which holds it for later readers. */
import { existsSync, readFileSync } from 'node:fs';
import type { AnnotationSummary } from '../counterfactual/summary.js';
import type { Comparison } from '../eval/comparison.js';
import type { EvalSummary } from '../eval/summary.js';
import { writeFileAtomic } from '../files.js';
import { forFile, fromFile, type Json } from '../json-names.js';
import type { StrategyName } from '../strategies/index.js';
import type { TrainStage } from './events.js';
import type { TrainingResult } from './stage.js';

/** The same questions answered greedily and, where asked for, sampled at temperature 1. */
export interface Evaluation {
  greedy: EvalSummary;
  sampled?: EvalSummary;
}

export interface EvaluationComparison {
  greedy: Comparison;
  sampled?: Comparison;
}

export interface TrainedModel extends TrainingResult {
  evaluation?: Evaluation;
  /** Against the model before training. */
  change?: EvaluationComparison;
}

export interface TrainResult {
  /** The run folder. */
  output: string;
  report: string;
  model: string;
  strategy: StrategyName;
  seed: number;
  /** Absent where annotations were given. */
  annotation?: AnnotationSummary;
  /** Name of the evaluation's questions; absent without an evaluation. */
  evaluatedOn?: string;
  before?: Evaluation;
  trained: TrainedModel;
  baseline?: TrainedModel;
  /** The trained model against the baseline: a positive difference speaks for the strategy. */
  againstBaseline?: EvaluationComparison;
  /**
   * A question to try the trained model on: the first that training turned from wrong to right, else one that it
   * answers rightly, else any. Absent where no question is known.
   */
  example?: { question: string; answer: string; before?: boolean; after?: boolean };
  /** Wall time per stage, summed over resumes. */
  seconds: Partial<Record<TrainStage, number>>;
}

export const writeResult = (path: string, result: TrainResult): void =>
  writeFileAtomic(path, `${JSON.stringify(forFile(result), null, 2)}\n`);

export const readResult = (path: string): TrainResult | undefined =>
  existsSync(path) ? (fromFile(JSON.parse(readFileSync(path, 'utf8')) as Json) as TrainResult) : undefined;
