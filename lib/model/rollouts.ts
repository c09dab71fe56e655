/**
 * Continuations of prefixes: many requests through one continuous batch, with the keys and values of only a few
 * prefixes in memory at a time. Generation is one request per prompt; a counterfactual is a branch that keeps a part
 * of its prefix and forces the alternative. docs/rollouts.md has examples.
 */
import { CftError } from '../errors.js';
import type { NativeRolloutEngine } from '../native/binding.js';
import { checkOptionNames, checkTokenIds, expect } from './checks.js';
import { checkSampling, mostSamples, sampleSeed } from './generation.js';
import { isObject } from './json-file.js';
import { type Rollout, RolloutDriver, type StopAt } from './rollout-driver.js';

export type { Rollout };

export interface RolloutBranch {
  /** Tokens of the prefix that the branch keeps, 1..T; all by default. The branch starts at this position. */
  length?: number | undefined;
  /** Put after the prefix before decoding starts, e.g. an alternative to the next token. */
  forcedTokens?: Int32Array | readonly number[] | undefined;
  /** Most tokens to decode after the forced ones; the end token counts. */
  maxNewTokens: number;
  /** 0 = greedy, the default. */
  temperature?: number | undefined;
  /** Nucleus, 1 = off, the default. */
  topP?: number | undefined;
  /** Of sample 0; sample j > 0 has sampleSeed(seed, 0, j). Default 0. */
  seed?: number | undefined;
  /** Samples of this branch, default 1. */
  n?: number | undefined;
  /** Entropies of the decoded tokens are wanted, see Rollout. */
  entropy?: boolean | undefined;
}

export interface RolloutRequest {
  /** The prefix, at least one token; its keys and values are computed once for all branches and samples. */
  tokenIds: Int32Array | readonly number[];
  branches: readonly RolloutBranch[];
}

/** Which branch of its request, and which sample of that. */
interface SamplePlace {
  branch: number;
  sample: number;
}

/** A rollout and where it belongs. */
export interface FinishedRollout extends Rollout, SamplePlace {
  type: 'rollout';
  request: number;
}

const branchFields = [
  'length',
  'forcedTokens',
  'maxNewTokens',
  'temperature',
  'topP',
  'seed',
  'n',
  'entropy',
];

/**
 * @throws CftError ERR_CFT_BAD_DATA or ERR_CFT_BAD_OPTION naming request and branch, for one that the model cannot
 *   continue.
 */
export function checkRequests(
  requests: readonly RolloutRequest[],
  { maxPositions, vocabSize }: { maxPositions: number; vocabSize: number },
): void {
  expect('ERR_CFT_BAD_DATA', 'requests', requests, Array.isArray(requests), 'a list of requests');
  requests.forEach((request: RolloutRequest, i) => {
    const check = (place: string, found: unknown, good: boolean, expected: string): void =>
      expect('ERR_CFT_BAD_DATA', `request ${i}${place}`, found, good, expected);
    check('', request, isObject(request), 'an object');
    checkOptionNames(request, ['tokenIds', 'branches'], `request ${i}`);
    const { branches } = request;
    const { length: size } = checkTokenIds(request.tokenIds, `request ${i}`, vocabSize);
    if (size === 0)
      throw new CftError('ERR_CFT_BAD_DATA', `request ${i}: expected at least one token, found none`);
    check('', size, size <= maxPositions, `at most ${maxPositions} tokens (max_position_embeddings)`);
    check(', branches', branches, Array.isArray(branches), 'a list of branches');
    branches.forEach((branch, j) => {
      const place = `, branch ${j}`;
      check(place, branch, isObject(branch), 'an object');
      checkOptionNames(branch, branchFields, `request ${i}${place}`);
      const { length = size, forcedTokens = [], maxNewTokens, n = 1 } = branch;
      const fits = Number.isInteger(length) && length >= 1 && length <= size;
      check(place, length, fits, `a length from 1 to ${size}`);
      const forced = checkTokenIds(forcedTokens, `request ${i}${place}, forcedTokens`, vocabSize);
      const budget = Number.isSafeInteger(maxNewTokens) && maxNewTokens >= 0;
      check(place, maxNewTokens, budget, 'maxNewTokens, an integer of at least 0');
      // The last decoded token is never fed back.
      const positions = length + forced.length + Math.max(0, maxNewTokens - 1);
      const room = `at most ${maxPositions} positions (max_position_embeddings)`;
      check(place, positions, positions <= maxPositions, room);
      check(place, n, Number.isSafeInteger(n) && n >= 1, 'n of at least 1');
      check(place, n, n <= mostSamples, 'n of at most 2^20');
      const { entropy = false } = branch;
      check(`${place}, entropy`, entropy, typeof entropy === 'boolean', 'a boolean');
      checkSampling(branch, `request ${i}${place}: `);
    });
  });
}

/**
 * Runs all branches of all requests.
 * @param onFinished called once per rollout, in the order in which they finish; what it returns is awaited beside the
 *   batch. `index` counts the request's rollouts, branch by branch and sample by sample.
 * @param stopAt ends a rollout early, see StopAt.
 * @returns results[i][index]
 * @throws what `onFinished` throws; `signal.reason` once aborted. The engine is left without branches.
 */
export async function runRollouts(
  engine: NativeRolloutEngine,
  requests: readonly RolloutRequest[],
  {
    maxBranches,
    signal,
    onFinished = () => {},
    stopAt,
  }: {
    maxBranches: number;
    signal?: AbortSignal | undefined;
    onFinished?:
      | ((request: number, index: number, rollout: Rollout, place: SamplePlace) => unknown)
      | undefined;
    stopAt?: (() => StopAt) | undefined;
  },
): Promise<Rollout[][]> {
  const driver = new RolloutDriver(engine, { maxBranches, signal });
  const results: Rollout[][] = requests.map(() => []);
  let next = 0;

  const add = async (request: number): Promise<void> => {
    const { tokenIds, branches } = requests[request]!;
    const samples = branches.flatMap((branch, place) =>
      Array.from({ length: branch.n ?? 1 }, (_, sample) => ({ branch, place, sample })),
    );
    if (samples.length === 0) return;
    const ids = Int32Array.from(tokenIds);
    const { trunk } = await driver.addTrunk({ tokenIds: ids, scoreFrom: ids.length, alternatives: 0 });
    let left = samples.length;
    driver.submit(
      samples.map(({ branch, place, sample }, index) => ({
        trunk,
        length: branch.length ?? ids.length,
        forcedTokens: Int32Array.from(branch.forcedTokens ?? []),
        maxNewTokens: branch.maxNewTokens,
        temperature: branch.temperature ?? 0,
        topP: branch.topP ?? 1,
        seed: sample === 0 ? (branch.seed ?? 0) : sampleSeed(branch.seed ?? 0, 0, sample),
        priority: request,
        entropy: branch.entropy ?? false,
        stopAt: stopAt?.(),
        onFinished: (rollout) => {
          results[request]![index] = rollout;
          if (--left === 0) driver.releaseTrunk(trunk);
          driver.track(
            () => onFinished(request, index, rollout, { branch: place, sample }),
            () => {},
          );
        },
      })),
    );
  };
  await driver.run(() => (next < requests.length ? add(next++) : undefined));
  return results;
}
