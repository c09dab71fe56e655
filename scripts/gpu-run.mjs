// Second half of the GPU run (see gpu-run.sh): build, C++ tests, memory checks, parity on CUDA, benchmarks. Each step adds a
// line to <out>/run.jsonl and a log; the benchmarks' rows go to <out>/bench.jsonl and, those of rollouts and of training, to
// <out>/rollouts.jsonl and <out>/train.jsonl. A step that fails does not stop the next, save the build.
import { spawnSync } from 'node:child_process';
import { appendFileSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../lib/native/addon.mjs';
import { buildAddon } from '../lib/native/build.mjs';
import { SetupError } from '../lib/native/libtorch.mjs';
import { run } from './run.mjs';

const [out, manifestPath] = process.argv.slice(2);
const { commit, changed_files } = JSON.parse(readFileSync(manifestPath, 'utf8'));
let failures = 0;

function record(row) {
  const line = JSON.stringify({ ...row, commit, changed_files, date: new Date().toISOString() });
  console.log(line);
  appendFileSync(join(out, 'run.jsonl'), `${line}\n`);
  if (row.ok === false) failures += 1;
}

/** Runs a program with its output in <out>/<step>.log, and records how it ended and its last line. */
function step(name, program, args, env = {}) {
  const log = join(out, `${name}.log`);
  const descriptor = openSync(log, 'w');
  const start = performance.now();
  const done = spawnSync(program, args, {
    cwd: packageRoot,
    stdio: ['ignore', descriptor, descriptor],
    env: { ...process.env, GOMP_SPINCOUNT: '20000', ...env },
  });
  const last = readFileSync(log, 'utf8').trimEnd().split('\n').at(-1);
  const seconds = Math.round((performance.now() - start) / 100) / 10;
  record({ step: name, ok: done.status === 0, status: done.status ?? done.signal, seconds, last });
}

await run(async () => {
  const smi = spawnSync(
    'nvidia-smi',
    ['--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'],
    {
      encoding: 'utf8',
    },
  );
  record({ step: 'machine', gpu: smi.status === 0 ? smi.stdout.trim() : null });
  const start = performance.now();
  const { addon, cmakeFolder } = await buildAddon({ flavour: 'cuda', tests: true, log: console.error });
  const seconds = Math.round((performance.now() - start) / 100) / 10;
  record({ step: 'build', ok: true, seconds, libtorch: addon.libtorch, key: addon.key });

  const node = process.execPath;
  const env = { CFT_ADDON: addon.binary, CFT_TEST_DEVICE: 'cuda' };
  step('cpp-tests', join(cmakeFolder, 'cft_tests'), []);
  if (spawnSync('compute-sanitizer', ['--version']).status === 0)
    for (const tool of ['memcheck', 'racecheck'])
      step(tool, 'compute-sanitizer', [
        '--tool',
        tool,
        '--error-exitcode',
        '9',
        join(cmakeFolder, 'cft_tests'),
        '-tc=CUDA*',
      ]);
  else record({ step: 'memcheck', skipped: 'compute-sanitizer is not on the PATH' });
  step('parity', node, ['node_modules/ava/entrypoints/cli.mjs', 'test/parity/**', 'test/binding/**'], env);
  for (const dtype of ['float32', 'bfloat16'])
    step(
      `bench-${dtype}`,
      node,
      [
        '--import',
        'tsx',
        'bench/run.ts',
        '--device',
        'cuda',
        '--dtype',
        dtype,
        '--output',
        join(out, 'bench.jsonl'),
      ],
      env,
    );
  // Random weights in the shapes of real models, against what Hugging Face does; absent peers are said in the log. Peers get
  // every 16th position: the ratio is of tokens per second. The batch of `auto`, then half and twice as many rows.
  const rollouts = (name, flags) =>
    step(
      name,
      node,
      [
        'dist/cli/main.js',
        'bench',
        'rollouts',
        '--device',
        'cuda',
        '--dtype',
        'bfloat16',
        '--limit',
        '16',
        '--results',
        join(out, 'rollouts.jsonl'),
        ...flags,
      ],
      env,
    );
  const shapes = { '0.5b': [1024, 4096], '1.5b': [512, 2048], '3b': [512, 2048] };
  for (const [shape, batches] of Object.entries(shapes)) {
    const common = ['--case', `random-${shape}`];
    const peers = ['--peer', 'hf-generate,hf-continuous', '--peer-every', '16'];
    rollouts(`rollouts-${shape}`, [...common, '--repeats', '3', ...peers]);
    for (const rows of batches)
      rollouts(`rollouts-${shape}-${rows}`, [...common, '--repeats', '2', '--max-concurrency', String(rows)]);
  }
  // The trainer, beside TRL and transformers where that machine's python3 has them.
  for (const name of ['random-135m-8', 'random-135m-50'])
    for (const dtype of ['float32', 'bfloat16'])
      step(
        `train-${name}-${dtype}`,
        node,
        [
          'dist/cli/main.js',
          'bench',
          'train',
          '--device',
          'cuda',
          '--dtype',
          dtype,
          '--case',
          name,
          '--peer',
          'trl,transformers',
          '--repeats',
          '3',
          '--results',
          join(out, 'train.jsonl'),
        ],
        env,
      );
  if (failures > 0) throw new SetupError(`${failures} steps failed; their logs are in ${out}`);
});
