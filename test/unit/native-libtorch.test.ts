import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { fetchLibtorch, runtimeRequirements } from '../../lib/native/fetch.mjs';
import { cacheFolder, findLibtorch, inspectLibtorch, isSupported } from '../../lib/native/libtorch.mjs';
import { temporaryFolder } from '../helpers/fixtures.js';
import { fakeTorch, makeWheel, script, withFakePip } from '../helpers/libtorch.js';

test('exactly the supported versions pass', (t) => {
  for (const version of ['2.11.0', '2.11.7', '2.13.0', '2.14.0', '2.14.1'])
    t.true(isSupported(version), version);
  for (const version of [
    '2.13.1',
    '2.12.0',
    '2.10.0',
    '2.15.0',
    '2.130.0',
    '12.13.0',
    '2.13',
    '2.13.0a0',
    '',
  ])
    t.false(isSupported(version), version);
});

test('a folder is known by its version file; what is wrong with another is said', (t) => {
  const folder = temporaryFolder(t);
  const good = fakeTorch(join(folder, 'good'), '2.13.0+cpu');
  t.deepEqual(inspectLibtorch(good), { version: '2.13.0', fullVersion: '2.13.0+cpu', cuda: null });
  const cuda = fakeTorch(join(folder, 'cuda'), '2.14.1+cu130', '13.0');
  t.deepEqual(inspectLibtorch(cuda, 'cuda'), {
    version: '2.14.1',
    fullVersion: '2.14.1+cu130',
    cuda: '13.0',
  });

  const problem = (root: string, flavour: 'cpu' | 'cuda' = 'cpu') => {
    const seen = inspectLibtorch(root, flavour);
    return 'problem' in seen ? seen.problem : t.fail();
  };
  t.regex(problem(join(folder, 'nowhere')) ?? '', /nowhere does not exist/);
  t.regex(problem(folder) ?? '', /neither version.py nor build-version/);
  const other = fakeTorch(join(folder, 'other'), '2.12.1+cpu');
  t.regex(problem(other) ?? '', /is torch 2\.12\.1; supported are 2\.11\.x, 2\.13\.0 and 2\.14\.x/);
  t.regex(problem(good, 'cuda') ?? '', /torch 2\.13\.0\+cpu\) lacks lib\/libc10_cuda\.so/);
  rmSync(join(good, 'lib/libc10.so'));
  t.regex(problem(good) ?? '', /lacks lib\/libc10\.so/);
});

test('CFT_TORCH_ROOT beats Python, Python beats the cache; an unsupported one is skipped with a word', (t) => {
  const folder = temporaryFolder(t);
  const own = fakeTorch(join(folder, 'own'), '2.11.0');
  const python = fakeTorch(join(folder, 'python'), '2.14.0');
  const env = { ...withFakePip(folder, 'exit 1'), CFT_CACHE_DIR: join(folder, 'cache') };
  t.is(findLibtorch(env).found, null);
  fakeTorch(join(folder, 'cache/libtorch/2.14.1+cpu-cpu/torch'), '2.14.1+cpu');
  const cached = fakeTorch(join(folder, 'cache/libtorch/2.13.0+cpu-cpu/torch'), '2.13.0+cpu');
  fakeTorch(join(folder, 'cache/libtorch/2.13.0+cu130-cuda/torch'), '2.13.0+cu130', '13.0');
  t.like(findLibtorch(env).found, { source: 'cache', root: cached, version: '2.13.0' });
  t.like(findLibtorch(env, 'cuda').found, { source: 'cache', fullVersion: '2.13.0+cu130' });

  script(join(folder, 'bin/python3'), `echo ${python}`);
  t.like(findLibtorch(env).found, { source: 'python', root: python });
  t.like(findLibtorch({ ...env, CFT_TORCH_ROOT: own }).found, { source: 'CFT_TORCH_ROOT', root: own });

  fakeTorch(python, '2.9.1');
  const { found, skipped } = findLibtorch(env);
  t.like(found, { source: 'cache', root: cached });
  t.is(skipped.length, 1);
  t.regex(skipped[0] ?? '', /Python's torch is skipped: .*python is torch 2\.9\.1; supported are/);
});

test('a CFT_TORCH_ROOT that cannot serve is an error, not a reason to look elsewhere', (t) => {
  const folder = temporaryFolder(t);
  const env = { ...withFakePip(folder, 'exit 1'), CFT_TORCH_ROOT: join(folder, 'gone') };
  fakeTorch(join(folder, 'cache/libtorch/2.13.0+cpu-cpu/torch'), '2.13.0+cpu');
  t.throws(() => findLibtorch(env), {
    code: 'ERR_CFT_NOT_BUILT',
    message: /^CFT_TORCH_ROOT: .*gone does not exist/,
  });
});

test('the cache folder is CFT_CACHE_DIR, else the platform’s', (t) => {
  t.is(cacheFolder({ CFT_CACHE_DIR: '/somewhere' }), '/somewhere');
  if (process.platform === 'linux') t.is(cacheFolder({ XDG_CACHE_HOME: '/xdg' }), '/xdg/cft-native');
  t.regex(cacheFolder({}), /cft-native$/);
});

test('what is fetched is announced, unpacked into the cache without the rest, and found from then on', async (t) => {
  const folder = temporaryFolder(t);
  fakeTorch(join(folder, 'content/torch'), '2.13.0+cpu');
  mkdirSync(join(folder, 'content/torch/nn'));
  script(join(folder, 'content/torch/nn/modules.py'), '');
  const wheel = join(folder, 'torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl');
  makeWheel(join(folder, 'content'), wheel);
  const env = withFakePip(
    folder,
    `echo "Processing ${wheel}"; echo "$@" > ${folder}/arguments; cp ${wheel} "$target"`,
  );
  const lines: string[] = [];
  const root = await fetchLibtorch({ flavour: 'cpu', env, log: (line) => lines.push(line) });
  t.is(root, join(folder, 'cache/libtorch/2.13.0+cpu-cpu/torch'));
  t.regex(lines.join('\n'), /fetching torch==2\.13\.0 with pip/);
  t.regex(lines.join('\n'), /Copying torch-2\.13\.0\+cpu-cp311-cp311-linux_x86_64\.whl \(\d+\.\d MB\)/);
  t.true(existsSync(join(root, 'lib/libtorch_cpu.so')));
  t.false(existsSync(join(root, 'nn')), 'the Python files stay out');
  t.deepEqual(
    readdirSync(join(folder, 'cache/libtorch')),
    ['2.13.0+cpu-cpu'],
    'no wheel, lock or temporary folder left',
  );
  t.like(findLibtorch(env).found, { source: 'cache', root });
});

test('a wheel with a member outside its folder is refused and leaves nothing', async (t) => {
  const folder = temporaryFolder(t);
  fakeTorch(join(folder, 'content/torch'), '2.13.0');
  makeWheel(join(folder, 'content'), join(folder, 'evil.whl'), '../../escaped');
  const env = withFakePip(folder, `cp ${folder}/evil.whl "$target"`);
  await t.throwsAsync(fetchLibtorch({ flavour: 'cpu', env, log: () => {} }), {
    message: /evil\.whl could not be unpacked .*a member outside its folder: \.\.\/\.\.\/escaped/,
  });
  t.deepEqual(readdirSync(join(folder, 'cache/libtorch')), []);
  t.false(existsSync(join(folder, 'escaped')));
});

test('where this Python has no wheel, that of another one is asked for', async (t) => {
  const folder = temporaryFolder(t);
  fakeTorch(join(folder, 'content/torch'), '2.13.0');
  makeWheel(join(folder, 'content'), join(folder, 'a.whl'));
  const env = withFakePip(
    folder,
    `case "$*" in *"--python-version 3.12"*) cp ${folder}/a.whl "$target" ;; *) echo "ERROR: No matching distribution found for torch" >&2; exit 1 ;; esac`,
  );
  const root = await fetchLibtorch({ flavour: 'cpu', env, log: () => {} });
  t.true(existsSync(join(root, 'version.py')));
});

test('pip’s own words are passed on when it fails', async (t) => {
  const folder = temporaryFolder(t);
  const env = withFakePip(folder, 'echo "ERROR: [Errno 28] No space left on device" >&2; exit 1');
  await t.throwsAsync(fetchLibtorch({ flavour: 'cpu', env, log: () => {} }), {
    code: 'ERR_CFT_NOT_BUILT',
    message: /pip could not fetch torch==2\.13\.0:\n.*No space left on device/s,
  });
});

test('CFT_SKIP_DOWNLOAD, no python3 and no pip: each refuses with its remedy', async (t) => {
  const folder = temporaryFolder(t);
  const fetch = (env: NodeJS.ProcessEnv) => fetchLibtorch({ flavour: 'cpu', env, log: () => {} });
  await t.throwsAsync(fetch({ CFT_SKIP_DOWNLOAD: '1', CFT_CACHE_DIR: folder }), {
    message: /CFT_SKIP_DOWNLOAD forbids fetching it\. Unset it, install torch 2\.13\.0 .*CFT_TORCH_ROOT/,
  });
  mkdirSync(join(folder, 'empty'));
  await t.throwsAsync(fetch({ PATH: join(folder, 'empty'), CFT_CACHE_DIR: folder }), {
    message: /python3 is not on the PATH\. Install Python with pip/,
  });
  script(join(folder, 'bin/python3'), '[ "$1" = "--version" ]');
  await t.throwsAsync(fetch({ PATH: `${folder}/bin:/bin`, CFT_CACHE_DIR: folder }), {
    message: /python3 has no pip\. Install it \(Debian: apt install python3-pip/,
  });
});

test('of NVIDIA’s libraries each flavour fetches what it loads', (t) => {
  const metadata = [
    'Requires-Dist: sympy>=1.13.3',
    'Requires-Dist: cuda-toolkit[cublas,cudart,cupti,cusolver,nvtx]==13.0.3; platform_system == "Linux"',
    'Requires-Dist: nvidia-cudnn-cu13==9.24.0.43; platform_system == "Linux"',
    'Requires-Dist: triton~=3.8.0; platform_system == "Linux"',
  ].join('\n');
  t.deepEqual(runtimeRequirements(metadata, 'cpu'), ['cuda-toolkit[cudart,cupti]==13.0.3']);
  t.deepEqual(runtimeRequirements(metadata, 'cuda'), [
    'cuda-toolkit[cublas,cudart,cupti]==13.0.3',
    'nvidia-cudnn-cu13==9.24.0.43',
  ]);
});
