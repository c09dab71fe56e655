/** model.rollouts on the tiny checkpoints. */
import test, { type ExecutionContext } from 'ava';
import type { CftError } from '../../lib/errors.js';
import { loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import { type RolloutBranch, type RolloutRequest, runRollouts } from '../../lib/model/rollouts.js';
import { fixturePath } from '../helpers/fixtures.js';

async function load(t: ExecutionContext, folder: string): Promise<Model> {
  const model = await loadModel(folder, { device: 'cpu', threads: 1 });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}

const prompts = [[43, 54, 5], [82, 29, 6, 73, 27], [33], [76, 63, 37, 4, 30, 38, 84, 24]];

test('rollouts: prefixes, forced tokens and their continuation', async (t) => {
  const model = await load(t, fixturePath('models/qwen3-sharded'));
  const trunk = Int32Array.from([...prompts[3]!, 10, 11, 12]);
  const forced = Int32Array.of(40);
  const [[whole, cut, forcedAt] = []] = await model.rollouts([
    {
      tokenIds: trunk,
      branches: [
        { maxNewTokens: 9 },
        { length: 8, maxNewTokens: 9 },
        { length: 8, forcedTokens: forced, maxNewTokens: 9 },
      ],
    },
  ]);
  const plain = async (ids: number[]) => [
    ...(await model.generate([ids], { maxNewTokens: 9 }))[0]![0]!.tokenIds,
  ];
  t.deepEqual([...whole!.tokenIds], await plain([...trunk]));
  t.deepEqual([...cut!.tokenIds], await plain(prompts[3]!));
  t.deepEqual([...forcedAt!.tokenIds], await plain([...prompts[3]!, 40]));
});

test('rollouts: entropies of their tokens are those of a forward pass over the whole text', async (t) => {
  for (const folder of ['models/qwen3-sharded', 'models/llama']) {
    const model = await load(t, fixturePath(folder));
    const tokenIds = prompts[3]!;
    const branches = [
      { maxNewTokens: 12, entropy: true },
      { length: 5, forcedTokens: [40], maxNewTokens: 12, temperature: 1, topP: 0.9, n: 3, entropy: true },
      { maxNewTokens: 12 },
    ];
    const [rollouts = []] = await model.rollouts([{ tokenIds, branches }]);
    t.is(rollouts[4]!.entropies, undefined);
    t.deepEqual(rollouts[4]!.tokenIds, rollouts[0]!.tokenIds);
    for (const [i, rollout] of rollouts.slice(0, 4).entries()) {
      const prefix = i === 0 ? tokenIds : [...tokenIds.slice(0, 5), 40];
      const { entropies } = await model.scores(Int32Array.from([...prefix, ...rollout.tokenIds]));
      const expected = entropies.subarray(prefix.length - 1);
      t.is(rollout.entropies!.length, rollout.tokenIds.length);
      t.true(rollout.tokenIds.length > 0);
      for (const [k, found] of rollout.entropies!.entries())
        t.true(Math.abs(found - expected[k]!) < 1e-4, `${folder} ${i} ${k}`);
    }
  }
});

test('rollouts: samples share a prefix, come as they finish, and depend on their seed alone', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const tokenIds = prompts[0]!;
  const sampling = { maxNewTokens: 12, temperature: 1, topP: 0.95 };
  const branches = [
    { ...sampling, n: 5, seed: 3 },
    { ...sampling, forcedTokens: [7], n: 3, seed: 4 },
    { maxNewTokens: 12 },
  ];
  const run = model.rollouts([{ tokenIds, branches }], { maxBranches: 2 });
  const places: string[] = [];
  const streamed: number[][] = [];
  for await (const { type, request, branch, sample, tokenIds: ids } of run) {
    t.is(type, 'rollout');
    places.push(`${request}.${branch}.${sample}`);
    streamed.push([...ids]);
  }
  const [results] = await run;
  const expected = ['0.0.0', '0.0.1', '0.0.2', '0.0.3', '0.0.4', '0.1.0', '0.1.1', '0.1.2', '0.2.0'];
  t.deepEqual([...places].sort(), expected);
  t.deepEqual(
    expected.map((place) => streamed[places.indexOf(place)]),
    results!.map((rollout) => [...rollout.tokenIds]),
  );
  // Alone and one at a time the same, and sample 0 is that of a single one.
  const [[alone] = []] = await model.rollouts([{ tokenIds, branches: [{ ...sampling, seed: 3 }] }]);
  t.deepEqual(alone!.tokenIds, results![0]!.tokenIds);
  t.true(new Set(results!.slice(0, 5).map((rollout) => rollout.tokenIds.join())).size > 1);
  const [again] = await model.rollouts([{ tokenIds, branches }], { maxBranches: 64 });
  t.deepEqual(again, results);
});

test('rollouts: what no model could continue is refused by request and branch, before any work', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const good = { tokenIds: [5, 6], branches: [{ maxNewTokens: 2 }] };
  const refused = async (request: RolloutRequest, code: string, message: string) => {
    const run = model.rollouts([good, request]);
    await t.throwsAsync(
      async () => {
        for await (const { type } of run) t.fail(type);
      },
      { code, message },
    );
  };
  const branch = (change: Partial<RolloutBranch>) => ({
    tokenIds: [5, 6],
    branches: [{ maxNewTokens: 2 }, { maxNewTokens: 2, ...change }],
  });
  const data = 'ERR_CFT_BAD_DATA';
  await refused({ ...good, tokenIds: [] }, data, 'request 1: expected at least one token, found none');
  await refused(
    { ...good, tokenIds: [5, 96] },
    data,
    'request 1: expected token ids below vocab_size 96, found 96',
  );
  const badly = (request: unknown, message: string, code = data) =>
    refused(request as RolloutRequest, code, message);
  await badly(null, 'request 1: expected an object, found null');
  await badly({ ...good, tokenIds: undefined }, 'request 1: expected a list of token ids, found undefined');
  await badly({ tokenIds: [5] }, 'request 1, branches: expected a list of branches, found undefined');
  await badly({ ...good, branches: [null] }, 'request 1, branch 0: expected an object, found null');
  await badly(
    { tokenIds: new Int32Array(129), branches: [{ length: 2, maxNewTokens: 1 }] },
    'request 1: expected at most 128 tokens (max_position_embeddings), found 129',
  );
  await badly(
    { ...good, branches: [{ maxNewTokens: 1, temprature: 1 }] },
    'unknown option "temprature" for request 1, branch 0; did you mean "temperature"?',
    'ERR_CFT_BAD_OPTION',
  );
  await badly(
    { ...good, seed: 7 },
    'unknown option "seed" for request 1; expected some of tokenIds, branches',
    'ERR_CFT_BAD_OPTION',
  );
  await badly(
    { ...good, branches: [{ maxNewTokens: 1, forcedTokens: 7 }] },
    'request 1, branch 0, forcedTokens: expected a list of token ids, found 7',
  );
  const withOptions = async (options: object, message: string) =>
    t.throwsAsync(async () => model.rollouts([good], options), { code: 'ERR_CFT_BAD_OPTION', message });
  await withOptions({ maxBranches: 2.5 }, 'maxBranches: expected an integer of at least 1, found 2.5');
  await withOptions({ signal: 1 }, 'signal: expected an AbortSignal, found 1');
  await withOptions(
    { maxConcurrency: 3 },
    'unknown option "maxConcurrency" for rollouts; expected some of maxBranches, signal',
  );
  await refused(branch({ length: 3 }), data, 'request 1, branch 1: expected a length from 1 to 2, found 3');
  await refused(
    branch({ forcedTokens: [-1] }),
    data,
    'request 1, branch 1, forcedTokens: expected token ids below vocab_size 96, found -1',
  );
  await refused(
    branch({ maxNewTokens: 128 }),
    data,
    'request 1, branch 1: expected at most 128 positions (max_position_embeddings), found 129',
  );
  await refused(branch({ n: 0 }), data, 'request 1, branch 1: expected n of at least 1, found 0');
  await refused(
    branch({ topP: 0 }),
    'ERR_CFT_BAD_OPTION',
    'request 1, branch 1: topP: expected a number above 0 and at most 1, found 0',
  );
  const reason = new Error('no more');
  const controller = new AbortController();
  const long = model.rollouts(
    [{ tokenIds: [5], branches: [{ maxNewTokens: 100, n: 4000, temperature: 1 }] }],
    {
      signal: controller.signal,
    },
  );
  await t.throwsAsync(
    async () => {
      for await (const { type } of long) if (type === 'rollout') controller.abort(reason);
    },
    { is: reason },
  );
});

test('rollouts: with little memory the work waits for its turn, and the tokens are the same', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const requests = Array.from({ length: 12 }, (_, i) => ({
    tokenIds: Int32Array.from([...prompts[i % 4]!, i]),
    branches: [{ maxNewTokens: 20 }, { length: 1, maxNewTokens: 3 + i }],
  }));
  const attempt = async (memoryBytes: number) => {
    const engine = model.createEngine({ maxBranches: 16, endTokenIds: new Int32Array(0), memoryBytes });
    try {
      return await runRollouts(engine, requests, { maxBranches: 16 });
    } catch (error) {
      t.is((error as CftError).code, 'ERR_CFT_OUT_OF_MEMORY');
      t.regex((error as CftError).message, /no room for the keys and values .* [KM]iB are in use/);
      return undefined;
    } finally {
      engine.dispose();
    }
  };
  const expected = await attempt(0);
  let refused = 0;
  for (let bytes = 1024; ; bytes = Math.ceil(bytes * 1.3)) {
    const found = await attempt(bytes);
    if (found === undefined) {
      refused++;
      continue;
    }
    t.deepEqual(found, expected);
    break;
  }
  t.true(refused > 0);
});

test('rollouts: the memory that does for one prefix and its branch does for many', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const attempt = async (requests: readonly RolloutRequest[], memoryBytes: number) => {
    const engine = model.createEngine({ maxBranches: 16, endTokenIds: new Int32Array(0), memoryBytes });
    try {
      return await runRollouts(engine, requests, { maxBranches: 16 });
    } finally {
      engine.dispose();
    }
  };
  // Most of the memory is the prefixes', then the branches'.
  for (const [prefix, maxNewTokens] of [
    [60, 40],
    [4, 120],
  ] as const) {
    const requests = Array.from({ length: 40 }, (_, i) => ({
      tokenIds: Int32Array.from({ length: prefix }, (_, j) => (i * 7 + j * 13) % 90),
      branches: [{ maxNewTokens }],
    }));
    let bytes = 16_384;
    for (;;) {
      try {
        await attempt(requests.slice(0, 1), bytes);
        break;
      } catch (error) {
        t.is((error as CftError).code, 'ERR_CFT_OUT_OF_MEMORY');
        bytes = Math.ceil(bytes * 1.2);
      }
    }
    t.deepEqual(await attempt(requests, bytes), await attempt(requests, 0), `${prefix} and ${maxNewTokens}`);
  }
});
