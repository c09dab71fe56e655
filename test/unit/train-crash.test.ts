/** Training that dies at any write and is resumed ends with the files of an undisturbed run. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import type { Model } from '../../lib/model/model.js';
import { resolveOptions } from '../../lib/options.js';
import { Random } from '../../lib/random.js';
import { strategies } from '../../lib/strategies/index.js';
import { toExample } from '../../lib/train/examples.js';
import { makeProbe } from '../../lib/train/held-out.js';
import { runTrainingStage } from '../../lib/train/stage.js';
import { makeAnnotations } from '../helpers/annotation-file.js';
import { crashAt, fillAt } from '../helpers/crash.js';
import { FakeTrainer, fakeModel } from '../helpers/fake-trainer.js';
import { temporaryFolder } from '../helpers/fixtures.js';

const records = makeAnnotations(10);
const examples = records.map((record) => toExample(record, strategies.cft, 128, 'a'));
const options = resolveOptions('train', {
  batchSize: 4,
  epochs: 2,
  checkpointEvery: 1,
  keepCheckpoints: 2,
  learningRate: 0.1,
  saveBest: true,
  probeEvery: 2,
  microBatchTokens: 30,
});

/** Two epochs of two steps on seven responses, three held out. */
async function train(folder: string): Promise<void> {
  await runTrainingStage(
    {
      stage: 'train',
      strategy: 'cft',
      examples: examples.slice(0, 7),
      validation: examples.slice(7),
      probe: makeProbe(records.slice(7)),
      options,
      batch: { batchSize: 4 },
      loadBase: async () => fakeModel(new FakeTrainer()) as unknown as Model,
      loadOther: () => Promise.reject(new Error('nothing is merged here')),
      heldBytes: 0,
      base: { name: 'base', revision: undefined },
      folder,
    },
    () => {},
  );
}

/** What a run leaves that must not depend on time. */
function outcome(folder: string): object {
  const metrics = readFileSync(join(folder, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return {
    model: readFileSync(join(folder, 'model/model.safetensors'), 'utf8'),
    checkpoints: readdirSync(join(folder, 'checkpoints')).sort(),
    metrics: metrics.map((line) => {
      const { tokens_per_second: _, seconds: __, ...rest } = JSON.parse(line) as Record<string, unknown>;
      return rest;
    }),
  };
}

test.serial('killed at every write, resumed, the same model, measurements and checkpoints', async (t) => {
  t.timeout(300_000);
  await train(temporaryFolder(t)); // loads what is loaded late, which may write caches
  const whole = temporaryFolder(t);
  const writes = await crashAt(Number.POSITIVE_INFINITY, () => train(whole));
  const expected = outcome(whole);
  t.true(writes > 80, String(writes));
  for (let at = 0; at < writes; at++) {
    const folder = temporaryFolder(t);
    t.true((await crashAt(at, () => train(folder))) > at);
    await train(folder);
    t.deepEqual(outcome(folder), expected, `write ${at}`);
  }
  t.log(`${writes} writes`);
});

test.serial(
  'a disk that is full from any write on: an error with the file and what is kept, and nothing is lost',
  async (t) => {
    t.timeout(300_000);
    const whole = temporaryFolder(t);
    const writes = await crashAt(Number.POSITIVE_INFINITY, () => train(whole));
    const expected = outcome(whole);
    let atCheckpoints = 0;
    for (let at = 0; at < writes; at++) {
      const folder = temporaryFolder(t);
      const error = await fillAt(at, () => train(folder));
      if (error === undefined) continue; // only to remove and to sync was left
      t.true(error instanceof CftError && error.code === 'ERR_CFT_IO', `write ${at}: ${error}`);
      const { message } = error as CftError;
      t.true(message.includes(folder), message);
      const kept = /the last good checkpoint, (\S+), is kept/.exec(message)?.[1];
      if (kept !== undefined) {
        atCheckpoints++;
        t.true(existsSync(join(kept, 'state.json')), message);
      }
      await train(folder);
      t.deepEqual(outcome(folder), expected, `write ${at}`);
    }
    t.true(atCheckpoints > 5, String(atCheckpoints));
  },
);

test.serial('killed again and again, at writes of all kinds', async (t) => {
  t.timeout(300_000);
  const whole = temporaryFolder(t);
  await train(whole);
  const random = new Random('crashes');
  for (let run = 0; run < 10; run++) {
    const folder = temporaryFolder(t);
    let kills = 0;
    for (const most of [10, 40, 40, 60, 60, 80]) {
      const at = random.integer(most);
      if ((await crashAt(at, () => train(folder))) > at) kills++;
    }
    await train(folder);
    t.true(kills >= 3);
    t.deepEqual(outcome(folder), outcome(whole));
  }
});
