/**
 * Continuations of prefixes: many requests through one continuous batch, with the keys and values of only a few
 * prefixes in memory at a time. Generation is one request per prompt; a counterfactual is a branch that keeps a part
 * of its prefix and forces the alternative. docs/rollouts.md has examples.
 */
import { CftError } from '../errors.js';
import type { NativeRolloutEngine } from '../native/binding.js';
import { checkSampling, sampleSeed } from './generation.js';
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

/**
 * @throws CftError ERR_CFT_BAD_DATA or ERR_CFT_BAD_OPTION naming request and branch, for one that the model cannot
 *   continue.
 */
export function checkRequests(
  requests: readonly RolloutRequest[],
  { maxPositions, vocabSize }: { maxPositions: number; vocabSize: number },
): void {
  requests.forEach(({ tokenIds, branches }, i) => {
    const fail = (place: string, expected: string, found: unknown): never => {
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `request ${i}${place}: expected ${expected}, found ${String(found)}`,
      );
    };
    const checkTokens = (ids: Int32Array | readonly number[], place: string): void => {
      for (const id of ids)
        if (!(Number.isInteger(id) && id >= 0 && id < vocabSize))
          fail(place, `token ids below vocab_size ${vocabSize}`, id);
    };
    if (tokenIds.length === 0) fail('', 'at least one token', 'none');
    checkTokens(tokenIds, '');
    branches.forEach((branch, j) => {
      const place = `, branch ${j}`;
      const { length = tokenIds.length, forcedTokens = [], maxNewTokens, n = 1 } = branch;
      if (!(Number.isInteger(length) && length >= 1 && length <= tokenIds.length))
        fail(place, `a length from 1 to ${tokenIds.length}`, length);
      checkTokens(forcedTokens, `${place}, forcedTokens`);
      if (!(Number.isSafeInteger(maxNewTokens) && maxNewTokens >= 0))
        fail(place, 'maxNewTokens of at least 0', maxNewTokens);
      // The last decoded token is never fed back.
      const positions = length + forcedTokens.length + Math.max(0, maxNewTokens - 1);
      if (positions > maxPositions)
        fail(place, `at most ${maxPositions} positions (max_position_embeddings)`, positions);
      if (!(Number.isSafeInteger(n) && n >= 1)) fail(place, 'n of at least 1', n);
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
