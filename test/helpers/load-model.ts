/** Models loaded for one test. */
import type { ExecutionContext } from 'ava';
import { type LoadOptions, loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';

/** A model on the CPU with one thread, disposed when the test ends. */
export async function load(t: ExecutionContext, folder: string, options: LoadOptions = {}): Promise<Model> {
  const model = await loadModel(folder, { device: 'cpu', threads: 1, ...options });
  t.teardown(() => model[Symbol.asyncDispose]());
  return model;
}
