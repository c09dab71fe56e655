/**
 * cft-native: Critical Token Fine-tuning on libtorch. Importing this loads neither the addon nor libtorch; loadModel
 * does. docs/ describes the method, the files and every function.
 */
export { type BenchOptions, bench } from './bench/bench.js';
export type { BenchEvent, BenchResult, BenchRow } from './bench/events.js';
export type { TrainRow } from './bench/train.js';
export { type AnnotateOptions, annotate } from './counterfactual/annotate.js';
export type { AnnotateEvent, Savings } from './counterfactual/events.js';
export type { AnnotateResult } from './counterfactual/stage.js';
export type { AnnotationSummary } from './counterfactual/summary.js';
export type { QuestionInput, QuestionSource } from './data/questions.js';
export { CftError, type CftErrorCode } from './errors.js';
export type { EvaluationComparisons } from './eval/against.js';
export { benchmarkNames } from './eval/benchmarks.js';
export type { AverageComparison, Comparison, ComparisonVerdict } from './eval/comparison.js';
export type { Diversity } from './eval/diversity.js';
export {
  type EvaluatedSet,
  type EvaluateEvent,
  type EvaluateOptions,
  type EvaluateResult,
  evaluate,
} from './eval/evaluate.js';
export { findOverlaps, type OverlapOptions, type OverlapReport } from './eval/overlaps.js';
export type { Prediction } from './eval/predictions.js';
export type { EvalAverage, EvalSummary } from './eval/summary.js';
export type { GenerateOptions, Generation } from './model/generation.js';
export { type LoadEvent, type LoadOptions, loadModel } from './model/load.js';
export type { Model, RolloutsOptions, StreamedToken } from './model/model.js';
export type { FinishedRollout, Rollout, RolloutBranch, RolloutRequest } from './model/rollouts.js';
export type { Tokenizer } from './model/tokenizer.js';
export { describeComparison } from './report/describe.js';
export { type ReportOptions, type ReportResult, report } from './report/report.js';
export type { Run } from './run.js';
export type { StrategyName } from './strategies/names.js';
export type { TrainEvent, TrainStage } from './train/events.js';
export type { TrainOptions } from './train/inputs.js';
export type { ProbeMetrics, StepMetrics, ValidationMetrics } from './train/metrics.js';
export type { Evaluation, EvaluationComparison, TrainedModel, TrainResult } from './train/result.js';
export { train } from './train/train.js';
export type {
  AlternativeRecord,
  AnnotationRecord,
  AnnotationsMeta,
  Question,
  ResponseRecord,
  Verdict,
  Verification,
  Verifier,
  VerifierContext,
} from './types.js';
export { verify } from './verify/index.js';
