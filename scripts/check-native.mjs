// Checks of the C++ sources that no compiler makes: clang-format, and that the core knows nothing of Node-API.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, relative } from 'node:path';
import { packageRoot } from '../lib/native/addon.mjs';

const sources = readdirSync(join(packageRoot, 'native'), { recursive: true, withFileTypes: true })
  .filter(
    (entry) =>
      entry.isFile() && /\.(h|cc|cu|cuh)$/.test(entry.name) && !entry.parentPath.endsWith('third_party'),
  )
  .map((entry) => join(entry.parentPath, entry.name))
  .sort();

const clangFormat = createRequire(import.meta.url).resolve('clang-format');
const format = spawnSync(process.execPath, [clangFormat, '--dry-run', '--Werror', ...sources], {
  stdio: 'inherit',
});
if (format.status !== 0) process.exitCode = 1;

for (const file of sources.filter((path) => /native\/(core|kernels)\//.test(path)))
  if (/#include\s*[<"](napi|node_api)/.test(readFileSync(file, 'utf8'))) {
    console.error(`${relative(packageRoot, file)}: Node-API belongs in native/binding only`);
    process.exitCode = 1;
  }
if (!process.exitCode)
  console.error(`${sources.length} C++ files are in format; none of the core knows Node-API`);
