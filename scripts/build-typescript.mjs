// Compiles lib into dist, bundles the report's viewer and makes the command executable. With --if-needed only where a source is newer than what was
// compiled: npm runs `prepare` silently before the first `npx` in a checkout.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { packageRoot } from '../lib/native/addon.mjs';

const command = join(packageRoot, 'dist', 'cli', 'main.js');
const sources = [
  'tsconfig.json',
  'scripts/build-viewer.mjs',
  'lib',
  ...readdirSync(join(packageRoot, 'lib'), { recursive: true }).map((name) => join('lib', name)),
];
const upToDate = () => {
  if (!existsSync(command) || !existsSync(join(packageRoot, 'dist', 'report', 'viewer.js'))) return false;
  const compiled = statSync(command).mtimeMs;
  return sources.every((name) => statSync(join(packageRoot, name)).mtimeMs <= compiled);
};

if (!(process.argv.includes('--if-needed') && upToDate())) {
  const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc');
  const compiled = spawnSync(process.execPath, [tsc, '-p', packageRoot], { stdio: 'inherit' });
  if (existsSync(command)) chmodSync(command, 0o755);
  process.exitCode = compiled.status ?? 1;
  if (compiled.status === 0) await (await import('./build-viewer.mjs')).buildViewer();
}
