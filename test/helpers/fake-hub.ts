/** A hub on 127.0.0.1 that serves folders as repositories and misbehaves on request. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

export const commit = 'a1b2c3d4e5f60718293a4b5c6d7e8f9012345678';

export interface FakeHub {
  endpoint: string;
  /** `METHOD url range` of every request, in order. */
  requests: string[];
  /** Called before a file is sent; returning true means that it answered. */
  onFile: (path: string, request: IncomingMessage, response: ServerResponse) => boolean;
  /** Status of every answer instead, e.g. 401. */
  status: number | undefined;
  close(): Promise<void>;
}

/** git's name of a blob. */
const gitHash = (bytes: Buffer): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

export const etagOf = (path: string, bytes: Buffer): string =>
  path.endsWith('.safetensors') ? sha256(bytes) : gitHash(bytes);

/** Entries of a folder as the tree API lists them; weights are "large files". */
function tree(folder: string, below: string, recursive: boolean): unknown[] {
  return readdirSync(join(folder, below)).flatMap((name): unknown[] | unknown => {
    const path = below === '' ? name : `${below}/${name}`;
    if (statSync(join(folder, path)).isDirectory()) {
      const inner = recursive ? tree(folder, path, true) : [];
      return [{ type: 'directory', path, size: 0, oid: 'x' }, ...inner];
    }
    const bytes = readFileSync(join(folder, path));
    const large = name.endsWith('.safetensors');
    const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 130 };
    return { type: 'file', path, size: bytes.length, oid: gitHash(bytes), ...(large && { lfs }) };
  });
}

/** Sends a file, or the range of it that was asked for. */
export function sendFile(request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
  const from = /bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1];
  if (from === undefined) {
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
    return;
  }
  const start = Number(from);
  response
    .writeHead(206, {
      'content-length': bytes.length - start,
      'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}`,
    })
    .end(bytes.subarray(start));
}

function answer(
  hub: FakeHub,
  repositories: Record<string, string>,
  request: IncomingMessage,
  response: ServerResponse,
) {
  const { pathname, searchParams } = new URL(request.url ?? '/', hub.endpoint);
  hub.requests.push(
    `${request.method} ${pathname}${request.headers.range ? ` ${request.headers.range}` : ''}`,
  );
  const json = (status: number, value: unknown) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  if (hub.status !== undefined) return json(hub.status, { error: 'so be it' });
  const info = /^\/api\/(?:models|datasets)\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(pathname);
  const list = /^\/api\/(?:models|datasets)\/([^/]+\/[^/]+)\/tree\/([^/]+)\/?(.*)$/.exec(pathname);
  const file = /^\/(?:datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(pathname);
  const [, name, revision, path = ''] = info ?? list ?? file ?? [];
  const folder = name === undefined ? undefined : repositories[name];
  if (folder === undefined || !['main', 'v1', commit].includes(revision as string))
    return json(404, { error: 'Repository not found' });
  if (info) return json(200, { _id: '1', id: name, sha: commit, private: false, gated: false });
  if (list) return json(200, tree(folder, path, searchParams.get('recursive') === 'true'));
  if (hub.onFile(path, request, response)) return;
  sendFile(request, response, readFileSync(join(folder, path)));
}

/** Starts a hub and points HF_ENDPOINT and HF_HUB_CACHE at it until the test ends; such tests run serially. */
export async function startFakeHub(
  t: ExecutionContext,
  repositories: Record<string, string>,
  cache: string,
): Promise<FakeHub> {
  const server: Server = createServer((request, response) => answer(hub, repositories, request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const hub: FakeHub = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    onFile: () => false,
    status: undefined,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  const names = ['HF_ENDPOINT', 'HF_HUB_CACHE', 'HF_TOKEN', 'HF_HUB_OFFLINE'] as const;
  const before = names.map((name) => process.env[name]);
  for (const name of names) delete process.env[name];
  Object.assign(process.env, { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache });
  t.teardown(async () => {
    for (const [i, name] of names.entries()) {
      delete process.env[name];
      if (before[i] !== undefined) process.env[name] = before[i];
    }
    await hub.close();
  });
  return hub;
}
