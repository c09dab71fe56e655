/** What both of our sides have in common: a model, a greeting, and an answer to each line that is read. */
import { createInterface } from 'node:readline';
import { CftError } from '../errors.js';
import { loadModel } from '../model/load.js';
import type { Model } from '../model/model.js';
import { packageVersion } from '../run-folder.js';
import type { Greeting } from './protocol.js';

/** What our side says beyond what every side says. */
export type OwnGreeting = Greeting & {
  type: 'ready';
  device: string;
  device_name?: string | undefined;
  parameters: number;
};

interface SideJob {
  model: string;
  device: string;
  dtype: 'auto' | 'float32' | 'bfloat16';
  threads: number;
}

const say = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);

/**
 * Loads the job's model, greets, and answers until the input ends. An error is said, for the harness to throw.
 * @param describe what the greeting says about how the side is used.
 */
export async function serveSide(
  job: SideJob,
  describe: (model: Model) => { setting: string; rows?: number },
  answer: (model: Model, request: { type: string }) => Promise<object>,
): Promise<void> {
  const start = performance.now();
  try {
    const { device, dtype, threads } = job;
    await using model = await loadModel(job.model, { device, dtype, threads });
    const info = model.addon.info();
    const greeting: OwnGreeting = {
      type: 'ready',
      versions: {
        cft_native: packageVersion,
        libtorch: info.libtorch,
        cpu_capability: info.cpuCapability,
        flavour: info.flavour,
        node: process.versions.node,
      },
      dtype: model.dtype,
      load_seconds: (performance.now() - start) / 1000,
      device: model.device,
      device_name: model.addon.cudaDevices().find(({ index }) => model.device === `cuda:${index}`)?.name,
      parameters: model.parameterCount,
      ...describe(model),
    };
    say(greeting);
    for await (const line of createInterface({ input: process.stdin }))
      say(await answer(model, JSON.parse(line) as { type: string }));
  } catch (error) {
    const code = error instanceof CftError ? error.code : undefined;
    say({ type: 'error', code, message: error instanceof Error ? error.message : String(error) });
    process.exitCode = 1;
  }
}
