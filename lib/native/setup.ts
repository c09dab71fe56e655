/** What `cft-native setup` does: find or fetch libtorch, build the addon, see that it loads. Safe to repeat. */
import { spawnSync } from 'node:child_process';
import { CftError, type CftErrorCode } from '../errors.js';
import type { BuiltAddon, Flavour } from './addon.mjs';
import type { NativeCudaDevice, NativeInfo } from './binding.js';
import { buildAddon } from './build.mjs';
import { SetupError } from './libtorch.mjs';
import { explain, hasNvidiaDevice } from './loader.js';
import { probeAddon } from './probe.mjs';

export interface SetupOptions {
  /** 'auto' is 'cuda' where there are a GPU and CUDA's compiler, else 'cpu'. */
  flavour?: 'auto' | Flavour;
  env?: NodeJS.ProcessEnv;
  /** Called with each thing that is found or done. */
  log?: (line: string) => void;
}

export interface SetupResult {
  addon: BuiltAddon;
  /** False where everything was there already. */
  rebuilt: boolean;
  info: NativeInfo;
  devices: NativeCudaDevice[];
}

/** Which flavour suits this machine, and why. */
export function chooseFlavour(
  env: NodeJS.ProcessEnv,
  gpu: boolean = hasNvidiaDevice(),
): { flavour: Flavour; reason: string } {
  if (!gpu) return { flavour: 'cpu', reason: 'no NVIDIA GPU here' };
  if (spawnSync('nvcc', ['--version'], { env, stdio: 'ignore' }).status !== 0)
    return { flavour: 'cpu', reason: "there is a GPU, but not CUDA's compiler nvcc on the PATH" };
  return { flavour: 'cuda', reason: 'there are an NVIDIA GPU and nvcc' };
}

/** @throws CftError ERR_CFT_NOT_BUILT with what is missing and the remedy. */
export async function runSetup(options: SetupOptions = {}): Promise<SetupResult> {
  const { env = process.env, log = () => {} } = options;
  let flavour = options.flavour ?? 'auto';
  if (flavour === 'auto') {
    const choice = chooseFlavour(env);
    flavour = choice.flavour;
    log(`flavour ${flavour}: ${choice.reason}`);
  }
  try {
    const { addon, rebuilt } = await buildAddon({ flavour, env, log });
    log(`${rebuilt ? 'built' : 'nothing to do, already built'}: ${addon.binary}`);
    const loaded = probeAddon(addon.binary, env);
    if ('problem' in loaded)
      throw new SetupError(
        `the addon was built but does not load: ${loaded.problem}\n${explain(loaded.problem)}`,
      );
    log(`it loads: libtorch ${loaded.info.libtorch}, ${loaded.info.flavour}, ${loaded.info.cpuCapability}`);
    return { addon, rebuilt, ...loaded };
  } catch (error) {
    if (error instanceof SetupError)
      throw new CftError(error.code as CftErrorCode, error.message, { cause: error });
    throw error;
  }
}
