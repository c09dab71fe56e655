/**
 * Measures tokens per second on one device and prints one JSON object per case:
 *   npm run bench -- [--model embedded] [--device auto] [--dtype auto] [--repeats 7] [--output results.jsonl]
 * Each row has the median and the 20th and 80th percentile of the repeats, after one that is not counted, and what they
 * were measured on. Rows of different machines or runs do not compare.
 */
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { percentile } from '../lib/bench/statistics.js';
import { appendLines } from '../lib/files.js';
import { loadModel } from '../lib/model/load.js';
import { cases } from './cases.js';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'embedded' },
    device: { type: 'string', default: 'auto' },
    dtype: { type: 'string', default: 'auto' },
    repeats: { type: 'string', default: '7' },
    threads: { type: 'string' },
    output: { type: 'string' },
  },
});

await using model = await loadModel(values.model, {
  device: values.device,
  dtype: values.dtype as 'auto' | 'float32' | 'bfloat16',
  ...(values.threads && { threads: Number(values.threads) }),
});
const info = model.addon.info();
const gpu = model.addon.cudaDevices().find(({ index }) => model.device === `cuda:${index}`);
const machine = {
  model: values.model,
  parameters: model.parameterCount,
  device: model.device,
  device_name: gpu?.name ?? cpus()[0]?.model.trim() ?? 'unknown',
  dtype: model.dtype,
  threads: info.threads,
  cores: availableParallelism(),
  cpu_capability: info.cpuCapability,
  libtorch: info.libtorch,
  flavour: info.flavour,
  node: process.version,
  gomp_spincount: process.env.GOMP_SPINCOUNT ?? null,
  date: new Date().toISOString(),
};
for (const { name, what, prepare } of cases) {
  const { repeat, dispose } = await prepare(model);
  await repeat();
  const rates: number[] = [];
  let useful = 0;
  for (let i = 0; i < Number(values.repeats); i++) {
    const start = performance.now();
    useful = await repeat();
    rates.push(useful / ((performance.now() - start) / 1000));
  }
  dispose();
  const [p20, p50, p80] = [0.2, 0.5, 0.8].map((share) => Math.round(percentile(rates, share)));
  const row = { case: name, what, unit: 'tokens/s', p20, p50, p80, repeats: rates.length, tokens: useful };
  const line = JSON.stringify({ ...row, ...machine });
  console.log(line);
  if (values.output) appendLines(values.output, [line]);
}
