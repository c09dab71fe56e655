/** Writing that survives a crash: whole files by rename, growing files by whole lines. */
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';
import { CftError, isSystemError } from './errors.js';

const causes: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would exceed the allowed size',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
};

/** Runs `work` on `path`; an error of the operating system becomes ERR_CFT_IO with the path and the cause. */
function guarded<T>(doing: 'reading' | 'writing', path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!isSystemError(error)) throw error;
    const cause = causes[error.code as string];
    const kept = doing === 'writing' ? '; what was written before is kept' : '';
    throw new CftError(
      'ERR_CFT_IO',
      `${doing} ${path} failed: ${cause ? `${cause} (${error.code})` : error.message}${kept}`,
      { cause: error },
    );
  }
}

/**
 * Makes a folder and those above it, one by one: Node's recursive mkdir never returns where a file system answers
 * ENOENT for a parent that is there, as /proc does. A folder that exists is left as it is.
 * @throws the operating system's error.
 */
export function makeFolder(path: string): void {
  const missing: string[] = [];
  let folder = resolve(path);
  for (; !existsSync(folder); folder = dirname(folder)) missing.push(folder);
  if (missing.length === 0) missing.push(folder);
  for (const one of missing.reverse()) {
    try {
      mkdirSync(one);
    } catch (error) {
      // Somebody else may have made it in the meantime; a file in its place is an error.
      const exists = (error as NodeJS.ErrnoException).code === 'EEXIST';
      if (!exists || !statSync(one, { throwIfNoEntry: false })?.isDirectory()) throw error;
    }
  }
}

/** As makeFolder, in mid-work. @throws CftError ERR_CFT_IO with the path. */
export const makeOutputFolder = (path: string): void => guarded('writing', path, () => makeFolder(path));

/** Makes a rename or a new file in `folder` survive a power cut; a no-op where folders cannot be synced. */
export function syncFolder(folder: string): void {
  try {
    const descriptor = openSync(folder, 'r');
    try {
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch {
    // Some platforms cannot open folders; the rename itself is still atomic there.
  }
}

function writeAll(descriptor: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(descriptor, bytes, done);
}

function replaceFile(path: string, write: (descriptor: number) => void): void {
  guarded('writing', path, () => {
    const temporary = `${path}.${process.pid}.tmp`;
    try {
      const descriptor = openSync(temporary, 'w');
      try {
        write(descriptor);
        fsyncSync(descriptor);
      } finally {
        closeSync(descriptor);
      }
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
    syncFolder(dirname(path));
  });
}

/**
 * Replaces `path` as a whole (temporary file, fsync, rename): a reader sees the old content or the new, never half.
 * @throws CftError ERR_CFT_IO with the path; the old content is kept.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  replaceFile(path, (descriptor) =>
    writeAll(descriptor, typeof content === 'string' ? Buffer.from(content, 'utf8') : content),
  );
}

/** As writeFileAtomic, line by line, so that the whole never has to be one string. */
export function writeLinesAtomic(path: string, lines: Iterable<string>): void {
  replaceFile(path, (descriptor) => {
    let waiting: string[] = [];
    let size = 0;
    for (const line of lines) {
      waiting.push(line, '\n');
      size += line.length;
      if (size < 1 << 20) continue;
      writeAll(descriptor, Buffer.from(waiting.join(''), 'utf8'));
      waiting = [];
      size = 0;
    }
    writeAll(descriptor, Buffer.from(waiting.join(''), 'utf8'));
  });
}

/**
 * Appends whole lines to `path` and syncs; a torn last line can only come from a crash inside this call.
 * @throws CftError ERR_CFT_IO with the path; the file is then as it was before.
 */
export function appendLines(path: string, lines: readonly string[]): void {
  if (lines.length === 0) return;
  guarded('writing', path, () => {
    const descriptor = openSync(path, 'a');
    try {
      const before = fstatSync(descriptor).size;
      try {
        writeAll(descriptor, Buffer.from(`${lines.join('\n')}\n`, 'utf8'));
        fsyncSync(descriptor);
      } catch (error) {
        try {
          ftruncateSync(descriptor, before);
        } catch {
          // The next reader drops the torn line; the first error is the one to report.
        }
        throw error;
      }
    } finally {
      closeSync(descriptor);
    }
  });
}

/**
 * Appends bytes without syncing: for files whose loss after a power cut does not matter.
 * @throws CftError ERR_CFT_IO with the path.
 */
export function appendBytes(path: string, bytes: Uint8Array): void {
  guarded('writing', path, () => {
    const descriptor = openSync(path, 'a');
    try {
      writeAll(descriptor, bytes);
    } finally {
      closeSync(descriptor);
    }
  });
}

/** The whole lines of a file (those that end in a newline) and the offset after each; nothing where it is missing. */
function* wholeLines(path: string): Generator<{ text: string; end: number }> {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  try {
    const chunk = Buffer.alloc(1 << 20);
    let parts: Buffer[] = [];
    let end = 0;
    for (let offset = 0; ; ) {
      const count = readSync(descriptor, chunk, 0, chunk.length, offset);
      if (count === 0) return;
      offset += count;
      let start = 0;
      for (let at = chunk.indexOf(10); at >= 0 && at < count; at = chunk.indexOf(10, start)) {
        parts.push(Buffer.from(chunk.subarray(start, at)));
        const line = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
        parts = [];
        start = at + 1;
        end += line.length + 1;
        yield { text: line.toString('utf8'), end };
      }
      if (start < count) parts.push(Buffer.from(chunk.subarray(start, count)));
    }
  } finally {
    closeSync(descriptor);
  }
}

/**
 * Reads a file that appendLines made, after a crash or not, a value at a time: a torn last line is dropped, from the
 * file too, so that the next append starts a line of its own. A missing file has no lines.
 * @param onValue gets the value of each line and the offset after it.
 * @throws CftError ERR_CFT_BAD_DATA where a line before the last is damaged, ERR_CFT_IO where reading fails.
 */
export function recoverLines<T>(path: string, onValue: (value: T, end: number) => void): void {
  guarded('reading', path, () => {
    let lines = 0;
    let good = 0; // bytes up to the last line that parsed
    let damaged = 0; // number of the first line that did not
    for (const { text, end } of wholeLines(path)) {
      if (damaged > 0) {
        throw new CftError(
          'ERR_CFT_BAD_DATA',
          `${path}, line ${damaged}: expected JSON, found a damaged line`,
        );
      }
      lines++;
      let value: T;
      try {
        value = JSON.parse(text) as T;
      } catch {
        damaged = lines;
        continue;
      }
      good = end;
      onValue(value, end);
    }
    cutFile(path, good);
  });
}

/** All values of such a file, see recoverLines. */
export function recoverJsonLines<T>(path: string): T[] {
  const values: T[] = [];
  recoverLines<T>(path, (value) => values.push(value));
  return values;
}

/** The values of the whole lines of a file of ours, at once and without changing it; none where it is missing. */
export function readJsonLinesSync<T>(path: string): T[] {
  return guarded('reading', path, () => Array.from(wholeLines(path), ({ text }) => JSON.parse(text) as T));
}

/**
 * A file of JSON lines that grows and is read back a line at a time, so that what is done need not stay in memory.
 * Only the offsets of the lines do.
 */
export class LinesFile<T> {
  readonly path: string;
  readonly #ends: number[] = [];

  /**
   * Takes up what an earlier run left at `path`, see recoverLines.
   * @param onValue gets the value of each line and its number, from 0.
   */
  constructor(path: string, onValue: (value: T, line: number) => void = () => {}) {
    this.path = path;
    recoverLines<T>(path, (value, end) => onValue(value, this.#ends.push(end) - 1));
  }

  get count(): number {
    return this.#ends.length;
  }

  /** Appends and syncs. @throws CftError ERR_CFT_IO, see appendLines. */
  append(values: readonly T[]): void {
    const lines = values.map((value) => JSON.stringify(value));
    appendLines(this.path, lines);
    for (const line of lines) this.#ends.push((this.#ends.at(-1) ?? 0) + Buffer.byteLength(line) + 1);
  }

  /** The value of a line, from 0. */
  read(line: number): T {
    const start = line === 0 ? 0 : this.#ends[line - 1]!;
    const bytes = Buffer.allocUnsafe(this.#ends[line]! - start);
    return guarded('reading', this.path, () => {
      const descriptor = openSync(this.path, 'r');
      try {
        readSync(descriptor, bytes, 0, bytes.length, start);
      } finally {
        closeSync(descriptor);
      }
      return JSON.parse(bytes.toString('utf8')) as T;
    });
  }

  /** Deletes the file. */
  remove(): void {
    rmSync(this.path, { force: true });
    this.#ends.length = 0;
  }
}

/** Shortens a file to `size` bytes where it is longer. */
function cutFile(path: string, size: number): void {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch {
    return; // missing: nothing to shorten
  }
  const longer = fstatSync(descriptor).size > size;
  closeSync(descriptor);
  if (longer) truncateSync(path, size);
}
