/** Annotation that is killed with -9 at any moment and resumed gives the files of an undisturbed run, byte for byte. */
import { spawn } from 'node:child_process';
import { appendFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test, { type ExecutionContext } from 'ava';
import { projectRoot } from '../helpers/data.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

const killsPerFolder = 4;

/**
 * Runs the child, and kills it when `killAt` says so: `delay` milliseconds after it told of the event number `event`,
 * those of type `type` counted alone where it is given. Resolves with whether it was killed before it ended.
 */
async function annotateInChild(
  folder: string,
  killAt?: { event: number; delay: number; type?: string },
): Promise<boolean> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'test/helpers/annotate-toy-child.ts', folder], {
    cwd: projectRoot,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  let told = 0;
  createInterface(child.stdout).on('line', (line) => {
    if (killAt === undefined || (killAt.type !== undefined && killAt.type !== line)) return;
    if (told++ === killAt.event) setTimeout(() => child.kill('SIGKILL'), killAt.delay);
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.once('close', (...result) => resolve(result)),
  );
  if (signal !== 'SIGKILL' && code !== 0) throw new Error(`the child failed with ${code}: ${errors}`);
  return signal === 'SIGKILL';
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

test('killed at random moments and resumed: the same files as an undisturbed run', async (t) => {
  t.timeout(300_000);
  const base = temporaryFolder(t);
  await annotateInChild(join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  t.true(expected['annotations.jsonl']!.split('\n').length > 10);

  for (const name of ['one', 'two', 'three']) {
    const folder = join(base, name);
    for (let i = 0; i < killsPerFolder; i++) {
      const killAt = { event: Math.floor(Math.random() * 16), delay: Math.random() * 20 };
      const killed = await annotateInChild(folder, killAt);
      const state = existsSync(folder) ? readdirSync(folder).sort().join(' ') : 'nothing';
      t.log(
        `${name}: ${killed ? 'killed' : 'ended before it was killed'} at ${JSON.stringify(killAt)}: ${state}`,
      );
    }
    await annotateInChild(folder);
    checkFinished(t, folder, expected);
  }
});

test('a torn line in the journal or the responses costs that line and nothing else', async (t) => {
  const base = temporaryFolder(t);
  await annotateInChild(join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  const folder = join(base, 'torn');
  t.true(await annotateInChild(folder, { type: 'response', event: 2, delay: 0 }));
  const journal = join(folder, 'annotations.journal.jsonl');
  const lines = readFileSync(journal, 'utf8').split('\n');
  t.true(lines.filter((line) => line.startsWith('{"type":"annotation"')).length >= 3);
  appendFileSync(journal, '{"type":"annotation","index":39,"rec');
  appendFileSync(join(folder, 'responses.jsonl'), '{"id":"q');
  await annotateInChild(folder);
  checkFinished(t, folder, expected);
});

test('a part of a chunk of responses is kept and the rest made again', async (t) => {
  const base = temporaryFolder(t);
  await annotateInChild(join(base, 'undisturbed'));
  const expected = files(join(base, 'undisturbed'));
  const folder = join(base, 'part');
  t.true(await annotateInChild(folder, { type: 'trunk', event: 8, delay: 0 }));
  const responses = join(folder, 'responses.jsonl');
  // As a crash of the machine could leave it: 11 whole lines where chunks are of 8.
  const lines = expected['responses.jsonl']!.split('\n').slice(0, 11);
  writeFileSync(responses, `${lines.join('\n')}\n`);
  await annotateInChild(folder);
  checkFinished(t, folder, expected);
});
