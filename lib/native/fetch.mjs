// @ts-check
// Fetches libtorch as Python's torch wheel with pip into the cache: no Python package is installed anywhere.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { cacheFolder, defaultVersion, inspectLibtorch, SetupError } from './libtorch.mjs';
import { withLock } from './lock.mjs';

/** @typedef {import('./addon.mjs').Flavour} Flavour */

// argv: wheel, folder. Takes what is compiled and linked against, and refuses a member that would leave the folder.
const unpackScript = `
import os, re, sys, zipfile
wheel, folder = sys.argv[1:]
wanted = re.compile(r"torch/(include/|lib/|version\\.py$)|torch\\.libs/|nvidia/|[^/]+\\.dist-info/METADATA$")
root = os.path.realpath(folder)
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        target = os.path.realpath(os.path.join(root, member.filename))
        if not target.startswith(root + os.sep):
            sys.exit("the wheel has a member outside its folder: " + member.filename)
        if wanted.match(member.filename):
            archive.extract(member, root)
`;

/** @param {number} bytes */
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {NodeJS.ProcessEnv} env */
function requirePip(env) {
  const python = spawnSync('python3', ['--version'], { env, stdio: 'ignore' });
  if (python.status !== 0)
    throw new SetupError(
      'libtorch was not found and cannot be fetched: python3 is not on the PATH. Install Python with pip, or set CFT_TORCH_ROOT to a libtorch folder.',
    );
  const pip = spawnSync('python3', ['-m', 'pip', '--version'], { env, stdio: 'ignore' });
  if (pip.status !== 0)
    throw new SetupError(
      'libtorch was not found and cannot be fetched: python3 has no pip. Install it (Debian: apt install python3-pip; elsewhere: python3 -m ensurepip), or set CFT_TORCH_ROOT to a libtorch folder.',
    );
}

/**
 * `pip download` into `folder`; pip's lines that name a file and its size are passed on.
 * @param {string[]} args
 * @param {string} folder
 * @param {NodeJS.ProcessEnv} env
 * @param {(line: string) => void} log
 * @returns {Promise<string | null>} null when done, else the end of what pip said
 */
async function pipDownload(args, folder, env, log) {
  const child = spawn(
    'python3',
    [
      '-m',
      'pip',
      'download',
      '--disable-pip-version-check',
      '--no-input',
      '--progress-bar',
      'off',
      '-d',
      folder,
      ...args,
    ],
    { env, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  /** @type {string[]} */
  const said = [];
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => {
      said.push(line);
      const file = line.match(/^\s*Processing (\S+\.whl)/)?.[1];
      if (/^\s*Downloading \S+\.whl .*\(/.test(line)) log(line.trim());
      else if (file && existsSync(file)) log(`Copying ${basename(file)} (${megabytes(statSync(file).size)})`);
    });
  const status = await new Promise((done) => {
    child.once('error', (error) => done(error.message));
    child.once('close', done);
  });
  return status === 0 ? null : said.slice(-8).join('\n');
}

/**
 * What a wheel's METADATA asks of NVIDIA's run-time libraries, less what is never loaded. libtorch_cpu of a CUDA wheel
 * itself needs cudart and cupti; the CUDA flavour needs everything that libtorch_cuda names.
 * @param {string} metadata
 * @param {Flavour} flavour
 */
export function runtimeRequirements(metadata, flavour) {
  const unused = flavour === 'cpu' ? /^(?!cudart$|cupti$)/ : /^(cusolver|nvtx)$/;
  return [...metadata.matchAll(/^Requires-Dist: ((?:cuda-toolkit|nvidia-)[^;\s]*)/gm)]
    .map((match) => /** @type {string} */ (match[1]))
    .filter((line) => flavour === 'cuda' || line.startsWith('cuda-toolkit'))
    .map((line) =>
      line.replace(
        /\[(.*)\]/,
        (_, extras) =>
          `[${extras
            .split(',')
            .filter((/** @type {string} */ name) => !unused.test(name))
            .join(',')}]`,
      ),
    );
}

/**
 * @param {string} folder with wheels, which are removed
 * @param {string} target
 * @param {NodeJS.ProcessEnv} env
 */
function unpackWheels(folder, target, env) {
  for (const name of readdirSync(folder)) {
    const wheel = join(folder, name);
    const run = spawnSync('python3', ['-c', unpackScript, wheel, target], { env, encoding: 'utf8' });
    if (run.status !== 0)
      throw new SetupError(`${name} could not be unpacked into ${target}: ${run.stderr.trim()}`);
    rmSync(wheel);
  }
}

/**
 * Downloads torch `version` into the cache and returns its folder. The CPU flavour takes whichever wheel pip prefers
 * for this machine; the CUDA flavour needs one with CUDA and fetches the libraries that it loads, unless it is only
 * compiled against (`load: false`).
 * @param {{ version?: string, flavour: Flavour, load?: boolean, env?: NodeJS.ProcessEnv, log: (line: string) => void }} options
 * @returns {Promise<string>} the torch folder
 */
export async function fetchLibtorch({
  version = defaultVersion,
  flavour,
  load = true,
  env = process.env,
  log,
}) {
  if (env.CFT_SKIP_DOWNLOAD)
    throw new SetupError(
      `libtorch was not found and CFT_SKIP_DOWNLOAD forbids fetching it. Unset it, install torch ${version} for python3, or set CFT_TORCH_ROOT to a libtorch folder.`,
    );
  requirePip(env);
  const store = join(cacheFolder(env), 'libtorch');
  return withLock(join(store, `fetch-${version}-${flavour}.lock`), log, async () => {
    const temporary = join(store, `.${version}.${process.pid}`);
    const wheels = join(temporary, 'wheels');
    mkdirSync(wheels, { recursive: true });
    try {
      log(`fetching torch==${version} with pip, without its Python dependencies, into ${store}`);
      const wanted = ['--no-deps', `torch==${version}`];
      let problem = await pipDownload(wanted, wheels, env, log);
      if (problem?.includes('No matching distribution')) {
        // A Python too old or too new for torch still has a pip that can fetch the wheel of another one.
        log('no wheel for this Python; asking for that of Python 3.12, whose libtorch is the same');
        const machine = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
        const other = [
          '--only-binary=:all:',
          '--python-version',
          '3.12',
          '--platform',
          `manylinux_2_28_${machine}`,
        ];
        problem = await pipDownload([...other, ...wanted], wheels, env, log);
      }
      if (problem !== null) throw new SetupError(`pip could not fetch torch==${version}:\n${problem}`);
      unpackWheels(wheels, temporary, env);
      const root = join(temporary, 'torch');
      const seen = inspectLibtorch(root);
      if ('problem' in seen) throw new SetupError(`pip fetched a torch that cannot be used: ${seen.problem}`);
      if (flavour === 'cuda' && !seen.cuda)
        throw new SetupError(
          `pip gave torch ${seen.fullVersion}, which has no CUDA; the CUDA flavour needs a CUDA wheel (CFT_TORCH_ROOT, or another index)`,
        );
      if (seen.cuda && load) {
        const info = /** @type {string} */ (
          readdirSync(temporary).find((name) => /^torch-.*\.dist-info$/.test(name))
        );
        const libraries = runtimeRequirements(
          readFileSync(join(temporary, info, 'METADATA'), 'utf8'),
          flavour,
        );
        log(
          `this torch has CUDA ${seen.cuda}: fetching the libraries that it loads (${libraries.join(' ')})`,
        );
        const failed = await pipDownload(libraries, wheels, env, log);
        if (failed !== null) throw new SetupError(`pip could not fetch ${libraries.join(' ')}:\n${failed}`);
        unpackWheels(wheels, temporary, env);
      }
      rmSync(wheels, { recursive: true });
      const folder = join(store, `${seen.fullVersion}-${load ? flavour : 'compile'}`);
      rmSync(folder, { recursive: true, force: true });
      renameSync(temporary, folder);
      return join(folder, 'torch');
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
  });
}
