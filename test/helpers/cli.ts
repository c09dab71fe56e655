/** Runs the command line as a user does, in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { projectRoot } from './data.js';

export interface CliResult {
  /** Null where a signal ended it. */
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface SignalAt {
  signal: 'SIGINT' | 'SIGKILL';
  /** In standard output. */
  pattern: RegExp;
  /** So many matches. Default 1. */
  times?: number;
  /** Signals, each so many milliseconds after the one before. Default: one at once. */
  delays?: number[];
}

export interface CliOptions {
  input?: string | Buffer;
  env?: Record<string, string>;
  cwd?: string;
  /** No file may grow beyond it: for disks that fill up. */
  mostFileBytes?: number;
  /** Called with all of standard output so far, at each piece of it; on a busy machine that may be seconds later. */
  onOutput?: (stdout: string, child: ChildProcess) => void;
  /** The process sends itself a signal, never late; a training waits a moment after each step that it tells. */
  signalAt?: SignalAt;
}

const mainFile = join(projectRoot, 'lib/cli/main.ts');
const signalAt = join(projectRoot, 'test/helpers/signal-at.mjs');

export async function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const tsx = join(projectRoot, 'node_modules/tsx/dist/loader.mjs');
  const { pattern, times = 1, signal: sent, delays = [] } = options.signalAt ?? {};
  const moment = { pattern: pattern?.source, times, signal: sent, delays };
  const watched = options.signalAt === undefined ? [] : ['--import', signalAt];
  const node = [process.execPath, '--import', tsx, ...watched, mainFile, ...args];
  // bash counts in blocks of 1024 bytes; Node ignores the signal, so that writing fails with EFBIG.
  const limit = Math.floor((options.mostFileBytes ?? 0) / 1024);
  const command = limit > 0 ? ['bash', '-c', `ulimit -f ${limit}; exec "$0" "$@"`, ...node] : node;
  const child = spawn(command[0]!, command.slice(1), {
    cwd: options.cwd ?? projectRoot,
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      CFT_DEBUG: '',
      FORCE_COLOR: '0',
      CFT_TEST_SIGNAL_AT: JSON.stringify(moment),
      ...options.env,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
    options.onOutput?.(stdout, child);
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  child.stdin.on('error', () => {}); // a command that does not read its input is no failure
  child.stdin.end(options.input ?? '');
  const [status, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { status, signal, stdout, stderr };
}

/** Objects of a command's --json output. */
export const jsonEvents = (stdout: string): Record<string, unknown>[] =>
  stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
