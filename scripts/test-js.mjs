// Runs ava over all tests, and ends with one plain line that other programs can read: `N passed, N failed`.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { packageRoot } from '../lib/native/addon.mjs';

const child = spawn(join(packageRoot, 'node_modules', '.bin', 'ava'), process.argv.slice(2), {
  cwd: packageRoot,
  env: { ...process.env, FORCE_COLOR: '0' },
  stdio: ['ignore', 'pipe', 'inherit'],
});
let passed = 0;
let failed = 0;
createInterface({ input: child.stdout }).on('line', (line) => {
  console.log(line);
  if (/^ +✔ /.test(line)) passed += 1;
  // ava's summary: "1 test failed", "1 uncaught exception" and so on; it counts the passed ones only if all passed.
  const [, count, what] = /^ +(\d+) (.+)$/.exec(line) ?? [];
  if (
    /^(tests? failed|hooks? failed|uncaught exceptions?|unhandled rejections?|tests? remained pending.*)$/.test(
      what,
    )
  )
    failed += Number(count);
});
const [status] = await once(child, 'close');
if (status !== 0 && failed === 0) failed = 1;
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = status === 0 && failed === 0 ? 0 : 1;
