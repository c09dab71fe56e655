import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';
import {
  appendLines,
  makeFolder,
  recoverJsonLines,
  writeFileAtomic,
  writeLinesAtomic,
} from '../../lib/files.js';
import {
  defaultRunFolder,
  hashQuestions,
  RunFolder,
  type RunIdentity,
  setResumeCommand,
} from '../../lib/run-folder.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

const identity = (change: Partial<RunIdentity> = {}): RunIdentity => ({
  command: 'annotate',
  options: { maxNewTokens: 64, k: 3, limit: undefined, output: 'here', device: 'auto' },
  seed: 0,
  device: 'cpu',
  dtype: 'float32',
  model: { name: 'tiny', weightsSha256: 'aa', tokenizerSha256: 'bb' },
  data: { name: 'questions.jsonl', sha256: 'cc', questions: 5 },
  libtorch: '2.13.0',
  ...change,
});

function interruptedRun(path: string): void {
  using folder = RunFolder.open(path);
  folder.begin(identity());
  folder.end('interrupted');
}

test('a fresh folder gets a run.json with options, versions, hashes and status, and no lock is left', (t) => {
  const path = join(temporaryFolder(t), 'deep', 'run');
  {
    using folder = RunFolder.open(path);
    t.false(folder.finished);
    folder.begin(identity());
    t.is(readJson<{ status: string }>(join(path, 'run.json')).status, 'running');
    folder.end('done');
  }
  const record = readJson<Record<string, unknown>>(join(path, 'run.json'));
  t.is(record.status, 'done');
  t.deepEqual(record.options, { max_new_tokens: 64, k: 3, output: 'here', device: 'auto' });
  t.deepEqual(record.model, { name: 'tiny', weights_sha256: 'aa', tokenizer_sha256: 'bb' });
  t.is((record.versions as Record<string, string>).libtorch, '2.13.0');
  t.regex((record.versions as Record<string, string>).cft_native!, /^\d+\.\d+\.\d+/);
  t.deepEqual(readdirSync(path), ['run.json']);
});

// Node's own recursive mkdir never returns there, so a failure of this test is a time-out.
test('a folder that the file system refuses is not writable, at once', (t) => {
  for (const path of ['/proc/cft-native-run', '/proc/cft-native/run']) {
    t.throws(() => RunFolder.open(path), {
      code: 'ERR_CFT_BAD_OUTPUT',
      message: /run: not writable: /,
    });
  }
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, '');
  t.throws(() => makeFolder(file), { code: 'EEXIST' });
  t.throws(() => makeFolder(join(file, 'inside')), { code: 'ENOTDIR' });
  t.notThrows(() => makeFolder(dirname(file)));
});

test('a folder that is not empty is refused by the names of what it holds', (t) => {
  const path = temporaryFolder(t);
  writeFileSync(join(path, 'thesis.tex'), '');
  t.throws(() => RunFolder.open(path), { code: 'ERR_CFT_BAD_OUTPUT', message: /thesis\.tex/ });
  t.throws(() => RunFolder.open(path, { resume: true }), { message: /run\.json.*found thesis\.tex/ });
  t.deepEqual(readdirSync(path), ['thesis.tex']);
});

test('a run folder without --resume is refused and the message names the flag', (t) => {
  const path = join(temporaryFolder(t), 'run');
  interruptedRun(path);
  t.throws(() => RunFolder.open(path), { code: 'ERR_CFT_BAD_OUTPUT', message: /--resume/ });
});

test('what goes on with a run is kept in it, and told to who asks wrongly', (t) => {
  const path = join(temporaryFolder(t), 'run');
  setResumeCommand((output) => `npx cft-native train --epochs 9 --output ${output} --resume`);
  t.teardown(() => setResumeCommand(undefined));
  interruptedRun(path);
  setResumeCommand((output) => `npx cft-native train --output ${output} --resume`);
  const message = new RegExp(`"npx cft-native train --epochs 9 --output ${path} --resume"`);
  t.throws(() => RunFolder.open(path), { message });
  // Refused, and the folder is as it was.
  {
    using refused = RunFolder.open(path, { resume: true });
    t.throws(() => refused.begin(identity({ seed: 77 })), { message });
  }
  {
    using folder = RunFolder.open(path, { resume: true });
    folder.begin(identity());
  }
  const { resume_command } = readJson<{ resume_command: string }>(join(path, 'run.json'));
  t.is(resume_command, `npx cft-native train --output ${path} --resume`);
});

test('a path that cannot be a folder is refused', (t) => {
  const file = join(temporaryFolder(t), 'file');
  writeFileSync(file, 'x');
  t.throws(() => RunFolder.open(file), { code: 'ERR_CFT_BAD_OUTPUT', message: /expected a folder/ });
  t.throws(() => RunFolder.open(join(file, 'below')), { code: 'ERR_CFT_BAD_OUTPUT' });
});

test('resume starts where the folder is missing or empty', (t) => {
  const base = temporaryFolder(t);
  mkdirSync(join(base, 'empty'));
  for (const name of ['missing', 'empty']) {
    using folder = RunFolder.open(join(base, name), { resume: true });
    folder.begin(identity());
    t.true(existsSync(join(base, name, 'run.json')));
  }
});

test('resume refuses another run and names each field that differs', (t) => {
  const path = join(temporaryFolder(t), 'run');
  interruptedRun(path);
  const refused = (change: Partial<RunIdentity>, message: RegExp) => {
    using folder = RunFolder.open(path, { resume: true });
    t.throws(() => folder.begin(identity(change)), { code: 'ERR_CFT_BAD_OUTPUT', message });
  };
  refused({ options: { maxNewTokens: 128, k: 3 } }, /maxNewTokens \(--max-new-tokens\) was 64, is 128/);
  refused({ options: { maxNewTokens: 64, k: 3, limit: 7 } }, /limit \(--limit\) was absent, is 7/);
  refused({ model: { name: 'tiny', weightsSha256: 'ax', tokenizerSha256: 'bb' } }, /weights_sha256 was "aa"/);
  refused(
    { model: { name: 'tiny', weightsSha256: 'aa', tokenizerSha256: 'bx' } },
    /tokenizer_sha256 was "bb"/,
  );
  refused(
    { data: { name: 'questions.jsonl', sha256: 'cx', questions: 5 } },
    /data\.sha256 was "cc", is "cx"/,
  );
  refused({ command: 'train' }, /command was "annotate", is "train"/);
  refused({ device: 'cuda:0' }, /device was "cpu", is "cuda"/);
  refused({ seed: 1 }, /seed was 0, is 1/);
  t.is(readJson<{ status: string }>(join(path, 'run.json')).status, 'interrupted');
});

test('resume takes another --max-concurrency where labels do not depend on it: float32 on the CPU', (t) => {
  for (const [dtype, fits] of [
    ['float32', true],
    ['bfloat16', false],
  ] as const) {
    const path = join(temporaryFolder(t), 'run');
    {
      using folder = RunFolder.open(path);
      folder.begin(identity({ dtype, options: { maxConcurrency: 'auto' } }));
      folder.end('interrupted');
    }
    using folder = RunFolder.open(path, { resume: true });
    const begin = () => folder.begin(identity({ dtype, options: { maxConcurrency: 4 } }));
    if (fits) t.notThrows(begin);
    else t.throws(begin, { message: /maxConcurrency \(--max-concurrency\) was "auto", is 4/ });
  }
});

test('resume takes the same run from another place', (t) => {
  const path = join(temporaryFolder(t), 'run');
  interruptedRun(path);
  using folder = RunFolder.open(path, { resume: true });
  folder.begin(
    identity({
      options: { maxNewTokens: 64, k: 3, output: 'there', device: 'cpu', resume: true },
      model: { name: '/elsewhere/tiny', weightsSha256: 'aa', tokenizerSha256: 'bb' },
      data: { name: 'copy.jsonl', sha256: 'cc', questions: 5 },
    }),
  );
  t.is(readJson<{ status: string }>(join(path, 'run.json')).status, 'running');
});

test('resume goes by the content of annotations and evaluation questions, not by their paths', (t) => {
  const path = join(temporaryFolder(t), 'run');
  const of = (folder: string, sha256: string) =>
    identity({
      options: {
        annotations: `${folder}/a.jsonl`,
        validationAnnotations: `${folder}/v.jsonl`,
        evalData: `${folder}/e.jsonl`,
      },
      evalData: { name: `${folder}/e.jsonl`, sha256, questions: 3 },
    });
  {
    using folder = RunFolder.open(path);
    folder.begin(of('here', 'ee'));
    folder.end('interrupted');
  }
  using folder = RunFolder.open(path, { resume: true });
  t.throws(() => folder.begin(of('there', 'ex')), { message: /eval_data\.sha256 was "ee", is "ex"/ });
  t.throws(() => folder.begin({ ...of('there', 'ee'), evalData: undefined }), {
    message: /eval_data\.sha256/,
  });
  t.notThrows(() => folder.begin(of('there', 'ee')));
});

test('a finished run is opened without a change to the folder', (t) => {
  const path = join(temporaryFolder(t), 'run');
  {
    using folder = RunFolder.open(path);
    folder.begin(identity());
    folder.end('done');
  }
  const before = [statSync(path).mtimeMs, readFileSync(join(path, 'run.json'), 'utf8')];
  {
    using folder = RunFolder.open(path, { resume: true });
    t.true(folder.finished);
    t.throws(() => folder.begin(identity({ seed: 9 })), { message: /seed/ });
    folder.begin(identity());
    folder.end('failed');
  }
  t.deepEqual([statSync(path).mtimeMs, readFileSync(join(path, 'run.json'), 'utf8')], before);
});

test('a folder in use is refused, also within one process, and free again afterwards', (t) => {
  const path = join(temporaryFolder(t), 'run');
  {
    using folder = RunFolder.open(path);
    folder.begin(identity());
    t.throws(() => RunFolder.open(path, { resume: true }), {
      code: 'ERR_CFT_BAD_OUTPUT',
      message: new RegExp(`in use by process ${process.pid}`),
    });
  }
  RunFolder.open(path, { resume: true })[Symbol.dispose]();
  t.false(existsSync(join(path, 'run.lock')));
});

test('the lock of a process that was killed does not block, that of a living one and of another host does', async (t) => {
  const path = join(temporaryFolder(t), 'run');
  interruptedRun(path);
  const lock = join(path, 'run.lock');
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
  const gone = new Promise((resolve) => child.once('exit', resolve));
  writeFileSync(lock, JSON.stringify({ host: hostname(), pid: child.pid }));
  t.throws(() => RunFolder.open(path, { resume: true }), { message: /in use/ });
  child.kill('SIGKILL');
  await gone;
  RunFolder.open(path, { resume: true })[Symbol.dispose]();

  writeFileSync(lock, '{"host": "'); // torn by a crash
  RunFolder.open(path, { resume: true })[Symbol.dispose]();
  writeFileSync(lock, JSON.stringify({ host: 'another.example', pid: 1 }));
  t.throws(() => RunFolder.open(path, { resume: true }), { message: /delete .*run\.lock/ });
});

test('a folder made for nothing is removed again', (t) => {
  const path = join(temporaryFolder(t), 'run');
  RunFolder.open(path)[Symbol.dispose]();
  t.false(existsSync(path));
});

test('the default folder is named by the time and never one that exists', (t) => {
  const back = process.cwd();
  process.chdir(temporaryFolder(t));
  try {
    const now = new Date('2026-01-31T23:59:58Z');
    t.is(defaultRunFolder(now), 'runs/2026-01-31T23-59-58');
    mkdirSync('runs/2026-01-31T23-59-58', { recursive: true });
    t.is(defaultRunFolder(now), 'runs/2026-01-31T23-59-58-2');
  } finally {
    process.chdir(back);
  }
});

test('questions hash by id, question, answer and order', (t) => {
  const a = { id: '1', question: 'q', answer: '2' };
  const b = { id: '2', question: 'r', answer: '3' };
  t.is(hashQuestions([a, b]), hashQuestions([{ ...a }, { ...b }]));
  const others = [[b, a], [a], [a, { ...b, answer: '4' }], [{ ...a, id: '3' }, b]];
  t.is(new Set([[a, b], ...others].map(hashQuestions)).size, 5);
});

test('a torn last line is dropped from the file, a damaged earlier one is an error', (t) => {
  const path = join(temporaryFolder(t), 'journal.jsonl');
  t.deepEqual(recoverJsonLines(path), []);
  appendLines(path, ['{"a":1}', '{"a":"é\u2028"}']);
  const whole = readFileSync(path);
  appendFileSync(path, '{"a":3');
  t.deepEqual(recoverJsonLines(path), [{ a: 1 }, { a: 'é\u2028' }]);
  t.deepEqual(readFileSync(path), whole);
  appendFileSync(path, '\0\0\0\n');
  t.is(recoverJsonLines(path).length, 2);
  t.deepEqual(readFileSync(path), whole);
  writeFileSync(path, '{"a":1}\n{"a":\n{"a":3}\n');
  t.throws(() => recoverJsonLines(path), { code: 'ERR_CFT_BAD_DATA', message: /line 2/ });
});

test('long lines and many lines survive the reader and the writer', (t) => {
  const path = join(temporaryFolder(t), 'long.jsonl');
  const lines = ['x'.repeat(3 << 20), 'short', 'y'.repeat((1 << 20) - 3), ''].map((s) => JSON.stringify(s));
  writeLinesAtomic(path, lines);
  t.deepEqual(
    recoverJsonLines(path),
    lines.map((line) => JSON.parse(line)),
  );
});

test('a full disk is reported with the path and the cause', (t) => {
  if (!existsSync('/dev/full')) {
    t.log('skipped: this system has no /dev/full');
    t.pass();
    return;
  }
  const path = join(temporaryFolder(t), 'journal.jsonl');
  symlinkSync('/dev/full', path);
  const expected = { code: 'ERR_CFT_IO', message: /journal\.jsonl failed: the disk is full \(ENOSPC\)/ };
  t.throws(() => appendLines(path, ['{}']), expected);
});

test('a failed atomic write keeps the old file and leaves no temporary one', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'out.json');
  writeFileAtomic(path, 'old');
  const broken = function* () {
    yield 'new';
    throw new Error('no more lines');
  };
  t.throws(() => writeLinesAtomic(path, broken()), { message: 'no more lines' });
  t.is(readFileSync(path, 'utf8'), 'old');
  t.deepEqual(readdirSync(folder), ['out.json']);
  t.throws(() => writeFileAtomic(join(folder, 'missing', 'x'), ''), {
    code: 'ERR_CFT_IO',
    message: /missing/,
  });
});
