/** Annotation that is killed with -9 at any moment and resumed gives the files of an undisturbed run, byte for byte. */
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type KillAt, runChild } from '../helpers/child.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

const tiny = 'annotate-child.ts';
const toy = 'annotate-toy-child.ts';

/** Resolves with whether the child was killed before it ended. */
async function annotateInChild(script: string, folder: string, killAt?: KillAt): Promise<boolean> {
  const { killed, code, stderr } = await runChild(script, [folder], killAt ? { killAt } : {});
  if (!killed && code !== 0) throw new Error(`the child failed with ${code}: ${stderr}`);
  return killed;
}

const files = (folder: string): Record<string, string> =>
  Object.fromEntries(
    ['responses.jsonl', 'annotations.jsonl'].map((name) => [name, readFileSync(join(folder, name), 'utf8')]),
  );

function checkFinished(t: ExecutionContext, folder: string, expected: Record<string, string>): void {
  t.deepEqual(files(folder), expected);
  t.is(readJson<{ status: string }>(join(folder, 'run.json')).status, 'done');
  const names = readdirSync(folder).filter((name) => !name.endsWith('.tmp'));
  t.deepEqual(names.sort(), ['annotations.jsonl', 'annotations.meta.json', 'responses.jsonl', 'run.json']);
}

test('a tiny model, killed at random moments and resumed: the same files as an undisturbed run', async (t) => {
  t.timeout(600_000);
  const base = temporaryFolder(t);
  await annotateInChild(tiny, join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  t.true(expected['annotations.jsonl']!.split('\n').length > 10);

  let kills = 0;
  for (const name of ['one', 'two', 'three']) {
    const folder = join(base, name);
    for (let i = 0; i < 4; i++) {
      // In turn anywhere, and among the rollouts.
      const delay = Math.random() * 20;
      const killAt =
        i % 2 === 0
          ? { event: Math.floor(Math.random() * 16), delay }
          : { event: Math.floor(Math.random() * 3), delay, type: 'response' };
      const killed = await annotateInChild(tiny, folder, killAt);
      if (killed) kills++;
      const state = existsSync(folder) ? readdirSync(folder).sort().join(' ') : 'nothing';
      t.log(`${name}: ${killed ? 'killed' : 'ended before'} ${JSON.stringify(killAt)}: ${state}`);
    }
    await annotateInChild(tiny, folder);
    checkFinished(t, folder, expected);
  }
  t.true(kills >= 8, 'most kills came before the end');
});

test('a torn line in the journal or the responses costs that line and nothing else', async (t) => {
  const base = temporaryFolder(t);
  await annotateInChild(toy, join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  const folder = join(base, 'torn');
  t.true(await annotateInChild(toy, folder, { type: 'response', event: 2, delay: 0 }));
  const journal = join(folder, 'annotations.journal.jsonl');
  const lines = readFileSync(journal, 'utf8').split('\n');
  t.true(lines.filter((line) => line.startsWith('{"type":"annotation"')).length >= 3);
  appendFileSync(journal, '{"type":"annotation","index":39,"rec');
  appendFileSync(join(folder, 'responses.jsonl'), '{"id":"q');
  await annotateInChild(toy, folder);
  checkFinished(t, folder, expected);
});

test('a part of a chunk of responses is kept and the rest made again', async (t) => {
  const base = temporaryFolder(t);
  await annotateInChild(toy, join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  const folder = join(base, 'part');
  t.true(await annotateInChild(toy, folder, { type: 'trunk', event: 8, delay: 0 }));
  // As a crash of the machine could leave it: 11 whole lines where chunks are of 8.
  const lines = expected['responses.jsonl']!.split('\n').slice(0, 11);
  writeFileSync(join(folder, 'responses.jsonl'), `${lines.join('\n')}\n`);
  await annotateInChild(toy, folder);
  checkFinished(t, folder, expected);
});

test('a disk that fills up is an error with the file; freed and resumed, nothing is lost', async (t) => {
  const base = temporaryFolder(t);
  await annotateInChild(tiny, join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  const folder = join(base, 'full');
  // No file may grow much beyond the responses; the journal does, and the write that would fails, as on a full disk.
  const blocks = Math.ceil(expected['responses.jsonl']!.length / 1024) + 1;
  const { code, stderr } = await runChild(tiny, [folder], { shell: `trap '' XFSZ; ulimit -f ${blocks}` });
  t.is(code, 1);
  t.regex(stderr, /ERR_CFT_IO: writing .*\.jsonl failed: .*what was written before is kept/);
  t.is(readJson<{ status: string }>(join(folder, 'run.json')).status, 'failed');
  t.is(readFileSync(join(folder, 'responses.jsonl'), 'utf8'), expected['responses.jsonl']!);
  const journal = readFileSync(join(folder, 'annotations.journal.jsonl'), 'utf8');
  t.true(journal === '' || journal.endsWith('\n'));
  await annotateInChild(tiny, folder);
  checkFinished(t, folder, expected);
});
