/** What `cft-native doctor` finds out about this machine, with a remedy for each problem. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { arch, availableParallelism, cpus, freemem, homedir, release, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { type BuiltAddon, builtAddons, packageRoot, sourceHash } from './addon.mjs';
import { cacheFolder, findLibtorch, supportedVersions } from './libtorch.mjs';
import { explain, hasNvidiaDevice } from './loader.js';
import { probeAddon } from './probe.mjs';

export interface DoctorCheck {
  name: string;
  /** A note is worth knowing and stops nothing; a problem stops the CPU path or its set-up. */
  status: 'ok' | 'note' | 'problem';
  found: string;
  remedy?: string;
}

export interface DoctorReport {
  /** The CPU path works: a built addon loads. */
  ok: boolean;
  checks: DoctorCheck[];
}

const setupRemedy = 'npx cft-native setup';

/** First line of what `program` prints, or null where it is not there or fails. */
function ask(env: NodeJS.ProcessEnv, program: string, ...args: string[]): string | null {
  const run = spawnSync(program, args, { env, encoding: 'utf8', timeout: 20_000 });
  return run.status === 0 ? (run.stdout.trim().split('\n')[0] ?? '') : null;
}

const gigabytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GB`;

function folderBytes(folder: string): number {
  if (!existsSync(folder)) return 0;
  let total = 0;
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) total += statSync(join(entry.parentPath, entry.name)).size;
  return total;
}

function nodeChecks(env: NodeJS.ProcessEnv): DoctorCheck[] {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const recent = major > 20 || (major === 20 && minor >= 19);
  const npm = ask(env, 'npm', '--version');
  return [
    {
      name: 'Node',
      status: recent ? 'ok' : 'problem',
      found: process.version,
      ...(recent ? {} : { remedy: 'install Node 20.19 or newer' }),
    },
    { name: 'npm', status: npm ? 'ok' : 'note', found: npm ?? 'not on the PATH' },
  ];
}

/** What building and fetching need. Once the addon is there, a missing one is only a note. */
function toolChecks(env: NodeJS.ProcessEnv, built: boolean): DoctorCheck[] {
  const tool = (name: string, found: string | null, remedy: string): DoctorCheck =>
    found
      ? { name, status: 'ok', found }
      : { name, status: built ? 'note' : 'problem', found: 'not found', remedy: `to build: ${remedy}` };
  const compiler = env.CXX ?? 'c++';
  const ninja = ask(env, 'ninja', '--version');
  const python = ask(env, 'python3', '--version');
  const pip = ask(env, 'python3', '-m', 'pip', '--version');
  const ccache = ask(env, 'ccache', '--version');
  return [
    tool(
      'C++ compiler',
      ask(env, compiler, '--version'),
      'install g++ 12 or newer (Debian: apt install g++)',
    ),
    tool('CMake', ask(env, 'cmake', '--version'), 'install CMake 3.18 or newer (Debian: apt install cmake)'),
    tool(
      'make or ninja',
      ninja ? `ninja ${ninja}` : ask(env, 'make', '--version'),
      'install make (Debian: apt install make)',
    ),
    {
      name: 'Python and pip',
      status: python && pip ? 'ok' : 'note',
      found: [python ?? 'no python3', pip ? pip.replace(/ from .*/, '') : 'no pip'].join(', '),
      ...(pip ? {} : { remedy: 'only needed to fetch libtorch (Debian: apt install python3-pip)' }),
    },
    { name: 'ccache', status: ccache ? 'ok' : 'note', found: ccache ?? 'not found (rebuilds take longer)' },
  ];
}

function libtorchChecks(env: NodeJS.ProcessEnv, built: boolean): DoctorCheck[] {
  try {
    const { found, skipped } = findLibtorch(env);
    const notes = skipped.map((line): DoctorCheck => ({ name: 'libtorch', status: 'note', found: line }));
    if (found) {
      const cuda = found.cuda ? `, with CUDA ${found.cuda}` : '';
      const text = `${found.fullVersion}${cuda} (${found.source}): ${found.root}`;
      return [...notes, { name: 'libtorch', status: 'ok', found: text }];
    }
    const remedy = env.CFT_SKIP_DOWNLOAD
      ? 'CFT_SKIP_DOWNLOAD is set: set CFT_TORCH_ROOT, or unset it and run npx cft-native setup'
      : `${setupRemedy} (fetches it; supported are ${supportedVersions})`;
    return [...notes, { name: 'libtorch', status: built ? 'note' : 'problem', found: 'not found', remedy }];
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return [{ name: 'libtorch', status: 'problem', found, remedy: 'correct or unset CFT_TORCH_ROOT' }];
  }
}

/** Loads a binary in a child process and says how that went. */
function addonCheck(name: string, key: string, binary: string, env: NodeJS.ProcessEnv): DoctorCheck {
  const probe = probeAddon(binary, env);
  if ('problem' in probe)
    return {
      name,
      status: 'problem',
      found: `${key} does not load: ${probe.problem}`,
      remedy: explain(probe.problem),
    };
  const { info, devices } = probe;
  const speed = `${info.cpuCapability}${info.fastBfloat16 ? ', fast bf16' : ''}, ${info.threads} threads`;
  const gpus = info.flavour === 'cuda' ? `, ${devices.length} GPU${devices.length === 1 ? '' : 's'}` : '';
  return { name, status: 'ok', found: `${key} loads: libtorch ${info.libtorch}, ${speed}${gpus}` };
}

function addonChecks(env: NodeJS.ProcessEnv, addons: BuiltAddon[]): DoctorCheck[] {
  if (env.CFT_ADDON) return [addonCheck('addon (CFT_ADDON)', env.CFT_ADDON, resolve(env.CFT_ADDON), env)];
  if (addons.length > 0)
    return addons.map(({ flavour, key, binary }) => addonCheck(`addon (${flavour})`, key, binary, env));
  const found = `not built for these sources (${sourceHash()})`;
  return [{ name: 'addon', status: 'problem', found, remedy: setupRemedy }];
}

function cudaChecks(env: NodeJS.ProcessEnv, addons: BuiltAddon[]): DoctorCheck[] {
  const query = ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader'];
  const gpu = ask(env, 'nvidia-smi', ...query);
  const nvcc = spawnSync('nvcc', ['--version'], { env, encoding: 'utf8' });
  const version =
    nvcc.status === 0 ? (/release ([\d.]+)/.exec(nvcc.stdout)?.[1] ?? 'of unknown version') : null;
  const checks: DoctorCheck[] = [
    {
      name: 'GPU',
      status: gpu ? 'ok' : 'note',
      found:
        gpu ??
        (hasNvidiaDevice() ? 'there is one, but nvidia-smi fails' : 'none; everything runs on the CPU'),
    },
    {
      name: 'CUDA compiler',
      status: version ? 'ok' : 'note',
      found: version ? `nvcc ${version}` : 'no nvcc',
    },
  ];
  if (gpu && !addons.some((addon) => addon.flavour === 'cuda'))
    checks.push({
      name: 'CUDA flavour',
      status: 'note',
      found: 'not built, so the GPU is not used',
      remedy: version ? setupRemedy : `put nvcc 13.0 on the PATH, then ${setupRemedy}`,
    });
  return checks;
}

/** Instruction sets that libtorch's kernels and ours make use of. */
function instructionSets(): string {
  if (!existsSync('/proc/cpuinfo')) return 'unknown';
  const flags = new Set(
    /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [],
  );
  const useful = ['avx2', 'fma', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_bf16', 'amx_int8'];
  return useful.filter((name) => flags.has(name)).join(' ') || 'none of AVX2, AVX-512 and AMX';
}

function machineChecks(env: NodeJS.ProcessEnv): DoctorCheck[] {
  const cache = cacheFolder(env);
  const hub = env.HF_HOME ?? join(homedir(), '.cache', 'huggingface');
  const little = freemem() < 2 * 2 ** 30;
  const supported = process.platform === 'linux';
  return [
    {
      name: 'system',
      status: supported ? 'ok' : 'problem',
      found: `${process.platform} ${arch()} ${release()}`,
      ...(supported ? {} : { remedy: 'the addon builds on Linux only' }),
    },
    {
      name: 'processor',
      status: 'ok',
      found: `${cpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} cores`,
    },
    { name: 'instruction sets', status: 'ok', found: instructionSets() },
    {
      name: 'memory',
      status: little ? 'note' : 'ok',
      found: `${gigabytes(totalmem())}, ${gigabytes(freemem())} free`,
      ...(little ? { remedy: 'building needs about 2 GB per core' } : {}),
    },
    { name: 'cache', status: 'ok', found: `${cache} (${gigabytes(folderBytes(cache))})` },
    { name: 'Hugging Face cache', status: 'ok', found: existsSync(hub) ? hub : `${hub} (not there yet)` },
  ];
}

/** @param addons what is built, for tests */
export async function runDoctor(
  env: NodeJS.ProcessEnv = process.env,
  addons: BuiltAddon[] = builtAddons(env),
): Promise<DoctorReport> {
  const addon = addonChecks(env, addons);
  const ok = addon.some((check) => check.status === 'ok');
  const checks = [
    ...nodeChecks(env),
    ...toolChecks(env, ok),
    ...libtorchChecks(env, ok),
    ...addon,
    ...cudaChecks(env, addons),
    ...machineChecks(env),
  ];
  return { ok, checks };
}

/** The report as text for a terminal, one line per check and one per remedy. */
export function renderDoctor(report: DoctorReport): string {
  const marks = { ok: 'ok     ', note: 'note   ', problem: 'PROBLEM' };
  const width = Math.max(...report.checks.map((check) => check.name.length));
  const lines = report.checks.flatMap((check) => {
    const line = `${marks[check.status]}  ${check.name.padEnd(width)}  ${check.found}`;
    const indent = ' '.repeat(marks.ok.length + width + 4);
    return check.remedy ? [line, `${indent}-> ${check.remedy}`] : [line];
  });
  const verdict = report.ok
    ? 'The CPU path works.'
    : 'The CPU path does not work yet; see the problems above.';
  return [`cft-native in ${packageRoot}`, ...lines, verdict].join('\n');
}
