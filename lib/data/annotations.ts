/**
 * Annotation files (annotations.jsonl and the meta file beside it), checked before anything is trained on them.
 * Our own files hold every field; those of other tools need `prompt_token_ids`, `response_token_ids` and one of
 * `critical_mask` and `token_weights`: the rest is filled (`id` by the line number, `end_token_id` by -1 for none,
 * texts and lists empty, `rollouts` 0).
 */
import { readFile } from 'node:fs/promises';
import { isSystemError } from '../errors.js';
import type { AlternativeRecord, AnnotationRecord, AnnotationsMeta, Verdict } from '../types.js';
import { badData, badField, describeValue, readFailure } from './errors.js';
import { readJsonLines } from './json-lines.js';

export interface ReadAnnotationsOptions {
  /** Token ids must be below it. */
  vocabSize?: number | undefined;
  signal?: AbortSignal | undefined;
}

type Fields = Record<string, unknown>;

/** Far above any weight that means something; sums of so many stay exact enough. */
const largestWeight = 1e6;

/** Reads and checks the fields of one record; `where` names it in messages. */
class RecordChecker {
  readonly #where: string;
  readonly #fields: Fields;
  readonly #vocabSize: number | undefined;

  constructor(where: string, fields: Fields, vocabSize: number | undefined) {
    this.#where = where;
    this.#fields = fields;
    this.#vocabSize = vocabSize;
  }

  bad(field: string, expected: string, found: unknown): Error {
    return badField(this.#where, field, expected, found);
  }

  text(field: string): string {
    const value = this.#fields[field] ?? '';
    if (typeof value !== 'string') throw this.bad(field, 'text', value);
    return value;
  }

  id(fallback: number): string {
    const value = this.#fields.id ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value)) return String(value);
    if (typeof value !== 'string' || value === '') throw this.bad('id', 'text or a number', value);
    return value;
  }

  integer(field: string, value: unknown, low: number, high: number, meaning: string): number {
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < low || value > high) {
      const range = high === Number.MAX_SAFE_INTEGER ? `from ${low}` : `from ${low} to ${high}`;
      throw this.bad(field, `${meaning} (an integer ${range})`, value);
    }
    return value;
  }

  tokenId(field: string, value: unknown, low = 0): number {
    const high = (this.#vocabSize ?? 2 ** 31) - 1;
    const meaning = this.#vocabSize === undefined ? 'a token id' : 'a token id of this vocabulary';
    return this.integer(field, value, low, high, meaning);
  }

  number(field: string, value: unknown, low: number, meaning: string): number {
    if (typeof value !== 'number' || !Number.isFinite(value) || value < low)
      throw this.bad(field, meaning, value);
    return value;
  }

  /** The trainer computes in float32: a weight must neither overflow nor vanish there. */
  weight(field: string, value: unknown): number {
    const good = typeof value === 'number' && value >= 0 && value <= largestWeight;
    if (!good || (value !== 0 && Math.fround(value) === 0))
      throw this.bad(field, `a weight of 0, or from 1e-38 to ${largestWeight}`, value);
    return value;
  }

  list<T>(field: string, optional: boolean, item: (name: string, value: unknown) => T): T[] {
    const value = this.#fields[field];
    if (value === undefined && optional) return [];
    if (!Array.isArray(value)) throw this.bad(field, 'a list', value);
    return value.map((entry, index) => item(`${field}[${index}]`, entry));
  }

  length(field: string, found: number, ...allowed: number[]): void {
    if (allowed.includes(found)) return;
    const expected = `${allowed.join(' or ')} values (one per response token)`;
    throw badData(this.#where, `field "${field}": expected ${expected}, found ${found}`);
  }
}

const verdicts: readonly Verdict[] = ['correct', 'incorrect', 'truncated'];

function checkAlternative(
  check: RecordChecker,
  name: string,
  value: unknown,
  response: readonly number[],
): AlternativeRecord {
  if (typeof value !== 'object' || value === null) throw check.bad(name, 'an object', value);
  const fields = value as Fields;
  const last = response.length - 1;
  const position = check.integer(`${name}.position`, fields.position, 0, last, 'a position in the response');
  const tokenId = check.tokenId(`${name}.token_id`, fields.token_id);
  if (tokenId === response[position]) {
    throw check.bad(
      `${name}.token_id`,
      `another token than the response's own at position ${position}`,
      tokenId,
    );
  }
  const { verdict, extracted, continuation } = fields;
  if (!verdicts.includes(verdict as Verdict))
    throw check.bad(`${name}.verdict`, verdicts.join(', '), verdict);
  if (extracted !== undefined && typeof extracted !== 'string')
    throw check.bad(`${name}.extracted`, 'text', extracted);
  if (continuation !== undefined && typeof continuation !== 'string') {
    throw check.bad(`${name}.continuation`, 'text', continuation);
  }
  return {
    position,
    rank: check.integer(`${name}.rank`, fields.rank, 2, Number.MAX_SAFE_INTEGER, 'a rank'),
    token_id: tokenId,
    logprob: check.number(`${name}.logprob`, fields.logprob, -Infinity, 'a finite number'),
    verdict: verdict as Verdict,
    ...(extracted === undefined ? {} : { extracted }),
    ...(continuation === undefined ? {} : { continuation }),
  };
}

function checkRecord(
  where: string,
  number: number,
  fields: Fields,
  vocabSize: number | undefined,
): AnnotationRecord {
  const check = new RecordChecker(where, fields, vocabSize);
  const prompt = check.list('prompt_token_ids', false, (name, value) => check.tokenId(name, value));
  if (prompt.length === 0) throw check.bad('prompt_token_ids', 'at least one token id', prompt);
  const response = check.list('response_token_ids', false, (name, value) => check.tokenId(name, value));
  const endTokenId = check.tokenId('end_token_id', fields.end_token_id ?? -1, -1);
  const logprobs = check.list('logprobs', true, (name, value) =>
    check.number(name, value, -Infinity, 'a finite number'),
  );
  if (fields.logprobs !== undefined) check.length('logprobs', logprobs.length, response.length);
  const record: AnnotationRecord = {
    id: check.id(number),
    question: check.text('question'),
    answer: typeof fields.answer === 'number' ? String(fields.answer) : check.text('answer'),
    response: check.text('response'),
    prompt_token_ids: prompt,
    response_token_ids: response,
    end_token_id: endTokenId,
    logprobs,
    alternatives: check.list('alternatives', true, (name, value) =>
      checkAlternative(check, name, value, response),
    ),
    rollouts: check.integer('rollouts', fields.rollouts ?? 0, 0, Number.MAX_SAFE_INTEGER, 'a count'),
  };
  const hasMask = fields.critical_mask !== undefined;
  if (hasMask === (fields.token_weights !== undefined)) {
    const found = hasMask
      ? 'both'
      : `neither among the fields ${Object.keys(fields).slice(0, 12).join(', ')}`;
    throw badData(where, `expected one of the fields "critical_mask" and "token_weights", found ${found}`);
  }
  if (hasMask) {
    record.critical_mask = check.list('critical_mask', false, (name, value) => {
      if (value !== 0 && value !== 1) throw check.bad(name, '0 or 1', value);
      return value;
    });
    check.length('critical_mask', record.critical_mask.length, response.length);
  } else {
    record.token_weights = check.list('token_weights', false, (name, value) => check.weight(name, value));
    if (endTokenId < 0 && record.token_weights.length === response.length + 1) {
      throw check.bad('end_token_id', 'an id, since token_weights has a value for the end token', undefined);
    }
    const longer = endTokenId >= 0 ? [response.length + 1] : [];
    check.length('token_weights', record.token_weights.length, response.length, ...longer);
  }
  return record;
}

/**
 * Reads and checks annotation records from a JSON Lines file or from memory, in order.
 *
 * @throws CftError ERR_CFT_BAD_DATA naming file, line, field, expected and found; the signal's reason when aborted.
 */
export async function readAnnotations(
  source: string | Iterable<unknown> | AsyncIterable<unknown>,
  { vocabSize, signal }: ReadAnnotationsOptions = {},
): Promise<AnnotationRecord[]> {
  signal?.throwIfAborted();
  const records: AnnotationRecord[] = [];
  const placeOfId = new Map<string, string>();
  const add = (where: string, record: AnnotationRecord): void => {
    const earlier = placeOfId.get(record.id);
    if (earlier !== undefined)
      throw badData(
        where,
        `field "id": expected distinct ids, found "${record.id}" again (first in ${earlier})`,
      );
    placeOfId.set(record.id, where);
    records.push(record);
  };
  if (typeof source === 'string') {
    for await (const { line, value } of readJsonLines(source, { signal })) {
      const where = `${source}:${line}`;
      add(where, checkRecord(where, line, value, vocabSize));
    }
  } else {
    let number = 0;
    for await (const value of source) {
      signal?.throwIfAborted();
      const where = `annotations (item ${++number})`;
      if (typeof value !== 'object' || value === null) {
        throw badData(where, `expected an annotation record, found ${describeValue(value)}`);
      }
      add(where, checkRecord(where, number, value as Fields, vocabSize));
    }
  }
  if (records.length === 0) {
    throw badData(
      typeof source === 'string' ? source : 'annotations',
      'expected at least one record, found none',
    );
  }
  return records;
}

/** Where the meta file of an annotation file lies: `annotations.jsonl` → `annotations.meta.json`. */
export function annotationsMetaPath(annotationsPath: string): string {
  return `${annotationsPath.replace(/\.jsonl$/i, '')}.meta.json`;
}

/** What a meta file must hold; other tools may leave out the rest. */
export type ReadAnnotationsMeta = Pick<AnnotationsMeta, 'format'> & Partial<AnnotationsMeta>;

/**
 * Reads the meta file beside an annotation file; undefined where there is none. Only its format and the types of the
 * fields that a reader acts on (the two hashes, `complete`) are checked.
 *
 * @throws CftError ERR_CFT_BAD_DATA
 */
export async function readAnnotationsMeta(annotationsPath: string): Promise<ReadAnnotationsMeta | undefined> {
  const path = annotationsMetaPath(annotationsPath);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return undefined;
    throw readFailure(path, error);
  }
  let meta: unknown;
  try {
    meta = JSON.parse(text);
  } catch (error) {
    throw badData(path, `expected JSON, found a broken file (${(error as Error).message})`, error);
  }
  if (typeof meta !== 'object' || meta === null || Array.isArray(meta)) {
    throw badData(path, `expected an object, found ${describeValue(meta)}`);
  }
  const fields = meta as Fields;
  if (fields.format !== 'cft-annotations/1')
    throw badField(path, 'format', '"cft-annotations/1"', fields.format);
  for (const field of ['weights_sha256', 'tokenizer_sha256']) {
    const value = fields[field];
    if (value !== undefined && typeof value !== 'string') throw badField(path, field, 'text', value);
  }
  const { complete } = fields;
  if (complete !== undefined && typeof complete !== 'boolean')
    throw badField(path, 'complete', 'true or false', complete);
  return meta as ReadAnnotationsMeta;
}
