// Builds the core and its C++ tests with sanitizers and runs them: all tests under AddressSanitizer and
// UndefinedBehaviorSanitizer, those of what several threads touch under ThreadSanitizer (libtorch and OpenMP are not
// instrumented, so more would be false alarms).
// A sanitizer that passed for the same sources is not repeated with --if-needed.
//   node scripts/test-sanitizers.mjs [--if-needed] [address] [thread]
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot, sourceHash } from '../lib/native/addon.mjs';
import { compile, obtainLibtorch } from '../lib/native/build.mjs';
import { cacheFolder } from '../lib/native/libtorch.mjs';
import { run } from './run.mjs';

const sanitizers = {
  address: {
    flags: 'address,undefined',
    tests: [],
    // libtorch keeps what it allocates at start-up for ever.
    env: {
      ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0',
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  },
  thread: { flags: 'thread', tests: ['-tc=threads:*'], env: { TSAN_OPTIONS: 'halt_on_error=1' } },
};

/** Of the core and of its tests. */
function sourcesKey() {
  const tests = join(packageRoot, 'native', 'test');
  const hash = createHash('sha256').update(sourceHash());
  for (const name of readdirSync(tests, { recursive: true, encoding: 'utf8' }).sort())
    if (/\.(cc|h)$/.test(name)) hash.update(name).update(readFileSync(join(tests, name)));
  return hash.digest('hex').slice(0, 16);
}

await run(async () => {
  const { values, positionals } = parseArgs({
    options: { 'if-needed': { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const wanted = positionals.length > 0 ? positionals : Object.keys(sanitizers);
  const libtorch = await obtainLibtorch({ flavour: 'cpu', env: process.env, log: console.error });
  for (const name of wanted) {
    const { flags, tests, env } = sanitizers[name];
    const stamp = join(cacheFolder(), 'checks', `${name}-${libtorch.version}-${sourcesKey()}`);
    if (values['if-needed'] && existsSync(stamp)) {
      console.error(`${name} sanitizer: passed before for the same sources (${stamp})`);
      continue;
    }
    const folder = join(packageRoot, 'build', 'cmake', `${name}-${libtorch.version}`);
    compile(libtorch, 'cpu', {
      targets: ['cft_tests'],
      folder,
      env: process.env,
      defines: [`CFT_SANITIZE=${flags}`],
    });
    const done = spawnSync(join(folder, 'cft_tests'), tests, {
      stdio: 'inherit',
      env: { GOMP_SPINCOUNT: '20000', ...process.env, ...env },
    });
    if (done.status === 0) {
      console.error(`${name} sanitizer: passed`);
      mkdirSync(dirname(stamp), { recursive: true });
      writeFileSync(stamp, '');
    } else {
      console.error(`${name} sanitizer: failed (${done.signal ?? `status ${done.status}`})`);
      process.exitCode = 1;
    }
  }
});
