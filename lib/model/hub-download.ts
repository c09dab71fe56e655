/** One file of the hub into the blob store of the Hugging Face cache: resumed after interruptions, checked by hash. */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CftError, isSystemError } from '../errors.js';

export interface HubFile {
  /** Path in the repository. */
  path: string;
  bytes: number;
  /** SHA-256 of the content for large files, git's SHA-1 of the blob for the others; also the blob's name. */
  etag: string;
}

export interface DownloadContext {
  fetch: typeof fetch;
  signal?: AbortSignal | undefined;
  /** Bytes of this file that are there, resumed ones included. */
  onBytes(received: number): void;
}

/** A failure that another attempt may cure: the connection broke, the server was busy. */
class Retryable extends Error {
  constructor(
    message: string,
    options?: { cause?: unknown },
    /** Attempts after which it is final. */
    readonly attempts = 5,
  ) {
    super(message, options);
  }
}

const hashFor = (file: HubFile): Hash =>
  file.etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${file.bytes}\0`);

/** Hash of what an earlier attempt left, and its length; anything longer than the file is not ours. */
async function resumePoint(incomplete: string, file: HubFile): Promise<{ hash: Hash; offset: number }> {
  const size = await stat(incomplete).then(
    (found) => found.size,
    () => 0,
  );
  const hash = hashFor(file);
  if (size === 0 || size > file.bytes) return { hash, offset: 0 };
  let offset = 0;
  for await (const chunk of createReadStream(incomplete, { end: size - 1, highWaterMark: 1 << 20 })) {
    hash.update(chunk);
    offset += chunk.length;
  }
  return { hash, offset };
}

async function writeFully(handle: FileHandle, chunk: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    done += (await handle.write(chunk, done, chunk.length - done, position + done)).bytesWritten;
  }
}

async function request(url: string, offset: number, context: DownloadContext): Promise<Response> {
  let response: Response;
  try {
    response = await context.fetch(url, offset > 0 ? { headers: { range: `bytes=${offset}-` } } : {});
  } catch (error) {
    context.signal?.throwIfAborted();
    throw new Retryable(networkReason(error), { cause: error });
  }
  if (response.ok) return response;
  await response.body?.cancel();
  const status = `status ${response.status} ${response.statusText}`.trim();
  if (response.status === 429 || response.status >= 500 || response.status === 416)
    throw new Retryable(status);
  throw new CftError('ERR_CFT_DOWNLOAD', `${url}: ${status}`);
}

async function attempt(url: string, file: HubFile, blob: string, context: DownloadContext): Promise<void> {
  const incomplete = `${blob}.incomplete`;
  let { hash, offset } = await resumePoint(incomplete, file);
  const handle = await open(incomplete, offset > 0 ? 'r+' : 'w');
  try {
    if (offset < file.bytes) {
      const response = await request(url, offset, context);
      // A server that ignores the range sends everything again.
      if (offset > 0 && response.status !== 206) [hash, offset] = [hashFor(file), 0];
      context.onBytes(offset);
      try {
        // Positions are explicit, so that two processes on one file write the same bytes to the same places.
        for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
          context.signal?.throwIfAborted();
          await writeFully(handle, chunk, offset);
          hash.update(chunk);
          offset += chunk.length;
          if (offset > file.bytes) break;
          context.onBytes(offset);
        }
      } catch (error) {
        context.signal?.throwIfAborted();
        if (isSystemError(error) && error.syscall === 'write') throw error;
        throw new Retryable(networkReason(error), { cause: error });
      }
    }
    if (offset < file.bytes)
      throw new Retryable(`the connection ended after ${offset} of ${file.bytes} bytes`);
    if (offset > file.bytes || hash.digest('hex') !== file.etag) {
      await rm(incomplete, { force: true });
      throw new Retryable(
        offset > file.bytes
          ? `expected ${file.bytes} bytes, found more`
          : `expected the hash ${file.etag}, found another`,
        {},
        2,
      );
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(incomplete, blob).catch(async (error: unknown) => {
    // Another process may have finished the same file first.
    if (!(await stat(blob).catch(() => undefined))) throw error;
  });
}

/** The innermost message of a failed fetch ("connect ECONNREFUSED ..."), which undici buries. */
export function networkReason(error: unknown): string {
  let reason = error;
  while (reason instanceof Error && reason.cause instanceof Error) reason = reason.cause;
  return reason instanceof Error ? reason.message || reason.name : String(reason);
}

/**
 * Downloads `url` to `blob`, continuing `<blob>.incomplete` where an earlier call stopped.
 * @throws CftError ERR_CFT_DOWNLOAD after several attempts, ERR_CFT_IO where writing fails; `signal.reason`.
 */
export async function downloadBlob(
  url: string,
  file: HubFile,
  blob: string,
  context: DownloadContext,
): Promise<void> {
  for (let tried = 1; ; tried++) {
    try {
      return await attempt(url, file, blob, context);
    } catch (error) {
      context.signal?.throwIfAborted();
      if (isSystemError(error)) {
        throw new CftError('ERR_CFT_IO', `${blob}: cannot be written: ${error.message}`, { cause: error });
      }
      if (!(error instanceof Retryable)) throw error;
      if (tried >= error.attempts) {
        throw new CftError(
          'ERR_CFT_DOWNLOAD',
          `${url}: ${error.message}, after ${tried} attempts; the same command continues with what was received`,
          { cause: error },
        );
      }
      await sleep(250 * 2 ** tried, undefined, context.signal ? { signal: context.signal } : {}).catch(() =>
        context.signal?.throwIfAborted(),
      );
    }
  }
}
