// npm's install script. In a checkout it builds the addon, or says why it cannot and fails. As a dependency it never
// fails the installation and downloads nothing: `npx cft-native setup` does the rest whenever it is wanted. Once the
// addon is there it returns at once, for npm may run it again before any `npx`.
import { builtAddons, isCheckout } from '../lib/native/addon.mjs';
import { buildAddon } from '../lib/native/build.mjs';
import { findLibtorch, SetupError } from '../lib/native/libtorch.mjs';
import { run } from './run.mjs';

await run(async () => {
  if (builtAddons().length > 0) return;
  if (isCheckout) {
    await buildAddon({ flavour: 'cpu', log: console.error });
    return;
  }
  try {
    if (!findLibtorch().found) throw new SetupError('libtorch is not on this machine yet');
    await buildAddon({ flavour: 'cpu', log: console.error });
  } catch (error) {
    console.error(`cft-native: the native addon was not built: ${error.message}`);
    console.error(
      'cft-native: run `npx cft-native setup` once; it finds or fetches libtorch and builds the addon.',
    );
  }
});
