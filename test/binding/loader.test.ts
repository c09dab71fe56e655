import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { addonKey, type BuiltAddon, readAddon, sourceHash } from '../../lib/native/addon.mjs';
import type { NativeAddon, NativeModelSpec, NativeTensorEntry } from '../../lib/native/binding.js';
import { boundSpinning, chooseAddon, explain, loadAddon, resolveDevice } from '../../lib/native/loader.js';
import { probeAddon } from '../../lib/native/probe.mjs';
import { projectRoot } from '../helpers/data.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import { fakeTorch } from '../helpers/libtorch.js';

/** Runs TypeScript in a process of its own; `loader` is the loader's address. */
function inChild(code: string, env: NodeJS.ProcessEnv = {}) {
  const address = (path: string) => JSON.stringify(join(projectRoot, path));
  const source = code
    .replaceAll('LOADER', address('lib/native/loader.ts'))
    .replaceAll('INDEX', address('lib/index.ts'));
  return spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', source], {
    cwd: projectRoot,
    env: { ...process.env, ...env },
    encoding: 'utf8',
  });
}

const binary = () => resolve(process.env.CFT_ADDON ?? chooseAddon(process.env).binary);

test('the addon loads once and says what it is', (t) => {
  const addon = loadAddon();
  t.is(loadAddon(), addon);
  const info = addon.info();
  t.regex(info.libtorch, /^2\.\d+\.\d+$/);
  t.is(info.builtAgainst, info.libtorch);
  t.true(info.threads >= 1);
  t.true(addon.peakMemoryBytes() > 10e6);
});

test('importing the package does not load the addon', (t) => {
  const run = inChild(
    `await import(INDEX); console.log(process.report.getReport().sharedObjects.some((name) => /libtorch|cft_native/.test(name)));`,
  );
  t.is(run.stdout.trim(), 'false', run.stderr);
});

test('OpenMP’s spinning is bounded before libtorch is loaded, unless the user decided', (t) => {
  const load = 'const { loadAddon } = await import(LOADER); loadAddon();';
  // libgomp prints what it read from its environment when it is loaded.
  const without = { GOMP_SPINCOUNT: undefined, OMP_WAIT_POLICY: undefined, OMP_DISPLAY_ENV: 'VERBOSE' };
  t.regex(inChild(load, without).stderr, /GOMP_SPINCOUNT = '20000'/);
  t.regex(inChild(load, { ...without, GOMP_SPINCOUNT: '77' }).stderr, /GOMP_SPINCOUNT = '77'/);
  t.regex(inChild(load, { ...without, OMP_WAIT_POLICY: 'passive' }).stderr, /GOMP_SPINCOUNT = '0'/);
  const env: NodeJS.ProcessEnv = { OMP_WAIT_POLICY: 'active' };
  boundSpinning(env);
  t.deepEqual(env, { OMP_WAIT_POLICY: 'active' });
});

test('the binary holds no path of the machine that built it', (t) => {
  const run = spawnSync('readelf', ['-d', binary()], { encoding: 'utf8' });
  const paths = [...run.stdout.matchAll(/\((?:RPATH|RUNPATH)\).*\[(.*)\]/g)].map((match) => match[1]);
  t.deepEqual(paths, ['$ORIGIN/torch-lib']);
  const needed = [...run.stdout.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1] ?? '');
  t.true(needed.includes('libtorch_cpu.so') && needed.includes('libc10.so'));
  t.false(
    needed.some((name) => /^libgomp|^libcudart|python/.test(name)),
    'one OpenMP, and no Python',
  );
});

test('native errors arrive as CftError with code and cause', async (t) => {
  const addon = loadAddon();
  const misuse = t.throws(() => addon.createRolloutEngine({} as never, {} as never), {
    instanceOf: CftError,
  });
  t.is(misuse.code, 'ERR_CFT_INTERNAL');
  t.true(misuse.cause instanceof TypeError);
  const refused = await t.throwsAsync(addon.loadModel(tinyModel('/nowhere')), { instanceOf: CftError });
  t.is(refused.code, 'ERR_CFT_IO');
  t.regex(refused.message, /\/nowhere/);
  t.true(refused.cause instanceof Error);
});

/** A one-layer model of width 4 whose tensors all lie in `file`. */
function tinyModel(file: string): NativeModelSpec {
  const layer = (name: string) => `model.layers.0.${name}.weight`;
  const norms = ['model.norm.weight', layer('input_layernorm'), layer('post_attention_layernorm')];
  const attention = ['q_proj', 'k_proj', 'v_proj', 'o_proj'].map((name) => layer(`self_attn.${name}`));
  const mlp = ['gate_proj', 'up_proj', 'down_proj'].map((name) => layer(`mlp.${name}`));
  const tensor = (name: string, shape: number[]): NativeTensorEntry => {
    const byteLength = shape.reduce((product, size) => product * size, 4);
    return { name, file, dtype: 'F32', shape, offset: 8, byteLength };
  };
  return {
    config: {
      vocabSize: 4,
      hiddenSize: 4,
      intermediateSize: 4,
      layers: 1,
      heads: 1,
      kvHeads: 1,
      headDim: 4,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: true,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      qkNorm: 'none',
      normPlacement: 'pre',
      maxPositions: 8,
      ropes: [{ inverseFrequencies: Float32Array.of(1, 0.1), scale: 1 }],
      ropeOfLayer: Int32Array.of(0),
      windowOfLayer: Int32Array.of(0),
    },
    tensors: [
      ...norms.map((name) => tensor(name, [4])),
      ...['model.embed_tokens.weight', ...attention, ...mlp].map((name) => tensor(name, [4, 4])),
    ],
    device: 'cpu',
    dtype: 'float32',
  };
}

const built = (overrides: Partial<BuiltAddon>): BuiltAddon => ({
  key: 'k',
  libtorch: '2.13.0',
  flavour: 'cpu',
  napi: 8,
  sources: 's',
  torch_root: '/torch',
  folder: '/f',
  binary: '/f/cft_native.node',
  ...overrides,
});

test('the CUDA flavour is chosen only where there is a GPU', (t) => {
  const both = [built({ flavour: 'cuda' }), built({ flavour: 'cpu' })];
  t.is(chooseAddon({}, both, false).flavour, 'cpu');
  t.is(chooseAddon({}, both, true).flavour, 'cuda');
  t.is(chooseAddon({}, both.slice(0, 1), false).flavour, 'cuda', 'it runs on the CPU too');
  t.is(chooseAddon({}, both.slice(1), true).flavour, 'cpu');
});

test('CFT_TORCH_ROOT chooses among the built addons', (t) => {
  const folder = temporaryFolder(t);
  const addons = [built({ torch_root: '/other' }), built({ torch_root: folder })];
  t.is(chooseAddon({ CFT_TORCH_ROOT: folder }, addons, false).torch_root, folder);
  t.throws(() => chooseAddon({ CFT_TORCH_ROOT: '/third' }, addons, false), {
    code: 'ERR_CFT_NOT_BUILT',
    message: /not built for CFT_TORCH_ROOT=\/third; it is for .*\/other.*cft-native setup/,
  });
});

test('without a binary the error names the command that makes one', (t) => {
  t.throws(() => chooseAddon({}, [], false), {
    code: 'ERR_CFT_NOT_BUILT',
    message: /`npx cft-native setup`/,
  });
  const run = inChild(
    `const { loadAddon } = await import(LOADER);
     try { loadAddon(); } catch (error) { console.log(error.name, error.code, error.message); }`,
    { CFT_ADDON: '/nowhere/cft_native.node' },
  );
  t.regex(
    run.stdout,
    /^CftError ERR_CFT_NOT_BUILT CFT_ADDON names \/nowhere\/cft_native\.node, which does not exist/,
  );
});

test('a binary that does not load says why and what to do', (t) => {
  const folder = temporaryFolder(t);
  const broken = join(folder, 'cft_native.node');
  writeFileSync(broken, 'not a library');
  const run = inChild(
    `const { loadAddon } = await import(LOADER);
     try { loadAddon(); } catch (error) { console.log(error.code, error.message, error.cause.code); }`,
    { CFT_ADDON: broken },
  );
  t.regex(
    run.stdout,
    /^ERR_CFT_NOT_BUILT The native addon does not load: .*file too short|invalid ELF header/,
  );
  t.regex(run.stdout, /ERR_DLOPEN_FAILED/);

  t.regex(
    explain('libtorch_cpu.so: cannot open shared object file: No such file'),
    /libtorch was moved or removed/,
  );
  t.regex(explain('libcudart.so.13: cannot open shared object file'), /libcudart\.so\.13 belongs to CUDA/);
  t.regex(explain("/lib/libstdc++.so.6: version `GLIBCXX_3.4.40' not found"), /built on a newer system/);
  t.regex(explain('x.node: undefined symbol: _ZN2at'), /built against another libtorch/);
  t.regex(explain('something else'), /cft-native doctor/);
});

test('an addon whose libtorch was replaced or removed counts as not built', (t) => {
  const folder = temporaryFolder(t);
  const torch = fakeTorch(join(folder, 'torch'), '2.13.0+cpu');
  const sources = sourceHash();
  const place = join(folder, addonKey('2.13.0', 'cpu', sources));
  mkdirSync(place);
  writeFileSync(join(place, 'cft_native.node'), '');
  symlinkSync(join(torch, 'lib'), join(place, 'torch-lib'));
  const facts = { key: 'k', libtorch: '2.13.0+cpu', flavour: 'cpu', napi: 8, sources, torch_root: torch };
  writeFileSync(join(place, 'addon.json'), JSON.stringify(facts));
  t.like(readAddon(place), { libtorch: '2.13.0+cpu', binary: join(place, 'cft_native.node') });
  fakeTorch(torch, '2.14.1+cpu');
  t.is(readAddon(place), null, 'upgraded in place');
  fakeTorch(torch, '2.13.0+cpu');
  writeFileSync(join(place, 'addon.json'), '{');
  t.is(readAddon(place), null, 'torn manifest');
});

test('a child finds out whether a binary loads, even one that kills its process', (t) => {
  const seen = probeAddon(binary());
  t.true('info' in seen && seen.info.threads >= 1);
  const folder = temporaryFolder(t);
  const source = join(folder, 'crash.c');
  writeFileSync(
    source,
    '#include <signal.h>\n__attribute__((constructor)) void f(void) { raise(SIGSEGV); }\n',
  );
  const crash = join(folder, 'crash.node');
  t.is(spawnSync('cc', ['-shared', '-fPIC', source, '-o', crash]).status, 0);
  t.deepEqual(probeAddon(crash), { problem: 'it crashed while loading (SIGSEGV)' });
  t.true('problem' in probeAddon(join(folder, 'absent.node')));
  t.true(existsSync(crash));
});

test('devices: auto, what was asked for, and never a silent CPU run', (t) => {
  const fake = (flavour: 'cpu' | 'cuda', gpus: number) =>
    ({
      info: () => ({ flavour }),
      cudaDevices: () => Array.from({ length: gpus }, (_, index) => ({ index, name: `GPU ${index}` })),
    }) as unknown as NativeAddon;
  t.is(resolveDevice(fake('cpu', 0), 'auto'), 'cpu');
  t.is(resolveDevice(fake('cuda', 0), 'auto'), 'cpu');
  t.is(resolveDevice(fake('cuda', 2), 'auto'), 'cuda:0');
  t.is(resolveDevice(fake('cuda', 2), 'cpu'), 'cpu');
  t.is(resolveDevice(fake('cuda', 2), 'cuda'), 'cuda:0');
  t.is(resolveDevice(fake('cuda', 2), 'cuda:1'), 'cuda:1');
  const refuses = (addon: NativeAddon, name: string, code: string, message: RegExp) =>
    t.throws(() => resolveDevice(addon, name), { instanceOf: CftError, code, message });
  refuses(fake('cpu', 0), 'cuda', 'ERR_CFT_NO_DEVICE', /built for the CPU only\. Run `npx cft-native setup`/);
  refuses(fake('cuda', 0), 'cuda:0', 'ERR_CFT_NO_DEVICE', /finds no GPU here\. Check the driver/);
  refuses(fake('cuda', 1), 'cuda:3', 'ERR_CFT_NO_DEVICE', /no GPU 3; found cuda:0 \(GPU 0\)/);
  refuses(
    fake('cuda', 1),
    'cuda:x',
    'ERR_CFT_BAD_OPTION',
    /expected auto, cpu, cuda or cuda:N, found 'cuda:x'/,
  );
});
