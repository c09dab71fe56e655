/** The files of one case in a temporary folder: job files, results, random weights. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export class CaseFiles implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'cft-bench-'));

  path(name: string): string {
    return join(this.folder, name);
  }

  write(name: string, value: unknown): string {
    const path = this.path(name);
    writeFileSync(path, JSON.stringify(value));
    return path;
  }

  read<T>(name: string): T {
    return JSON.parse(readFileSync(this.path(name), 'utf8')) as T;
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
