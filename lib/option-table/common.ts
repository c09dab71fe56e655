/** Options of nearly every command: model, run folder, questions, decoding. */
import { all, batched, data, loading, type OptionSpec } from './spec.js';

export const common = {
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

export const questions = {
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

export const decoding = {
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
