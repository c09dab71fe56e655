import { closeSync, fsyncSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

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

/** Replaces `path` as a whole (temporary file, fsync, rename): a reader sees the old content or the new, never half. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  const descriptor = openSync(temporary, 'w');
  try {
    writeAll(descriptor, typeof content === 'string' ? Buffer.from(content, 'utf8') : content);
    fsyncSync(descriptor);
  } catch (error) {
    closeSync(descriptor);
    unlinkSync(temporary);
    throw error;
  }
  closeSync(descriptor);
  renameSync(temporary, path);
  syncFolder(dirname(path));
}

/** Appends whole lines to `path` and syncs; a torn last line can only come from a crash inside this call. */
export function appendLines(path: string, lines: readonly string[]): void {
  if (lines.length === 0) return;
  const descriptor = openSync(path, 'a');
  try {
    writeAll(descriptor, Buffer.from(`${lines.join('\n')}\n`, 'utf8'));
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
