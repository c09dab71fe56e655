/** What callers of the model's API hand over, checked before it reaches native code, which takes types for granted. */
import { CftError, type CftErrorCode } from '../errors.js';
import { nearest } from '../options.js';
import { isObject, show } from './json-file.js';

export function expect(
  code: CftErrorCode,
  name: string,
  value: unknown,
  good: boolean,
  expected: string,
): asserts good {
  if (good) return;
  throw new CftError(code, `${name}: expected ${expected}, found ${show(value)}`);
}

/** @throws CftError ERR_CFT_BAD_OPTION for a name that is not `known`, or where the options are no object. */
export function checkOptionNames(options: unknown, known: readonly string[], what: string): void {
  expect('ERR_CFT_BAD_OPTION', `options of ${what}`, options, isObject(options), 'an object');
  for (const name of Object.keys(options as object)) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    const hint = near === undefined ? `expected some of ${known.join(', ')}` : `did you mean "${near}"?`;
    throw new CftError('ERR_CFT_BAD_OPTION', `unknown option "${name}" for ${what}; ${hint}`);
  }
}

export function checkSignal(signal: unknown): void {
  const good = signal === undefined || signal instanceof AbortSignal;
  expect('ERR_CFT_BAD_OPTION', 'signal', signal, good, 'an AbortSignal');
}

/**
 * Token ids of a sequence as native code takes them.
 * @param name what messages call the sequence.
 * @throws CftError ERR_CFT_BAD_DATA where it is no list of ids of this vocabulary; Int32Array.from would round.
 */
export function checkTokenIds(value: unknown, name: string, vocabSize: number): Int32Array {
  const list = Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
  expect('ERR_CFT_BAD_DATA', name, value, list, 'a list of token ids');
  const ids = value as ArrayLike<unknown>;
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    const good = Number.isInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
    expect('ERR_CFT_BAD_DATA', name, id, good, `token ids below vocab_size ${vocabSize}`);
  }
  return Int32Array.from(ids as ArrayLike<number>);
}
