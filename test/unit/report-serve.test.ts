/** The page served while a run goes on: to this machine's own pages alone. */
import { appendFileSync, cpSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { CftError } from '../../lib/errors.js';
import { RunReader } from '../../lib/report/collect.js';
import type { ReportData } from '../../lib/report/data.js';
import { report } from '../../lib/report/report.js';
import { reportApp, serveReport } from '../../lib/report/serve.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import { embeddedTokenizer, makeRun } from '../helpers/report-run.js';

interface Served {
  folder: string;
  url: URL;
  stop: () => Promise<void>;
}

async function start(t: ExecutionContext): Promise<Served> {
  const folder = makeRun(t);
  const controller = new AbortController();
  const reader = new RunReader(folder, { tokenizer: embeddedTokenizer });
  let ended: Promise<void> = Promise.resolve();
  const url = await new Promise<string>((resolve, reject) => {
    ended = serveReport(reader, { port: 0, signal: controller.signal, onListening: resolve });
    ended.catch(reject);
  });
  const stop = (): Promise<void> => {
    controller.abort();
    return ended;
  };
  t.teardown(stop);
  return { folder, url: new URL(url), stop };
}

interface Answer {
  status: number;
  headers: NodeJS.Dict<string | string[]>;
  text: string;
}

/** fetch would not let a Host header through. */
function ask(url: URL, path: string, headers: Record<string, string> = {}, method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = url;
    const sent = request({ hostname, port, path, method, headers }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, text }));
    });
    sent.on('error', reject);
    sent.end();
  });
}

test('it serves page and data on the loopback address, with the page policy', async (t) => {
  const { url } = await start(t);
  t.is(url.hostname, '127.0.0.1');
  const page = await ask(url, '/');
  t.is(page.status, 200);
  t.regex(page.text, /<html lang="en" data-live="events">/);
  t.regex(
    String(page.headers['content-security-policy']),
    /default-src 'none'.*connect-src 'self'.*frame-ancestors 'none'/,
  );
  t.is(page.headers['x-content-type-options'], 'nosniff');
  t.is(page.headers['cross-origin-resource-policy'], 'same-origin');
  t.is(page.headers['access-control-allow-origin'], undefined);
  const data = JSON.parse((await ask(url, '/data')).text) as ReportData;
  t.is(data.title, 'cft: 60.0 % → 70.0 % (95 % interval +5.0 to +15.0 points, better)');
  t.is((await ask(url, '/data', { host: `localhost:${url.port}`, origin: url.origin })).status, 200);
  t.is((await ask(url, '/other')).status, 404);
});

test('port 80 is asked for without its number', async (t) => {
  const reader = new RunReader(makeRun(t), { tokenizer: embeddedTokenizer });
  const status = async (port: number, host: string): Promise<number> =>
    (await reportApp(reader, () => port).request('/data', { headers: { host } })).status;
  t.is(await status(80, '127.0.0.1'), 200);
  t.is(await status(80, 'localhost'), 200);
  t.is(await status(81, '127.0.0.1'), 403);
  t.is(await status(80, 'attacker.example'), 403);
});

test('other hosts, origins, sites and methods are refused', async (t) => {
  const { url } = await start(t);
  const refused: [Record<string, string>, number, string?][] = [
    [{ host: 'attacker.example' }, 403],
    [{ host: `attacker.example:${url.port}` }, 403],
    [{ host: '127.0.0.1' }, 403], // another port
    [{ origin: 'http://attacker.example' }, 403],
    [{ origin: 'null' }, 403], // a sandboxed frame, or a file
    [{ origin: `https://127.0.0.1:${url.port}` }, 403],
    [{ 'sec-fetch-site': 'cross-site' }, 403],
    [{ 'sec-fetch-site': 'same-site' }, 403], // another port of this machine
    [{}, 405, 'POST'],
    [{}, 405, 'OPTIONS'],
  ];
  for (const path of ['/', '/data', '/events'])
    for (const [headers, status, method] of refused) {
      const answer = await ask(url, path, headers, method);
      t.is(answer.status, status, `${path} ${JSON.stringify(headers)} ${method}`);
      t.regex(answer.text, /^refused: /);
    }
});

test('a change of the run is told to every listener, and then to be read', async (t) => {
  t.timeout(60_000);
  const { folder, url, stop } = await start(t);
  const listen = async (): Promise<{ next: () => Promise<string> }> => {
    const response = await fetch(new URL('events', url));
    t.is(response.headers.get('content-type'), 'text/event-stream');
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    return { next: async () => (await reader.read()).value ?? 'end' };
  };
  const listeners = [await listen(), await listen()];
  for (const { next } of listeners) t.regex(await next(), /^event: beat\n/);
  appendFileSync(join(folder, 'metrics.jsonl'), '{"step": 21, "loss": 0.5, "learning_rate": 0}\n');
  for (const { next } of listeners) t.regex(await next(), /^event: change\n/);
  const { curves } = (await (await fetch(new URL('data', url))).json()) as ReportData;
  t.deepEqual(curves[0]!.series[0]!.points.at(-1), [21, 0.5]);
  await stop();
  await t.throwsAsync(fetch(url), undefined, 'it is gone, though listeners were there');
});

test('a file that is damaged in the meantime is an error by name, and serving goes on', async (t) => {
  const { folder, url } = await start(t);
  writeFileSync(join(folder, 'annotations.jsonl'), '{"response_token_ids": "no"}\n');
  const answer = await ask(url, '/data');
  t.is(answer.status, 500);
  t.regex(answer.text, /annotations\.jsonl:1: field/);
  rmSync(join(folder, 'annotations.jsonl'));
  t.is((await ask(url, '/data')).status, 200);
});

test('a taken port is refused by name', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => taken.once('listening', resolve));
  t.teardown(() => taken.close());
  const { port } = taken.address() as { port: number };
  const reader = new RunReader(makeRun(t), { tokenizer: embeddedTokenizer });
  await t.throwsAsync(serveReport(reader, { port }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: new RegExp(`^port \\(--port\\): 127\\.0\\.0\\.1:${port} cannot be used: .*EADDRINUSE`),
  });
});

test('watching may start before the run: it says so once, waits, and serves the run that begins', async (t) => {
  const made = makeRun(t);
  const folder = join(temporaryFolder(t), 'later');
  const waited: string[] = [];
  const controller = new AbortController();
  let ended: Promise<unknown> = Promise.resolve();
  const url = await new Promise<string>((resolve, reject) => {
    ended = report({
      run: folder,
      watch: true,
      port: 0,
      signal: controller.signal,
      onListening: resolve,
      onWaiting: (where) => {
        waited.push(where);
        setTimeout(() => cpSync(made, folder, { recursive: true }), 600);
      },
    });
    ended.catch(reject);
  });
  t.deepEqual(waited, [folder]);
  t.is((await ask(new URL(url), '/data')).status, 200);
  const reason = new Error('enough');
  controller.abort(reason);
  t.is(await ended.catch((error: unknown) => error), reason);
});

test('waiting for a run ends with the signal, and a file is no folder to wait for', async (t) => {
  const folder = temporaryFolder(t);
  const reason = new Error('enough');
  const controller = new AbortController();
  const waiting = report({
    run: join(folder, 'never'),
    watch: true,
    port: 0,
    signal: controller.signal,
    onWaiting: () => controller.abort(reason),
  });
  t.is(await waiting.catch((error: unknown) => error), reason);
  const file = join(folder, 'notes.txt');
  writeFileSync(file, '');
  const refused = await report({ run: file, watch: true, port: 0 }).catch((error: unknown) => error);
  t.is((refused as CftError).code, 'ERR_CFT_BAD_DATA');
});
