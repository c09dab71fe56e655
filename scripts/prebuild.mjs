// Makes prebuilds/<platform>/<key>.node with prebuildify, which drives scripts/build-native.mjs as if it were node-gyp:
//   node scripts/prebuild.mjs [--flavour cpu|cuda]
// A set-up whose libtorch and sources have the same key takes the binary instead of compiling.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import prebuildify from 'prebuildify';
import { addonKey, packageRoot, prebuiltBinary, sourceHash } from '../lib/native/addon.mjs';
import { obtainLibtorch } from '../lib/native/build.mjs';
import { SetupError } from '../lib/native/libtorch.mjs';
import { run } from './run.mjs';

await run(async () => {
  const { values } = parseArgs({ options: { flavour: { type: 'string', default: 'cpu' } } });
  const libtorch = await obtainLibtorch({ flavour: values.flavour, env: process.env, log: console.error });
  const sources = sourceHash();
  const key = addonKey(libtorch.version, values.flavour, sources);
  const binary = prebuiltBinary(key);
  // Binaries of older sources would only make the package larger.
  const old = (name) => name.endsWith('.node') && (name === basename(binary) || !name.includes(sources));
  if (existsSync(dirname(binary)))
    for (const name of readdirSync(dirname(binary)).filter(old)) rmSync(join(dirname(binary), name));
  process.env.CFT_PREBUILD_FLAVOUR = values.flavour;
  await promisify(prebuildify)({
    cwd: packageRoot,
    napi: true,
    name: key,
    targets: [`node@${process.versions.node}`],
    nodeGyp: join(packageRoot, 'scripts', 'build-native.mjs'),
    strip: true,
  });
  const libraries = readdirSync(dirname(binary)).filter((name) => !name.endsWith('.node'));
  if (libraries.length > 0) throw new SetupError(`swept into the prebuilds: ${libraries.join(', ')}`);
  const dynamic = spawnSync('readelf', ['-d', binary], { encoding: 'utf8' }).stdout;
  const paths = [...dynamic.matchAll(/\((?:RPATH|RUNPATH)\).*\[(.*)\]/g)].map((match) => match[1]);
  if (paths.join() !== '$ORIGIN/torch-lib')
    throw new SetupError(`the prebuilt looks for libraries in ${paths}`);
  console.log(binary);
});
