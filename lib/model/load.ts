/** From a name to a loaded model: folder, adapter, hub id or the embedded one. All checks come before the weights. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CftError } from '../errors.js';
import type { NativeInfo, NativeModelSpec, NativeTensorEntry } from '../native/binding.js';
import { loadAddon, resolveDevice } from '../native/loader.js';
import { optionTable } from '../option-table.js';
import { type AdapterConfig, isAdapterFolder, readAdapterConfig, readAdapterTensors } from './adapter.js';
import { checkOptionNames, checkSignal, expect } from './checks.js';
import { readConfig } from './config.js';
import { readEndTokenIds } from './generation-config.js';
import { sameBytes } from './hash.js';
import { type HubEvent, parseHubId, resolveHubModel } from './hub.js';
import { isFile, isFolder } from './json-file.js';
import { Model } from './model.js';
import { readWeights, weightFiles } from './safetensors.js';
import { expectedTensors, matchTensors } from './tensors.js';
import { Tokenizer } from './tokenizer.js';

export type LoadEvent =
  | HubEvent
  | {
      type: 'load';
      model: string;
      parameters: number;
      device: string;
      dtype: 'float32' | 'bfloat16';
    };

export interface LoadOptions {
  /** 'auto', 'cpu', 'cuda' or 'cuda:N'. */
  device?: string | undefined;
  /** 'auto': the weights' own on CUDA; on the CPU float32 below 50M parameters or where bf16 is slow. */
  dtype?: 'auto' | 'float32' | 'bfloat16' | undefined;
  /** CPU threads, for the whole process. */
  threads?: number | undefined;
  /** Branch, tag or commit of a hub model. */
  revision?: string | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((event: LoadEvent) => void) | undefined;
}

/** For `onProgress`: passes on what is heard of the hub. */
export const tellDownloads =
  (emit: (event: HubEvent) => void) =>
  (event: LoadEvent): void => {
    if (event.type !== 'load') emit(event);
  };

/** Lies at the same place seen from lib/model and from dist/model. */
const embeddedFolder = fileURLToPath(new URL('../../models/embedded', import.meta.url));

/** Below this many parameters float32 is as fast on a CPU, and exact. */
const smallModel = 50_000_000;

/** The local folder of a name, downloaded where it is a hub id. */
async function folderOf(name: string, options: LoadOptions, besides?: string): Promise<string> {
  if (name === 'embedded') return embeddedFolder;
  const beside = besides === undefined ? [] : [resolve(besides, name)];
  // "." means the folder that says so; other names are looked up as PEFT does first.
  const paths = name.startsWith('.') ? [...beside, resolve(name)] : [resolve(name), ...beside];
  for (const path of paths) {
    if (isFolder(path)) return path;
    if (existsSync(path)) {
      throw new CftError('ERR_CFT_BAD_MODEL', `${path}: expected a model folder, found a file`);
    }
  }
  const id = parseHubId(name, options.revision);
  if (id === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_MODEL',
      `${name}: expected a model folder or a hub id (org/name), found no such folder`,
    );
  }
  return resolveHubModel(id, options);
}

/** The base model's folder of an adapter. */
async function baseOf(folder: string, adapter: AdapterConfig, options: LoadOptions): Promise<string> {
  try {
    return await folderOf(adapter.base, { ...options, revision: adapter.baseRevision }, folder);
  } catch (error) {
    if (!(error instanceof CftError)) throw error;
    const place = join(folder, 'adapter_config.json');
    throw new CftError(error.code, `${place}: base_model_name_or_path: ${error.message}`, { cause: error });
  }
}

/** The dtype of weights and arithmetic, see LoadOptions.dtype. */
export function chooseDtype(
  wanted: 'auto' | 'float32' | 'bfloat16',
  device: string,
  entries: readonly Pick<NativeTensorEntry, 'dtype' | 'shape'>[],
  info: Pick<NativeInfo, 'fastBfloat16'>,
): 'float32' | 'bfloat16' {
  if (wanted !== 'auto') return wanted;
  const elements = (entry: { shape: number[] }) => entry.shape.reduce((product, size) => product * size, 1);
  const count = (chosen: readonly { shape: number[] }[]) =>
    chosen.reduce((sum, entry) => sum + elements(entry), 0);
  if (device === 'cpu') return count(entries) < smallModel || !info.fastBfloat16 ? 'float32' : 'bfloat16';
  // float16 is no dtype of ours; bfloat16 has its size.
  return 2 * count(entries.filter(({ dtype }) => dtype === 'F32')) > count(entries) ? 'float32' : 'bfloat16';
}

/** A tied model may store its output matrix all the same, but then it has to be the embedding. */
async function checkTiedHead(entries: readonly NativeTensorEntry[], head: NativeTensorEntry): Promise<void> {
  const embedding = entries.find(({ name }) => name === 'model.embed_tokens.weight') as NativeTensorEntry;
  if (head.dtype === embedding.dtype && (await sameBytes(head, embedding))) return;
  throw new CftError(
    'ERR_CFT_BAD_WEIGHTS',
    `${head.file}: lm_head.weight differs from model.embed_tokens.weight, but config.json ties them ` +
      '(tie_word_embeddings); set that to false to use both',
  );
}

/** @throws CftError ERR_CFT_BAD_OPTION naming the option, expected and found. */
function checkLoadOptions(name: unknown, options: LoadOptions): void {
  const what = 'a model folder, a hub id (org/name), or "embedded"';
  expect('ERR_CFT_BAD_OPTION', 'name of the model', name, typeof name === 'string' && name !== '', what);
  checkOptionNames(options, ['device', 'dtype', 'threads', 'revision', 'signal', 'onProgress'], 'loadModel');
  const check = (option: keyof LoadOptions, good: (value: never) => boolean, expected: string): void => {
    const value = options[option];
    if (value === undefined) return;
    expect('ERR_CFT_BAD_OPTION', option, value, good(value as never), expected);
  };
  const isText = (value: unknown) => typeof value === 'string' && value !== '';
  const { values: dtypes } = optionTable.dtype;
  check('device', isText, 'auto, cpu, cuda or cuda:N');
  check('dtype', (value) => dtypes.includes(value), `one of ${dtypes.join(', ')}`);
  const { min, max } = optionTable.threads;
  const isCount = (value: number) => Number.isInteger(value) && value >= min && value <= max;
  check('threads', isCount, `an integer from ${min} to ${max}`);
  check('revision', isText, 'a branch, tag or commit');
  check('onProgress', (value) => typeof value === 'function', 'a function');
  checkSignal(options.signal);
}

/**
 * Loads a model.
 * @param name a Hugging Face folder, a PEFT adapter folder, a hub id (`org/name`, `org/name@revision`), or 'embedded'.
 * @throws CftError naming file, field or tensor, expected and found; `signal.reason` when aborted.
 */
export async function loadModel(name: string, options: LoadOptions = {}): Promise<Model> {
  checkLoadOptions(name, options);
  const { signal, onProgress } = options;
  signal?.throwIfAborted();
  const folder = await folderOf(name, options);
  if (options.revision !== undefined && (name === 'embedded' || isFolder(resolve(name)))) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `revision (--revision): expected none for ${name}, which is no hub model, found "${options.revision}"`,
    );
  }
  const adapterConfig = isAdapterFolder(folder) ? readAdapterConfig(folder) : undefined;
  const modelFolder = adapterConfig === undefined ? folder : await baseOf(folder, adapterConfig, options);

  const config = readConfig(modelFolder);
  const { entries, tiedHead } = matchTensors(config, readWeights(modelFolder), modelFolder);
  if (tiedHead !== undefined) await checkTiedHead(entries, tiedHead);
  const adapter = adapterConfig && {
    tensors: readAdapterTensors(folder, adapterConfig, expectedTensors(config)),
    scale: adapterConfig.scale,
  };
  const tokenizerFolder = isFile(join(folder, 'tokenizer.json')) ? folder : modelFolder;
  const tokenizer = Tokenizer.load(tokenizerFolder, config.vocabSize);
  const endTokenIds = readEndTokenIds(modelFolder, config, tokenizer.eosTokenId);
  signal?.throwIfAborted();

  const addon = loadAddon();
  if (options.threads !== undefined) addon.setThreads(options.threads);
  const device = resolveDevice(addon, options.device ?? 'auto');
  const dtype = chooseDtype(options.dtype ?? 'auto', device, entries, addon.info());
  const { modelType: _, json: __, ...nativeConfig } = config;
  const spec: NativeModelSpec = {
    config: nativeConfig,
    tensors: entries,
    device,
    dtype,
    ...(adapter && { adapter }),
  };
  const native = await addon.loadModel(spec);
  if (signal?.aborted) {
    native.dispose();
    signal.throwIfAborted();
  }
  onProgress?.({ type: 'load', model: name, parameters: native.parameterCount, device, dtype });
  const files = weightFiles(modelFolder);
  if (adapter) files.push(join(folder, 'adapter_model.safetensors'));
  return new Model({
    name,
    addon,
    native,
    config,
    tokenizer,
    endTokenIds,
    modelFolder,
    tokenizerFolder,
    weightFiles: files,
  });
}
