/** A side of a measurement as a process: starts it, talks to it in lines of JSON, says what it took. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CftError, type CftErrorCode, errorCodes } from '../errors.js';
import { boundSpinning } from '../native/loader.js';
import type { Greeting } from './protocol.js';
import { peakMemoryOf } from './quiet.js';

export interface SideCommand {
  name: string;
  program: string;
  args: readonly string[];
  /** Arguments after the job's path. */
  after?: readonly string[] | undefined;
  /** How to install what it needs, for when it is absent. */
  install?: string | undefined;
}

/** Our own side; this file lies beside it in lib/bench (run by tsx) and in dist/bench. */
export function ownSide(file: 'own-side' | 'train-side' = 'own-side'): SideCommand {
  const here = fileURLToPath(import.meta.url);
  const script = here.replace(/side(\.[jt]s)$/, `${file}$1`);
  return { name: 'cft-native', program: process.execPath, args: [...process.execArgv, script] };
}

/** The same threads and the same bounded spinning for everybody. */
function environment(threads: number): NodeJS.ProcessEnv {
  const env = { ...process.env, OMP_NUM_THREADS: String(threads), TOKENIZERS_PARALLELISM: 'false' };
  boundSpinning(env);
  return env;
}

type Reply = { type: string } & Record<string, unknown>;

export class Side {
  readonly name: string;
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort: () => void;
  readonly #lines: string[] = [];
  #wake: () => void = () => {};
  #ended: string | undefined;
  #errors = '';

  private constructor(command: SideCommand, child: ChildProcess, signal: AbortSignal | undefined) {
    this.name = command.name;
    this.pid = child.pid ?? -1;
    this.#child = child;
    this.#signal = signal;
    createInterface({ input: child.stdout! }).on('line', (line) => {
      this.#lines.push(line);
      this.#wake();
    });
    child.stderr!.on('data', (chunk: Buffer) => {
      this.#errors = (this.#errors + chunk.toString()).slice(-4000);
    });
    child.stdin!.on('error', () => {}); // told by `close`
    const end = (how: string) => {
      this.#ended ??= how;
      this.#wake();
    };
    child.once('error', (error) => end(error.message));
    child.once('close', (code, name) => end(name ?? `status ${code}`));
    this.#onAbort = () => this.kill();
    signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /**
   * Starts a side on a job.
   * @returns the side and its greeting, or why it is absent; then its process has ended.
   */
  static async start(
    command: SideCommand,
    jobFile: string,
    { threads, signal }: { threads: number; signal?: AbortSignal | undefined },
  ): Promise<{ side: Side; ready: Greeting & { type: 'ready' } } | { absent: string }> {
    signal?.throwIfAborted();
    const child = spawn(command.program, [...command.args, jobFile, ...(command.after ?? [])], {
      env: environment(threads),
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    const side = new Side(command, child, signal);
    try {
      const greeting = (await side.#next()) as Greeting | undefined;
      if (greeting?.type === 'ready') return { side, ready: greeting };
      if (greeting?.type === 'absent') {
        await side.end();
        return { absent: greeting.reason };
      }
      if (greeting !== undefined) throw side.#refusal(greeting);
      if (child.pid === undefined) return { absent: `${command.program} does not start: ${side.#ended}` };
      throw side.#failure();
    } catch (error) {
      side.kill();
      throw error;
    }
  }

  /** The next line; undefined once the process has ended. */
  async #next(): Promise<Reply | undefined> {
    while (this.#lines.length === 0) {
      if (this.#ended !== undefined) {
        this.#signal?.throwIfAborted();
        return undefined;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const line = this.#lines.shift()!;
    try {
      return JSON.parse(line) as Reply;
    } catch {
      throw new CftError(
        'ERR_CFT_INTERNAL',
        `${this.name}: expected a line of JSON, found "${line.slice(0, 200)}"`,
      );
    }
  }

  #failure(): CftError {
    const last = this.#errors.trim().split('\n').slice(-12).join('\n');
    return new CftError(
      'ERR_CFT_IO',
      `${this.name} ended in mid-measurement (${this.#ended})${last ? `:\n${last}` : ''}`,
    );
  }

  /** What a side said instead of what it was asked for; our own side says our own errors. */
  #refusal(reply: object): CftError {
    const { code, message } = reply as { code?: unknown; message?: unknown };
    if (typeof code === 'string' && code in errorCodes)
      return new CftError(code as CftErrorCode, String(message));
    return new CftError('ERR_CFT_IO', `${this.name}: ${message ?? JSON.stringify(reply).slice(0, 200)}`);
  }

  /** Sends a request and waits for the reply. @throws CftError where the side fails; the signal's reason. */
  async ask<R extends { type: string }>(request: object): Promise<R> {
    this.#signal?.throwIfAborted();
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const reply = await this.#next();
    if (reply === undefined) throw this.#failure();
    if (reply.type === 'error') throw this.#refusal(reply);
    return reply as unknown as R;
  }

  /** High-water mark of resident memory so far, in bytes. */
  peakMemory(): number | undefined {
    return peakMemoryOf(this.pid);
  }

  /** Ends the process by closing its input; resolves when it is gone. */
  async end(): Promise<void> {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    if (this.#ended !== undefined) return;
    const closed = new Promise<void>((resolve) => this.#child.once('close', () => resolve()));
    this.#child.stdin!.end();
    // A peer's worker threads may outlive its work.
    const impatience = setTimeout(() => this.kill(), 10_000);
    await closed;
    clearTimeout(impatience);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
