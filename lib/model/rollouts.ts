/**
 * Continuations of prefixes: drives a rollout engine over many requests, with the keys and values of only a few
 * prefixes in memory at a time. Generation is one request per prompt; a counterfactual is a branch that keeps a part
 * of its prefix and forces the alternative.
 */
import type { NativeRolloutEngine } from '../native/binding.js';

export interface RolloutBranch {
  /** Tokens of the prefix that the branch keeps, 1..T; all by default. */
  length?: number;
  /** Put after the prefix before decoding starts. */
  forcedTokens?: Int32Array;
  /** Most tokens to decode after the forced ones; the end token counts. */
  maxNewTokens: number;
  /** 0 = greedy. */
  temperature?: number;
  topP?: number;
  seed?: number;
}

export interface RolloutRequest {
  /** The prefix, at least one token; computed once for all its branches. */
  tokenIds: Int32Array;
  branches: readonly RolloutBranch[];
}

export interface Rollout {
  /** Decoded after the forced tokens, without the end token. */
  tokenIds: Int32Array;
  /** -1 where the budget ran out. */
  endTokenId: number;
}

const noTokens = new Int32Array(0);

/** Decoded tokens per branch and native call; `interrupt` cuts a call short, so this bounds nothing but overhead. */
const tokensPerStep = 64;

/**
 * Runs all branches of all requests.
 * @param maxBranches of the engine: prefixes are added as long as fewer branches are queued.
 * @param onFinished called once per branch, in the order in which they finish.
 * @returns results[i][j] for branch j of request i.
 * @throws `signal.reason` once aborted; the engine is left without branches.
 */
export async function runRollouts(
  engine: NativeRolloutEngine,
  requests: readonly RolloutRequest[],
  {
    maxBranches,
    signal,
    onFinished,
  }: {
    maxBranches: number;
    signal?: AbortSignal | undefined;
    onFinished?: ((request: number, branch: number, rollout: Rollout) => void) | undefined;
  },
): Promise<Rollout[][]> {
  const results = requests.map(({ branches }) => new Array<Rollout>(branches.length));
  const live = new Map<number, { request: number; branch: number }>();
  const open = new Map<number, { trunk: number; left: number }>();
  let nextRequest = 0;
  let nextId = 0;

  const add = async (index: number): Promise<void> => {
    const { tokenIds, branches } = requests[index] as RolloutRequest;
    if (branches.length === 0) return;
    const { trunk } = await engine.addTrunk({ tokenIds, scoreFrom: tokenIds.length, alternatives: 0 });
    open.set(index, { trunk, left: branches.length });
    engine.submit(
      branches.map((given, branch) => {
        live.set(nextId, { request: index, branch });
        return {
          id: nextId++,
          trunk,
          length: given.length ?? tokenIds.length,
          forcedTokens: given.forcedTokens ?? noTokens,
          maxNewTokens: given.maxNewTokens,
          temperature: given.temperature ?? 0,
          topP: given.topP ?? 1,
          seed: given.seed ?? 0,
        };
      }),
    );
  };

  const interrupt = () => engine.interrupt();
  signal?.addEventListener('abort', interrupt);
  try {
    for (;;) {
      signal?.throwIfAborted();
      // Enough to refill every slot at once, no more: each open prefix holds memory.
      if (nextRequest < requests.length && live.size < 2 * maxBranches) {
        await add(nextRequest++);
        continue;
      }
      if (live.size === 0) return results;
      for (const { id, tokenIds, endTokenId } of (await engine.step(tokensPerStep)).finished) {
        const { request, branch } = live.get(id) as { request: number; branch: number };
        live.delete(id);
        const rollout = { tokenIds, endTokenId };
        (results[request] as Rollout[])[branch] = rollout;
        const prefix = open.get(request) as { trunk: number; left: number };
        if (--prefix.left === 0) {
          engine.releaseTrunk(prefix.trunk);
          open.delete(request);
        }
        onFinished?.(request, branch, rollout);
      }
    }
  } finally {
    signal?.removeEventListener('abort', interrupt);
    // Only where something threw: the branches and prefixes that were under way.
    if (live.size > 0) engine.cancel([...live.keys()]);
    for (const { trunk } of open.values()) engine.releaseTrunk(trunk);
  }
}
