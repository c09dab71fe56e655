/**
 * Rows of the table formats (.json, .csv, .parquet) as plain objects, with what messages call them. Row numbers count
 * the records from 1 (a CSV header is no record). Errors are ERR_CFT_BAD_DATA.
 */
import { readFile } from 'node:fs/promises';
import zlib from 'node:zlib';
import { type CsvError, parse as csvParser } from 'csv-parse';
import {
  asyncBufferFromFile,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from 'hyparquet';
import { CftError } from '../errors.js';
import { badData, describeValue, readFailure } from './errors.js';
import { textLinesOfFile } from './json-lines.js';

export interface Row {
  /** Names the row in messages, e.g. `questions.jsonl:12`. */
  where: string;
  /** Line or record number, from 1. */
  number: number;
  value: Record<string, unknown>;
}

/** The file as one string; strict UTF-8, without a byte order mark. */
async function readText(path: string, signal?: AbortSignal): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path, { signal });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw readFailure(path, error);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    // Only now is it worth finding the line: reading line by line names it.
    for await (const _ of textLinesOfFile(path, { signal }));
    throw badData(path, 'expected UTF-8 text of at most 512 MiB');
  }
}

/** Rows of a .json file: an array of objects, or an object whose `data` is one. */
export async function* jsonRows(path: string, signal?: AbortSignal): AsyncGenerator<Row> {
  const text = await readText(path, signal);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    const lines = text.split('\n', 3).filter((line) => line.trim() !== '');
    const looksLikeLines =
      lines.length > 1 && lines.slice(0, 2).every((line) => line.trim().startsWith('{"'));
    const hint = looksLikeLines ? '; it looks like JSON Lines: rename it to .jsonl' : '';
    throw badData(path, `expected JSON, found a broken file (${(error as Error).message})${hint}`, error);
  }
  const isObject = typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
  const items = isObject ? (parsed as Record<string, unknown>).data : parsed;
  if (!Array.isArray(items)) {
    const hint = isObject
      ? `an object with the keys ${Object.keys(parsed as object)
          .slice(0, 8)
          .join(', ')}`
      : '';
    throw badData(
      path,
      `expected an array of objects or {"data": [...]}, found ${hint || describeValue(parsed)}`,
    );
  }
  for (const [index, value] of items.entries()) {
    const where = `${path} (item ${index + 1})`;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw badData(where, `expected an object, found ${describeValue(value)}`);
    }
    yield { where, number: index + 1, value };
  }
}

/** Rows of a .csv file whose first record names the columns. */
export async function* csvRows(path: string, signal?: AbortSignal): AsyncGenerator<Row> {
  const parser = csvParser({
    columns: (names: string[]) => {
      const twice = names.find((name, index) => names.indexOf(name) !== index);
      if (twice !== undefined)
        throw badData(`${path}:1`, `expected distinct column names, found "${twice}" twice`);
      return names;
    },
    info: true,
    skip_empty_lines: true,
  });
  // Our own line reader feeds the parser because it is strict about UTF-8, which the parser is not.
  const lines = textLinesOfFile(path, { signal });
  const feed = (async () => {
    for await (const { text } of lines) {
      if (parser.destroyed) return;
      if (!parser.write(`${text}\n`))
        await new Promise((resolve) => parser.once('drain', resolve).once('close', resolve));
    }
    parser.end();
  })();
  feed.catch((error: Error) => parser.destroy(error));
  try {
    for await (const { record, info } of parser as AsyncIterable<{
      record: Record<string, unknown>;
      info: { lines: number; records: number };
    }>) {
      yield {
        where: `${path} (record ${info.records}, line ${info.lines})`,
        number: info.records,
        value: record,
      };
    }
  } catch (error) {
    const { code, lines: line } = error as CsvError & { lines?: number };
    if (error instanceof CftError || code === undefined || !String(code).startsWith('CSV_')) throw error;
    throw badData(
      line === undefined ? path : `${path}:${line}`,
      `broken CSV (${(error as Error).message})`,
      error,
    );
  } finally {
    parser.destroy();
  }
}

const decompressors: Compressors = {
  GZIP: (input) => zlib.gunzipSync(input),
  BROTLI: (input) => zlib.brotliDecompressSync(input),
};

/** Rows of a .parquet file, one row group in memory at a time. Only `fields` that exist there are read. */
export async function* parquetRows(
  path: string,
  fields: readonly string[],
  signal?: AbortSignal,
): AsyncGenerator<Row> {
  let metadata: FileMetaData;
  let file: Awaited<ReturnType<typeof asyncBufferFromFile>>;
  try {
    file = await asyncBufferFromFile(path);
    if (file.byteLength === 0) throw badData(path, 'expected a Parquet file, found an empty file');
    metadata = await parquetMetadataAsync(file);
  } catch (error) {
    if (error instanceof CftError) throw error;
    const failure = readFailure(path, error);
    throw failure === error ? badData(path, `broken Parquet (${(error as Error).message})`, error) : failure;
  }
  const known = parquetSchema(metadata).children.map((child) => child.element.name);
  const columns = fields.filter((field) => known.includes(field));
  const strictUtf8 = new TextDecoder('utf-8', { fatal: true });
  let rowStart = 0;
  for (const group of metadata.row_groups) {
    signal?.throwIfAborted();
    const rowEnd = rowStart + Number(group.num_rows);
    const codecs = new Set(group.columns.map((column) => column.meta_data?.codec));
    let rows: Record<string, unknown>[];
    try {
      rows = await parquetReadObjects({
        file,
        metadata,
        columns,
        rowStart,
        rowEnd,
        compressors: decompressors,
        parsers: { stringFromBytes: (bytes) => bytes && strictUtf8.decode(bytes) },
      });
    } catch (error) {
      const message = (error as Error).message;
      const problem = message.includes('unsupported compression codec')
        ? `Parquet compressed by ${[...codecs].join(', ')} cannot be read: write it with snappy, gzip or no compression`
        : `broken Parquet in rows ${rowStart + 1} to ${rowEnd} (${message})`;
      throw badData(path, problem, error);
    }
    for (const [index, row] of rows.entries()) {
      const number = rowStart + index + 1;
      // Columns that were not read still stand in the row (as undefined), so that messages can list all names.
      const value: Record<string, unknown> = { ...row };
      for (const name of known) if (!(name in value)) value[name] = undefined;
      yield { where: `${path} (row ${number})`, number, value };
    }
    rowStart = rowEnd;
  }
}
