/** Options and results of text generation, and the seeds of its samples. */
import { checkOptionNames, checkSignal, expect } from './checks.js';

export interface GenerateOptions {
  /** Budget of each response; the end token counts. */
  maxNewTokens?: number;
  /** 0 = greedy. */
  temperature?: number;
  /** Nucleus, 1 = off. */
  topP?: number;
  /** Responses per prompt. */
  n?: number;
  /** Sample j of prompt i depends on (seed, i, j) alone. */
  seed?: number;
  /** Decoded together; only speed depends on it. */
  maxBranches?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface Generation {
  /** Without the end token. */
  tokenIds: Int32Array;
  /** Without special tokens. */
  text: string;
  /** 'stop': an end token was decoded; 'length': the budget or the model's positions ran out. */
  finishReason: 'stop' | 'length';
}

/** Samples of one prompt or branch. */
export const mostSamples = 2 ** 20;

function check(name: string, value: unknown, good: boolean, expected: string): void {
  expect('ERR_CFT_BAD_OPTION', name, value, good, expected);
}

export type CheckedOptions = Required<Omit<GenerateOptions, 'signal' | 'maxBranches'>> & {
  maxBranches: number | undefined;
  signal: AbortSignal | undefined;
};

/** @throws CftError ERR_CFT_BAD_OPTION naming the option, expected and found. */
export function checkSampling(
  options: {
    temperature?: number | undefined;
    topP?: number | undefined;
    seed?: number | undefined;
  },
  place = '',
): void {
  const { temperature = 0, topP = 1, seed = 0 } = options;
  check(
    `${place}temperature`,
    temperature,
    Number.isFinite(temperature) && temperature >= 0,
    'a number of at least 0',
  );
  check(
    `${place}topP`,
    topP,
    typeof topP === 'number' && topP > 0 && topP <= 1,
    'a number above 0 and at most 1',
  );
  check(`${place}seed`, seed, Number.isSafeInteger(seed) && seed >= 0, 'an integer from 0 to 2^53 - 1');
}

/** @throws CftError ERR_CFT_BAD_OPTION. */
export function checkMaxBranches(value: unknown): void {
  const good = Number.isSafeInteger(value) && (value as number) >= 1;
  check('maxBranches', value, good, 'an integer of at least 1');
}

const streamOptions = ['maxNewTokens', 'temperature', 'topP', 'seed', 'signal'];
const optionNames = { stream: streamOptions, generate: [...streamOptions, 'n', 'maxBranches'] };

/** Fills in defaults. @throws CftError ERR_CFT_BAD_OPTION naming the option, expected and found. */
export function checkGenerateOptions(
  options: GenerateOptions,
  of: keyof typeof optionNames = 'generate',
): CheckedOptions {
  checkOptionNames(options, optionNames[of], of);
  const { maxNewTokens = 2048, temperature = 0, topP = 1, n = 1, seed = 0, maxBranches, signal } = options;
  const positive = (value: number) => Number.isSafeInteger(value) && value >= 1;
  check('maxNewTokens', maxNewTokens, positive(maxNewTokens), 'an integer of at least 1');
  checkSampling({ temperature, topP, seed });
  check('n', n, positive(n), 'an integer of at least 1');
  check('n', n, n <= mostSamples, 'an integer of at most 2^20');
  if (maxBranches !== undefined) checkMaxBranches(maxBranches);
  checkSignal(signal);
  return { maxNewTokens, temperature, topP, n, seed, maxBranches, signal };
}

/** Finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
function mix(value: bigint): bigint {
  let z = (value + 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & 0xffffffffffffffffn;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & 0xffffffffffffffffn;
  return z ^ (z >> 31n);
}

/**
 * Seed of one sample, 53 bits: the top bits of mix(mix(mix(seed) ^ promptIndex) ^ sampleIndex). Part of the results'
 * reproducibility, so it must not change between versions.
 */
export function sampleSeed(seed: number, promptIndex: number, sampleIndex: number): number {
  const state = mix(mix(mix(BigInt(seed)) ^ BigInt(promptIndex)) ^ BigInt(sampleIndex));
  return Number(state >> 11n);
}
