// Compiles lib into dist and makes the command executable. Incremental, so that a repeat takes no time.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { packageRoot } from '../lib/native/addon.mjs';

const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc');
const compiled = spawnSync(process.execPath, [tsc, '-p', packageRoot], { stdio: 'inherit' });
const command = join(packageRoot, 'dist', 'cli', 'main.js');
if (existsSync(command)) chmodSync(command, 0o755);
process.exitCode = compiled.status ?? 1;
