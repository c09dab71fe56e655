/**
 * A process that dies between two writes, in this process: the functions of node:fs that change something are counted,
 * the chosen one does half of its work or none, and from there on every one of them fails, clean-up too.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

const names = [
  ...['copyFileSync', 'cpSync', 'fsyncSync', 'ftruncateSync', 'mkdirSync', 'openSync', 'renameSync'],
  ...['rmSync', 'rmdirSync', 'truncateSync', 'unlinkSync', 'writeFileSync', 'writeSync'],
] as const;
type Function = (...args: unknown[]) => unknown;

export class Crash extends Error {}

const changes = (name: string, args: unknown[]): boolean => name !== 'openSync' || (args[1] ?? 'r') !== 'r';

/** What is left of a call that the crash came into. */
function tear(name: string, original: Function, args: unknown[]): void {
  if (name === 'writeSync') {
    const [descriptor, bytes, offset = 0] = args as [number, Uint8Array, number?];
    original(descriptor, bytes, offset, Math.floor((bytes.length - offset) / 2));
  } else if (name === 'writeFileSync') {
    const [path, content] = args as [string, string | Buffer];
    original(path, content.slice(0, content.length / 2));
  }
}

/** Calls `onChange` with each change and its number, from 0, before it happens. @returns how many there were. */
async function watchChanges(
  onChange: (index: number, name: string, original: Function, args: unknown[]) => void,
  work: () => Promise<unknown>,
): Promise<{ count: number; error: unknown }> {
  const target = fs as unknown as Record<string, Function>;
  const originals = names.map((name) => [name, target[name]!] as const);
  let count = 0;
  for (const [name, original] of originals) {
    target[name] = (...args) => {
      if (changes(name, args)) onChange(count++, name, original, args);
      return original(...args);
    };
  }
  syncBuiltinESMExports();
  try {
    await work();
    return { count, error: undefined };
  } catch (error) {
    return { count, error };
  } finally {
    for (const [name, original] of originals) target[name] = original;
    syncBuiltinESMExports();
  }
}

/**
 * Runs `work` and crashes in the change number `at` (from 0).
 * @returns how many changes were begun; the crash came where that is more than `at`.
 */
export async function crashAt(at: number, work: () => Promise<unknown>): Promise<number> {
  const { count, error } = await watchChanges((index, name, original, args) => {
    if (index < at) return;
    if (index === at) tear(name, original, args);
    throw new Crash(`crash in ${name}`);
  }, work);
  if (error !== undefined && count <= at) throw error;
  return count;
}

const needsSpace = (name: string): boolean => !/^(rm|unlink|ftruncate|truncate)/.test(name);

/**
 * Runs `work` on a disk that is full from the change number `at` on: what would need room fails, removing works.
 * @returns the error that ended the work; undefined where it came to its end before.
 */
export async function fillAt(at: number, work: () => Promise<unknown>): Promise<unknown> {
  const { error } = await watchChanges((index, name, original, args) => {
    if (index < at || !needsSpace(name)) return;
    tear(name, original, args);
    const full = { code: 'ENOSPC', errno: -28, syscall: name, path: String(args[0]) };
    throw Object.assign(new Error(`ENOSPC: no space left on device, ${name} '${args[0]}'`), full);
  }, work);
  return error;
}
