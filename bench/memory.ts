/**
 * Whether memory stays flat over a long annotation: resident memory of this process after the first 500 responses and
 * later on, each time after a collection of garbage (between two of them it swings by a tenth or so). Questions repeat;
 * the model is the tiny one of the tests.
 *   npx tsx bench/memory.ts [--responses 10000] [--model test/fixtures/annotation/llama] [--output FILE]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { annotate } from '../lib/counterfactual/annotate.js';
import { appendLines } from '../lib/files.js';

const { values } = parseArgs({
  options: {
    responses: { type: 'string', default: '10000' },
    model: { type: 'string', default: 'test/fixtures/annotation/llama' },
    tokens: { type: 'string', default: '24' },
    output: { type: 'string' },
  },
});
const count = Number(values.responses);
const first = 500;
const every = Math.max(first, Math.floor(count / 40));
const output = mkdtempSync(join(tmpdir(), 'cft-memory-'));
setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;
const residentMemory = (): number => {
  collectGarbage();
  return process.memoryUsage.rss();
};
const megabytes = (bytes: number): number => Math.round(bytes / 104857.6) / 10;

const print = (row: object): void => console.log(JSON.stringify(row));
const judged = new Uint8Array(count);
let done = 0;
let afterFirst = 0;
let most = 0;

const run = annotate({
  model: values.model,
  device: 'cpu',
  threads: 1,
  data: Array.from({ length: count }, (_, i) => ({
    id: `q${i}`,
    question: `what is ${(i * 37) % 1009}?`,
    answer: '0',
  })),
  system: '',
  userTemplate: '{question}',
  maxNewTokens: Number(values.tokens),
  // Every response that ends is annotated, and about half of the rollouts are wrong.
  verifier: (text, { id }) => {
    const index = Number(id.slice(1));
    const isTrunk = judged[index] === 0;
    judged[index] = 1;
    return isTrunk || text.length % 2 === 0;
  },
  output,
});
for await (const event of run) {
  if (event.type === 'stage')
    print({ stage: event.stage, total: event.total, rss_mb: megabytes(process.memoryUsage.rss()) });
  if (event.type !== 'response') continue;
  done++;
  if (done !== first && done % every !== 0) continue;
  const rss = residentMemory();
  if (done === first) afterFirst = rss;
  if (done > first) most = Math.max(most, rss);
  print({ responses: done, rss_mb: megabytes(rss), heap_mb: megabytes(process.memoryUsage().heapUsed) });
}
const { summary } = await run;
rmSync(output, { recursive: true });
const row = {
  bench: 'memory',
  date: new Date().toISOString(),
  device_name: cpus()[0]?.model.trim(),
  model: values.model,
  responses: done,
  rollouts: summary.rollouts,
  seconds: Math.round(summary.seconds),
  rss_mb_after_500: megabytes(afterFirst),
  rss_mb_most_after: megabytes(most),
  rss_mb_end: megabytes(residentMemory()),
  growth: Math.round((1000 * (most - afterFirst)) / afterFirst) / 1000,
};
print(row);
if (values.output !== undefined) appendLines(values.output, [JSON.stringify(row)]);
