// Builds the addon for one flavour and libtorch, once: `node scripts/build-native.mjs [--flavour cpu|cuda]
// [--torch folder] [--tests]`.
import { parseArgs } from 'node:util';
import { buildAddon } from '../lib/native/build.mjs';

const { values } = parseArgs({
  options: {
    flavour: { type: 'string', default: 'cpu' },
    torch: { type: 'string' },
    tests: { type: 'boolean', default: false },
  },
});
const env = values.torch ? { ...process.env, CFT_TORCH_ROOT: values.torch } : process.env;
const built = await buildAddon({ flavour: values.flavour, tests: values.tests, env, log: console.error });
console.error(built.fresh ? `built ${built.binary}` : `up to date: ${built.binary}`);
