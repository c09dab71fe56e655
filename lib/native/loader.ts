/**
 * Finds the built addon, loads it once, and lets its errors surface as CftError. Importing the package does not load
 * it: whoever needs tensors calls loadAddon().
 */
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { CftError, type CftErrorCode, errorCodes } from '../errors.js';
import { type BuiltAddon, builtAddons } from './addon.mjs';
import type { NativeAddon } from './binding.js';

const remedy = 'Run `npx cft-native setup`, which finds or fetches libtorch and builds the addon.';

let loaded: NativeAddon | undefined;

/**
 * The addon, loaded on the first call. `CFT_ADDON` names a binary to load as it is; else it is the one that was built
 * from the present sources, of the flavour that suits the machine.
 * @throws CftError ERR_CFT_NOT_BUILT with causes and remedies.
 */
export function loadAddon(): NativeAddon {
  if (loaded) return loaded;
  boundSpinning(process.env);
  const binary = process.env.CFT_ADDON ? resolve(process.env.CFT_ADDON) : chooseAddon(process.env).binary;
  loaded = convertErrors(open(binary));
  return loaded;
}

/**
 * libtorch's thread pool spins while it waits. Endless spinning ruins every neighbour on a busy machine, and no spinning
 * halves the speed of an idle one, so it is bounded unless the user decided. OpenMP reads this when it is loaded.
 */
export function boundSpinning(env: NodeJS.ProcessEnv): void {
  if (env.GOMP_SPINCOUNT === undefined && env.OMP_WAIT_POLICY === undefined) env.GOMP_SPINCOUNT = '20000';
}

/** True where the machine has an NVIDIA GPU, as far as its device files tell. */
export function hasNvidiaDevice(): boolean {
  return (
    existsSync('/dev/dxg') ||
    (existsSync('/dev') && readdirSync('/dev').some((name) => /^nvidia\d+$/.test(name)))
  );
}

/**
 * Which of the built addons to load: that of CFT_TORCH_ROOT where it is set, and the CUDA flavour only where there is a
 * GPU (it runs on the CPU too, but loads gigabytes of libraries).
 */
export function chooseAddon(
  env: NodeJS.ProcessEnv,
  candidates: BuiltAddon[] = builtAddons(env),
  gpu: boolean = hasNvidiaDevice(),
): BuiltAddon {
  const root = env.CFT_TORCH_ROOT;
  const wanted = root && existsSync(root) ? realpathSync(root) : root;
  const fitting = wanted ? candidates.filter((addon) => addon.torch_root === wanted) : candidates;
  const preferred = gpu ? 'cuda' : 'cpu';
  const chosen = fitting.find((addon) => addon.flavour === preferred) ?? fitting[0];
  if (chosen) return chosen;
  const others = candidates.map((addon) => `libtorch ${addon.libtorch} in ${addon.torch_root}`);
  throw new CftError(
    'ERR_CFT_NOT_BUILT',
    others.length > 0
      ? `The native addon is not built for CFT_TORCH_ROOT=${root}; it is for ${others.join(' and ')}. ${remedy} Or unset CFT_TORCH_ROOT.`
      : `The native addon is not built for this version of the sources. ${remedy}`,
  );
}

function open(binary: string): NativeAddon {
  if (!existsSync(binary))
    throw new CftError(
      'ERR_CFT_NOT_BUILT',
      `CFT_ADDON names ${binary}, which does not exist. Unset it or correct it.`,
    );
  try {
    return createRequire(import.meta.url)(binary);
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new CftError('ERR_CFT_NOT_BUILT', `The native addon does not load: ${text}\n${explain(text)}`, {
      cause,
    });
  }
}

/** Likely cause and remedy for what the dynamic linker said. */
export function explain(text: string): string {
  const missing = text.match(/(lib[\w.+-]+): cannot open shared object file/)?.[1];
  if (missing && /^lib(torch|c10|gomp)/.test(missing))
    return `libtorch was moved or removed since the addon was built. ${remedy}`;
  if (missing && /^lib(cu|nv|nccl)/.test(missing))
    return `${missing} belongs to CUDA's run-time libraries, which this libtorch needs. Install torch with its dependencies (pip install torch), or unset CFT_TORCH_ROOT and run \`npx cft-native setup\`, which fetches them.`;
  if (/GLIBC(XX)?_[\d.]+' not found/.test(text))
    return `The addon was built on a newer system than this one. ${remedy}`;
  if (/undefined symbol/.test(text))
    return `The addon was built against another libtorch than it found. ${remedy}`;
  return `${remedy} \`npx cft-native doctor\` says what is wrong.`;
}

function toCftError(error: unknown): unknown {
  if (error instanceof CftError || !(error instanceof Error)) return error;
  const code = (error as { code?: unknown }).code;
  const known = typeof code === 'string' && code in errorCodes;
  return new CftError(known ? (code as CftErrorCode) : 'ERR_CFT_INTERNAL', error.message, { cause: error });
}

/** A function that throws, or rejects with, CftError; a handle that it returns is converted too. */
function converting(target: (...args: unknown[]) => unknown): (...args: unknown[]) => unknown {
  return function (this: unknown, ...args) {
    try {
      const result = target.apply(this, args);
      if (!(result instanceof Promise)) return convertHandle(result);
      return result.then(convertHandle, (error) => {
        throw toCftError(error);
      });
    } catch (error) {
      throw toCftError(error);
    }
  };
}

/** Shadows functions and accessors of `source` by converting ones on `object`. */
function shadow(object: object, source: object): void {
  for (const [name, found] of Object.entries(Object.getOwnPropertyDescriptors(source))) {
    if (name === 'constructor') continue;
    if (typeof found.value === 'function')
      Object.defineProperty(object, name, { value: converting(found.value), configurable: true });
    else if (found.get)
      Object.defineProperty(object, name, { get: converting(found.get), configurable: true });
  }
}

const plain = new Set<unknown>(
  [Object, Array, Int32Array, Float32Array, Float64Array].map((kind) => kind.prototype),
);

/** A native handle stays the same object, so that it can be passed back to native code; plain results pass through. */
function convertHandle(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const prototype = Object.getPrototypeOf(value);
  if (!plain.has(prototype)) shadow(value, prototype);
  return value;
}

/** The addon's functions, converting; the module object itself stays as it is. */
function convertErrors(addon: object): NativeAddon {
  const converted = {};
  shadow(converted, addon);
  return converted as NativeAddon;
}

/**
 * Where to compute, from what the user asked for: 'auto' is the first GPU where the addon can use one, else the CPU.
 * @returns 'cpu' or 'cuda:N'
 * @throws CftError ERR_CFT_NO_DEVICE where the GPU that was asked for is not there: never a silent CPU run.
 */
export function resolveDevice(addon: Pick<NativeAddon, 'info' | 'cudaDevices'>, name: string): string {
  if (name === 'cpu') return 'cpu';
  if (name === 'auto') return addon.cudaDevices().length > 0 ? 'cuda:0' : 'cpu';
  const match = /^cuda(?::(\d+))?$/.exec(name);
  if (!match)
    throw new CftError('ERR_CFT_BAD_OPTION', `device: expected auto, cpu, cuda or cuda:N, found '${name}'`);
  if (addon.info().flavour !== 'cuda')
    throw new CftError(
      'ERR_CFT_NO_DEVICE',
      `device ${name}: this addon was built for the CPU only. Run \`npx cft-native setup\` on a machine with a GPU and nvcc, which builds the CUDA flavour, or use --device cpu.`,
    );
  const devices = addon.cudaDevices();
  const index = Number(match[1] ?? 0);
  if (devices.some((device) => device.index === index)) return `cuda:${index}`;
  throw new CftError(
    'ERR_CFT_NO_DEVICE',
    devices.length === 0
      ? `device ${name}: CUDA finds no GPU here. Check the driver with nvidia-smi, or use --device cpu.`
      : `device ${name}: there is no GPU ${index}; found ${devices.map((device) => `cuda:${device.index} (${device.name})`).join(', ')}.`,
  );
}
