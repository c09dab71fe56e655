/**
 * Headers of safetensors files, single and sharded, checked in full before anything is mapped: a file that passes
 * holds exactly the tensors it names, each of the size that its shape and dtype call for, end to end without holes.
 * Format: github.com/huggingface/safetensors (8 bytes little-endian header length N, N bytes of JSON, the data).
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { CftError } from '../errors.js';
import { Fields, isFile, isFolder, isObject, type JsonObject, readJsonObject, show } from './json-file.js';

/** Bits per element of every dtype that the format knows. */
const dtypeBits: Readonly<Record<string, number>> = {
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  I64: 64,
  U64: 64,
  F64: 64,
  C64: 64,
};

/** One tensor as its file's header describes it. */
export interface TensorHeader {
  name: string;
  file: string;
  dtype: string;
  shape: number[];
  /** From the start of the file, in bytes. */
  offset: number;
  byteLength: number;
}

/** Same bound as the reference implementation. */
const maxHeaderBytes = 100_000_000;

function bad(file: string, message: string): never {
  throw new CftError('ERR_CFT_BAD_WEIGHTS', `${file}: ${message}`);
}

/**
 * The keys at the top of a valid JSON object in order, duplicates included (JSON.parse keeps only the last).
 * Walks over strings and counts brackets.
 */
function topLevelKeys(json: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  for (let i = 0; i < json.length; i++) {
    const char = json[i];
    if (char === '{' || char === '[') depth++;
    else if (char === '}' || char === ']') depth--;
    else if (char === '"') {
      const start = i;
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      const end = i + 1;
      while (/\s/.test(json[i + 1] ?? '')) i++;
      if (depth === 1 && json[i + 1] === ':') keys.push(JSON.parse(json.slice(start, end)));
    }
  }
  return keys;
}

function readHeader(file: string): { header: JsonObject; dataStart: number; fileBytes: number } {
  let descriptor: number;
  try {
    // A fifo or device would block or never end, hence a regular file; symlinks to one are fine (the cache of the
    // hub is made of them).
    if (!isFile(file)) bad(file, 'expected a safetensors file, found no such file');
    descriptor = openSync(file, 'r');
  } catch (error) {
    if (error instanceof CftError) throw error;
    throw new CftError('ERR_CFT_BAD_WEIGHTS', `${file}: cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  try {
    const fileBytes = fstatSync(descriptor).size;
    if (fileBytes < 8) bad(file, `truncated: expected at least 8 bytes, found ${fileBytes}`);
    const prefix = Buffer.alloc(8);
    readSync(descriptor, prefix, 0, 8, 0);
    const length = prefix.readBigUInt64LE();
    if (length > BigInt(fileBytes - 8)) {
      bad(file, `truncated or not safetensors: header of ${length} bytes in a file of ${fileBytes} bytes`);
    }
    if (length > BigInt(maxHeaderBytes))
      bad(file, `header of ${length} bytes, expected at most ${maxHeaderBytes}`);
    const bytes = Buffer.alloc(Number(length));
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(descriptor, bytes, done, bytes.length - done, 8 + done);
      if (count === 0) bad(file, 'truncated: the header ends early');
      done += count;
    }
    let header: unknown;
    let text: string;
    try {
      text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
      header = JSON.parse(text);
    } catch (error) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${file}: header is not valid JSON: ${(error as Error).message}`,
        {
          cause: error,
        },
      );
    }
    if (!isObject(header)) bad(file, `header: expected a JSON object, found ${show(header)}`);
    const seen = new Set<string>();
    for (const key of topLevelKeys(text)) {
      if (seen.has(key)) bad(file, `header names tensor ${key} twice`);
      seen.add(key);
    }
    return { header, dataStart: 8 + Number(length), fileBytes };
  } finally {
    closeSync(descriptor);
  }
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function parseEntry(
  file: string,
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
): TensorHeader {
  if (!isObject(entry)) bad(file, `tensor ${name}: expected an object, found ${show(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  const bits = typeof dtype === 'string' && Object.hasOwn(dtypeBits, dtype) ? dtypeBits[dtype] : undefined;
  if (bits === undefined)
    bad(file, `tensor ${name}: unknown dtype ${show(dtype)}; known are ${Object.keys(dtypeBits).join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isSize))
    bad(file, `tensor ${name}: shape: expected a list of sizes, found ${show(shape)}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    bad(file, `tensor ${name}: data_offsets: expected two offsets, found ${show(offsets)}`);
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > dataBytes) {
    bad(
      file,
      `tensor ${name}: data_offsets [${begin}, ${end}] lie outside the ${dataBytes} bytes of data in the file`,
    );
  }
  const expectedBits = (shape as number[]).reduce((product, size) => product * size, bits);
  if (expectedBits !== (end - begin) * 8) {
    bad(
      file,
      `tensor ${name}: ${dtype} ${show(shape)} takes ${expectedBits / 8} bytes, data_offsets hold ${end - begin}`,
    );
  }
  return {
    name,
    file,
    dtype: dtype as string,
    shape: shape as number[],
    offset: dataStart + begin,
    byteLength: end - begin,
  };
}

/**
 * Reads and checks the header of one file.
 * @returns tensors in the order of their bytes.
 * @throws CftError ERR_CFT_BAD_WEIGHTS naming file, tensor, expected and found.
 */
export function readSafetensorsHeader(file: string): TensorHeader[] {
  const { header, dataStart, fileBytes } = readHeader(file);
  const dataBytes = fileBytes - dataStart;
  const tensors: TensorHeader[] = [];
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    tensors.push(parseEntry(file, name, entry, dataStart, dataBytes));
  }
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = dataStart;
  let before = 'the header';
  for (const tensor of tensors) {
    if (tensor.offset < end) bad(file, `tensor ${tensor.name} overlaps ${before}`);
    if (tensor.offset > end)
      bad(
        file,
        `${tensor.offset - end} bytes between ${before} and tensor ${tensor.name} belong to no tensor`,
      );
    end = tensor.offset + tensor.byteLength;
    before = `tensor ${tensor.name}`;
  }
  if (end !== fileBytes) {
    bad(file, `expected ${end} bytes from the header, found ${fileBytes}: the file is damaged`);
  }
  return tensors;
}

export const indexName = 'model.safetensors.index.json';

/**
 * A shard's name comes from the repository and is joined onto the folder: only a plain file name may pass. What the
 * name then points at, a file or the owner's symlink to one, is the owner's business.
 */
function checkShardName(index: string, tensor: string, shard: unknown): string {
  if (typeof shard !== 'string' || shard === '' || shard === '.' || /[/\\\0:]|\.\./.test(shard)) {
    throw new CftError(
      'ERR_CFT_BAD_WEIGHTS',
      `${index}: weight_map: ${tensor}: expected a plain file name, found ${show(shard)}`,
    );
  }
  return shard;
}

/** The shards that an index names. */
export function shardsOfIndex(index: string): { shards: string[]; shardOfTensor: Map<string, string> } {
  const fields = new Fields(readJsonObject(index, 'ERR_CFT_BAD_WEIGHTS'), index, 'ERR_CFT_BAD_WEIGHTS');
  const map = fields.object('weight_map') ?? fields.fail('weight_map', 'an object from tensors to files');
  if (Object.keys(map.values).length === 0) fields.fail('weight_map', 'at least one tensor');
  const shardOfTensor = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(map.values)) {
    shardOfTensor.set(tensor, checkShardName(index, tensor, shard));
  }
  return { shards: [...new Set(shardOfTensor.values())].sort(), shardOfTensor };
}

/** Weight files of a folder: model.safetensors, else the shards of its index. */
export function weightFiles(folder: string): string[] {
  const single = join(folder, 'model.safetensors');
  if (isFile(single)) return [single];
  const index = join(folder, indexName);
  if (isFile(index)) return shardsOfIndex(index).shards.map((shard) => join(folder, shard));
  if (!isFolder(folder)) throw new CftError('ERR_CFT_BAD_MODEL', `${folder}: no such folder`);
  for (const pickle of ['pytorch_model.bin', 'pytorch_model.bin.index.json', 'consolidated.00.pth']) {
    if (!isFile(join(folder, pickle))) continue;
    throw new CftError(
      'ERR_CFT_BAD_WEIGHTS',
      `${folder}: expected model.safetensors, found only ${pickle}; pickled weights can run code and are never ` +
        'read. Convert them with transformers: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)',
    );
  }
  throw new CftError(
    'ERR_CFT_BAD_WEIGHTS',
    `${folder}: expected model.safetensors or ${indexName}, found neither`,
  );
}

/**
 * All tensors of a model folder.
 * @throws CftError ERR_CFT_BAD_WEIGHTS where files, headers or index are damaged or disagree.
 */
export function readWeights(folder: string): TensorHeader[] {
  const files = weightFiles(folder);
  const tensors = files.flatMap(readSafetensorsHeader);
  const byName = new Map<string, TensorHeader>();
  for (const tensor of tensors) {
    const other = byName.get(tensor.name);
    if (other) bad(tensor.file, `tensor ${tensor.name} is also in ${other.file}`);
    byName.set(tensor.name, tensor);
  }
  const index = join(folder, indexName);
  if (!isFile(join(folder, 'model.safetensors')) && isFile(index)) {
    for (const [name, shard] of shardsOfIndex(index).shardOfTensor) {
      const found = byName.get(name)?.file;
      if (found !== join(folder, shard))
        bad(
          index,
          `weight_map puts tensor ${name} into ${shard}, ${found ? `it is in ${found}` : 'it is nowhere'}`,
        );
    }
  }
  return tensors;
}
