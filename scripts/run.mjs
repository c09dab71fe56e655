// Runs a script's body: an expected failure is one message and status 1, anything else keeps its stack.
import { SetupError } from '../lib/native/libtorch.mjs';

/** @param {() => Promise<void>} body */
export async function run(body) {
  try {
    await body();
  } catch (error) {
    const expected = error instanceof SetupError || error?.code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION';
    console.error(expected ? error.message : error);
    process.exitCode = 1;
  }
}
