/**
 * Writing a model as a Hugging Face folder that transformers loads. The folder is built beside its place and renamed
 * at the end: it is there as a whole or not at all.
 */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { CftError, isSystemError } from '../errors.js';
import { makeFolder, syncFolder, writeFileAtomic } from '../files.js';
import type { NativeModel } from '../native/binding.js';
import { isFile, isFolder, type JsonObject } from './json-file.js';
import { indexName } from './safetensors.js';

/** What transformers calls "5GB". */
export const maxShardBytes = 5_000_000_000;

const tokenizerFiles = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
];
const templateFolder = 'additional_chat_templates';

export interface SaveSource {
  native: NativeModel;
  /** config.json as it was read. */
  configJson: JsonObject;
  /** Where generation_config.json comes from. */
  modelFolder: string;
  /** Where the tokenizer's files come from. */
  tokenizerFolder: string;
}

/** @throws CftError ERR_CFT_BAD_OUTPUT unless the folder is absent or empty. */
function checkTarget(folder: string): void {
  if (existsSync(folder) && !isFolder(folder))
    throw new CftError('ERR_CFT_BAD_OUTPUT', `${folder}: expected a folder to save into, found a file`);
  const inside = isFolder(folder) ? readdirSync(folder) : [];
  if (inside.length > 0) {
    throw new CftError(
      'ERR_CFT_BAD_OUTPUT',
      `${folder}: expected an empty or new folder to save into, found ${inside.length} entries (${inside[0]}, ...)`,
    );
  }
}

/** The config in its own dialect, with the dtype of the weights as they are written. */
function configFor(json: JsonObject, dtype: string): JsonObject {
  const name = 'torch_dtype' in json && !('dtype' in json) ? 'torch_dtype' : 'dtype';
  return { ...json, [name]: dtype };
}

interface Shards {
  files: { name: string; tensors: string[] }[];
  totalBytes: number;
}

/** Tensors in order, as many per file as fit. */
function planShards(native: NativeModel, limit: number): Shards {
  const bytesPerElement = native.dtype === 'float32' ? 4 : 2;
  const groups: string[][] = [[]];
  let bytes = 0;
  let totalBytes = 0;
  for (const name of native.tensorNames()) {
    const size = native.tensorShape(name).reduce((product, extent) => product * extent, bytesPerElement);
    if (bytes > 0 && bytes + size > limit) {
      groups.push([]);
      bytes = 0;
    }
    (groups.at(-1) as string[]).push(name);
    bytes += size;
    totalBytes += size;
  }
  const padded = (value: number) => String(value).padStart(5, '0');
  const files = groups.map((tensors, i) => ({
    name:
      groups.length === 1
        ? 'model.safetensors'
        : `model-${padded(i + 1)}-of-${padded(groups.length)}.safetensors`,
    tensors,
  }));
  return { files, totalBytes };
}

async function writeInto(folder: string, source: SaveSource, shardBytes: number): Promise<void> {
  const { native, modelFolder, tokenizerFolder } = source;
  const { files, totalBytes } = planShards(native, shardBytes);
  for (const { name, tensors } of files) await native.saveTensors(join(folder, name), tensors);
  const writeJson = (name: string, value: unknown) =>
    writeFileAtomic(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  if (files.length > 1) {
    const weightMap = Object.fromEntries(
      files.flatMap(({ name, tensors }) => tensors.map((tensor) => [tensor, name])),
    );
    writeJson(indexName, {
      metadata: { total_size: totalBytes },
      weight_map: weightMap,
    });
  }
  const copy = (from: string, name: string) => {
    if (isFile(join(from, name))) copyFileSync(join(from, name), join(folder, name));
  };
  copy(modelFolder, 'generation_config.json');
  for (const name of tokenizerFiles) copy(tokenizerFolder, name);
  if (isFolder(join(tokenizerFolder, templateFolder))) {
    cpSync(join(tokenizerFolder, templateFolder), join(folder, templateFolder), {
      recursive: true,
      dereference: true,
    });
  }
  writeJson('config.json', configFor(source.configJson, native.dtype));
  syncFolder(folder);
}

/**
 * @param shardBytes a file holds at most this much (unless one tensor is larger).
 * @throws CftError ERR_CFT_BAD_OUTPUT where the folder is not empty or cannot be made, ERR_CFT_IO where writing fails.
 */
export async function saveModel(
  target: string,
  source: SaveSource,
  shardBytes = maxShardBytes,
): Promise<void> {
  const folder = resolve(target);
  checkTarget(folder);
  let temporary: string;
  try {
    makeFolder(dirname(folder));
    temporary = join(dirname(folder), `.${basename(folder)}.${process.pid}.tmp`);
    rmSync(temporary, { recursive: true, force: true });
    mkdirSync(temporary);
  } catch (error) {
    throw new CftError('ERR_CFT_BAD_OUTPUT', `${folder}: cannot be written: ${(error as Error).message}`, {
      cause: error,
    });
  }
  try {
    await writeInto(temporary, source, shardBytes);
    checkTarget(folder);
    if (isFolder(folder)) rmdirSync(folder);
    renameSync(temporary, folder);
    syncFolder(dirname(folder));
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    if (!isSystemError(error)) throw error;
    throw new CftError('ERR_CFT_IO', `${folder}: saving the model failed: ${error.message}`, {
      cause: error,
    });
  }
}
