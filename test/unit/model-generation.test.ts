import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { checkGenerateOptions, sampleSeed } from '../../lib/model/generation.js';
import { readEndTokenIds } from '../../lib/model/generation-config.js';
import { runRollouts } from '../../lib/model/rollouts.js';
import type { NativeBranch, NativeBranchResult, NativeRolloutEngine } from '../../lib/native/binding.js';
import { temporaryFolder } from '../helpers/fixtures.js';

test('defaults of generate', (t) => {
  t.deepEqual(checkGenerateOptions({}), {
    maxNewTokens: 2048,
    temperature: 0,
    topP: 1,
    n: 1,
    seed: 0,
    maxBranches: undefined,
    signal: undefined,
  });
});

const refusals: [Record<string, unknown>, string][] = [
  [{ maxNewTokens: 0 }, 'maxNewTokens: expected an integer of at least 1, found 0'],
  [{ maxNewTokens: 2.5 }, 'maxNewTokens: expected an integer of at least 1, found 2.5'],
  [{ temperature: -0.1 }, 'temperature: expected a number of at least 0, found -0.1'],
  [{ temperature: Number.NaN }, 'temperature: expected a number of at least 0, found NaN'],
  [{ topP: 0 }, 'topP: expected a number above 0 and at most 1, found 0'],
  [{ topP: 1.01 }, 'topP: expected a number above 0 and at most 1, found 1.01'],
  [{ n: 0 }, 'n: expected an integer of at least 1, found 0'],
  [{ n: 2 ** 31 }, 'n: expected an integer of at most 2^20, found 2147483648'],
  [{ n: '2' }, 'n: expected an integer of at least 1, found "2"'],
  [{ seed: -1 }, 'seed: expected an integer from 0 to 2^53 - 1, found -1'],
  [{ seed: 2 ** 53 }, 'seed: expected an integer from 0 to 2^53 - 1, found 9007199254740992'],
  [{ maxBranches: 0 }, 'maxBranches: expected an integer of at least 1, found 0'],
];

for (const [options, message] of refusals) {
  test(`refused: ${message}`, (t) => {
    const error = t.throws(() => checkGenerateOptions(options), { instanceOf: CftError, message });
    t.is(error?.code, 'ERR_CFT_BAD_OPTION');
  });
}

test('seeds of samples are fixed for all time, 53 bits and far apart', (t) => {
  // Golden: worked out once in Python from the formula in the docstring.
  t.is(sampleSeed(0, 0, 0), 1_249_383_295_688_599);
  t.is(sampleSeed(42, 3, 1), 3_280_040_520_445_751);
  t.is(sampleSeed(Number.MAX_SAFE_INTEGER, 1e6, 1e6), 6_092_856_853_645_571);
  const seeds = new Set<number>();
  for (let seed = 0; seed < 10; seed++)
    for (let prompt = 0; prompt < 30; prompt++)
      for (let sample = 0; sample < 30; sample++) seeds.add(sampleSeed(seed, prompt, sample));
  t.is(seeds.size, 10 * 30 * 30);
  for (const seed of seeds) t.true(Number.isSafeInteger(seed) && seed >= 0);
});

/**
 * An engine whose branch of prefix [p] with k forced tokens decodes p, p + 1, ... for p + k tokens, `slots` branches at
 * a time.
 */
class CountingEngine implements NativeRolloutEngine {
  readonly trunks = new Map<number, Int32Array>();
  mostTrunks = 0;
  queue: NativeBranch[] = [];
  cancelled: number[] = [];
  interrupted = 0;
  #next = 1;

  constructor(
    readonly slots: number,
    readonly onStep: () => void = () => {},
  ) {}

  async addTrunk({ tokenIds }: { tokenIds: Int32Array }) {
    const trunk = this.#next++;
    this.trunks.set(trunk, tokenIds);
    this.mostTrunks = Math.max(this.mostTrunks, this.trunks.size);
    const none = new Float32Array(0);
    return { trunk, logProbs: none, alternativeIds: new Int32Array(0), alternativeLogProbs: none };
  }

  submit(branches: NativeBranch[]): void {
    this.queue.push(...branches);
  }

  async step() {
    this.onStep();
    // The last submitted of the batch first, to show that the order does not matter.
    const finished = this.queue
      .splice(0, this.slots)
      .reverse()
      .map((branch): NativeBranchResult => {
        const first = this.trunks.get(branch.trunk)![0]!;
        const count = Math.min(branch.maxNewTokens, first + branch.forcedTokens.length);
        const tokenIds = Int32Array.from({ length: count }, (_, i) => first + i);
        return { id: branch.id, tokenIds, endTokenId: count < branch.maxNewTokens ? 0 : -1 };
      });
    const tokens = { branchIds: new Float64Array(0), tokenIds: new Int32Array(0) };
    return { finished, tokens, active: 0, waiting: this.queue.length, decodedTokens: 0 };
  }

  cancel(ids: number[]): void {
    this.cancelled.push(...ids);
  }

  releaseTrunk(trunk: number): void {
    this.trunks.delete(trunk);
  }

  interrupt(): void {
    this.interrupted++;
  }

  dispose(): void {}
}

const request = (first: number, branches: number) => ({
  tokenIds: Int32Array.of(first),
  branches: Array.from({ length: branches }, (_, i) => ({
    maxNewTokens: 4,
    forcedTokens: new Int32Array(i),
  })),
});

test('rollouts come back in the order of requests and branches, prefixes leave when done', async (t) => {
  const engine = new CountingEngine(3);
  const order: string[] = [];
  const results = await runRollouts(engine, [request(1, 2), request(2, 0), request(3, 3), request(1, 1)], {
    maxBranches: 3,
    onFinished: (i, j) => order.push(`${i}.${j}`),
  });
  t.deepEqual(
    results.map((row) => row.map(({ tokenIds, endTokenId }) => [...tokenIds, endTokenId])),
    [
      [
        [1, 0],
        [1, 2, 0],
      ],
      [],
      [
        [3, 4, 5, 0],
        [3, 4, 5, 6, -1],
        [3, 4, 5, 6, -1],
      ],
      [[1, 0]],
    ],
  );
  t.deepEqual(order, ['2.0', '0.1', '0.0', '3.0', '2.2', '2.1']);
  t.is(engine.trunks.size, 0);
});

test('only as many prefixes are open as the slots need', async (t) => {
  const engine = new CountingEngine(2);
  await runRollouts(
    engine,
    Array.from({ length: 50 }, () => request(1, 1)),
    { maxBranches: 2 },
  );
  t.true(engine.mostTrunks <= 4, `${engine.mostTrunks} prefixes at once`);
  t.deepEqual(await runRollouts(engine, [], { maxBranches: 2 }), []);
});

test('an abort interrupts the step, forgets the branches and rejects with the reason', async (t) => {
  const controller = new AbortController();
  const reason = new Error('stop');
  let steps = 0;
  const engine = new CountingEngine(1, () => {
    if (++steps === 2) controller.abort(reason);
  });
  const error = await t.throwsAsync(
    runRollouts(engine, [request(1, 3), request(2, 3)], { maxBranches: 1, signal: controller.signal }),
  );
  t.is(error, reason);
  t.is(steps, 2);
  t.is(engine.interrupted, 1);
  t.deepEqual(engine.cancelled, [1, 2]);
  t.is(engine.trunks.size, 0);
});

const config = (json: Record<string, unknown>) => ({ json, vocabSize: 96 });

test('end tokens: generation_config.json, else config.json, else the tokenizer', (t) => {
  const folder = temporaryFolder(t);
  t.deepEqual([...readEndTokenIds(folder, config({}), 7)], [7]);
  t.deepEqual([...readEndTokenIds(folder, config({ eos_token_id: 5 }), 7)], [5]);
  t.deepEqual([...readEndTokenIds(folder, config({ eos_token_id: null }), 7)], [7]);
  t.deepEqual([...readEndTokenIds(folder, config({ eos_token_id: [9, 20, 9] }), 7)], [9, 20]);
  const file = join(folder, 'generation_config.json');
  writeFileSync(file, '{"eos_token_id": [30, 4]}');
  t.deepEqual([...readEndTokenIds(folder, config({ eos_token_id: 5 }), 7)], [4, 30]);
  writeFileSync(file, '{"temperature": 0.6}');
  t.deepEqual([...readEndTokenIds(folder, config({ eos_token_id: 5 }), 7)], [5]);
});

test('refused: end tokens outside the vocabulary, and none at all', (t) => {
  const folder = temporaryFolder(t);
  const throws = (json: Record<string, unknown>, message: RegExp) =>
    t.is(
      t.throws(() => readEndTokenIds(folder, config(json), undefined), { instanceOf: CftError, message })
        ?.code,
      'ERR_CFT_BAD_MODEL',
    );
  throws(
    { eos_token_id: 96 },
    /config\.json: eos_token_id: expected token ids below vocab_size \(96\), found 96/,
  );
  throws({ eos_token_id: [1, -1] }, /expected token ids below vocab_size \(96\), found \[1,-1\]/);
  throws({ eos_token_id: '</s>' }, /found "<\/s>"/);
  throws(
    {},
    /expected eos_token_id in generation_config\.json or config\.json, or eos_token in tokenizer_config/,
  );
  writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id": 1.5}');
  throws({ eos_token_id: 1 }, /generation_config\.json: eos_token_id: expected token ids/);
});
