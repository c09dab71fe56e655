// @ts-check
// Builds the addon with cmake-js into a folder named by its key, under a lock, and does nothing where it exists. Beside
// the binary lies `torch-lib`, a link to libtorch's library folder: the binary finds libtorch through it, so that no path
// of the building machine is in the binary and a prebuilt one only needs the link.
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import {
  addonFolders,
  addonKey,
  binaryName,
  isCheckout,
  napiVersion,
  packageRoot,
  prebuiltBinary,
  readAddon,
  readManifest,
  sourceHash,
} from './addon.mjs';
import { fetchLibtorch } from './fetch.mjs';
import { defaultVersion, findLibtorch, inspectLibtorch, SetupError } from './libtorch.mjs';
import { withLock } from './lock.mjs';

/** @typedef {import('./addon.mjs').Flavour} Flavour */
/** @typedef {import('./addon.mjs').BuiltAddon} BuiltAddon */
/** @typedef {import('./libtorch.mjs').Libtorch} Libtorch */
/** @typedef {(line: string) => void} Log */

/**
 * @param {string} program
 * @param {NodeJS.ProcessEnv} env
 */
function runs(program, env) {
  return spawnSync(program, ['--version'], { env, stdio: 'ignore' }).status === 0;
}

/**
 * @param {Flavour} flavour
 * @param {NodeJS.ProcessEnv} env
 */
function requireToolchain(flavour, env) {
  const missing = [];
  if (process.platform !== 'linux')
    throw new SetupError(`cft-native builds on Linux only; this is ${process.platform}`);
  if (!runs('cmake', env))
    missing.push('CMake 3.18 or newer (Debian: apt install cmake; or python3 -m pip install cmake)');
  if (![env.CXX, 'c++', 'g++', 'clang++'].some((name) => name && runs(name, env)))
    missing.push('a C++20 compiler (Debian: apt install g++)');
  if (!['ninja', 'make'].some((name) => runs(name, env)))
    missing.push('make or ninja (Debian: apt install make)');
  if (flavour === 'cuda' && !runs('nvcc', env)) missing.push("CUDA's compiler nvcc 13.0 on the PATH");
  if (missing.length > 0) throw new SetupError(`the addon cannot be built; missing: ${missing.join('; ')}`);
}

/** Builds go into the package; where it is read-only (a global install), into the cache. */
function placeOf(/** @type {NodeJS.ProcessEnv} */ env) {
  const [own, cache] = /** @type {[string, string]} */ (addonFolders(env));
  try {
    mkdirSync(own, { recursive: true });
    accessSync(own, constants.W_OK);
    return own;
  } catch {
    mkdirSync(cache, { recursive: true });
    return cache;
  }
}

/**
 * Runs one cmake-js command with its output on stderr.
 * @param {string[]} args
 * @param {NodeJS.ProcessEnv} env
 */
function cmakeJs(args, env) {
  const cli = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
  const run = spawnSync(process.execPath, [cli, ...args], { cwd: packageRoot, stdio: ['ignore', 2, 2], env });
  if (run.status !== 0)
    throw new SetupError(
      `cmake-js ${args[0]} failed (status ${run.status ?? run.signal}); its output is above`,
    );
}

/**
 * Compiles `targets` in `folder`; `defines` are CMake's, e.g. "CFT_SANITIZE=thread".
 * @param {Libtorch} libtorch
 * @param {Flavour} flavour
 * @param {{ targets: string[], folder: string, env: NodeJS.ProcessEnv, defines?: string[] }} options
 */
export function compile(libtorch, flavour, { targets, folder, env, defines = [] }) {
  // A file of ours needs up to 2 GB to compile.
  const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 2 ** 31)));
  const all = [`CFT_TORCH_ROOT=${libtorch.root}`, `CFT_FLAVOUR=${flavour}`, ...defines];
  const common = ['--log-level', 'warn', '--out', folder, ...all.map((define) => `--CD${define}`)];
  cmakeJs(['configure', ...common], env);
  for (const target of targets)
    cmakeJs(['build', ...common, '--parallel', String(jobs), '--target', target], env);
}

/**
 * Puts a binary into its folder as a whole, and drops what was built there from older sources.
 * @param {string} place
 * @param {string} key
 * @param {string} binary
 * @param {Libtorch} libtorch
 * @param {Flavour} flavour
 * @param {string} sources
 */
function install(place, key, binary, libtorch, flavour, sources) {
  const folder = join(place, key);
  const temporary = `${folder}.${process.pid}.tmp`;
  mkdirSync(temporary, { recursive: true });
  copyFileSync(binary, join(temporary, binaryName));
  symlinkSync(join(libtorch.root, 'lib'), join(temporary, 'torch-lib'));
  /** @type {import('./addon.mjs').AddonManifest} */
  const manifest = {
    key,
    libtorch: libtorch.fullVersion,
    flavour,
    napi: napiVersion,
    sources,
    torch_root: libtorch.root,
  };
  writeFileSync(join(temporary, 'addon.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  rmSync(folder, { recursive: true, force: true });
  renameSync(temporary, folder);
  const others = addonKey(libtorch.version, flavour, '');
  for (const name of readdirSync(place))
    if (name.startsWith(others) && name !== key) rmSync(join(place, name), { recursive: true, force: true });
}

/** What is fetched for the CUDA flavour. */
export const defaultCudaVersion = '2.14.1';

/**
 * Finds libtorch, or fetches it; but fetches nothing where what is built from it could not be built.
 * @param {{ flavour: Flavour, env: NodeJS.ProcessEnv, log: Log }} options
 * @returns {Promise<Libtorch>}
 */
export async function obtainLibtorch({ flavour, env, log }) {
  const { found, skipped } = findLibtorch(env, flavour);
  for (const line of skipped) log(line);
  if (found) return found;
  const version = flavour === 'cuda' ? defaultCudaVersion : defaultVersion;
  if (!existsSync(prebuiltBinary(addonKey(version, flavour, sourceHash())))) requireToolchain(flavour, env);
  const root = await fetchLibtorch({ version, flavour, env, log });
  const seen = inspectLibtorch(root, flavour);
  if ('problem' in seen) throw new SetupError(seen.problem);
  return { root, source: 'cache', ...seen };
}

/**
 * Makes sure that the addon of the present sources exists for `flavour`. `tests` also builds the C++ tests, in
 * `cmakeFolder`; `rebuilt` tells whether the addon is new.
 * @param {{ flavour: Flavour, tests?: boolean, env?: NodeJS.ProcessEnv, log: Log }} options
 * @returns {Promise<{ addon: BuiltAddon, rebuilt: boolean, cmakeFolder: string }>}
 */
export async function buildAddon({ flavour, tests = false, env = process.env, log }) {
  const libtorch = await obtainLibtorch({ flavour, env, log });
  log(`libtorch ${libtorch.fullVersion} (${libtorch.source}): ${libtorch.root}`);
  const place = placeOf(env);
  const sources = sourceHash();
  const key = addonKey(libtorch.version, flavour, sources);
  const cmakeFolder = join(dirname(place), 'cmake', `${flavour}-${libtorch.version}`);
  const present = () => {
    const addon = readAddon(join(place, key));
    return addon?.torch_root === libtorch.root ? addon : null;
  };
  const before = present();
  if (before && !tests) return { addon: before, rebuilt: false, cmakeFolder };
  return withLock(`${cmakeFolder}.lock`, log, async () => {
    let addon = present();
    const rebuilt = !addon;
    // A binary for the same libtorch in another place needs only another link.
    const old = readManifest(join(place, key));
    const ready = [old?.libtorch === libtorch.fullVersion ? old.binary : '', prebuiltBinary(key)].find(
      existsSync,
    );
    const targets = tests ? ['cft_tests', 'cft_emulator_asan'] : [];
    if (!addon && !ready) targets.push('cft_native');
    if (targets.length > 0) {
      requireToolchain(flavour, env);
      compile(libtorch, flavour, { targets, folder: cmakeFolder, env });
    }
    if (!addon) {
      if (ready) log(`nothing to compile: ${ready} fits`);
      install(place, key, ready ?? join(cmakeFolder, 'Release', binaryName), libtorch, flavour, sources);
      addon = /** @type {BuiltAddon} */ (present());
      // Nearly half a gigabyte of precompiled header, which only somebody who edits C++ has a use for.
      if (!isCheckout) rmSync(cmakeFolder, { recursive: true, force: true });
    }
    return { addon, rebuilt, cmakeFolder };
  });
}
