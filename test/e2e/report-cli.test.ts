/** `cft-native report` as one types it. */
import { existsSync, mkdirSync, readFileSync, renameSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { jsonEvents, runCli } from '../helpers/cli.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import { makeRun } from '../helpers/report-run.js';

/** Where there is none: reports need no addon. */
const env = { CFT_ADDON: '/nonexistent.node' };

test('it writes the page into the run folder, and with --charts PNG files, without the addon', async (t) => {
  t.timeout(120_000);
  const folder = makeRun(t);
  const result = await runCli(['report', folder, '--charts'], { env });
  t.is(result.status, 0, result.stderr);
  t.is(result.stderr, '');
  t.regex(result.stdout, /^report +.*report\.html \(\d\.\d MB, 4 responses\)\n/);
  t.regex(result.stdout, /\nmodel card +.*model\/README\.md\n$/);
  t.regex(
    readFileSync(join(folder, 'report.html'), 'utf8'),
    /<title>cft: 60\.0 % → 70\.0 % \(95 % interval \+5\.0 to \+15\.0 points, better\)<\/title>/,
  );
  for (const name of ['accuracy', 'loss', 'probe-loss', 'entropy', 'critical-by-kind', 'seconds']) {
    const png = readFileSync(join(folder, 'charts', `${name}.png`));
    t.is(png.toString('latin1', 1, 4), 'PNG', name);
    t.is(png.readUInt32BE(16), 1280, 'twice the width of the SVG');
    t.true(png.length > 5000, `${name}: ${png.length} bytes are too few for axes and labels`);
  }
  t.regex(
    readFileSync(join(folder, 'charts/accuracy.svg'), 'utf8'),
    /^<svg[^>]* xmlns="http:\/\/www\.w3\.org\/2000\/svg"/,
  );
});

test('--output, --limit and --json', async (t) => {
  t.timeout(120_000);
  const folder = makeRun(t);
  const path = join(temporaryFolder(t), 'page.html');
  const result = await runCli(['report', '--run', folder, '--output', path, '--limit', '2', '--json'], {
    env,
  });
  const [event, ...others] = jsonEvents(result.stdout);
  t.like(event!, { type: 'report', run: folder, path, responses: 4, charts: [] });
  t.deepEqual(others, []);
  t.true(existsSync(path));
  t.false(existsSync(join(folder, 'report.html')));
});

test('without a run it takes the newest in runs/; where there is none it says what it expected', async (t) => {
  t.timeout(120_000);
  const cwd = temporaryFolder(t);
  const none = await runCli(['report'], { env, cwd });
  t.is(none.status, 2);
  t.regex(none.stderr, /expected a run folder, found none given and none in runs\//);
  mkdirSync(join(cwd, 'runs/empty'), { recursive: true });
  for (const [name, time] of [
    ['old', 1000],
    ['new', 2000],
  ] as const) {
    renameSync(makeRun(t), join(cwd, 'runs', name));
    utimesSync(join(cwd, 'runs', name, 'run.json'), time, time);
  }
  const found = await runCli(['report'], { env, cwd });
  t.regex(found.stdout, /^report +runs\/new\/report\.html /);
});

test('what is no run folder is refused with exit status 2', async (t) => {
  t.timeout(120_000);
  const result = await runCli(['report', temporaryFolder(t)], { env });
  t.is(result.status, 2);
  t.regex(result.stderr, /^cft-native report: .*expected a run folder with run\.json/);
  const two = await runCli(['report', 'a', 'b'], { env });
  t.is(two.status, 2);
});

test('--watch prints the address, serves the page and ends well with Ctrl-C', async (t) => {
  t.timeout(120_000);
  let page: Promise<Response> | undefined;
  const result = await runCli(['report', makeRun(t), '--watch'], {
    env,
    onOutput: (stdout, child) => {
      page ??= fetch(stdout.trim()).finally(() => child.kill('SIGINT'));
    },
  });
  t.is(result.status, 0, result.stderr);
  t.regex(result.stdout, /^http:\/\/127\.0\.0\.1:\d+\/\n$/);
  t.is((await page!).status, 200);
});
