/** SHA-256 of files, as run.json and annotations.meta.json record it. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFailure } from './errors.js';

/** Lower-case hexadecimal SHA-256 of the file's bytes, read in pieces. @throws CftError ERR_CFT_BAD_DATA */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      signal?.throwIfAborted();
      hash.update(chunk as Buffer);
    }
  } catch (error) {
    throw readFailure(path, error);
  }
  return hash.digest('hex');
}
