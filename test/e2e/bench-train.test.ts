/** `bench train` on responses of the embedded model, beside a twin of our own side and a peer that is not there. */
import test from 'ava';
import { bench } from '../../lib/bench/bench.js';
import type { BenchEvent } from '../../lib/bench/events.js';
import { ownSide, type SideCommand } from '../../lib/bench/side.js';
import { renderTables } from '../../lib/bench/table.js';
import { benchTrain } from '../../lib/bench/train.js';
import { trainCase } from '../../lib/bench/train-cases.js';
import { forFile } from '../../lib/json-names.js';
import { embeddedFolder } from '../../lib/preset.js';

test('a share of positions for peers means nothing in training, and is refused', async (t) => {
  await t.throwsAsync(bench({ suite: 'train', peerEvery: 3 }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /^peerEvery \(--peer-every\): expected none with train/,
  });
});

test('the same steps in processes of their own: equal losses, planned and measured memory', async (t) => {
  t.timeout(600_000);
  const events: BenchEvent[] = [];
  const twin: SideCommand = { ...ownSide('train-side'), name: 'twin' };
  const nobody: SideCommand = { name: 'nobody', program: '/nowhere/python', args: [], install: 'make it' };
  const { rows, absent } = await benchTrain({
    name: 'embedded',
    case: trainCase('embedded'),
    model: { name: 'embedded', folder: embeddedFolder },
    device: 'cpu',
    dtype: 'float32',
    threads: 2,
    limit: 6,
    repeats: 1,
    peers: [twin, nobody],
    command: 'the test',
    run: 'the run',
    signal: undefined,
    emit: (event) => events.push(event),
  });
  t.deepEqual(
    rows.map(({ side }) => side),
    ['cft-native', 'twin'],
  );
  t.is(absent.length, 1);
  t.regex(absent[0]!.reason, /does not start/);
  const [own, other] = rows as [(typeof rows)[0], (typeof rows)[0]];
  t.true(own.selectedTokens > 0 && own.selectedTokens < own.tokens);
  t.is(own.losses.length, own.steps + 1);
  t.true(own.losses[1]! < own.losses[0]!, 'the batch that comes twice is learned');
  t.deepEqual(other.agreement, { steps: own.losses.length, largestDifference: 0 });
  t.true(own.gemmLimit!.tokensPerSecond > 0);
  if (own.peakMemoryBytes !== null) {
    const error = own.plannedMemoryBytes! / own.peakMemoryBytes - 1;
    t.log(`planned ${own.plannedMemoryBytes! / 1e6} MB, measured ${own.peakMemoryBytes / 1e6} MB`);
    t.true(Math.abs(error) < 0.25, 'a model of this size is mostly runtime');
  }
  t.deepEqual(events.filter(({ type }) => type === 'train-row').length, 2);
  const table = renderTables(rows.map(forFile));
  t.regex(table, /## train: embedded, float32/);
  t.regex(table, /\| twin, float32, packed \| .* \| 0\.0e\+0 in 2 steps \|/);
  t.is(own.peakDeviceBytes, undefined);
  const onGpu = rows.map((row, i) => ({
    ...row,
    peakDeviceBytes: (i + 1) * 2 ** 30,
    ...(row.ratio && { ratio: { ...row.ratio, deviceMemory: 2 } }),
  }));
  t.regex(renderTables(onGpu.map(forFile)), /\| twin, .* \| 2\.00 GB of the GPU \| {2}\| 2x \|/);
});
