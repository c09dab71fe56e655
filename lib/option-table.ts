/**
 * The one table of options. Types, defaults, checks, command-line flags and help all come from here: an option is
 * named in camelCase in the Node API and configuration files and in kebab-case on the command line.
 */
import { benchSuites, caseNames, peerNames, trainCaseNames, trainPeerNames } from './bench/names.js';
import { strategyNames } from './strategies/names.js';

export const commands = [
  'train',
  'annotate',
  'eval',
  'generate',
  'verify',
  'report',
  'overlap',
  'bench',
  'doctor',
  'setup',
] as const;
export type Command = (typeof commands)[number];

export interface OptionSpec {
  kind: 'string' | 'integer' | 'number' | 'boolean' | 'list';
  /** Commands that take it. */
  on: readonly Command[];
  describe: string;
  /** What else it is for one command. */
  describeOn?: Readonly<Partial<Record<Command, string>>>;
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
const loading = [...all, 'bench'] as const;
const data = ['train', 'annotate', 'eval'] as const;
const batched = [...data, 'bench'] as const;
const rollouts = ['train', 'annotate'] as const;
const train = ['train'] as const;

const common = {
  model: {
    kind: 'string',
    on: loading,
    default: 'embedded',
    describe: 'Hugging Face folder, PEFT adapter folder, hub id, or "embedded"',
  },
  revision: { kind: 'string', on: all, describe: 'Branch, tag or commit of a hub model' },
  device: {
    kind: 'string',
    on: loading,
    default: 'auto',
    pattern: { matches: /^(auto|cpu|cuda(:\d+)?)$/, expected: 'auto, cpu, cuda or cuda:N' },
    describe: 'auto, cpu, cuda or cuda:N',
  },
  dtype: {
    kind: 'string',
    on: loading,
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
  threads: { kind: 'integer', on: loading, min: 1, max: 1024, describe: 'CPU threads (default: all cores)' },
  output: {
    kind: 'string',
    on: [...data, 'report'],
    aliases: ['output-dir'],
    pattern: { matches: /./, expected: 'a path' },
    describe: 'Run folder (default: a new runs/<time>)',
    describeOn: { report: 'The page (default: report.html in the run folder)' },
  },
  resume: { kind: 'boolean', on: data, default: false, describe: 'Continue the run in --output' },
  limit: {
    kind: 'integer',
    on: [...batched, 'report', 'overlap'],
    min: 1,
    describe: 'Use only the first N questions',
    describeOn: {
      report: 'Show only the first N responses (default: 200)',
      eval: 'Use only the first N questions, of each benchmark',
    },
  },
} as const satisfies Record<string, OptionSpec>;

const questions = {
  data: {
    kind: 'string',
    on: ['train', 'annotate', 'eval', 'verify', 'overlap'],
    describe: 'Questions: .jsonl, .json, .csv or .parquet',
    describeOn: {
      verify: 'Predictions: JSON Lines with the field prediction (default: standard input)',
      overlap: 'Training questions: .jsonl, .json, .csv or .parquet',
    },
  },
  benchmark: {
    kind: 'list',
    on: ['eval', 'overlap'],
    aliases: ['tasks'],
    describe: 'Benchmarks by name, or paper-11 for the eleven of the paper (docs/evaluation.md)',
  },
  questionField: {
    kind: 'string',
    on: [...data, 'overlap'],
    default: 'question',
    describe: 'Field that holds the question',
  },
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
    on: batched,
    words: ['auto'],
    default: 'auto',
    min: 1,
    max: 65536,
    describe: 'Most branches decoded together; auto: what suits the device',
  },
  stopAtAnswer: {
    kind: 'boolean',
    on: data,
    default: false,
    describe: 'End responses at their first complete answer, which then decides the verdict',
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
  draft: {
    kind: 'boolean',
    on: rollouts,
    describe: "Let rollouts verify tokens of their own response as a draft (default: the engine's choice)",
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
    describe: 'Accept annotations of another model, and a checkpoint of another machine',
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
  warmupSteps: {
    kind: 'integer',
    on: train,
    min: 0,
    describe: 'Steps with a rising rate, instead of a share',
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
  loraMerge: {
    kind: 'boolean',
    on: train,
    default: false,
    describe: 'Make model/ the full model with the adapter merged; the adapter itself goes into adapter/',
  },
  loraDropout: {
    kind: 'number',
    on: train,
    default: 0,
    min: 0,
    max: 0.95,
    describe: 'Dropout before the adapters',
  },
  loraRankStabilized: {
    kind: 'boolean',
    on: train,
    default: false,
    aliases: ['use-rslora'],
    describe: 'Scale adapters by alpha / sqrt(rank) instead of alpha / rank',
  },
  masterWeights: {
    kind: 'string',
    on: train,
    default: 'float32',
    values: ['float32', 'none'],
    describe: 'Master copies of bf16 weights',
  },
  moments: {
    kind: 'string',
    on: train,
    default: 'float32',
    values: ['float32', 'bfloat16'],
    describe: "AdamW's moments; bfloat16 halves their memory (CPU)",
  },
  gradientCheckpointing: {
    kind: 'string',
    on: train,
    default: 'auto',
    values: ['auto', 'on', 'off'],
    describe: 'Run each layer again in the backward, to save memory (CPU); auto: where a sequence needs it',
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
  keepCheckpoints: {
    kind: 'integer',
    on: train,
    default: 2,
    min: 1,
    aliases: ['save-total-limit'],
    describe: 'Keep the last N checkpoints',
  },
  saveBest: {
    kind: 'boolean',
    on: train,
    default: false,
    aliases: ['load-best-model-at-end'],
    describe: 'Make model/ the one with the lowest validation loss instead of the last',
  },
  earlyStoppingPatience: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    describe: 'Stop after N epochs without a lower validation loss (keeps the best), 0 = never',
  },
  probeEvery: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    describe: 'Steps between measurements of critical and other tokens on held-out responses, 0 = never',
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
    describe: 'Share of the questions kept out of training, for validation and evaluation',
  },
  validationAnnotations: {
    kind: 'string',
    on: train,
    describe: 'Annotations for validation, instead of a share',
  },
  trainData: {
    kind: 'string',
    on: ['eval'],
    describe: 'Questions that the model was trained on, to warn of those that are asked again',
  },
  against: {
    kind: 'string',
    on: ['eval'],
    describe: 'Folder of a finished eval of another checkpoint on the same questions: a paired comparison',
  },
  trunks: {
    kind: 'string',
    on: ['eval'],
    describe: 'annotations.jsonl or responses.jsonl: also the entropy along these fixed responses',
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

const bench = ['bench'] as const;
const benchmark = {
  suite: {
    kind: 'string',
    on: bench,
    values: benchSuites,
    describe: 'What to measure; the word after the command',
  },
  case: {
    kind: 'list',
    on: bench,
    default: 'embedded',
    describe: `Cases: ${caseNames.join(', ')}; of train: ${trainCaseNames.join(', ')}`,
  },
  peer: {
    kind: 'list',
    on: bench,
    describe: `Run beside it: ${peerNames.join(', ')}; of train: ${trainPeerNames.join(', ')}`,
  },
  peerDtype: {
    kind: 'string',
    on: bench,
    default: 'auto',
    values: ['auto', 'float32', 'bfloat16'],
    describe: "The Hugging Face peers' dtype; auto: on a CPU the faster one",
  },
  peerEvery: {
    kind: 'integer',
    on: bench,
    words: ['auto'],
    default: 'auto',
    min: 1,
    describe: 'Give peers only every Nth position; auto: 1 for hf-generate, 4 for the slower ones',
  },
  python: {
    kind: 'string',
    on: bench,
    default: 'python3',
    describe: 'Interpreter with what bench/peers/requirements.txt lists',
  },
  gguf: { kind: 'string', on: bench, describe: 'The model as a GGUF file, for node-llama-cpp' },
  repeats: {
    kind: 'integer',
    on: bench,
    default: 5,
    min: 1,
    max: 1000,
    describe: 'Undisturbed repeats of each side, in turn',
  },
  results: {
    kind: 'string',
    on: bench,
    default: 'bench/results/rollouts.jsonl',
    describe: 'File that the rows are appended to; of train: bench/results/train.jsonl',
  },
} as const satisfies Record<string, OptionSpec>;

const report = {
  run: {
    kind: 'string',
    on: ['report'],
    pattern: { matches: /./, expected: 'a path' },
    describe: 'Run folder; the word after the command (default: the newest in runs/)',
  },
  watch: {
    kind: 'boolean',
    on: ['report'],
    default: false,
    describe: 'Serve the page on this machine and keep it up to date while the run goes on',
  },
  port: {
    kind: 'integer',
    on: ['report'],
    default: 0,
    min: 0,
    max: 65535,
    describe: 'Port of --watch on 127.0.0.1; 0: a free one',
  },
  charts: {
    kind: 'boolean',
    on: ['report'],
    default: false,
    describe: 'Also write the charts as PNG and SVG files into charts/ in the run folder',
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
  ...report,
  ...benchmark,
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
  Report: Object.keys(report),
  Measuring: Object.keys(benchmark),
  Building: Object.keys(setup),
};
