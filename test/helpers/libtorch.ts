/** Make-believe libtorch folders and a make-believe pip, for tests of the set-up. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';

/** A folder that looks like Python's torch. */
export function fakeTorch(root: string, version: string, cuda: string | null = null): string {
  const files: Record<string, string> = {
    'version.py': `from typing import Optional\n__version__ = '${version}'\ncuda: Optional[str] = ${cuda ? `'${cuda}'` : 'None'}\n`,
    'include/ATen/ATen.h': '',
    'lib/libtorch_cpu.so': '',
    'lib/libc10.so': '',
    ...(cuda ? { 'lib/libtorch_cuda.so': '', 'lib/libc10_cuda.so': '' } : {}),
  };
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), content);
  }
  return root;
}

/** The machine's python3, which the make-believe one calls to unpack wheels. */
export function realPython(): string {
  for (const folder of (process.env.PATH ?? '').split(delimiter))
    if (existsSync(join(folder, 'python3'))) return join(folder, 'python3');
  throw new Error('these tests need python3');
}

/** An executable file. */
export function script(path: string, body: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** Zips a folder into a wheel; `extra` is one more member's name. */
export function makeWheel(folder: string, wheel: string, extra?: string): void {
  const code = `
import os, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w") as archive:
    for base, _, names in os.walk(sys.argv[1]):
        for name in names:
            path = os.path.join(base, name)
            archive.write(path, os.path.relpath(path, sys.argv[1]))
    if len(sys.argv) > 3:
        archive.writestr(sys.argv[3], "x")
`;
  const run = spawnSync(realPython(), ['-c', code, folder, wheel, ...(extra ? [extra] : [])], {
    encoding: 'utf8',
  });
  if (run.status !== 0) throw new Error(run.stderr);
}

/**
 * An environment whose python3 has no torch and whose pip runs `download`, a shell script that gets pip's arguments
 * and the target folder in $target.
 */
export function withFakePip(folder: string, download: string): NodeJS.ProcessEnv {
  script(
    join(folder, 'bin', 'python3'),
    `case "$1 $2 $3" in
  "--version  ") exit 0 ;;
  "-m pip --version") exit 0 ;;
  "-m pip download")
    previous=""
    for argument in "$@"; do [ "$previous" = "-d" ] && target="$argument"; previous="$argument"; done
    ${download} ;;
  *find_spec*) exit 0 ;;
  *) exec ${realPython()} "$@" ;;
esac`,
  );
  return { PATH: `${join(folder, 'bin')}:/usr/bin:/bin`, HOME: folder, CFT_CACHE_DIR: join(folder, 'cache') };
}
