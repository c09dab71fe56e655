/** Which tokens end a response: generation_config.json, else config.json, else the tokenizer, as transformers does. */
import { join } from 'node:path';
import { CftError } from '../errors.js';
import { Fields, isFile, type JsonObject, readJsonObject } from './json-file.js';

function idsOf(fields: Fields, vocabSize: number): number[] | undefined {
  if (!fields.has('eos_token_id')) return undefined;
  const value = fields.values.eos_token_id;
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  if (ids.length === 0) return undefined;
  for (const id of ids) {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabSize)
      fields.fail('eos_token_id', `token ids below vocab_size (${vocabSize})`);
  }
  return [...new Set(ids as number[])];
}

/**
 * @param tokenizerEos the tokenizer's end token, where it has one.
 * @returns ascending ids, at least one.
 * @throws CftError ERR_CFT_BAD_MODEL where an id is not in the vocabulary or nothing names an end token.
 */
export function readEndTokenIds(
  folder: string,
  config: { json: JsonObject; vocabSize: number },
  tokenizerEos: number | undefined,
): Int32Array {
  const path = join(folder, 'generation_config.json');
  const generation = isFile(path)
    ? idsOf(new Fields(readJsonObject(path, 'ERR_CFT_BAD_MODEL'), path), config.vocabSize)
    : undefined;
  const ids =
    generation ??
    idsOf(new Fields(config.json, join(folder, 'config.json')), config.vocabSize) ??
    (tokenizerEos === undefined ? undefined : [tokenizerEos]);
  if (ids === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_MODEL',
      `${folder}: expected eos_token_id in generation_config.json or config.json, or eos_token in ` +
        'tokenizer_config.json, found none: no response would ever end',
    );
  }
  return Int32Array.from(ids).sort();
}
