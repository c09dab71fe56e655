import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CftError } from '../../lib/errors.js';
import { type HubEvent, parseHubId, resolveHubModel } from '../../lib/model/hub.js';
import { commit, etagOf, type FakeHub, startFakeHub } from '../helpers/fake-hub.js';
import { copyOfFixture, fixturePath, temporaryFolder } from '../helpers/fixtures.js';

const id = { name: 'org/tiny', revision: 'main' };
const weights = 'model.safetensors';

async function setUp(t: ExecutionContext, fixture = 'models/llama') {
  const cache = temporaryFolder(t);
  const source = copyOfFixture(t, fixture);
  // What other loaders need and this one must leave alone.
  writeFileSync(join(source, 'pytorch_model.bin'), 'pickle');
  writeFileSync(join(source, 'consolidated.safetensors'), Buffer.alloc(100));
  writeFileSync(join(source, 'README.md'), '# tiny');
  const hub = await startFakeHub(t, { 'org/tiny': source }, cache);
  const repository = join(cache, 'models--org--tiny');
  return { hub, source, repository, snapshot: join(repository, 'snapshots', commit) };
}

const downloads = (hub: FakeHub) =>
  hub.requests
    .filter((line) => line.includes('/resolve/'))
    .map((line) => line.replace(/^GET .*\/resolve\/[^/]+\//, ''));

test('hub ids', (t) => {
  t.deepEqual(parseHubId('Qwen/Qwen2.5-0.5B'), { name: 'Qwen/Qwen2.5-0.5B', revision: 'main' });
  t.deepEqual(parseHubId('a/b@v1.0'), { name: 'a/b', revision: 'v1.0' });
  t.deepEqual(parseHubId('a/b@v1.0', 'refs/pr/1'), { name: 'a/b', revision: 'refs/pr/1' });
  for (const text of [
    'a',
    'a/b/c',
    './a',
    '../a/b',
    '/a/b',
    'a/..',
    'a//b',
    'a b/c',
    'a/b@',
    'a/b@../x',
    'C:\\a/b',
  ])
    t.is(parseHubId(text), undefined, text);
  t.is(parseHubId('a/b', '../../x'), undefined);
});

test.serial('downloads what loading needs into the layout of the Hugging Face cache', async (t) => {
  const { hub, source, repository, snapshot } = await setUp(t);
  const events: HubEvent[] = [];
  t.is(await resolveHubModel(id, { onProgress: (event) => events.push(event) }), snapshot);
  t.deepEqual(readdirSync(snapshot).sort(), [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ]);
  for (const name of readdirSync(snapshot)) {
    const bytes = readFileSync(join(source, name));
    t.true(lstatSync(join(snapshot, name)).isSymbolicLink());
    t.is(readlinkSync(join(snapshot, name)), join('..', '..', 'blobs', etagOf(name, bytes)));
    t.deepEqual(readFileSync(join(snapshot, name)), bytes);
  }
  t.is(readFileSync(join(repository, 'refs', 'main'), 'utf8'), commit);
  const last = events.at(-1);
  const total = readFileSync(join(source, weights)).length;
  t.deepEqual(last, {
    type: 'download',
    model: 'org/tiny',
    file: weights,
    receivedBytes: total,
    totalBytes: total,
  });

  hub.requests.length = 0;
  t.is(await resolveHubModel(id), snapshot, 'the second time');
  t.deepEqual(downloads(hub), []);
  hub.requests.length = 0;
  t.is(await resolveHubModel({ ...id, revision: commit }), snapshot, 'a commit never changes');
  t.deepEqual(hub.requests, []);
  t.is(await resolveHubModel({ ...id, revision: 'v1' }), snapshot);
  t.deepEqual(downloads(hub), [], 'another name of the same commit');
  t.is(readFileSync(join(repository, 'refs', 'v1'), 'utf8'), commit);
});

test.serial('sharded models, additional templates and adapters', async (t) => {
  const { hub, source, snapshot } = await setUp(t, 'models/qwen3-sharded');
  mkdirSync(join(source, 'additional_chat_templates'));
  writeFileSync(join(source, 'additional_chat_templates', 'tool_use.jinja'), 'x');
  await resolveHubModel(id);
  t.deepEqual(
    downloads(hub).filter((name) => name.endsWith('.safetensors')),
    [
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
    ],
  );
  t.is(readFileSync(join(snapshot, 'additional_chat_templates', 'tool_use.jinja'), 'utf8'), 'x');

  const adapter = await setUp(t, 'models/qwen2-lora');
  await resolveHubModel(id);
  t.deepEqual(readdirSync(adapter.snapshot).sort(), ['adapter_config.json', 'adapter_model.safetensors']);
});

test.serial('a broken connection is resumed where it stopped', async (t) => {
  const { hub, source, snapshot } = await setUp(t);
  const bytes = readFileSync(join(source, weights));
  let cuts = 2;
  hub.onFile = (path, request, response) => {
    if (path !== weights || cuts-- <= 0) return false;
    const from = Number(/bytes=(\d+)/.exec(request.headers.range ?? 'bytes=0')?.[1]);
    response.writeHead(from === 0 ? 200 : 206, { 'content-length': bytes.length - from });
    response.write(bytes.subarray(from, from + 20_000), () => response.destroy());
    return true;
  };
  await resolveHubModel(id);
  t.deepEqual(readFileSync(join(snapshot, weights)), bytes);
  t.deepEqual(downloads(hub).slice(-3), [weights, `${weights} bytes=20000-`, `${weights} bytes=40000-`]);
});

test.serial('an aborted download keeps its bytes, and the next call continues', async (t) => {
  const { hub, source, repository, snapshot } = await setUp(t);
  const bytes = readFileSync(join(source, weights));
  const controller = new AbortController();
  const reason = new Error('enough');
  hub.onFile = (path, _request, response) => {
    if (path !== weights) return false;
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, 30_000));
    return true;
  };
  const onProgress = (event: HubEvent) => {
    if (event.type === 'download' && event.file === weights && event.receivedBytes >= 30_000)
      controller.abort(reason);
  };
  const error = await t.throwsAsync(resolveHubModel(id, { signal: controller.signal, onProgress }));
  t.is(error, reason);
  t.false(existsSync(join(repository, 'refs', 'main')));
  hub.onFile = () => false;
  hub.requests.length = 0;
  await resolveHubModel(id);
  t.deepEqual(downloads(hub), [`${weights} bytes=30000-`]);
  t.deepEqual(readFileSync(join(snapshot, weights)), bytes);
  await t.throwsAsync(resolveHubModel(id, { signal: AbortSignal.abort(reason) }), { is: reason });
});

test.serial('a server that ignores ranges, a damaged rest and a busy server are survived', async (t) => {
  const { hub, source, repository, snapshot } = await setUp(t);
  const bytes = readFileSync(join(source, weights));
  const incomplete = join(repository, 'blobs', `${etagOf(weights, bytes)}.incomplete`);
  mkdirSync(join(repository, 'blobs'), { recursive: true });
  writeFileSync(incomplete, Buffer.alloc(1000, 'damaged'));
  let busy = 1;
  hub.onFile = (path, _request, response) => {
    if (path !== weights) return false;
    if (busy-- > 0) response.writeHead(503).end();
    else response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
    return true;
  };
  await resolveHubModel(id);
  t.deepEqual(readFileSync(join(snapshot, weights)), bytes);

  // A damaged rest that the server continues is found by the hash, and the file starts anew.
  rmSync(snapshot, { recursive: true });
  rmSync(join(repository, 'blobs', etagOf(weights, bytes)));
  writeFileSync(incomplete, Buffer.alloc(1000, 'damaged'));
  hub.onFile = () => false;
  hub.requests.length = 0;
  await resolveHubModel(id);
  t.deepEqual(downloads(hub), [`${weights} bytes=1000-`, weights]);
  t.deepEqual(readFileSync(join(snapshot, weights)), bytes);
});

test.serial('a cache that is not complete is completed', async (t) => {
  const { hub, repository, snapshot } = await setUp(t, 'models/qwen3-sharded');
  await resolveHubModel(id);
  rmSync(join(snapshot, 'model-00002-of-00003.safetensors'));
  hub.requests.length = 0;
  await resolveHubModel(id);
  t.deepEqual(downloads(hub), [], 'the blob was still there');
  const blob = readdirSync(join(repository, 'blobs')).find((name) => name.length === 64) as string;
  rmSync(join(repository, 'blobs', blob));
  await resolveHubModel(id);
  t.is(downloads(hub).length, 1, 'a dangling link is filled again');
});

test.serial('offline, and with the hub out of reach, the cache serves', async (t) => {
  const { hub, repository, snapshot } = await setUp(t);
  process.env.HF_HUB_OFFLINE = '1';
  const missing = await t.throwsAsync(resolveHubModel(id), { instanceOf: CftError });
  t.is(
    missing?.message,
    `org/tiny@main is not complete in the cache (${repository}), and HF_HUB_OFFLINE forbids downloading`,
  );
  delete process.env.HF_HUB_OFFLINE;
  await resolveHubModel(id);
  hub.requests.length = 0;
  process.env.HF_HUB_OFFLINE = 'true';
  t.is(await resolveHubModel(id), snapshot);
  t.deepEqual(hub.requests, []);
  delete process.env.HF_HUB_OFFLINE;
  await hub.close();
  const events: HubEvent[] = [];
  t.is(await resolveHubModel(id, { onProgress: (event) => events.push(event) }), snapshot);
  t.deepEqual(events, [
    { type: 'note', message: `${hub.endpoint} cannot be reached; org/tiny comes from the cache` },
  ]);
  const error = await t.throwsAsync(resolveHubModel({ ...id, revision: 'v1' }), { instanceOf: CftError });
  t.is((error as CftError).code, 'ERR_CFT_DOWNLOAD');
  t.regex(
    error?.message as string,
    /^cannot reach http:\/\/127\.0\.0\.1:\d+ for org\/tiny@v1: connect ECONNREFUSED/,
  );
});

test.serial('the token goes to the endpoint, whatever its form', async (t) => {
  const { hub } = await setUp(t);
  process.env.HF_TOKEN = 'token-of-a-mirror';
  const seen = new Set<string | undefined>();
  hub.onFile = (_path, request) => {
    seen.add(request.headers.authorization);
    return false;
  };
  await resolveHubModel(id);
  t.deepEqual([...seen], ['Bearer token-of-a-mirror']);
});

const refusals: [string, (hub: FakeHub, source: string) => void, string, RegExp][] = [
  [
    'no such model',
    () => {},
    'org/other',
    /^org\/other@main on http\S+: status 404: no such model or revision/,
  ],
  [
    'a private or gated model',
    (hub) => {
      hub.status = 401;
    },
    'org/tiny',
    /status 401: it does not exist, is private or wants its licence accepted; set HF_TOKEN/,
  ],
  [
    'a repository with pickled weights only',
    (_hub, source) => rmSync(join(source, weights)),
    'org/tiny',
    /^org\/tiny: expected model\.safetensors or model\.safetensors\.index\.json, found neither .* pickled weights are never read/,
  ],
  [
    'a file that the hub refuses',
    (hub) => {
      hub.onFile = (path, _request, response) => {
        if (path === weights) response.writeHead(403).end();
        return path === weights;
      };
    },
    'org/tiny',
    /\/org\/tiny\/resolve\/\w+\/model\.safetensors: status 403 Forbidden/,
  ],
];

for (const [what, arrange, name, message] of refusals) {
  test.serial(`refused: ${what}`, async (t) => {
    const { hub, source } = await setUp(t);
    arrange(hub, source);
    const error = await t.throwsAsync(resolveHubModel({ name, revision: 'main' }), {
      instanceOf: CftError,
      message,
    });
    t.is((error as CftError).code, 'ERR_CFT_DOWNLOAD');
  });
}

test.serial('refused: content that never matches its hash', async (t) => {
  const { hub, repository } = await setUp(t);
  hub.onFile = (path, _request, response) => {
    if (path !== 'config.json') return false;
    response.writeHead(200).end(Buffer.alloc(readFileSync(fixturePath('models/llama/config.json')).length));
    return true;
  };
  const error = await t.throwsAsync(resolveHubModel(id), { instanceOf: CftError });
  t.regex(
    error?.message as string,
    /config\.json: expected the hash \w+, found another, after 2 attempts; the same command continues/,
  );
  t.deepEqual(readdirSync(join(repository, 'blobs')), [], 'nothing passes for a whole file');
});

test.serial('refused: a shard name that leaves the folder', async (t) => {
  const { source } = await setUp(t, 'models/qwen3-sharded');
  writeFileSync(join(source, 'model.safetensors.index.json'), '{"weight_map": {"a": "../../../evil"}}');
  await t.throwsAsync(resolveHubModel(id), {
    message: /weight_map: a: expected a plain file name, found "\.\.\/\.\.\/\.\.\/evil"/,
  });
});
