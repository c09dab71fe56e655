/** Which responses make up which optimizer step. Any step can be computed alone, so that a run resumes anywhere. */
import { Random } from '../random.js';

export interface TrainingPlan {
  responses: number;
  batchSize: number;
  stepsPerEpoch: number;
  /** All optimizer steps of the run. */
  steps: number;
  seed: number;
}

/** The last batch of an epoch may be smaller; a fraction of an epoch is rounded up to whole steps. */
export function planTraining(options: {
  responses: number;
  batchSize: number;
  epochs: number;
  seed: number;
}): TrainingPlan {
  const stepsPerEpoch = Math.ceil(options.responses / options.batchSize);
  return {
    responses: options.responses,
    batchSize: options.batchSize,
    stepsPerEpoch,
    // The epsilon keeps 0.1 x 30 from becoming four steps.
    steps: Math.max(1, Math.ceil(options.epochs * stepsPerEpoch - 1e-9)),
    seed: options.seed,
  };
}

/** Indices of the responses in the optimizer step `step` (from 0). Each epoch has an order of its own. */
export function batchOfStep(plan: TrainingPlan, step: number): Int32Array {
  const epoch = Math.floor(step / plan.stepsPerEpoch);
  const start = (step % plan.stepsPerEpoch) * plan.batchSize;
  const order = new Random('order', plan.seed, epoch).permutation(plan.responses);
  return order.subarray(start, start + plan.batchSize);
}
