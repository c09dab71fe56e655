// Builds and runs the C++ tests, and those of the kernels once more under AddressSanitizer.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { buildAddon } from '../lib/native/build.mjs';
import { run } from './run.mjs';

await run(async () => {
  const { cmakeFolder } = await buildAddon({ flavour: 'cpu', tests: true, log: console.error });
  const env = { GOMP_SPINCOUNT: '20000', ...process.env };
  // libtorch keeps what it allocates at start-up for ever: leaks are not what this run looks for.
  const sanitizer = { ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0' };
  for (const [program, more] of [
    ['cft_tests', {}],
    ['cft_emulator_asan', sanitizer],
  ]) {
    console.error(`${program}:`);
    const tests = spawnSync(join(cmakeFolder, program), process.argv.slice(2), {
      stdio: 'inherit',
      env: { ...env, ...more },
    });
    if (tests.status !== 0) {
      console.error(`${program} failed (${tests.signal ?? `status ${tests.status}`})`);
      process.exitCode = 1;
    }
  }
});
