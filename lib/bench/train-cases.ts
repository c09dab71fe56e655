/** The cases of `bench train`: which model, which sequences, which of their tokens are trained. */
import { Random } from '../random.js';
import { benchCase, type RealCase } from './cases.js';
import type { TrainCaseName } from './names.js';
import { type ShapeName, shapes } from './random-model.js';
import type { PreparedResponse, TrainSequence } from './train-protocol.js';

export interface TrainCase {
  what: string;
  /** Whose questions, prompts and model the sequences come from; undefined: random weights and random tokens. */
  real: RealCase | undefined;
  shape: ShapeName | undefined;
  /** Select what `annotate` finds critical; otherwise positions of the responses by a seed. */
  annotate: boolean;
  /** Share of all tokens (0.0714: 1,158 of 16,208) or of the responses' (1 and 0.5) that is trained. */
  share: number;
  /** Sequences where --limit says nothing. */
  sequences: number;
}

function real(name: 'embedded' | 'smollm2-throughput'): RealCase {
  const found = benchCase(name);
  if (found.kind !== 'real') throw new Error(`${name} is a case on real weights`);
  return found;
}

/** 1,158 of 16,208. */
const fewest = 1158 / 16_208;
const shares: Record<'8' | '50' | '100', number> = { '8': fewest, '50': 0.5, '100': 1 };

function masked(which: '8' | '50' | '100', smollm2: boolean): TrainCase {
  const selected =
    which === '8'
      ? '7.1 % of all tokens selected by a fixed seed'
      : `${which} % of the response tokens selected${which === '50' ? ' by a fixed seed' : ''}`;
  return {
    what: smollm2
      ? `SmolLM2-135M-Instruct's own responses to the first SVAMP questions, ${selected}`
      : `random weights in ${shapes['135m'].like}, random tokens (85 of prompt, 84 of response), ${selected}`,
    real: smollm2 ? real('smollm2-throughput') : undefined,
    shape: smollm2 ? undefined : '135m',
    annotate: false,
    share: shares[which],
    sequences: 96,
  };
}

const cases: Record<TrainCaseName, () => TrainCase> = {
  embedded: () => ({
    what: "the embedded model's own annotations of its training questions: the critical tokens",
    real: real('embedded'),
    shape: undefined,
    annotate: true,
    share: 1,
    sequences: 48,
  }),
  'random-135m-8': () => masked('8', false),
  'random-135m-50': () => masked('50', false),
  'random-135m-100': () => masked('100', false),
  'smollm2-8': () => masked('8', true),
  'smollm2-50': () => masked('50', true),
  'smollm2-100': () => masked('100', true),
};

export const trainCase = (name: TrainCaseName): TrainCase => cases[name]();

/** Random responses where a case has no model to write them. */
export function randomTraining(shape: ShapeName, count: number): PreparedResponse[] {
  const vocabulary = shapes[shape].config.vocab_size;
  const random = new Random('bench train', shape);
  return Array.from({ length: count }, () => ({
    promptTokens: 85,
    tokenIds: Array.from({ length: 169 }, () => random.uint32() % vocabulary),
  }));
}

/** Which predictions of a response are trained: position i predicts token i + 1. */
export function sequencesOf(given: TrainCase, responses: readonly PreparedResponse[]): TrainSequence[] {
  const random = new Random('bench train mask');
  const total = responses.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  const answers = responses.reduce(
    (sum, { tokenIds, promptTokens }) => sum + tokenIds.length - promptTokens,
    0,
  );
  const share = given.share === fewest ? (fewest * total) / answers : given.share;
  return responses.map(({ promptTokens, tokenIds, critical }) => {
    const positions =
      critical ?? Array.from({ length: tokenIds.length - promptTokens }, (_, t) => promptTokens + t);
    const selected = critical === undefined ? positions.filter(() => random.uniform() < share) : positions;
    return { token_ids: [...tokenIds], selected: selected.map((position) => position - 1) };
  });
}
