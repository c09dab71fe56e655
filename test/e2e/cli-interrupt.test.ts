/** Ctrl-C on the command line: once saves and says how to go on, twice quits at once. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type CliResult, runCli } from '../helpers/cli.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

/** Annotates with so many Ctrl-C once rollouts are under way. */
async function interrupted(
  t: ExecutionContext,
  times: number,
): Promise<{ result: CliResult; output: string }> {
  t.timeout(300_000);
  const output = join(temporaryFolder(t), 'run');
  const pattern = /"type":"progress","stage":"rollouts"/;
  // Two at once could be taken for one by the system.
  const delays = Array.from({ length: times }, (_, i) => 20 * i);
  const result = await runCli(['annotate', '--limit', '40', '--output', output, '--json'], {
    signalAt: { signal: 'SIGINT', pattern, delays },
  });
  return { result, output };
}

/** Runs the line that was printed for going on. */
async function goOn(t: ExecutionContext, args: readonly string[], output: string): Promise<void> {
  const again = await runCli(args);
  t.is(again.status, 0, again.stderr);
  t.is(readJson<{ status: string }>(join(output, 'run.json')).status, 'done');
  t.true(existsSync(join(output, 'annotations.jsonl')));
}

test('once: what is done is saved, and the line that goes on is printed and works', async (t) => {
  const { result, output } = await interrupted(t, 1);
  t.is(result.status, 130, result.stderr);
  t.regex(result.stderr, /\nstopping: saving what is done \(Ctrl-C again to quit at once\)\n/);
  const [, line] = /\ninterrupted; continue with:\n {2}npx cft-native (.*)\n$/.exec(result.stderr)!;
  t.is(line, `annotate --limit 40 --json --output ${output} --resume`);
  t.is(readJson<{ status: string }>(join(output, 'run.json')).status, 'interrupted');
  t.regex(result.stdout, /\{"type":"error","code":"INTERRUPTED","message":"interrupted"\}\n$/);
  await goOn(t, line!.split(' '), output);
});

test('twice: it quits at once, and the run can still be resumed', async (t) => {
  const { result, output } = await interrupted(t, 2);
  t.is(result.status, 130, result.stderr);
  t.is(result.signal, null);
  await goOn(t, ['annotate', '--limit', '40', '--output', output, '--resume'], output);
});
