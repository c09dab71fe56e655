// The CUDA flavour without a GPU: compiles and links it against libtorch 2.14, loads it in Node, and compiles it against
// libtorch 2.11, which GPU machines may have. Gigabytes are fetched once into the cache; a check that passed for the same
// sources is not repeated. Where nvcc or the wheels cannot be had it says so and ends well: it is a check of its own.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sourceHash } from '../lib/native/addon.mjs';
import { buildAddon, defaultCudaVersion } from '../lib/native/build.mjs';
import { fetchLibtorch } from '../lib/native/fetch.mjs';
import { cacheFolder, SetupError } from '../lib/native/libtorch.mjs';
import { probeAddon } from '../lib/native/probe.mjs';
import { run } from './run.mjs';

const log = (line) => console.error(`cuda: ${line}`);
const oldestVersion = '2.11.0';

/** A fetched torch folder, from the cache where it is there. */
async function torch(version, load) {
  const store = join(cacheFolder(), 'libtorch');
  const suffix = load ? '-cuda' : '-compile';
  const name = (existsSync(store) ? readdirSync(store) : []).find(
    (entry) => entry.startsWith(version) && entry.endsWith(suffix),
  );
  if (name) return join(store, name, 'torch');
  return fetchLibtorch({ version, flavour: 'cuda', load, log });
}

function imports(binary) {
  const symbols = spawnSync('nm', ['-D', '--undefined-only', binary], { encoding: 'utf8' });
  if (symbols.status !== 0) throw new SetupError(`nm ${binary}: ${symbols.stderr}`);
  return symbols.stdout;
}

await run(async () => {
  if (spawnSync('nvcc', ['--version']).status !== 0) return log('SKIPPED: no nvcc on the PATH');
  const stamp = join(cacheFolder(), 'checks', `cuda-${defaultCudaVersion}-${oldestVersion}-${sourceHash()}`);
  if (existsSync(stamp)) return log(`passed before for the same sources (${stamp})`);
  let newest;
  let oldest;
  try {
    newest = await torch(defaultCudaVersion, true);
    oldest = await torch(oldestVersion, false);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    return log(`SKIPPED: the CUDA wheels cannot be had: ${error.message}`);
  }
  const { addon } = await buildAddon({
    flavour: 'cuda',
    env: { ...process.env, CFT_TORCH_ROOT: newest },
    log,
  });
  if (!imports(addon.binary).includes('cudaLaunchKernel'))
    throw new SetupError('no kernel is linked into the addon');
  const found = probeAddon(addon.binary);
  if ('problem' in found) throw new SetupError(`the CUDA flavour does not load: ${found.problem}`);
  if (found.info.flavour !== 'cuda') throw new SetupError(`the addon calls itself ${found.info.flavour}`);
  log(`linked and loaded: libtorch ${found.info.libtorch}, ${found.devices.length} GPUs`);
  await buildAddon({ flavour: 'cuda', env: { ...process.env, CFT_TORCH_ROOT: oldest }, log });
  log(`compiled and linked against libtorch ${oldestVersion}`);
  mkdirSync(join(cacheFolder(), 'checks'), { recursive: true });
  writeFileSync(stamp, '');
  log('PASSED');
});
