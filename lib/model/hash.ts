/** Bytes of weights and tokenizers: SHA-256 for the records, comparison of two stretches. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';

export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    signal?.throwIfAborted();
    hash.update(chunk);
  }
  return hash.digest('hex');
}

/**
 * One SHA-256 for several files: a single file's own; for more, the SHA-256 of the lines `<sha256>  <name>\n` in the
 * order given, which is what `sha256sum * | sha256sum` prints.
 */
export async function sha256OfFiles(paths: readonly string[], signal?: AbortSignal): Promise<string> {
  if (paths.length === 1) return sha256OfFile(paths[0] as string, signal);
  const hash = createHash('sha256');
  for (const path of paths) hash.update(`${await sha256OfFile(path, signal)}  ${basename(path)}\n`);
  return hash.digest('hex');
}

interface Stretch {
  file: string;
  offset: number;
  byteLength: number;
}

export async function sameBytes(a: Stretch, b: Stretch): Promise<boolean> {
  if (a.byteLength !== b.byteLength) return false;
  const [left, right] = [await open(a.file), await open(b.file)];
  try {
    const size = 1 << 22;
    const [x, y] = [Buffer.alloc(size), Buffer.alloc(size)];
    for (let done = 0; done < a.byteLength; ) {
      const want = Math.min(size, a.byteLength - done);
      const first = await left.read(x, 0, want, a.offset + done);
      // Reads may come back short; compare what both have.
      const second = await right.read(y, 0, first.bytesRead, b.offset + done);
      const count = Math.min(first.bytesRead, second.bytesRead);
      if (count === 0 || x.compare(y, 0, count, 0, count) !== 0) return false;
      done += count;
    }
    return true;
  } finally {
    await left.close();
    await right.close();
  }
}
