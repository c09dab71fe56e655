/**
 * Models of the Hugging Face hub: `org/name` or `org/name@revision` into the cache that Python's huggingface_hub uses
 * (models--org--name with blobs, snapshots and refs), only the files that loading needs. Reads HF_HOME, HF_HUB_CACHE,
 * HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
 */
import { copyFileSync, existsSync, readFileSync, statfsSync, symlinkSync, unlinkSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { HubApiError, ListFileEntry } from '@huggingface/hub';
import { CftError, isSystemError } from '../errors.js';
import { makeFolder, writeFileAtomic } from '../files.js';
import { downloadBlob, type HubFile, networkReason } from './hub-download.js';
import { isFile } from './json-file.js';
import { indexName, shardsOfIndex } from './safetensors.js';

export interface HubId {
  name: string;
  revision: string;
}

export type HubEvent =
  | {
      type: 'download';
      model: string;
      file: string;
      /** Bytes of all files of this download, and how many of them are here. */
      receivedBytes: number;
      totalBytes: number;
    }
  | { type: 'note'; message: string };

export interface HubOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((event: HubEvent) => void) | undefined;
}

/** `org/name`, optionally with `@revision`; undefined for anything that cannot be a hub id. */
export function parseHubId(text: string, revision?: string): HubId | undefined {
  const part = '[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?';
  const match = new RegExp(`^(${part}/${part})(?:@([\\w./-]+))?$`).exec(text);
  const chosen = revision ?? match?.[2] ?? 'main';
  // The revision names a file below refs/.
  if (!match || chosen.split('/').some((step) => step === '' || step === '.' || step === '..'))
    return undefined;
  return { name: match[1] as string, revision: chosen };
}

export const commitPattern = /^[0-9a-f]{40}$/;

/** Small files; weights are chosen by what these say. */
const wantedNames = new Set([
  ...['config.json', 'generation_config.json', 'adapter_config.json', indexName],
  ...['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja'],
]);
const wanted = (path: string): boolean =>
  wantedNames.has(path) || /^additional_chat_templates\/[^/]+\.jinja$/.test(path);

/** True where a snapshot has everything that loading it needs. */
function isComplete(snapshot: string): boolean {
  const has = (name: string) => isFile(join(snapshot, name));
  if (has('adapter_config.json')) return has('adapter_model.safetensors');
  if (!has('config.json') || !has('tokenizer.json')) return false;
  if (has('model.safetensors')) return true;
  return has(indexName) && shardsOfIndex(join(snapshot, indexName)).shards.every(has);
}

/** Where a repository lies in the cache. */
async function repositoryFolder(id: HubId): Promise<string> {
  const { getHFHubCachePath, getRepoFolderName } = await hubLibrary();
  return join(getHFHubCachePath(), getRepoFolderName({ type: 'model', name: id.name }));
}

// Loaded at the first use: most runs never talk to the hub, and it takes 70 ms.
const hubLibrary = () => import('@huggingface/hub');

function cachedSnapshot(repository: string, { revision }: HubId): string | undefined {
  const ref = join(repository, 'refs', revision);
  const commit = commitPattern.test(revision)
    ? revision
    : isFile(ref)
      ? readFileSync(ref, 'utf8').trim()
      : undefined;
  if (commit === undefined || !commitPattern.test(commit)) return undefined;
  const snapshot = join(repository, 'snapshots', commit);
  return isComplete(snapshot) ? snapshot : undefined;
}

export class Hub {
  readonly endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  readonly #signal: AbortSignal | undefined;

  constructor(signal: AbortSignal | undefined) {
    this.#signal = signal;
  }

  /** Adds the token for the endpoint itself; a redirect to another host drops it. */
  readonly fetch: typeof fetch = (input, init) => {
    const headers = new Headers(init?.headers);
    const token = process.env.HF_TOKEN;
    const url = new URL(input instanceof Request ? input.url : input);
    if (token && url.origin === new URL(this.endpoint).origin)
      headers.set('authorization', `Bearer ${token}`);
    return fetch(input, { ...init, headers, ...(this.#signal && { signal: this.#signal }) });
  };

  url(id: HubId, commit: string, path: string): string {
    return `${this.endpoint}/${id.name}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
  }

  async commitOf(id: HubId): Promise<string> {
    const { modelInfo } = await hubLibrary();
    const info = await modelInfo({
      name: id.name,
      revision: id.revision,
      additionalFields: ['sha'],
      hubUrl: this.endpoint,
      fetch: this.fetch,
    });
    if (typeof info.sha !== 'string' || !commitPattern.test(info.sha))
      throw new CftError(
        'ERR_CFT_DOWNLOAD',
        `${this.endpoint}: expected the commit of ${id.name}, found none`,
      );
    return info.sha;
  }

  /** Files of the top folder and of additional_chat_templates. */
  async files(id: HubId, commit: string): Promise<HubFile[]> {
    const { listFiles } = await hubLibrary();
    const list = async (path?: string) => {
      const entries: ListFileEntry[] = [];
      const repo = { type: 'model', name: id.name } as const;
      const where = { repo, revision: commit, hubUrl: this.endpoint, fetch: this.fetch };
      for await (const entry of listFiles(path === undefined ? where : { ...where, path }))
        entries.push(entry);
      return entries;
    };
    const entries = await list();
    if (entries.some(({ type, path }) => type === 'directory' && path === 'additional_chat_templates'))
      entries.push(...(await list('additional_chat_templates')));
    return entries.flatMap(({ type, path, size, lfs, oid }) => {
      const etag = lfs?.oid ?? oid;
      return type === 'file' && etag !== undefined && /^[0-9a-f]{40,64}$/.test(etag)
        ? [{ path, bytes: lfs?.size ?? size, etag }]
        : [];
    });
  }
}

/** What the user reads when the hub says no. */
function refusal(hub: Hub, id: HubId, error: HubApiError): CftError {
  const status = error.statusCode;
  const remedy =
    status === 401 || status === 403
      ? 'it does not exist, is private or wants its licence accepted; set HF_TOKEN to a token that may read it ' +
        '(a local folder of this name does not exist either)'
      : status === 404
        ? 'no such model or revision (nor a local folder of this name)'
        : error.message;
  const message = `${id.name}@${id.revision} on ${hub.endpoint}: status ${status}: ${remedy}`;
  return new CftError('ERR_CFT_DOWNLOAD', message, { cause: error });
}

/** Weight files by what the repository has; the index is already here. */
function weightsOf(id: HubId, files: ReadonlyMap<string, HubFile>, snapshot: string): HubFile[] {
  const pick = (path: string): HubFile => {
    const file = files.get(path);
    if (file === undefined)
      throw new CftError(
        'ERR_CFT_DOWNLOAD',
        `${id.name}: ${indexName} names ${path}, which the repository lacks`,
      );
    return file;
  };
  const adapter = files.get('adapter_model.safetensors');
  if (files.has('adapter_config.json') && adapter) return [adapter];
  const single = files.get('model.safetensors');
  if (single) return [single];
  if (files.has(indexName)) return shardsOfIndex(join(snapshot, indexName)).shards.map(pick);
  throw new CftError(
    'ERR_CFT_DOWNLOAD',
    `${id.name}: expected model.safetensors or ${indexName}, found neither in the repository; pickled weights ` +
      'are never read',
  );
}

/** Puts a blob's name into the snapshot; relative, so that the cache can move. */
export function link(blob: string, pointer: string): void {
  makeFolder(dirname(pointer));
  if (existsSync(pointer)) return;
  try {
    unlinkSync(pointer);
  } catch {
    // Usually absent; a dangling link is replaced.
  }
  try {
    symlinkSync(relative(dirname(pointer), blob), pointer);
  } catch (error) {
    if (isSystemError(error) && error.code === 'EEXIST') return;
    // Windows without the right to make symlinks.
    if (!isSystemError(error) || error.code !== 'EPERM') throw error;
    copyFileSync(blob, pointer);
  }
}

async function downloadSnapshot(
  hub: Hub,
  id: HubId,
  commit: string,
  repository: string,
  { signal, onProgress }: HubOptions,
): Promise<string> {
  const snapshot = join(repository, 'snapshots', commit);
  const files = new Map((await hub.files(id, commit)).map((file) => [file.path, file]));
  makeFolder(join(repository, 'blobs'));

  const fetchFiles = async (batch: readonly HubFile[]) => {
    const blobOf = (file: HubFile) => join(repository, 'blobs', file.etag);
    const missing = batch.filter((file) => !isFile(blobOf(file)));
    const totalBytes = missing.reduce((sum, file) => sum + file.bytes, 0);
    const disk = statfsSync(repository);
    if (disk.bavail * disk.bsize < totalBytes) {
      throw new CftError(
        'ERR_CFT_IO',
        `${repository}: ${id.name} needs ${totalBytes} bytes, ${disk.bavail * disk.bsize} are free; ` +
          'HF_HUB_CACHE can name another place',
      );
    }
    let before = 0;
    for (const file of missing) {
      await downloadBlob(hub.url(id, commit, file.path), file, blobOf(file), {
        fetch: hub.fetch,
        signal,
        onBytes: (received) =>
          onProgress?.({
            type: 'download',
            model: id.name,
            file: file.path,
            receivedBytes: before + received,
            totalBytes,
          }),
      });
      before += file.bytes;
    }
    for (const file of batch) link(blobOf(file), join(snapshot, file.path));
  };

  await fetchFiles([...files.values()].filter(({ path }) => wanted(path)));
  await fetchFiles(weightsOf(id, files, snapshot));
  return snapshot;
}

/**
 * The folder of a hub model in the cache, downloaded where needed. With HF_HUB_OFFLINE, or where the hub cannot be
 * reached, what the cache has is used.
 * @throws CftError ERR_CFT_DOWNLOAD, ERR_CFT_IO; `signal.reason` when aborted.
 */
export async function resolveHubModel(id: HubId, options: HubOptions = {}): Promise<string> {
  const { signal, onProgress } = options;
  signal?.throwIfAborted();
  const repository = await repositoryFolder(id);
  const cached = cachedSnapshot(repository, id);
  if (/^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? '')) {
    if (cached !== undefined) return cached;
    throw new CftError(
      'ERR_CFT_DOWNLOAD',
      `${id.name}@${id.revision} is not complete in the cache (${repository}), and HF_HUB_OFFLINE forbids downloading`,
    );
  }
  // A commit never changes.
  if (cached !== undefined && commitPattern.test(id.revision)) return cached;
  const hub = new Hub(signal);
  try {
    const commit = await hub.commitOf(id);
    const snapshot =
      cachedSnapshot(repository, { ...id, revision: commit }) ??
      (await downloadSnapshot(hub, id, commit, repository, options));
    // Last, so that a revision in refs/ is a snapshot that is complete.
    if (id.revision !== commit) {
      const ref = join(repository, 'refs', id.revision);
      makeFolder(dirname(ref));
      writeFileAtomic(ref, commit);
    }
    return snapshot;
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof CftError) throw error;
    if (isSystemError(error)) {
      throw new CftError('ERR_CFT_IO', `${repository}: ${error.message}`, { cause: error });
    }
    const { HubApiError } = await hubLibrary();
    if (error instanceof HubApiError) throw refusal(hub, id, error);
    if (cached === undefined) {
      throw new CftError(
        'ERR_CFT_DOWNLOAD',
        `cannot reach ${hub.endpoint} for ${id.name}@${id.revision}: ${networkReason(error)}; it is not in the ` +
          `cache (${repository}) either`,
        { cause: error },
      );
    }
    onProgress?.({
      type: 'note',
      message: `${hub.endpoint} cannot be reached; ${id.name} comes from the cache`,
    });
    return cached;
  }
}

/** The folder of a hub model that the cache holds as a whole; undefined where it does not. Asks nobody. */
export async function cachedHubModel(id: HubId): Promise<string | undefined> {
  return cachedSnapshot(await repositoryFolder(id), id);
}
