/**
 * Writes bench/results/README.md from the rows in bench/results/*.jsonl: `npm run bench:table`. Of each case, device and
 * set of threads the latest run is shown; the rows of older runs stay in the files.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { renderTables } from '../lib/bench/table.js';

const { values } = parseArgs({
  options: { folder: { type: 'string', default: join(dirname(fileURLToPath(import.meta.url)), 'results') } },
});
const rows = readdirSync(values.folder)
  .filter((name) => name.endsWith('.jsonl'))
  .sort()
  .flatMap((name) => readFileSync(join(values.folder, name), 'utf8').split('\n'))
  .filter((line) => line.trim() !== '')
  .map((line) => JSON.parse(line) as unknown);
writeFileSync(join(values.folder, 'README.md'), renderTables(rows));
