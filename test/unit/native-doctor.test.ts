import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import type { BuiltAddon } from '../../lib/native/addon.mjs';
import { type DoctorReport, renderDoctor, runDoctor } from '../../lib/native/doctor.js';
import { chooseFlavour, runSetup } from '../../lib/native/setup.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import { script } from '../helpers/libtorch.js';

const find = (report: DoctorReport, name: string) => report.checks.find((check) => check.name === name);

/** An environment in which there is Node and nothing else. */
function bare(folder: string): NodeJS.ProcessEnv {
  mkdirSync(join(folder, 'bin'));
  symlinkSync(process.execPath, join(folder, 'bin', 'node'));
  return { PATH: join(folder, 'bin'), HOME: folder, CFT_CACHE_DIR: join(folder, 'cache') };
}

test('on a machine with nothing each problem has a remedy, and the verdict is no', async (t) => {
  const report = await runDoctor(bare(temporaryFolder(t)), []);
  t.false(report.ok);
  for (const name of ['C++ compiler', 'CMake', 'make or ninja', 'libtorch', 'addon']) {
    t.is(find(report, name)?.status, 'problem', name);
    t.truthy(find(report, name)?.remedy, name);
  }
  t.regex(find(report, 'addon')?.remedy ?? '', /npx cft-native setup/);
  t.is(find(report, 'Node')?.status, 'ok');
  t.is(find(report, 'Python and pip')?.found, 'no python3, no pip');
  if (find(report, 'GPU')) t.is(find(report, 'GPU')?.status, 'note', 'a missing GPU is no problem');
  const text = renderDoctor(report);
  t.regex(text, /PROBLEM {2}CMake +not found\n +-> to build: install CMake 3\.18/);
  t.regex(text, /The CPU path does not work yet/);
});

test('a binary that does not load is a problem, not a working CPU path', async (t) => {
  const folder = temporaryFolder(t);
  const binary = script(join(folder, 'cft_native.node'), 'exit 0');
  const addon: BuiltAddon = {
    key: 'the-key',
    libtorch: '2.13.0',
    flavour: 'cpu',
    napi: 8,
    sources: '',
    torch_root: folder,
    folder,
    binary,
  };
  const report = await runDoctor(bare(folder), [addon]);
  t.false(report.ok);
  t.like(find(report, 'addon (cpu)'), { status: 'problem' });
  t.regex(find(report, 'addon (cpu)')?.found ?? '', /^the-key does not load: /);
});

test('a wrong CFT_TORCH_ROOT and CFT_SKIP_DOWNLOAD are named', async (t) => {
  const env = bare(temporaryFolder(t));
  const wrong = find(await runDoctor({ ...env, CFT_TORCH_ROOT: '/nowhere' }, []), 'libtorch');
  t.like(wrong, { status: 'problem', remedy: 'correct or unset CFT_TORCH_ROOT' });
  t.regex(wrong?.found ?? '', /\/nowhere does not exist/);
  const skip = find(await runDoctor({ ...env, CFT_SKIP_DOWNLOAD: '1' }, []), 'libtorch');
  t.regex(skip?.remedy ?? '', /CFT_SKIP_DOWNLOAD is set/);
});

test('setup: cuda only where there are a GPU and nvcc, and it says why', (t) => {
  const folder = temporaryFolder(t);
  const env = bare(folder);
  t.deepEqual(chooseFlavour(env, false), { flavour: 'cpu', reason: 'no NVIDIA GPU here' });
  t.regex(chooseFlavour(env, true).reason, /not CUDA's compiler nvcc/);
  script(join(folder, 'bin', 'nvcc'), 'exit 0');
  symlinkSync('/bin/sh', join(folder, 'bin', 'sh'));
  t.is(chooseFlavour(env, true).flavour, 'cuda');
});

test('setup says what is missing before it fetches anything', async (t) => {
  const folder = temporaryFolder(t);
  const lines: string[] = [];
  const error = await t.throwsAsync(
    runSetup({ flavour: 'cpu', env: bare(folder), log: (line) => lines.push(line) }),
    { instanceOf: CftError },
  );
  t.is(error.code, 'ERR_CFT_NOT_BUILT');
  t.is(error.exitStatus, 2);
  t.regex(error.message, /missing: CMake 3\.18 or newer .*; a C\+\+20 compiler .*; make or ninja/);
  t.deepEqual(lines, [], 'no pip was started');
});
