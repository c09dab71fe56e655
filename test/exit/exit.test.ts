/** How a process with the addon ends: in each way, promptly, with the right status, and never by a crash. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'ava';
import { projectRoot } from '../helpers/data.js';

interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** Milliseconds from the line `stepping` to the end. */
  afterStepping: number;
}

/** Runs test/helpers/exit-child.ts in a mode; `interruptAt` sends SIGINT when that line appears. */
async function end(mode: string, interruptAt?: string): Promise<Ending> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'test/helpers/exit-child.ts', mode], {
    cwd: projectRoot,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  let stepping = Number.NaN;
  let sent = false;
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
    if (Number.isNaN(stepping) && stdout.includes('stepping\n')) stepping = performance.now();
    if (interruptAt && !sent && stdout.includes(`${interruptAt}\n`)) {
      sent = true;
      setTimeout(() => child.kill('SIGINT'), 100);
    }
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout, stderr, afterStepping: performance.now() - stepping };
}

// The step would take many seconds; a decoding step of it takes milliseconds, even where the machine is busy.
const prompt = 4000;

for (const mode of ['load', 'idle', 'undisposed'])
  test.serial(`a process that falls off its end after '${mode}' ends with status 0`, async (t) => {
    t.like(await end(mode), { code: 0, signal: null, stderr: '' });
  });

for (const mode of ['exit', 'exit-training'])
  test.serial(`process.exit in mid-step ends at once with its status: ${mode}`, async (t) => {
    const ending = await end(mode);
    t.like(ending, { code: 7, signal: null, stderr: '', stdout: 'stepping\n' });
    t.true(ending.afterStepping < prompt, `${ending.afterStepping} ms`);
  });

test.serial('an uncaught exception in mid-step ends at once with status 1 and its message', async (t) => {
  const ending = await end('throw');
  t.like(ending, { code: 1, signal: null, stdout: 'stepping\n' });
  t.regex(ending.stderr, /Error: thrown in mid-step/);
  t.true(ending.afterStepping < prompt, `${ending.afterStepping} ms`);
});

test.serial('Ctrl-C in mid-step without a handler ends the process by the signal', async (t) => {
  const ending = await end('signal', 'stepping');
  t.like(ending, { code: null, signal: 'SIGINT', stderr: '' });
  t.true(ending.afterStepping < prompt, `${ending.afterStepping} ms`);
});

test.serial(
  'Ctrl-C with a handler interrupts the step, whose promise resolves with what it has',
  async (t) => {
    const ending = await end('handler', 'listening');
    t.like(ending, { code: 130, signal: null, stderr: '', stdout: 'stepping\nlistening\nstep done\n' });
    t.true(ending.afterStepping < prompt, `${ending.afterStepping} ms`);
  },
);

test.serial('worker threads load the addon and compute what the main thread does', async (t) => {
  t.like(await end('threads'), { code: 0, signal: null, stderr: '', stdout: 'equal\n' });
});

test.serial('a worker thread terminated in mid-step leaves the process working', async (t) => {
  t.like(await end('terminate'), { code: 0, signal: null, stderr: '', stdout: 'terminated\nstill works\n' });
});
