/** Committed fixtures and temporary folders for tests. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { readSafetensorsHeader } from '../../lib/model/safetensors.js';
import { projectRoot } from './data.js';

/** Path of a committed fixture, e.g. `fixturePath('models/qwen2')`. */
export const fixturePath = (relative: string): string => join(projectRoot, 'test/fixtures', relative);

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, 'utf8')) as T;
}

/** A fresh folder that is removed when the test ends. */
export function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'cft-test-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of a fixture folder that the test may damage, removed when the test ends. */
export function copyOfFixture(t: ExecutionContext, relative: string): string {
  const folder = join(temporaryFolder(t), 'copy');
  cpSync(fixturePath(relative), folder, { recursive: true });
  return folder;
}

/** Rewrites a JSON file in place. */
export function editJson(path: string, edit: (value: Record<string, unknown>) => void): void {
  const value = readJson<Record<string, unknown>>(path);
  edit(value);
  writeFileSync(path, JSON.stringify(value, null, 2));
}

/** All float32 tensors of a safetensors file by name. */
export function readTensors(path: string): Map<string, Float32Array> {
  const bytes = readFileSync(path);
  return new Map(
    readSafetensorsHeader(path).map(({ name, offset, byteLength }) => [
      name,
      new Float32Array(bytes.buffer.slice(bytes.byteOffset + offset, bytes.byteOffset + offset + byteLength)),
    ]),
  );
}

/** max |a - b| / max |b|: how far `found` is from `expected`. */
export function relativeError(found: Float32Array, expected: Float32Array): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const gap = Math.abs(found[i]! - expected[i]!);
    // A NaN must not compare as small.
    if (!(gap <= difference)) difference = gap;
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return difference / largest;
}
