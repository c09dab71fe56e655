/**
 * The one table of options. Types, defaults, checks, command-line flags and help all come from here: an option is
 * named in camelCase in the Node API and configuration files and in kebab-case on the command line.
 */
import { strategyNames } from './strategies/names.js';

export const commands = ['train', 'annotate', 'eval', 'generate', 'verify', 'doctor', 'setup'] as const;
export type Command = (typeof commands)[number];

export interface OptionSpec {
  kind: 'string' | 'integer' | 'number' | 'boolean' | 'list';
  /** Commands that take it. */
  on: readonly Command[];
  describe: string;
  default?: string | number | boolean;
  /** Allowed values of a string. */
  values?: readonly string[];
  min?: number;
  /** The value itself is refused, only what lies above it is good. */
  above?: number;
  max?: number;
  /** The words that a numeric option takes beside numbers, e.g. `auto`. */
  words?: readonly string[];
  /** What a string must match, and how to say that. */
  pattern?: { matches: RegExp; expected: string };
  /** Names that people coming from transformers, PEFT or lm-eval type; command line only. */
  aliases?: readonly string[];
}

const all = ['train', 'annotate', 'eval', 'generate'] as const;
const data = ['train', 'annotate', 'eval'] as const;
const rollouts = ['train', 'annotate'] as const;
const train = ['train'] as const;

const common = {
  model: {
    kind: 'string',
    on: all,
    default: 'embedded',
    describe: 'Hugging Face folder, PEFT adapter folder, hub id, or "embedded"',
  },
  revision: { kind: 'string', on: all, describe: 'Branch, tag or commit of a hub model' },
  device: {
    kind: 'string',
    on: all,
    default: 'auto',
    pattern: { matches: /^(auto|cpu|cuda(:\d+)?)$/, expected: 'auto, cpu, cuda or cuda:N' },
    describe: 'auto, cpu, cuda or cuda:N',
  },
  dtype: {
    kind: 'string',
    on: all,
    default: 'auto',
    values: ['auto', 'float32', 'bfloat16'],
    describe: 'Weights and arithmetic',
  },
  seed: {
    kind: 'integer',
    on: all,
    default: 0,
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    describe: 'Seed of everything random',
  },
  threads: { kind: 'integer', on: all, min: 1, max: 1024, describe: 'CPU threads (default: all cores)' },
  output: {
    kind: 'string',
    on: data,
    aliases: ['output-dir'],
    pattern: { matches: /./, expected: 'a path' },
    describe: 'Run folder (default: a new runs/<time>)',
  },
  resume: { kind: 'boolean', on: data, default: false, describe: 'Continue the run in --output' },
  limit: { kind: 'integer', on: data, min: 1, describe: 'Use only the first N questions' },
} as const satisfies Record<string, OptionSpec>;

const questions = {
  data: {
    kind: 'string',
    on: ['train', 'annotate', 'eval', 'verify'],
    describe: 'Questions: .jsonl, .json, .csv or .parquet',
  },
  questionField: { kind: 'string', on: data, default: 'question', describe: 'Field that holds the question' },
  answerField: {
    kind: 'string',
    on: ['train', 'annotate', 'eval', 'verify'],
    default: 'answer',
    describe: 'Field that holds the gold answer',
  },
  system: {
    kind: 'string',
    on: all,
    default: 'You are a helpful assistant.',
    describe: 'System message, empty for none',
  },
  userTemplate: {
    kind: 'string',
    on: all,
    default: '{question}\nPlease reason step by step, and put your final answer within \\boxed{}.',
    pattern: { matches: /\{question\}/, expected: 'a text that contains {question}' },
    describe: 'User message around {question}',
  },
  verifier: {
    kind: 'string',
    on: ['train', 'annotate', 'eval', 'verify'],
    default: 'builtin',
    describe: 'builtin, exact, regex or a JavaScript file with a default export',
  },
} as const satisfies Record<string, OptionSpec>;

const decoding = {
  prompt: { kind: 'string', on: ['generate'], describe: 'Text to continue (default: standard input)' },
  raw: {
    kind: 'boolean',
    on: ['generate'],
    default: false,
    describe: 'Continue the text as it is, without the chat template',
  },
  maxNewTokens: {
    kind: 'integer',
    on: all,
    default: 2048,
    min: 1,
    describe: 'Token budget of a response, end token included',
  },
  maxConcurrency: {
    kind: 'integer',
    on: data,
    words: ['auto'],
    default: 'auto',
    min: 1,
    max: 65536,
    describe: 'Branches decoded together',
  },
  samples: {
    kind: 'integer',
    on: ['eval', 'generate'],
    default: 1,
    min: 1,
    max: 4096,
    describe: 'Responses per question',
  },
  temperature: {
    kind: 'number',
    on: ['eval', 'generate'],
    default: 0,
    min: 0,
    max: 100,
    describe: '0 = greedy',
  },
  topP: {
    kind: 'number',
    on: ['eval', 'generate'],
    default: 1,
    above: 0,
    max: 1,
    describe: 'Nucleus sampling',
  },
} as const satisfies Record<string, OptionSpec>;

const annotation = {
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
  keepRollouts: {
    kind: 'boolean',
    on: rollouts,
    default: false,
    describe: 'Keep the text of every rollout in the annotations',
  },
} as const satisfies Record<string, OptionSpec>;

const training = {
  strategy: {
    kind: 'string',
    on: train,
    default: 'cft',
    values: strategyNames,
    describe: 'Which tokens are trained',
  },
  annotations: { kind: 'string', on: train, describe: 'Train on these annotations instead of making them' },
  force: {
    kind: 'boolean',
    on: train,
    default: false,
    describe: 'Accept annotations of another model or tokenizer',
  },
  baseline: {
    kind: 'string',
    on: train,
    values: ['none', ...strategyNames],
    describe: 'Also train this strategy, to compare (embedded model: sft)',
  },
  epochs: {
    kind: 'number',
    on: train,
    default: 3,
    above: 0,
    max: 1000,
    aliases: ['num-train-epochs'],
    describe: 'Passes over the responses',
  },
  batchSize: { kind: 'integer', on: train, default: 16, min: 1, describe: 'Sequences per optimizer step' },
  microBatchTokens: {
    kind: 'integer',
    on: train,
    words: ['auto'],
    default: 'auto',
    min: 1,
    describe: 'Tokens per forward and backward pass',
  },
  learningRate: {
    kind: 'number',
    on: train,
    above: 0,
    max: 10,
    describe: 'Peak rate (default 5e-6 full, 1e-4 LoRA)',
  },
  warmup: {
    kind: 'number',
    on: train,
    default: 0.1,
    min: 0,
    max: 1,
    aliases: ['warmup-ratio'],
    describe: 'Share of the steps with a rising rate',
  },
  schedule: {
    kind: 'string',
    on: train,
    default: 'cosine',
    values: ['cosine', 'linear', 'constant'],
    aliases: ['lr-scheduler-type'],
    describe: 'Rate after the warm-up',
  },
  weightDecay: { kind: 'number', on: train, default: 0, min: 0, max: 10, describe: 'Decoupled weight decay' },
  maxGradNorm: {
    kind: 'number',
    on: train,
    default: 1,
    min: 0,
    describe: 'Clip the global gradient norm, 0 = never',
  },
  loraRank: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    max: 4096,
    aliases: ['lora-r'],
    describe: 'Rank of LoRA, 0 = full fine-tuning',
  },
  loraAlpha: { kind: 'number', on: train, above: 0, describe: 'LoRA alpha (default 2 x rank)' },
  loraTargets: {
    kind: 'list',
    on: train,
    default: 'all-linear',
    aliases: ['lora-target-modules'],
    describe: 'Modules with adapters, or all-linear',
  },
  loraDropout: {
    kind: 'number',
    on: train,
    default: 0,
    min: 0,
    max: 0.95,
    describe: 'Dropout before the adapters',
  },
  masterWeights: {
    kind: 'string',
    on: train,
    default: 'float32',
    values: ['float32', 'none'],
    describe: 'Master copies of bf16 weights',
  },
  lossNormalization: {
    kind: 'string',
    on: train,
    default: 'step',
    values: ['step', 'sequence', 'microbatch'],
    describe: 'What the loss is averaged over',
  },
  checkpointEvery: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    describe: 'Steps between checkpoints, 0 = at the end of each epoch',
  },
  perDeviceTrainBatchSize: {
    kind: 'integer',
    on: train,
    min: 1,
    describe: 'Sequences per micro-batch; times the next, the batch size',
  },
  gradientAccumulationSteps: {
    kind: 'integer',
    on: train,
    min: 1,
    describe: 'Micro-batches per optimizer step',
  },
} as const satisfies Record<string, OptionSpec>;

const evaluation = {
  evalData: { kind: 'string', on: train, describe: 'Questions for the evaluation before and after' },
  validation: {
    kind: 'number',
    on: train,
    default: 0,
    min: 0,
    max: 0.9,
    describe: 'Share of the questions kept out of training for the evaluation',
  },
  evalSamples: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    max: 4096,
    describe: 'Also sample so many responses per evaluation question, at temperature 1',
  },
} as const satisfies Record<string, OptionSpec>;

const setup = {
  flavour: {
    kind: 'string',
    on: ['setup'],
    default: 'auto',
    values: ['auto', 'cpu', 'cuda'],
    describe: 'What to build for; auto: cuda where there are a GPU and nvcc',
  },
} as const satisfies Record<string, OptionSpec>;

export const optionTable = {
  ...common,
  ...questions,
  ...decoding,
  ...annotation,
  ...training,
  ...evaluation,
  ...setup,
};

export type OptionName = keyof typeof optionTable;

/** Headings of the help text. */
export const optionGroups: Readonly<Record<string, readonly string[]>> = {
  'Model and run': Object.keys(common),
  Questions: Object.keys(questions),
  Decoding: Object.keys(decoding),
  Annotation: Object.keys(annotation),
  Training: Object.keys(training),
  Evaluation: Object.keys(evaluation),
  Building: Object.keys(setup),
};
