/** Test scripts in processes of their own, to be killed. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { projectRoot } from './data.js';

export interface KillAt {
  /** Number of the line of output, from 0. */
  event: number;
  /** Milliseconds after that line. */
  delay: number;
  /** Counts only lines of this text. */
  type?: string;
}

export interface ChildResult {
  killed: boolean;
  code: number | null;
  stderr: string;
}

/**
 * Runs `test/helpers/<script>` with tsx until it ends, or kills it with SIGKILL where `killAt` says.
 * @param shell runs the command through a shell, after these words (e.g. a ulimit).
 */
export async function runChild(
  script: string,
  args: readonly string[],
  { killAt, shell }: { killAt?: KillAt; shell?: string } = {},
): Promise<ChildResult> {
  const command = [process.execPath, '--import', 'tsx', `test/helpers/${script}`, ...args];
  const [program, ...rest] =
    shell === undefined ? command : ['bash', '-c', `${shell}; exec "$0" "$@"`, ...command];
  const child = spawn(program!, rest, { cwd: projectRoot, stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  let told = 0;
  createInterface(child.stdout).on('line', (line) => {
    if (killAt === undefined || (killAt.type !== undefined && killAt.type !== line)) return;
    if (told++ === killAt.event) setTimeout(() => child.kill('SIGKILL'), killAt.delay);
  });
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.once('close', (...result) => resolve(result)),
  );
  return { killed: signal === 'SIGKILL', code, stderr };
}
