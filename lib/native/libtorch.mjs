// @ts-check
// Where libtorch is: CFT_TORCH_ROOT, then Python's torch, then the cache. Plain JavaScript because the build scripts
// need it before TypeScript is compiled; the loader, doctor and setup import the same file.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';

/** @typedef {{ root: string, version: string, source: 'CFT_TORCH_ROOT' | 'python' | 'cache', cuda: string | null }} Libtorch */
/** @typedef {{ found: Libtorch | null, skipped: string[] }} Search */

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
 * @returns {{ version: string, cuda: string | null } | { problem: string }}
 */
export function inspectLibtorch(root) {
  if (!existsSync(root)) return { problem: `${root} does not exist` };
  const python = readIfThere(join(root, 'version.py'));
  const text =
    python?.match(/^__version__ = '([^']+)'/m)?.[1] ?? readIfThere(join(root, 'build-version'))?.trim();
  if (!text)
    return { problem: `${root} has neither version.py nor build-version: not a libtorch or torch folder` };
  const version = text.replace(/\+.*/, '');
  if (!isSupported(version))
    return { problem: `${root} is torch ${version}; supported are ${supportedVersions}` };
  for (const part of ['include/ATen/ATen.h', 'lib/libtorch_cpu.so', 'lib/libc10.so'])
    if (!existsSync(join(root, part))) return { problem: `${root} (torch ${version}) lacks ${part}` };
  const cuda = existsSync(join(root, 'lib/libtorch_cuda.so'))
    ? (python?.match(/^cuda[^=]*= '([^']+)'/m)?.[1] ?? 'yes')
    : null;
  return { version, cuda };
}

/**
 * Folder of the `torch` package of the Python on the PATH, without importing it (that takes seconds).
 * @param {NodeJS.ProcessEnv} env
 */
function pythonTorch(env) {
  const code =
    'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s and s.submodule_search_locations else "")';
  try {
    const out = execFileSync('python3', ['-c', code], {
      env,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return out.trim() || null;
  } catch {
    return null;
  }
}

/**
 * libtorch folders that were fetched earlier, the default version first.
 * @param {string} cache
 */
function cached(cache) {
  const folder = join(cache, 'libtorch');
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => /^\d+\.\d+\.\d+$/.test(name)) : [];
  names.sort((a, b) => Number(b === defaultVersion) - Number(a === defaultVersion) || (a < b ? 1 : -1));
  return names.map((name) => join(folder, name, 'torch'));
}

/**
 * Finds a usable libtorch. A bad CFT_TORCH_ROOT throws; the other places are skipped with a word in `skipped`.
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {Search}
 */
export function findLibtorch(env = process.env) {
  /** @type {string[]} */
  const skipped = [];
  if (env.CFT_TORCH_ROOT) {
    const root = realpathSync(resolve(env.CFT_TORCH_ROOT));
    const seen = inspectLibtorch(root);
    if ('problem' in seen) throw new Error(`CFT_TORCH_ROOT: ${seen.problem}`);
    return { found: { root, source: 'CFT_TORCH_ROOT', ...seen }, skipped };
  }
  const places = [
    () => [['python', pythonTorch(env)]],
    () => cached(cacheFolder(env)).map((root) => ['cache', root]),
  ];
  for (const place of places)
    for (const [source, root] of place()) {
      if (!root || !source) continue;
      const seen = inspectLibtorch(root);
      if ('problem' in seen)
        skipped.push(`${source === 'python' ? "Python's torch" : 'cache'} skipped: ${seen.problem}`);
      else return { found: { root, source: source === 'python' ? 'python' : 'cache', ...seen }, skipped };
    }
  return { found: null, skipped };
}
