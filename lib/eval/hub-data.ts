/** Files of a dataset repository of the Hugging Face hub, in the cache that Python's huggingface_hub uses. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CftError } from '../errors.js';
import { makeFolder, writeFileAtomic } from '../files.js';
import { commitPattern, Hub, link } from '../model/hub.js';
import { downloadBlob, type HubFile, networkReason } from '../model/hub-download.js';

export interface HubDataset {
  /** `org/name` */
  dataset: string;
  /** Paths of the wanted files in the repository. */
  files: RegExp;
}

/** Wanted files of the snapshot that refs/main names; none where it is not in the cache. */
function cachedFiles(repository: string, files: RegExp): string[] {
  const ref = join(repository, 'refs', 'main');
  if (!existsSync(ref)) return [];
  const snapshot = join(repository, 'snapshots', readFileSync(ref, 'utf8').trim());
  if (!existsSync(snapshot)) return [];
  return readdirSync(snapshot, { recursive: true })
    .map((path) => String(path).replaceAll('\\', '/'))
    .filter((path) => files.test(path))
    .sort()
    .map((path) => join(snapshot, path));
}

/** Files of a revision that are wanted, in the order of their names. */
async function wantedFiles(hub: Hub, dataset: string, commit: string, files: RegExp): Promise<HubFile[]> {
  const { listFiles } = await import('@huggingface/hub');
  const repo = { type: 'dataset', name: dataset } as const;
  const wanted: HubFile[] = [];
  for await (const { type, path, size, lfs, oid } of listFiles({
    repo,
    revision: commit,
    recursive: true,
    hubUrl: hub.endpoint,
    fetch: hub.fetch,
  })) {
    const etag = lfs?.oid ?? oid;
    if (type === 'file' && files.test(path) && etag !== undefined && /^[0-9a-f]{40,64}$/.test(etag))
      wanted.push({ path, bytes: lfs?.size ?? size, etag });
  }
  return wanted.sort((a, b) => (a.path < b.path ? -1 : 1));
}

async function download(
  hub: Hub,
  repository: string,
  { dataset, files }: HubDataset,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const { datasetInfo } = await import('@huggingface/hub');
  const { sha: commit } = await datasetInfo({
    name: dataset,
    revision: 'main',
    additionalFields: ['sha'],
    hubUrl: hub.endpoint,
    fetch: hub.fetch,
  });
  if (typeof commit !== 'string' || !commitPattern.test(commit))
    throw new CftError('ERR_CFT_DOWNLOAD', `${hub.endpoint}: expected the commit of ${dataset}, found none`);
  const wanted = await wantedFiles(hub, dataset, commit, files);
  if (wanted.length === 0)
    throw new CftError('ERR_CFT_DOWNLOAD', `${dataset}: expected files like ${files.source}, found none`);
  const paths: string[] = [];
  makeFolder(join(repository, 'blobs'));
  for (const file of wanted) {
    const blob = join(repository, 'blobs', file.etag);
    const url = `${hub.endpoint}/datasets/${dataset}/resolve/${commit}/${file.path.split('/').map(encodeURIComponent).join('/')}`;
    if (!existsSync(blob))
      await downloadBlob(url, file, blob, { fetch: hub.fetch, signal, onBytes: () => {} });
    const path = join(repository, 'snapshots', commit, file.path);
    link(blob, path);
    paths.push(path);
  }
  // Last, so that what refs/main names is complete.
  makeFolder(join(repository, 'refs'));
  writeFileAtomic(join(repository, 'refs', 'main'), commit);
  return paths;
}

/**
 * Paths of a dataset's files in the cache, downloaded where they are missing. With HF_HUB_OFFLINE, or where the hub
 * cannot be reached, what the cache has is used. Reads HF_ENDPOINT, HF_TOKEN, HF_HOME.
 * @throws CftError ERR_CFT_DOWNLOAD; `signal.reason`.
 */
export async function downloadDataset(wanted: HubDataset, signal?: AbortSignal): Promise<string[]> {
  signal?.throwIfAborted();
  const { getHFHubCachePath, getRepoFolderName } = await import('@huggingface/hub');
  const { dataset, files } = wanted;
  const repository = join(getHFHubCachePath(), getRepoFolderName({ type: 'dataset', name: dataset }));
  const cached = cachedFiles(repository, files);
  const isOffline = /^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? '');
  if (isOffline && cached.length > 0) return cached;
  const hub = new Hub(signal);
  const remedy = 'CFT_DATA_DIR may name a folder that has the benchmark (docs/evaluation.md)';
  if (isOffline) {
    throw new CftError(
      'ERR_CFT_DOWNLOAD',
      `${dataset} is not in the cache (${repository}), and HF_HUB_OFFLINE forbids downloading; ${remedy}`,
    );
  }
  try {
    return await download(hub, repository, wanted, signal);
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof CftError) throw error;
    if (cached.length > 0) return cached;
    throw new CftError(
      'ERR_CFT_DOWNLOAD',
      `${dataset} on ${hub.endpoint} cannot be read: ${networkReason(error)}; ${remedy}`,
      { cause: error },
    );
  }
}
