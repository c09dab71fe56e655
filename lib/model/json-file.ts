/** Reading JSON files and their fields, with messages that name file, field, expected and found. */
import { readFileSync, type Stats, statSync } from 'node:fs';
import { CftError, type CftErrorCode, isSystemError } from '../errors.js';

export type JsonObject = Record<string, unknown>;

/** A value as it stands in a message: short JSON. */
export function show(value: unknown): string {
  const text =
    typeof value === 'number' || typeof value === 'bigint'
      ? String(value)
      : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    // A path through a file, a circle of links: there is nothing there.
    if (isSystemError(error) && ['ENOTDIR', 'ELOOP', 'ENAMETOOLONG'].includes(error.code as string))
      return undefined;
    throw new CftError('ERR_CFT_BAD_MODEL', `${path}: cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** True for a regular file, through symlinks. */
export const isFile = (path: string): boolean => statOf(path)?.isFile() ?? false;

export const isFolder = (path: string): boolean => statOf(path)?.isDirectory() ?? false;

/** Reads a text file as strict UTF-8. @throws CftError `code` where it is absent, unreadable or not UTF-8. */
export function readText(path: string, code: CftErrorCode): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const why = isSystemError(error) && error.code === 'ENOENT' ? 'no such file' : (error as Error).message;
    throw new CftError(code, `${path}: ${why}`, { cause: error });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new CftError(code, `${path}: expected UTF-8 text, found invalid bytes`, { cause: error });
  }
}

/** @throws CftError `code` unless the file holds one JSON object. */
export function readJsonObject(path: string, code: CftErrorCode): JsonObject {
  const text = readText(path, code);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CftError(code, `${path}: not valid JSON: ${(error as Error).message}`, { cause: error });
  }
  if (!isObject(value)) throw new CftError(code, `${path}: expected a JSON object, found ${show(value)}`);
  return value;
}

/** Typed access to the fields of one JSON object; absent and null are the same, as in transformers. */
export class Fields {
  /** @param place what messages call the object, e.g. the file's path. */
  constructor(
    readonly values: JsonObject,
    readonly place: string,
    readonly code: CftErrorCode = 'ERR_CFT_BAD_MODEL',
  ) {}

  has(name: string): boolean {
    return this.values[name] !== undefined && this.values[name] !== null;
  }

  fail(name: string, expected: string): never {
    const found = this.values[name];
    throw new CftError(
      this.code,
      `${this.place}: ${name}: expected ${expected}, found ${found === undefined ? 'nothing' : show(found)}`,
    );
  }

  /** An integer of at least `min` and at most `max`; `absent` where the field is missing, an error without it. */
  integer(
    name: string,
    { min = 1, max, absent }: { min?: number; max: number; absent?: number | undefined },
  ): number {
    if (!this.has(name) && absent !== undefined) return absent;
    const value = this.values[name];
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
      this.fail(name, `an integer from ${min} to ${max}`);
    return value;
  }

  /** A finite number above `above` and at most `max`. */
  number(
    name: string,
    {
      above = 0,
      max = Number.MAX_VALUE,
      absent,
    }: { above?: number; max?: number; absent?: number | undefined },
  ): number {
    if (!this.has(name) && absent !== undefined) return absent;
    const value = this.values[name];
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= above || value > max)
      this.fail(name, `a number above ${above}${max < Number.MAX_VALUE ? ` and at most ${max}` : ''}`);
    return value;
  }

  boolean(name: string, absent: boolean): boolean {
    if (!this.has(name)) return absent;
    const value = this.values[name];
    if (typeof value !== 'boolean') this.fail(name, 'true or false');
    return value;
  }

  string(name: string): string | undefined {
    if (!this.has(name)) return undefined;
    const value = this.values[name];
    if (typeof value !== 'string') this.fail(name, 'a text');
    return value;
  }

  object(name: string): Fields | undefined {
    if (!this.has(name)) return undefined;
    const value = this.values[name];
    if (!isObject(value)) this.fail(name, 'an object');
    return new Fields(value, `${this.place}: ${name}`, this.code);
  }
}
