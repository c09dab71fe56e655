/**
 * Text files read line by line: strict UTF-8 (a byte order mark and CRLF are tolerated), so that a file of any size
 * needs the memory of its longest line. Errors are ERR_CFT_BAD_DATA and name file and line, counted from 1.
 */
import { createReadStream } from 'node:fs';
import { badData, describeValue, readFailure } from './errors.js';

const newline = 0x0a;
const carriageReturn = 0x0d;
/** Longer lines are taken for a file that is not line-based at all. */
const maxLineBytes = 1 << 28;

export interface TextLine {
  /** From 1. */
  line: number;
  /** Without the line end. */
  text: string;
  /** Offset of the first byte after the line and its line end. */
  end: number;
  /** False only for a last line that no newline ends. */
  terminated: boolean;
}

// ignoreBOM keeps a mark in mid-file as the character it is; the one at the start is skipped below.
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeLine(name: string, line: number, bytes: Uint8Array): string {
  let length = bytes.length;
  if (length > 0 && bytes[length - 1] === carriageReturn) length--;
  const start = line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  try {
    return strictUtf8.decode(bytes.subarray(start, length));
  } catch (error) {
    throw badData(`${name}:${line}`, 'expected UTF-8 text, found bytes that are not valid UTF-8', error);
  }
}

export interface TextLinesOptions {
  /**
   * What to do with a last line that no newline ends. `drop`: leave it out, it is what a killed run was writing when
   * it died (our own files end every line). `refuse` (default): yield it, so that it fails unless it is whole.
   */
  tornLastLine?: 'drop' | 'refuse' | undefined;
  signal?: AbortSignal | undefined;
}

/** Lines of a byte stream; `name` stands for it in messages. */
export async function* textLines(
  chunks: AsyncIterable<Uint8Array | string>,
  name: string,
  { tornLastLine = 'refuse', signal }: TextLinesOptions = {},
): AsyncGenerator<TextLine> {
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  let line = 0;
  let end = 0;
  const finish = (tail: Uint8Array, terminated: boolean): TextLine => {
    const bytes = pending.length === 0 ? tail : Buffer.concat([...pending, tail]);
    pending = [];
    pendingBytes = 0;
    line++;
    end += bytes.length + (terminated ? 1 : 0);
    return { line, text: decodeLine(name, line, bytes), end, terminated };
  };
  for await (const chunk of chunks) {
    signal?.throwIfAborted();
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk, 'utf8') : chunk;
    let start = 0;
    for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, start)) {
      yield finish(bytes.subarray(start, at), true);
      start = at + 1;
    }
    if (start < bytes.length) {
      pending.push(bytes.subarray(start));
      pendingBytes += bytes.length - start;
      if (pendingBytes > maxLineBytes) {
        throw badData(
          `${name}:${line + 1}`,
          `expected lines of at most ${maxLineBytes >> 20} MiB, found a longer one`,
        );
      }
    }
  }
  if (pendingBytes > 0 && tornLastLine === 'refuse') yield finish(new Uint8Array(0), false);
}

/** Lines of a file. */
export async function* textLinesOfFile(
  path: string,
  options: TextLinesOptions = {},
): AsyncGenerator<TextLine> {
  const stream = createReadStream(path, { highWaterMark: 1 << 20 });
  try {
    yield* textLines(stream, path, options);
  } catch (error) {
    throw readFailure(path, error);
  } finally {
    stream.destroy();
  }
}

export interface JsonLine {
  /** From 1; blank lines count. */
  line: number;
  value: Record<string, unknown>;
  /** Offset of the first byte after this line: what a resumed run truncates the file to before it appends. */
  end: number;
}

/** Objects of a JSON Lines stream, one a line; blank lines are skipped. `name` stands for it in messages. */
export async function* jsonLines(lines: AsyncIterable<TextLine>, name: string): AsyncGenerator<JsonLine> {
  for await (const { line, text, end, terminated } of lines) {
    if (text.trim() === '') continue;
    const where = `${name}:${line}`;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      const torn = terminated ? '' : '; it is the last line and no newline ends it: is the file cut off?';
      throw badData(
        where,
        `expected one JSON object, found a broken line (${(error as Error).message})${torn}`,
        error,
      );
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw badData(where, `expected one JSON object, found ${describeValue(value)}`);
    }
    yield { line, value: value as Record<string, unknown>, end };
  }
}

/** Objects of a JSON Lines file. */
export function readJsonLines(path: string, options: TextLinesOptions = {}): AsyncGenerator<JsonLine> {
  return jsonLines(textLinesOfFile(path, options), path);
}
