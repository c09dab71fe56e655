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
): Promise<number> {
  const engine = new TightEngine();
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
