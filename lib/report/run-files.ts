/**
 * Reading a run folder that another process may be writing: nothing is changed or locked, a torn last line is left for
 * the next time, and what is missing or foreign is absent.
 */
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';

export type Fields = Record<string, unknown>;

const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export const numberIn = (fields: Fields | undefined, name: string): number | undefined => {
  const value = fields?.[name];
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
};

export const textIn = (fields: Fields | undefined, name: string): string | undefined => {
  const value = fields?.[name];
  return typeof value === 'string' ? value : undefined;
};

/** The object in a JSON file; undefined where there is none. */
export function readFields(path: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return isFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The objects of the whole lines of a file. */
export function readLines(path: string): Fields[] {
  return new GrowingLines(path).read().values;
}

/** Folders in a folder whose names start with a prefix, in order. */
export function foldersIn(folder: string, prefix: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && entry.name.startsWith(prefix))
      .map(({ name }) => name)
      .sort();
  } catch {
    return [];
  }
}

/** Changes when one of the files does. */
export function stampOf(folder: string, names: readonly string[]): string {
  return names
    .map((name) => {
      const stat = statSync(join(folder, name), { throwIfNoEntry: false });
      return stat === undefined ? '' : `${stat.ino}.${stat.size}.${stat.mtimeMs}`;
    })
    .join(' ');
}

/** A file of JSON lines that grows: each read gives what was added. */
export class GrowingLines {
  readonly #path: string;
  #inode = -1;
  #offset = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** `fresh` where the file is another one or was shortened: what came before is void. Missing files are empty. */
  read(): { fresh: boolean; values: Fields[] } {
    let descriptor: number;
    try {
      descriptor = openSync(this.#path, 'r');
    } catch {
      const fresh = this.#inode !== -1;
      this.#inode = -1;
      this.#offset = 0;
      return { fresh, values: [] };
    }
    try {
      const { ino, size } = fstatSync(descriptor);
      const fresh = this.#inode !== -1 && (ino !== this.#inode || size < this.#offset);
      if (fresh) this.#offset = 0;
      this.#inode = ino;
      return { fresh, values: this.#readFrom(descriptor, size) };
    } finally {
      closeSync(descriptor);
    }
  }

  #readFrom(descriptor: number, size: number): Fields[] {
    const values: Fields[] = [];
    const chunk = Buffer.alloc(1 << 20);
    let parts: Buffer[] = [];
    for (let at = this.#offset; at < size; ) {
      const length = readSync(descriptor, chunk, 0, Math.min(chunk.length, size - at), at);
      if (length === 0) break;
      at += length;
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0 && end < length; end = chunk.indexOf(10, start)) {
        parts.push(Buffer.from(chunk.subarray(start, end)));
        const line = Buffer.concat(parts);
        parts = [];
        start = end + 1;
        this.#offset += line.length + 1;
        try {
          const value: unknown = JSON.parse(line.toString('utf8'));
          if (isFields(value)) values.push(value);
        } catch {
          // A line that a crash damaged; the run itself will say so.
        }
      }
      if (start < length) parts.push(Buffer.from(chunk.subarray(start, length)));
    }
    return values;
  }
}
