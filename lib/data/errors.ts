/** How this folder words its complaints: where it is, which field, what was expected and what was found. */
import { CftError, isSystemError } from '../errors.js';

/** A value as an error message shows it: its type and, where short, itself. */
export function describeValue(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return 'an object';
  if (typeof value === 'string') {
    if (value === '') return 'empty text';
    if (value.trim() === '') return 'only white space';
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  }
  return `${String(value)} (${typeof value})`;
}

export function badData(where: string, problem: string, cause?: unknown): CftError {
  return new CftError(
    'ERR_CFT_BAD_DATA',
    `${where}: ${problem}`,
    cause === undefined ? undefined : { cause },
  );
}

export function badField(where: string, field: string, expected: string, found: unknown): CftError {
  return badData(where, `field "${field}": expected ${expected}, found ${describeValue(found)}`);
}

/** Turns a failure to open or read `path` into an ERR_CFT_BAD_DATA that says why; other errors pass unchanged. */
export function readFailure(path: string, error: unknown): unknown {
  if (!isSystemError(error)) return error;
  const reasons: Record<string, string> = {
    ENOENT: 'there is no such file',
    EISDIR: 'expected a file, found a folder',
    ENOTDIR: 'a part of this path is not a folder',
    EACCES: 'no permission to read this file',
    EPERM: 'no permission to read this file',
  };
  return badData(path, reasons[error.code ?? ''] ?? `cannot be read (${error.message})`, error);
}
