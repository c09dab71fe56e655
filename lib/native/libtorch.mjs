// @ts-check
// Where libtorch is: CFT_TORCH_ROOT, then Python's torch, then the cache. Plain JavaScript because the build scripts
// need it before TypeScript is compiled; the loader, doctor and setup import the same file.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

/** @typedef {import('./addon.mjs').Flavour} Flavour */
/** @typedef {{ version: string, fullVersion: string, cuda: string | null }} LibtorchFacts */
/** @typedef {LibtorchFacts & { root: string, source: 'CFT_TORCH_ROOT' | 'python' | 'cache' }} Libtorch */

/** A set-up that cannot go on; the message holds the remedy. Carries a code of lib/errors.ts. */
export class SetupError extends Error {
  code = 'ERR_CFT_NOT_BUILT';
}

/** What pip fetches where none is found. */
export const defaultVersion = '2.13.0';
export const supportedVersions = '2.11.x, 2.13.0 and 2.14.x';

/** @param {string} version e.g. "2.13.0" */
export function isSupported(version) {
  return /^2\.(11\.\d+|13\.0|14\.\d+)$/.test(version);
}

/**
 * Folder for what is fetched or built outside the package.
 * @param {NodeJS.ProcessEnv} [env]
 */
export function cacheFolder(env = process.env) {
  if (env.CFT_CACHE_DIR) return resolve(env.CFT_CACHE_DIR);
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'cft-native');
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'cft-native');
}

/** @param {string} path */
function readIfThere(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/**
 * Looks at one folder. A libtorch archive has `build-version`, Python's torch has `version.py`.
 * @param {string} root
 * @param {Flavour} [flavour]
 * @returns {LibtorchFacts | { problem: string }}
 */
export function inspectLibtorch(root, flavour = 'cpu') {
  if (!existsSync(root)) return { problem: `${root} does not exist` };
  const python = readIfThere(join(root, 'version.py'));
  const fullVersion =
    python?.match(/^__version__ = '([^']+)'/m)?.[1] ?? readIfThere(join(root, 'build-version'))?.trim();
  if (!fullVersion)
    return { problem: `${root} has neither version.py nor build-version: not a libtorch or torch folder` };
  const version = fullVersion.replace(/\+.*/, '');
  if (!isSupported(version))
    return { problem: `${root} is torch ${version}; supported are ${supportedVersions}` };
  const libraries = ['lib/libc10.so', 'lib/libtorch_cpu.so'];
  if (flavour === 'cuda') libraries.push('lib/libc10_cuda.so', 'lib/libtorch_cuda.so');
  for (const part of ['include/ATen/ATen.h', ...libraries])
    if (!existsSync(join(root, part))) return { problem: `${root} (torch ${fullVersion}) lacks ${part}` };
  const cuda = existsSync(join(root, 'lib/libtorch_cuda.so'))
    ? (python?.match(/^cuda[^=]*= '([^']+)'/m)?.[1] ?? 'of unknown version')
    : null;
  return { version, fullVersion, cuda };
}

/**
 * Folder of the `torch` package of the Python on the PATH, without importing it (that takes seconds).
 * @param {NodeJS.ProcessEnv} env
 */
function pythonTorch(env) {
  const code =
    'import importlib.util as u; s = u.find_spec("torch"); print(*(s and s.submodule_search_locations or [])[:1])';
  const run = spawnSync('python3', ['-c', code], {
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return run.stdout?.trim() || null;
}

/**
 * libtorch folders that were fetched earlier for this flavour (named `<version>-<flavour>`), the default version first.
 * @param {NodeJS.ProcessEnv} env
 * @param {Flavour} flavour
 */
function cached(env, flavour) {
  const folder = join(cacheFolder(env), 'libtorch');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const rank = (/** @type {string} */ name) => Number(!name.startsWith(defaultVersion));
  return names
    .filter((name) => /^\d/.test(name) && name.endsWith(`-${flavour}`))
    .sort((a, b) => rank(a) - rank(b) || (a < b ? 1 : -1))
    .map((name) => join(folder, name, 'torch'));
}

/**
 * Finds a usable libtorch. A CFT_TORCH_ROOT that cannot serve throws; the other places are skipped with a word.
 * @param {NodeJS.ProcessEnv} [env]
 * @param {Flavour} [flavour]
 * @returns {{ found: Libtorch | null, skipped: string[] }}
 */
export function findLibtorch(env = process.env, flavour = 'cpu') {
  /** @type {string[]} */
  const skipped = [];
  if (env.CFT_TORCH_ROOT) {
    const root = resolve(env.CFT_TORCH_ROOT);
    const seen = inspectLibtorch(root, flavour);
    if ('problem' in seen)
      throw new SetupError(
        `CFT_TORCH_ROOT: ${seen.problem}. Point it at a libtorch or torch folder, or unset it.`,
      );
    return { found: { root: realpathSync(root), source: 'CFT_TORCH_ROOT', ...seen }, skipped };
  }
  const python = pythonTorch(env);
  if (python) {
    const seen = inspectLibtorch(python, flavour);
    if (!('problem' in seen))
      return { found: { root: realpathSync(python), source: 'python', ...seen }, skipped };
    skipped.push(`Python's torch is skipped: ${seen.problem}`);
  }
  for (const root of cached(env, flavour)) {
    const seen = inspectLibtorch(root, flavour);
    if (!('problem' in seen))
      return { found: { root: realpathSync(root), source: 'cache', ...seen }, skipped };
    skipped.push(`a libtorch in the cache is skipped: ${seen.problem}`);
  }
  return { found: null, skipped };
}
