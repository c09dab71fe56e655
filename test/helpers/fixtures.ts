/** Committed fixtures and temporary folders for tests. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
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
