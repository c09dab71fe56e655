import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Stopwatch } from '../../lib/train/stopwatch.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

test('times of a stage add up over processes, and reach the file while it runs', async (t) => {
  const path = join(temporaryFolder(t), 'stages.json');
  writeFileSync(path, '{"trunks":2}');
  const watch = new Stopwatch(path, 20);
  watch.start('trunks');
  await new Promise((resolve) => setTimeout(resolve, 120));
  // What a kill would leave.
  t.true(readJson<{ trunks: number }>(path).trunks > 2.01);
  watch.start('train');
  watch.stop();
  const { trunks, train } = readJson<{ trunks: number; train: number }>(path);
  t.true(trunks >= 2.1 && trunks < 12, String(trunks));
  t.true(train >= 0);
});

test('times that cannot be written end no run and hide no error', (t) => {
  const watch = new Stopwatch(join(temporaryFolder(t), 'missing', 'stages.json'));
  watch.start('train');
  t.notThrows(() => watch.stop());
  t.true(watch.seconds.train! >= 0);
});
