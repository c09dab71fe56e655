/**
 * `report`: one self-contained page about a run folder, finished or not; on request its charts as PNG files, or the page
 * served on this machine while the run goes on.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CftError } from '../errors.js';
import { writeFileAtomic } from '../files.js';
import { isFile } from '../model/json-file.js';
import { type GivenOptions, type ResolvedOptions, resolveOptions } from '../options.js';
import type { TrainResult } from '../train/result.js';
import type { AnnotationRecord } from '../types.js';
import { writeCharts } from './charts.js';
import { RunReader, readRunRecord } from './collect.js';
import { findTokenizer } from './find-tokenizer.js';
import { writeModelCard } from './model-card.js';
import { renderPage } from './page.js';
import type { ReportTokenizer } from './tokens.js';

/** How often `watch` looks whether a run has begun, in milliseconds. */
const lookEvery = 250;

export interface ReportOptions extends GivenOptions<'report'> {
  /** Stops serving (`watch`). */
  signal?: AbortSignal | undefined;
  /** With `watch`: called with the page's address once it is served. */
  onListening?: ((url: string) => void) | undefined;
  /** With `watch`: called once where no run has begun yet, with the folder that one is expected in. */
  onWaiting?: ((folder: string) => void) | undefined;
}

export interface ReportResult {
  /** The run folder. */
  run: string;
  /** The page. */
  path: string;
  bytes: number;
  /** Annotated responses of the run. */
  responses: number;
  /** PNG files. */
  charts: string[];
  /** The model card, where the run trained a model. */
  modelCard?: string;
}

/** The newest run folder below runs/; undefined where there is none. */
function newestRun(): string | undefined {
  const isRun = (path: string): boolean => existsSync(join(path, 'run.json'));
  const runs = existsSync('runs') ? readdirSync('runs').map((name) => join('runs', name)) : [];
  return runs
    .filter(isRun)
    .map((path) => ({ path, time: statSync(join(path, 'run.json')).mtimeMs }))
    .sort((a, b) => b.time - a.time)[0]?.path;
}

/** Until there is a run to watch: whoever starts a run may start watching first. */
async function awaitRun(
  given: string | undefined,
  { signal, onWaiting }: Pick<ReportOptions, 'signal' | 'onWaiting'>,
): Promise<string> {
  for (let isTold = false; ; isTold = true) {
    const folder = given ?? newestRun();
    // A file is no folder that a run could begin in.
    if (folder !== undefined && (existsSync(join(folder, 'run.json')) || isFile(folder))) return folder;
    if (!isTold) onWaiting?.(folder ?? 'runs');
    await sleep(lookEvery, undefined, { signal }).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw error;
    });
  }
}

const noRun = (): never => {
  throw new CftError('ERR_CFT_BAD_OPTION', 'run: expected a run folder, found none given and none in runs/');
};

async function openRun(run: string, options: ResolvedOptions<'report'>): Promise<RunReader> {
  const folder = resolve(run);
  const { tokenizer, notes } = await findTokenizer(folder, readRunRecord(folder));
  return new RunReader(folder, { limit: options.limit, tokenizer, notes });
}

/**
 * Writes report.html (or `output`) for a run folder; with `watch`, waits until the run has begun and serves the page until
 * the signal is aborted.
 * @throws CftError ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA where it is no run folder or its files are damaged, ERR_CFT_IO;
 *   the signal's reason when it is aborted.
 */
export async function report(given: ReportOptions = {}): Promise<ReportResult> {
  const { signal, onListening, onWaiting, ...rest } = given;
  signal?.throwIfAborted();
  const options = resolveOptions('report', rest);
  if (options.watch) {
    for (const name of ['charts', 'output'] as const) {
      if (options[name] === undefined || options[name] === false) continue;
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `${name} (--${name}): expected none beside watch (--watch), which writes no file, found ${JSON.stringify(options[name])}`,
      );
    }
  }
  const run = options.watch
    ? await awaitRun(options.run, { signal, onWaiting })
    : (options.run ?? newestRun() ?? noRun());
  const reader = await openRun(run, options);
  if (options.watch) {
    const { serveReport } = await import('./serve.js');
    await serveReport(reader, { port: options.port, signal, onListening });
    signal?.throwIfAborted();
  }
  const data = await reader.read();
  const path = resolve(options.output ?? join(reader.folder, 'report.html'));
  const page = renderPage(data);
  writeFileAtomic(path, page);
  const charts = options.charts ? await writeCharts(data, join(reader.folder, 'charts')) : [];
  const modelCard = writeModelCard(reader.folder, data);
  return {
    run: reader.folder,
    path,
    bytes: Buffer.byteLength(page),
    responses: data.responses.length + data.responsesLeft,
    charts,
    ...(modelCard !== undefined && { modelCard }),
  };
}

/** What a training run writes at its end: the page, and the card of its model. */
export async function writeRunReport(
  path: string,
  contents: { result: TrainResult; records: readonly AnnotationRecord[]; tokenizer: ReportTokenizer },
): Promise<void> {
  const { result, records, tokenizer } = contents;
  const data = await new RunReader(result.output, { result, records, tokenizer }).read();
  writeFileAtomic(path, renderPage(data));
  writeModelCard(result.output, data);
}
