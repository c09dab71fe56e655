import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { withLock } from '../../lib/native/lock.mjs';
import { projectRoot } from '../helpers/data.js';
import { temporaryFolder } from '../helpers/fixtures.js';

test('processes that want one lock work one after the other', async (t) => {
  const folder = temporaryFolder(t);
  const log = join(folder, 'log');
  const code = `
    import { appendFileSync } from 'node:fs';
    import { setTimeout as sleep } from 'node:timers/promises';
    import { withLock } from ${JSON.stringify(join(projectRoot, 'lib/native/lock.mjs'))};
    await withLock(${JSON.stringify(join(folder, 'lock'))}, () => {}, async () => {
      appendFileSync(${JSON.stringify(log)}, 'in ');
      await sleep(60);
      appendFileSync(${JSON.stringify(log)}, 'out ');
    });`;
  // A lock whose owner is dead lies there already, so that they also race to take it over.
  const dead = spawn(process.execPath, ['-e', '']);
  await once(dead, 'close');
  writeFileSync(join(folder, 'lock'), String(dead.pid));
  const children = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: 'inherit' }),
  );
  for (const [status] of await Promise.all(children.map((child) => once(child, 'close')))) t.is(status, 0);
  t.is(readFileSync(log, 'utf8'), 'in out '.repeat(4));
  t.false(existsSync(join(folder, 'lock')));
});

test('the lock is released when the work fails, and its error passes through', async (t) => {
  const path = join(temporaryFolder(t), 'deep', 'lock');
  await t.throwsAsync(
    withLock(
      path,
      () => {},
      async () => {
        t.true(existsSync(path));
        throw new Error('work failed');
      },
    ),
    { message: 'work failed' },
  );
  t.false(existsSync(path));
});

test('whoever waits says for whom', async (t) => {
  const path = join(temporaryFolder(t), 'lock');
  const lines: string[] = [];
  let second: Promise<void> | undefined;
  await withLock(
    path,
    () => {},
    async () => {
      second = withLock(
        path,
        (line) => lines.push(line),
        async () => {},
      );
      await new Promise((resolve) => setTimeout(resolve, 50));
    },
  );
  await second;
  t.deepEqual(lines, [`waiting for process ${process.pid}, which is at the same work (${path})`]);
});
