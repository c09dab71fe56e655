// @ts-check
// Builds the addon with cmake-js into a folder named by its key, under a lock, and does nothing where it exists.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { join } from 'node:path';
import { addonFolders, addonKey, binaryName, napiVersion, packageRoot, sourceHash } from './addon.mjs';
import { findLibtorch } from './libtorch.mjs';

/** @typedef {import('./addon.mjs').Flavour} Flavour */

/**
 * @param {{ flavour: Flavour, tests?: boolean, env?: NodeJS.ProcessEnv, log: (line: string) => void }} options
 */
export async function buildAddon({ flavour, tests = false, env = process.env, log }) {
  const { found, skipped } = findLibtorch(env);
  for (const line of skipped) log(line);
  if (!found) throw new Error('no libtorch found');
  log(`libtorch ${found.version} from ${found.source}: ${found.root}`);
  const sources = sourceHash();
  const key = addonKey(found.version, flavour, sources);
  const folder = join(/** @type {string} */ (addonFolders(env)[0]), key);
  const binary = join(folder, binaryName);
  if (!tests && existsSync(binary)) return { binary, fresh: false };
  const out = join(packageRoot, 'build', 'cmake', `${flavour}-${found.version}`);
  const require = createRequire(import.meta.url);
  const cli = require.resolve('cmake-js/bin/cmake-js');
  const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 2 ** 31)));
  const defines = { CFT_TORCH_ROOT: found.root, CFT_FLAVOUR: flavour };
  const common = ['--out', out, ...Object.entries(defines).map(([name, value]) => `--CD${name}=${value}`)];
  for (const args of [
    ['configure', ...common],
    ['build', ...common, '--parallel', String(jobs)],
    ...(tests ? [['build', ...common, '--parallel', String(jobs), '--target', 'cft_tests']] : []),
  ]) {
    const run = spawnSync(process.execPath, [cli, ...args], { cwd: packageRoot, stdio: 'inherit', env });
    if (run.status !== 0) throw new Error(`cmake-js ${args[0]} failed with status ${run.status}`);
  }
  const temporary = `${folder}.${process.pid}.tmp`;
  mkdirSync(temporary, { recursive: true });
  copyFileSync(join(out, 'Release', binaryName), join(temporary, binaryName));
  symlinkSync(join(found.root, 'lib'), join(temporary, 'torch-lib'));
  const manifest = {
    key,
    libtorch: found.version,
    flavour,
    napi: napiVersion,
    sources,
    torch_root: found.root,
  };
  writeFileSync(join(temporary, 'addon.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  rmSync(folder, { recursive: true, force: true });
  renameSync(temporary, folder);
  return { binary, fresh: true };
}
