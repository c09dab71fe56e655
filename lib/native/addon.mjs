// @ts-check
// Names and places of built addons. An addon is known by its key: libtorch version, flavour, N-API level and a hash of
// the sources, so that a changed source or another libtorch is never served by an old binary.
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder, inspectLibtorch } from './libtorch.mjs';

/** @typedef {'cpu' | 'cuda'} Flavour */
/** @typedef {{ key: string, libtorch: string, flavour: Flavour, napi: number, sources: string, torch_root: string }} AddonManifest */
/** @typedef {AddonManifest & { folder: string, binary: string }} BuiltAddon */

/** This file lies in lib/native and, compiled, in dist/native: the package is two levels up either way. */
export const packageRoot = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** A checkout of the repository, as against the published package. */
export const isCheckout = existsSync(join(packageRoot, 'tsconfig.json'));
export const napiVersion = 8;
export const binaryName = 'cft_native.node';

/**
 * @param {string} folder
 * @returns {string[]}
 */
function filesUnder(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? filesUnder(path) : [path];
    })
    .sort();
}

/** Hash of everything that the addon is compiled from (not the C++ tests). */
export function sourceHash(root = packageRoot) {
  const files = [
    join(root, 'CMakeLists.txt'),
    ...['cmake', 'native/core', 'native/binding', 'native/kernels'].flatMap((name) =>
      existsSync(join(root, name)) ? filesUnder(join(root, name)) : [],
    ),
  ];
  const hash = createHash('sha256');
  for (const file of files) {
    hash.update(`${relative(root, file).split(sep).join('/')}\0`);
    hash.update(readFileSync(file));
  }
  return hash.digest('hex').slice(0, 16);
}

/**
 * @param {string} libtorch
 * @param {Flavour} flavour
 * @param {string} sources
 */
export function addonKey(libtorch, flavour, sources) {
  return `libtorch${libtorch}-${flavour}-napi${napiVersion}-${sources}`;
}

/** Folders that hold built addons, each in a folder named by its key: the package's own, then the cache. */
export function addonFolders(env = process.env) {
  return [join(packageRoot, 'build', 'addon'), join(cacheFolder(env), 'addon')];
}

/** Binaries that came with the package, made by `npm run prebuild`. */
export function prebuiltBinary(/** @type {string} */ key) {
  return join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`, `${key}.node`);
}

/**
 * What the binary in `folder` was built from, or null where there is none.
 * @param {string} folder
 * @returns {BuiltAddon | null}
 */
export function readManifest(folder) {
  const binary = join(folder, binaryName);
  try {
    /** @type {AddonManifest} */
    const manifest = JSON.parse(readFileSync(join(folder, 'addon.json'), 'utf8'));
    return existsSync(binary) ? { ...manifest, folder, binary } : null;
  } catch {
    return null;
  }
}

/**
 * The built addon in `folder`, or null where it is incomplete or its libtorch is gone or no longer the same.
 * @param {string} folder
 * @returns {BuiltAddon | null}
 */
export function readAddon(folder) {
  const addon = readManifest(folder);
  if (!addon || !existsSync(join(folder, 'torch-lib', 'libtorch_cpu.so'))) return null;
  const libtorch = inspectLibtorch(addon.torch_root, addon.flavour);
  return 'problem' in libtorch || libtorch.fullVersion !== addon.libtorch ? null : addon;
}

/**
 * Every built addon of the present sources whose libtorch is still there.
 * @param {NodeJS.ProcessEnv} [env]
 * @param {string} [sources]
 * @returns {BuiltAddon[]}
 */
export function builtAddons(env = process.env, sources = sourceHash()) {
  const suffix = `-napi${napiVersion}-${sources}`;
  return addonFolders(env)
    .filter((folder) => existsSync(folder))
    .flatMap((folder) =>
      readdirSync(folder)
        .filter((name) => name.endsWith(suffix))
        .map((name) => readAddon(join(folder, name))),
    )
    .filter((addon) => addon !== null);
}
