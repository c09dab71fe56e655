/** What a training run tells while it works. */
import type { AnnotateEvent, Savings } from '../counterfactual/events.js';
import type { AnnotationSummary } from '../counterfactual/summary.js';
import type { EvalStageEvent } from '../eval/events.js';
import type { HubEvent } from '../model/hub.js';
import type { StrategyName } from '../strategies/index.js';
import type { LoopEvent } from './loop.js';
import type { RunPlan } from './run-plan.js';

/** In this order; those of the baseline and of sampled evaluation only where asked for. */
export type TrainStage =
  | 'trunks'
  | 'rollouts'
  | 'eval-before'
  | 'eval-before-sampled'
  | 'train'
  | 'eval-after'
  | 'eval-after-sampled'
  | 'train-baseline'
  | 'eval-baseline'
  | 'eval-baseline-sampled'
  | 'report';

export type TrainEvent =
  | {
      type: 'start';
      /** The run folder. */
      output: string;
      model: string;
      parameters: number;
      device: string;
      dtype: string;
      strategy: StrategyName;
      /** True where an earlier run in the folder is continued. */
      resumed: boolean;
    }
  /** `total` counts questions, responses or optimizer steps. */
  | { type: 'stage'; stage: TrainStage; total: number }
  /** At most every half second; in training after each step. `share` of the stage's work, 0 to 1. */
  | {
      type: 'progress';
      stage: TrainStage;
      done: number;
      total: number;
      share: number;
      tokensPerSecond: number;
      secondsLeft?: number;
      /** In training, of the last step. */
      loss?: number;
      /** With `rollouts`. */
      savings?: Savings;
    }
  /** A question has its response and verdict; a correct response is annotated. */
  | Extract<AnnotateEvent, { type: 'trunk' | 'response' }>
  | { type: 'annotated'; summary: AnnotationSummary }
  | Extract<EvalStageEvent<TrainStage>, { type: 'prediction' | 'evaluated' }>
  /** Before training starts: tokens at once, whether layers run again in the backward, and the process's memory. */
  | ({ type: 'plan'; strategy: StrategyName } & RunPlan)
  /** A step, a measurement, a checkpoint, where training continues or stops early; `strategy` says whose. */
  | (Exclude<LoopEvent, { type: 'warning' }> & { strategy: StrategyName })
  | { type: 'saved'; strategy: StrategyName; path: string }
  | { type: 'warning'; message: string }
  /** Before `start`, where the model comes from the hub. */
  | HubEvent
  | { type: 'done'; report: string };

export type EmitTrain = (event: TrainEvent) => void;
