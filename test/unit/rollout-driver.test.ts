/** The loop around an engine, with engines whose memory holds a single trunk. */
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { RolloutDriver } from '../../lib/model/rollout-driver.js';
import type { NativeBranch, NativeRolloutEngine } from '../../lib/native/binding.js';

/** One trunk at a time, and one branch finishes per step. */
class TightEngine implements NativeRolloutEngine {
  readonly waiting: NativeBranch[] = [];
  #held = 0;

  async addTrunk() {
    if (this.#held > 0) throw new CftError('ERR_CFT_OUT_OF_MEMORY', 'no room for a trunk');
    this.#held++;
    const none = new Float32Array(0);
    return { trunk: 1, logProbs: none, alternativeIds: new Int32Array(0), alternativeLogProbs: none };
  }

  submit(branches: NativeBranch[]): void {
    this.waiting.push(...branches);
  }

  async step() {
    const finished = this.waiting
      .splice(0, 1)
      .map(({ id }) => ({ id, tokenIds: Int32Array.of(1), endTokenId: 0 }));
    const decodedTokens = finished.length;
    const tokens = { branchIds: new Float64Array(0), tokenIds: new Int32Array(0) };
    return { finished, tokens, active: 0, waiting: this.waiting.length, decodedTokens };
  }

  cancel(): void {}
  releaseTrunk(): void {
    this.#held--;
  }
  interrupt(): void {}
  dispose(): void {}
}

/** Opens `count` pieces of two branches; a trunk is given back when `release` says so. */
async function drain(
  count: number,
  release: (driver: RolloutDriver, trunk: number) => void,
  engine: NativeRolloutEngine = new TightEngine(),
): Promise<number> {
  const driver = new RolloutDriver(engine, { maxBranches: 1 });
  let opened = 0;
  let finished = 0;
  await driver.run(() => {
    if (opened === count) return undefined;
    opened++;
    return (async () => {
      const { trunk } = await driver.addTrunk({ tokenIds: Int32Array.of(1), scoreFrom: 1, alternatives: 0 });
      let left = 2;
      const branch = {
        trunk,
        length: 1,
        forcedTokens: new Int32Array(0),
        maxNewTokens: 1,
        temperature: 0,
        topP: 1,
        seed: 0,
        onFinished: () => {
          finished++;
          if (--left === 0) release(driver, trunk);
        },
      };
      driver.submit([branch, branch]);
    })();
  });
  return finished;
}

test('a trunk that waits for memory takes the step that is under way', async (t) => {
  t.timeout(10_000);
  t.is(await drain(5, (driver, trunk) => driver.releaseTrunk(trunk)), 10);
});

test('a trunk that waits for memory waits for verdicts, too', async (t) => {
  t.timeout(10_000);
  const later = (driver: RolloutDriver, trunk: number): void =>
    driver.track(
      () => new Promise<void>((resolve) => setTimeout(resolve, 20)),
      () => driver.releaseTrunk(trunk),
    );
  t.is(await drain(4, later), 8);
});

test('a trunk that nothing will give memory to is an error', async (t) => {
  await t.throwsAsync(
    drain(2, () => {}),
    { code: 'ERR_CFT_OUT_OF_MEMORY' },
  );
});

test('verdicts that come after a run has failed are dropped: its engine is gone', async (t) => {
  class DisposedEngine extends TightEngine {
    #disposed = false;
    override submit(branches: NativeBranch[]): void {
      if (this.#disposed) throw new CftError('ERR_CFT_DISPOSED', 'this rollout engine was disposed');
      super.submit(branches);
    }
    override interrupt(): void {
      if (this.#disposed) throw new CftError('ERR_CFT_DISPOSED', 'this rollout engine was disposed');
    }
    override dispose(): void {
      this.#disposed = true;
    }
  }
  const unhandled: unknown[] = [];
  const note = (error: unknown): void => void unhandled.push(error);
  process.on('unhandledRejection', note);
  t.teardown(() => process.off('unhandledRejection', note));
  const engine = new DisposedEngine();
  const driver = new RolloutDriver(engine, { maxBranches: 1 });
  let late = 0;
  let opened = false;
  const open = (): Promise<void> | undefined => {
    if (opened) return undefined;
    opened = true;
    const after = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
    driver.track(
      () => after(1).then(() => Promise.reject(new Error('first'))),
      () => {},
    );
    driver.track(
      () => after(20).then(() => Promise.reject(new Error('second'))),
      () => {},
    );
    driver.track(
      () => after(20),
      () => void late++,
    );
    return Promise.resolve();
  };
  await t.throwsAsync(driver.run(open), { message: 'first' });
  engine.dispose();
  driver.fail(new Error('a write that failed late'));
  await new Promise((resolve) => setTimeout(resolve, 60));
  t.deepEqual(unhandled, []);
  t.is(late, 0);
});

const after = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('a trunk that was refused while memory was given back is tried again', async (t) => {
  t.timeout(10_000);
  /** Says so long after it has looked. */
  class SlowEngine extends TightEngine {
    override async addTrunk() {
      const answer = super.addTrunk();
      answer.catch(() => {}); // awaited later
      await after(40);
      return answer;
    }
  }
  const later = (driver: RolloutDriver, trunk: number): void =>
    driver.track(
      () => after(10),
      () => driver.releaseTrunk(trunk),
    );
  t.is(await drain(3, later, new SlowEngine()), 6);
});

test('a step without room for a branch waits for the verdicts that hold trunks', async (t) => {
  t.timeout(10_000);
  /** Trunks always fit; the second one's branch only alone. */
  class FullEngine extends TightEngine {
    trunks = 0;
    refused = 0;
    override async addTrunk() {
      const none = new Float32Array(0);
      const trunk = ++this.trunks;
      return { trunk, logProbs: none, alternativeIds: new Int32Array(0), alternativeLogProbs: none };
    }
    override async step() {
      if (this.waiting[0]?.trunk === 2 && this.trunks > 1) {
        this.refused++;
        throw new CftError('ERR_CFT_OUT_OF_MEMORY', 'no room for a branch');
      }
      return super.step();
    }
    override releaseTrunk(): void {
      this.trunks--;
    }
  }
  const later = (driver: RolloutDriver, trunk: number): void =>
    driver.track(
      () => after(30),
      () => driver.releaseTrunk(trunk),
    );
  const engine = new FullEngine();
  t.is(await drain(2, later, engine), 4);
  t.true(engine.refused > 0);
  await t.throwsAsync(
    drain(2, () => {}, new FullEngine()),
    { code: 'ERR_CFT_OUT_OF_MEMORY' },
  );
});

test('a branch that another one’s end cancels is not heard of again', async (t) => {
  /** Decodes eight tokens of all branches at once. */
  class EagerEngine extends TightEngine {
    override async step() {
      const ids = this.waiting.splice(0).map(({ id }) => id);
      const branchIds = Float64Array.from(ids.flatMap((id) => Array.from({ length: 8 }, () => id)));
      const tokens = { branchIds, tokenIds: new Int32Array(branchIds.length) };
      return { finished: [], tokens, active: 0, waiting: 0, decodedTokens: branchIds.length };
    }
  }
  const driver = new RolloutDriver(new EagerEngine(), { maxBranches: 2 });
  const heard: string[] = [];
  let opened = false;
  let second = 0;
  await driver.run(() => {
    if (opened) return undefined;
    opened = true;
    const { trunk, length, forcedTokens } = { trunk: 1, length: 1, forcedTokens: new Int32Array(0) };
    const branch = { trunk, length, forcedTokens, maxNewTokens: 9, temperature: 0, topP: 1, seed: 0 };
    const ids = driver.submit([
      {
        ...branch,
        stopAt: () => 3,
        onFinished: ({ tokenIds }) => {
          heard.push(`first: ${tokenIds.length}`);
          t.is(driver.cancel(second), 8);
        },
      },
      { ...branch, stopAt: () => 3, onFinished: () => heard.push('second') },
    ]);
    second = ids[1]!;
    return Promise.resolve();
  });
  t.deepEqual(heard, ['first: 3']);
});
