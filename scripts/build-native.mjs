#!/usr/bin/env node
// Builds the addon for one flavour and libtorch, once, and prints its path:
//   node scripts/build-native.mjs [--flavour cpu|cuda] [--torch folder] [--tests]
// binding.gyp and prebuildify run it as `build-native.mjs rebuild` with node-gyp's flags, and take the binary from
// build/Release as they would node-gyp's.
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { binaryName, packageRoot } from '../lib/native/addon.mjs';
import { buildAddon } from '../lib/native/build.mjs';
import { run } from './run.mjs';

/** @type {import('node:util').ParseArgsConfig['options']} */
const nodeGypFlags = {
  target: { type: 'string' },
  devdir: { type: 'string' },
  arch: { type: 'string' },
  release: { type: 'boolean' },
};

await run(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      flavour: { type: 'string', default: process.env.CFT_PREBUILD_FLAVOUR ?? 'cpu' },
      torch: { type: 'string' },
      tests: { type: 'boolean', default: false },
      ...nodeGypFlags,
    },
  });
  if (values.flavour !== 'cpu' && values.flavour !== 'cuda')
    throw new Error(`--flavour is cpu or cuda, not ${values.flavour}`);
  const env = values.torch ? { ...process.env, CFT_TORCH_ROOT: values.torch } : process.env;
  const { addon, rebuilt } = await buildAddon({
    flavour: values.flavour,
    tests: values.tests,
    env,
    log: console.error,
  });
  console.error(rebuilt ? 'built:' : 'up to date:');
  console.log(addon.binary);
  if (positionals[0] === 'rebuild') {
    const release = join(packageRoot, 'build', 'Release');
    mkdirSync(release, { recursive: true });
    copyFileSync(addon.binary, join(release, binaryName));
  }
});
