/**
 * A run folder belongs to one command with one set of options, and to one process at a time. run.json says what made
 * it, so that a run that was interrupted, even by kill -9, can be continued by the same command and by no other.
 *
 *   using folder = RunFolder.open(output, { resume });   // checks and locks, before any slow work
 *   folder.begin(identity);                              // refuses another run's folder, writes run.json
 *   if (!folder.finished) { ...; folder.end('done'); }
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { CftError } from './errors.js';
import { makeFolder, writeFileAtomic } from './files.js';
import type { Command } from './option-table.js';
import { flagOf } from './options.js';
import type { AnnotationRecord, Question } from './types.js';

const recordName = 'run.json';
const lockName = 'run.lock';

export type RunStatus = 'running' | 'interrupted' | 'failed' | 'done';

/** Questions or annotations by their content: the name may change. */
export interface DataIdentity {
  name: string;
  sha256: string;
  questions: number;
}

/** What a run is: two runs with equal identities (but for what `mayDiffer` and names say) give the same files. */
export interface RunIdentity {
  command: Command;
  /** Every option as resolved, in camelCase. */
  options: Record<string, unknown>;
  seed: number;
  /** As resolved, e.g. `cpu`, `cuda:0`; only the kind must stay the same. */
  device: string;
  dtype: string;
  model: { name: string; weightsSha256: string; tokenizerSha256: string };
  data?: DataIdentity | undefined;
  /** Questions of an evaluation that are a source of their own. */
  evalData?: DataIdentity | undefined;
  libtorch: string;
}

/** run.json. */
export interface RunRecord {
  format: 'cft-run/1';
  command: Command;
  status: RunStatus;
  started: string;
  finished?: string;
  /** Why the run stopped, where it did not end well. */
  error?: string;
  seed: number;
  device: string;
  dtype: string;
  model: { name: string; weights_sha256: string; tokenizer_sha256: string };
  data?: DataIdentity;
  eval_data?: DataIdentity;
  options: Record<string, unknown>;
  /** The command that goes on with the run, where a command line began it. */
  resume_command?: string;
  versions: { cft_native: string; libtorch: string; node: string };
}

/** Options that say where things lie, not what is done; the content behind them is compared by its hash. */
const mayDiffer = new Set([
  ...['output', 'resume', 'model', 'revision', 'data', 'device', 'dtype'],
  ...['annotations', 'validationAnnotations', 'evalData'],
  // A checkpoint checks the threads that it was made with; to consent, or to spare room, is no other run.
  ...['threads', 'force', 'keepCheckpoints', 'gradientCheckpointing'],
  // Read after the responses are made, and of no influence on them.
  ...['trainData', 'against', 'trunks'],
]);

/** Version of this package. */
export const packageVersion: string = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

let commandLine: ((output: string) => string) | undefined;

/** What the command line tells of itself, for run.json: the command that goes on with a run in a folder. */
export function setResumeCommand(make: ((output: string) => string) | undefined): void {
  commandLine = make;
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const camelCase = (name: string): string => name.replace(/_([a-z])/g, (_, c: string) => c.toUpperCase());

/** Options under the names that files use; those that are undefined are left out. */
export function optionsForFile(options: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries.map(([name, value]) => [snakeCase(name), value]));
}

/** Item by item as a line of JSON. */
function hashLines(items: readonly unknown[]): string {
  const hash = createHash('sha256');
  for (const item of items) hash.update(`${JSON.stringify(item)}\n`);
  return hash.digest('hex');
}

/** Hash of what a run reads of its questions; two files with the same questions in the same order are the same data. */
export const hashQuestions = (questions: readonly Question[]): string =>
  hashLines(questions.map(({ id, question, answer }) => [id, question, answer]));

/** Hash of all that annotation records hold. */
export const hashRecords = (records: readonly AnnotationRecord[]): string => hashLines(records);

/** A path for a run that was given none: `runs/2026-01-31T23-59-58`, relative to the working directory. */
export function defaultRunFolder(now = new Date()): string {
  const name = join('runs', now.toISOString().slice(0, 19).replaceAll(':', '-'));
  for (let n = 1; ; n++) {
    const path = n === 1 ? name : `${name}-${n}`;
    if (!existsSync(path)) return path;
  }
}

function badOutput(message: string, cause?: unknown): CftError {
  return new CftError('ERR_CFT_BAD_OUTPUT', message, cause === undefined ? undefined : { cause });
}

/** When a process started, in ticks since boot, so that a process id that was given out again is not taken for it. */
function startOfProcess(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]; // field 22, see proc(5)
  } catch {
    return undefined; // no such process, or a system without /proc
  }
}

interface LockHolder {
  host: string;
  pid: number;
  start?: string;
}

function lives(holder: LockHolder): boolean {
  if (holder.host !== hostname()) return true; // cannot be looked up from here
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  const start = startOfProcess(holder.pid);
  return start === undefined || holder.start === undefined || start === holder.start;
}

/** Who holds the lock; undefined where nobody does or its process is gone. */
function readLock(path: string): LockHolder | undefined {
  try {
    const holder = JSON.parse(readFileSync(path, 'utf8')) as LockHolder;
    return lives(holder) ? holder : undefined;
  } catch {
    return undefined; // missing, or torn by a crash while it was written
  }
}

function takeLock(folder: string): void {
  const path = join(folder, lockName);
  const start = startOfProcess(process.pid);
  const own: LockHolder = { host: hostname(), pid: process.pid, ...(start === undefined ? {} : { start }) };
  for (let attempt = 0; ; attempt++) {
    try {
      writeFileSync(path, JSON.stringify(own), { flag: 'wx' });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
        throw badOutput(
          `${folder}: not writable: ${(error as Error).message}; choose another --output`,
          error,
        );
      }
    }
    const holder = readLock(path);
    if (holder !== undefined || attempt > 0) {
      const who = holder ? `process ${holder.pid} on ${holder.host}` : 'another process';
      throw badOutput(
        `${folder} is in use by ${who}; wait for it, choose another --output, or, if it no longer runs, delete ${path}`,
      );
    }
    rmSync(path, { force: true });
  }
}

/** Files that say nothing about a run: the lock, and what an interrupted atomic write left. */
const isLeftover = (name: string): boolean => name === lockName || /\.\d+\.tmp$/.test(name);

function listFolder(path: string): string[] | undefined {
  try {
    return readdirSync(path).filter((name) => !isLeftover(name));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    if (code === 'ENOTDIR') throw badOutput(`${path}: expected a folder, found a file`, error);
    throw badOutput(`${path}: cannot be read: ${(error as Error).message}`, error);
  }
}

function readRecord(path: string): RunRecord {
  let record: Partial<RunRecord>;
  try {
    record = JSON.parse(readFileSync(path, 'utf8')) as Partial<RunRecord>;
  } catch (error) {
    throw badOutput(`${path}: expected the record of a run, found ${(error as Error).message}`, error);
  }
  if (record.format !== 'cft-run/1' || typeof record.options !== 'object' || record.options === null) {
    throw badOutput(`${path}: expected format "cft-run/1", found ${JSON.stringify(record.format)}`);
  }
  return record as RunRecord;
}

/** How to go on with the run of a run.json: the command, where it holds one. */
function resumeHint(path: string): string {
  let command: unknown;
  try {
    command = readRecord(path).resume_command;
  } catch {
    // It is refused by name when it is resumed.
  }
  return typeof command === 'string' ? `"${command}"` : '--resume and the options that it was started with';
}

const kindOf = (device: string): string => device.split(':')[0] as string;
const show = (value: unknown): string => (value === undefined ? 'absent' : JSON.stringify(value));

const exact = ({ device, dtype }: { device: string; dtype: string }): boolean =>
  device === 'cpu' && dtype === 'float32';

/** One phrase per difference that makes it another run. */
function differences(before: RunRecord, now: RunRecord): string[] {
  const found: string[] = [];
  const compare = (name: string, a: unknown, b: unknown) => {
    if (JSON.stringify(a) !== JSON.stringify(b)) found.push(`${name} was ${show(a)}, is ${show(b)}`);
  };
  compare('command', before.command, now.command);
  for (const key of new Set([...Object.keys(before.options), ...Object.keys(now.options)])) {
    const name = camelCase(key);
    // Labels do not depend on the batch there (docs/decisions/0006), and who ran out of memory wants a smaller one.
    const free = mayDiffer.has(name) || (name === 'maxConcurrency' && exact(before) && exact(now));
    if (!free) compare(`${name} (${flagOf(name)})`, before.options[key], now.options[key]);
  }
  compare('device', kindOf(before.device), kindOf(now.device));
  compare('dtype', before.dtype, now.dtype);
  compare('seed', before.seed, now.seed);
  compare('model.weights_sha256', before.model?.weights_sha256, now.model.weights_sha256);
  compare('model.tokenizer_sha256', before.model?.tokenizer_sha256, now.model.tokenizer_sha256);
  compare('data.sha256', before.data?.sha256, now.data?.sha256);
  compare('eval_data.sha256', before.eval_data?.sha256, now.eval_data?.sha256);
  return found;
}

export class RunFolder implements Disposable {
  readonly path: string;
  /** True where the run was done before it was opened; nothing is to be changed then. */
  readonly finished: boolean;
  readonly #created: boolean;
  #locked = false;
  #record: RunRecord | undefined;
  #begun = false;

  private constructor(path: string, created: boolean, record: RunRecord | undefined) {
    this.path = path;
    this.finished = record?.status === 'done';
    this.#created = created;
    this.#record = record;
  }

  /**
   * Makes or opens the folder and locks it against other processes; cheap, so call it before anything slow.
   * With `resume` a missing or empty folder is a fresh start, a finished run is opened without being touched.
   * @throws CftError ERR_CFT_BAD_OUTPUT where the folder is not empty (without `resume`), not a run folder, in use by
   *   another process, or not writable.
   */
  static open(path: string, { resume = false }: { resume?: boolean | undefined } = {}): RunFolder {
    const full = resolve(path);
    const names = listFolder(full);
    let record: RunRecord | undefined;
    if (names !== undefined && names.length > 0) {
      const isRun = names.includes(recordName);
      if (!resume || !isRun) {
        const some = `${names.sort().slice(0, 3).join(', ')}${names.length > 3 ? `, ... (${names.length})` : ''}`;
        const remedy = isRun
          ? `continue it with ${resumeHint(join(full, recordName))} or choose another --output`
          : 'choose another --output';
        const what = resume ? 'a run folder (with run.json) or an empty one' : 'an empty or missing folder';
        throw badOutput(`${path}: expected ${what}, found ${some}; ${remedy}`);
      }
      record = readRecord(join(full, recordName));
    }
    const folder = new RunFolder(full, names === undefined, record);
    if (folder.finished) return folder;
    try {
      makeFolder(full);
    } catch (error) {
      throw badOutput(`${path}: not writable: ${(error as Error).message}; choose another --output`, error);
    }
    takeLock(full);
    folder.#locked = true;
    return folder;
  }

  /** Full path of a file in the folder. */
  file(...names: string[]): string {
    return join(this.path, ...names);
  }

  /**
   * Says what the run is. A fresh folder gets its run.json; an older one must have been made by the same run.
   * @throws CftError ERR_CFT_BAD_OUTPUT naming each differing field.
   */
  begin(identity: RunIdentity): void {
    const { command, seed, device, dtype, model, data, evalData } = identity;
    const now: RunRecord = {
      format: 'cft-run/1',
      command,
      status: 'running',
      started: new Date().toISOString(),
      seed,
      device,
      dtype,
      model: {
        name: model.name,
        weights_sha256: model.weightsSha256,
        tokenizer_sha256: model.tokenizerSha256,
      },
      ...(data ? { data } : {}),
      ...(evalData ? { eval_data: evalData } : {}),
      options: optionsForFile(identity.options),
      ...(commandLine ? { resume_command: commandLine(this.path) } : {}),
      versions: { cft_native: packageVersion, libtorch: identity.libtorch, node: process.version },
    };
    if (this.#record !== undefined) {
      const found = differences(this.#record, now);
      if (found.length > 0) {
        throw badOutput(
          `${this.path} holds a run that was started differently: ${found.join('; ')}. ` +
            `Resume it with ${resumeHint(this.file(recordName))}, or choose another --output`,
        );
      }
      now.started = this.#record.started;
      // Who goes on from another place or with other threads says so in the newer one.
      if (this.#record.resume_command !== undefined) now.resume_command ??= this.#record.resume_command;
    }
    this.#begun = true;
    if (!this.finished) this.#write(now);
  }

  /** Records how the run ended. The lock stays until the folder is disposed. */
  end(status: Exclude<RunStatus, 'running'>, error?: unknown): void {
    if (!this.#begun || this.finished || this.#record === undefined) return;
    this.#write({
      ...this.#record,
      status,
      ...(status === 'done' ? { finished: new Date().toISOString() } : {}),
      ...(error instanceof Error ? { error: error.message } : {}),
    });
  }

  /** Unlocks; a folder that was made for nothing is removed again. */
  [Symbol.dispose](): void {
    if (!this.#locked) return;
    this.#locked = false;
    rmSync(this.file(lockName), { force: true });
    if (!this.#created || this.#begun) return;
    try {
      rmdirSync(this.path);
    } catch {
      // Not empty: somebody put something there; it stays.
    }
  }

  #write(record: RunRecord): void {
    this.#record = record;
    writeFileAtomic(this.file(recordName), `${JSON.stringify(record, null, 2)}\n`);
  }
}
