/** Where the public data sets and models lie that are too large to commit, and how a test does without them. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';

export const projectRoot = fileURLToPath(new URL('../..', import.meta.url));

/** `CFT_DATA_DIR`, or `../shared/data`, both relative to the project root. */
export const dataFolder = resolve(projectRoot, process.env.CFT_DATA_DIR ?? '../shared/data');

/** Full path of a file or folder of the data, e.g. `dataPath('svamp/test.jsonl')`; undefined where it is absent. */
export function dataPath(relative: string): string | undefined {
  const path = resolve(dataFolder, relative);
  return existsSync(path) ? path : undefined;
}

/**
 * As `dataPath`, for use at the start of a test: where the data is absent it says so, lets the test pass and returns
 * undefined, whereupon the test returns.
 */
export function needsData(t: ExecutionContext, relative: string): string | undefined {
  const path = dataPath(relative);
  if (path === undefined) {
    t.log(`skipped: ${relative} is not in ${dataFolder} (set CFT_DATA_DIR)`);
    t.pass();
  }
  return path;
}
