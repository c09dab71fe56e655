/**
 * The one error class of the package. `code` is stable and meant for programs; `message` is meant for people and
 * names the file, the field, what was expected and what was found.
 */
export const errorCodes = {
  /** Unknown or malformed option, flag or configuration value. */
  ERR_CFT_BAD_OPTION: 2,
  /** A question file, annotation file or other data that cannot be used as it is. */
  ERR_CFT_BAD_DATA: 2,
  /** A model folder, its config.json or tokenizer that cannot be used. */
  ERR_CFT_BAD_MODEL: 2,
  /** Weights that are damaged, of the wrong shape, or hold NaN. */
  ERR_CFT_BAD_WEIGHTS: 2,
  /** config.json asks for a feature that this decoder lacks. */
  ERR_CFT_UNSUPPORTED_MODEL: 2,
  /** The output folder cannot be used: not empty, not writable, of another run. */
  ERR_CFT_BAD_OUTPUT: 2,
  /** The asked-for device does not exist here. */
  ERR_CFT_NO_DEVICE: 2,
  /** libtorch or the addon is absent, of another version, or does not load. */
  ERR_CFT_NOT_BUILT: 2,
  /** A hub download failed or was refused. */
  ERR_CFT_DOWNLOAD: 1,
  /** Reading or writing failed in mid-work (full disk, lost permission). */
  ERR_CFT_IO: 1,
  /** Device or host memory ran out. */
  ERR_CFT_OUT_OF_MEMORY: 1,
  /** Nothing to train on: not one correct response or not one critical token (2 where given annotations lack one). */
  ERR_CFT_NO_SIGNAL: 1,
  /** Non-finite loss or gradients that do not recover. */
  ERR_CFT_DIVERGED: 1,
  /** A handle was used after it was disposed. */
  ERR_CFT_DISPOSED: 1,
  /** A user's verifier threw. */
  ERR_CFT_VERIFIER: 1,
  /** Anything that should not happen; a bug of ours. */
  ERR_CFT_INTERNAL: 1,
} as const;

export type CftErrorCode = keyof typeof errorCodes;

export class CftError extends Error {
  readonly code: CftErrorCode;
  readonly #exitStatus: 1 | 2 | undefined;

  /** @param options `exitStatus` where this error ends otherwise than others of its code. */
  constructor(code: CftErrorCode, message: string, options?: { cause?: unknown; exitStatus?: 1 | 2 }) {
    super(message, options);
    this.name = 'CftError';
    this.code = code;
    this.#exitStatus = options?.exitStatus;
  }

  /** Exit status of the command line for this error: 2 for bad input found before any work, else 1. */
  get exitStatus(): 1 | 2 {
    return this.#exitStatus ?? errorCodes[this.code];
  }
}

/** True for errors of the operating system (`ENOENT`, `ENOSPC`, ...). */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return (
    error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string' && 'errno' in error
  );
}
