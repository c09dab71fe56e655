/** Options of annotation. */
import { type OptionSpec, rollouts } from './spec.js';

export const annotation = {
  k: {
    kind: 'integer',
    on: rollouts,
    default: 3,
    min: 2,
    max: 64,
    describe: 'Candidates per position: the original and k - 1 alternatives',
  },
  rule: {
    kind: 'string',
    on: rollouts,
    default: 'all',
    values: ['all', 'any', 'graded'],
    describe: 'Critical where all, where any, or by the share of alternatives that fail',
  },
  complete: {
    kind: 'boolean',
    on: rollouts,
    default: false,
    describe: 'Also run what the waves make needless',
  },
  includeEos: { kind: 'boolean', on: rollouts, default: false, describe: 'The end token is a position too' },
  truncated: {
    kind: 'string',
    on: rollouts,
    default: 'incorrect',
    values: ['incorrect', 'skip'],
    describe: 'A rollout that hits the limit counts as incorrect or is left out',
  },
  minAlternativeProb: {
    kind: 'number',
    on: rollouts,
    default: 0,
    min: 0,
    max: 1,
    describe: 'Leave out alternatives less probable than this',
  },
  waves: {
    kind: 'boolean',
    on: rollouts,
    default: true,
    describe: 'Try rank r + 1 only where rank r failed; --no-waves tries all at once',
  },
  draft: {
    kind: 'boolean',
    on: rollouts,
    describe: "Verify what was said before as a draft of what comes next (default: the engine's choice)",
  },
  keepRollouts: {
    kind: 'boolean',
    on: rollouts,
    default: false,
    describe: 'Keep the text of every rollout in the annotations',
  },
} as const satisfies Record<string, OptionSpec>;
