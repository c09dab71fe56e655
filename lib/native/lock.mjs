// @ts-check
// A lock file between processes of one machine: it holds the owner's process id, and a dead owner's lock is taken over.
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** @param {number} id */
function alive(id) {
  try {
    process.kill(id, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/**
 * Puts a complete lock file in place or fails: a link, unlike open and write, never shows a half-written one.
 * @param {string} path
 */
function tryTake(path) {
  const own = `${path}.${process.pid}`;
  writeFileSync(own, String(process.pid));
  try {
    linkSync(own, path);
    return true;
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EEXIST') return false;
    throw error;
  } finally {
    unlinkSync(own);
  }
}

/** @param {string} path */
function owner(path) {
  try {
    return Number(readFileSync(path, 'utf8'));
  } catch {
    return null; // released just now
  }
}

/**
 * Removes a dead owner's lock. Whoever renames the file owns that copy, so of two waiters only one can remove it; if the
 * copy turns out to be somebody's new lock, it goes back.
 * @param {string} path
 * @param {number} dead
 */
function removeStale(path, dead) {
  const moved = `${path}.${process.pid}.stale`;
  try {
    renameSync(path, moved);
  } catch {
    return;
  }
  try {
    if (owner(moved) !== dead) linkSync(moved, path);
  } finally {
    rmSync(moved, { force: true });
  }
}

/**
 * Runs `work` while holding the lock at `path`; waits for another living process that holds it.
 * @template T
 * @param {string} path
 * @param {(line: string) => void} log
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withLock(path, log, work) {
  mkdirSync(dirname(path), { recursive: true });
  for (let announced = false; !tryTake(path); ) {
    const holder = owner(path);
    if (holder === null) continue;
    if (!alive(holder)) {
      removeStale(path, holder);
      continue;
    }
    if (!announced) log(`waiting for process ${holder}, which is at the same work (${path})`);
    announced = true;
    await sleep(200);
  }
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
  }
}
