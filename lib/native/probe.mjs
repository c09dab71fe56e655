// @ts-check
// Loads an addon in a child process, so that a binary that crashes takes nobody with it.
// As a program: `node probe.mjs <binary>` prints what the addon says of itself as JSON.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

/** @typedef {import('./binding.js').NativeInfo} NativeInfo */
/** @typedef {import('./binding.js').NativeCudaDevice} NativeCudaDevice */

const self = fileURLToPath(import.meta.url);

/**
 * @param {string} binary
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {{ info: NativeInfo, devices: NativeCudaDevice[] } | { problem: string }}
 */
export function probeAddon(binary, env = process.env) {
  const run = spawnSync(process.execPath, [self, binary], { env, encoding: 'utf8', timeout: 120_000 });
  if (run.error) return { problem: run.error.message };
  if (run.signal) return { problem: `it crashed while loading (${run.signal})` };
  try {
    return JSON.parse(run.stdout);
  } catch {
    return { problem: `its loading ended with status ${run.status}: ${run.stderr.trim()}` };
  }
}

if (argv[1] === self) {
  /** @type {ReturnType<typeof probeAddon>} */
  let found;
  try {
    /** @type {import('./binding.js').NativeAddon} */
    const addon = createRequire(import.meta.url)(resolve(argv[2] ?? ''));
    found = { info: addon.info(), devices: addon.cudaDevices() };
  } catch (error) {
    found = { problem: error instanceof Error ? error.message : String(error) };
  }
  console.log(JSON.stringify(found));
}
