/** Options of measuring and building. */
import { benchSuites, caseNames, peerNames, trainCaseNames, trainPeerNames } from '../bench/names.js';
import type { OptionSpec } from './spec.js';

const bench = ['bench'] as const;

export const benchmark = {
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
    describe: 'Of rollouts: give peers only every Nth position; auto: 1 for hf-generate, 4 for slower ones',
  },
  python: {
    kind: 'string',
    on: bench,
    default: 'python3',
    describe: 'Interpreter with what bench/peers/requirements.txt lists; of train: requirements-train.txt',
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
    describe:
      'File that the rows are appended to (of train: bench/results/train.jsonl); name another for a trial',
  },
} as const satisfies Record<string, OptionSpec>;

export const setup = {
  flavour: {
    kind: 'string',
    on: ['setup'],
    default: 'auto',
    values: ['auto', 'cpu', 'cuda'],
    describe: 'What to build for; auto: cuda where there are a GPU and nvcc',
  },
} as const satisfies Record<string, OptionSpec>;
