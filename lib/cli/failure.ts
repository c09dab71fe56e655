/** How the command line ends: which exit status, and what it says. */
import { CftError, isSystemError } from '../errors.js';

export const interruptedStatus = 130;

/** The reason that Ctrl-C gives to the abort signal. */
export class InterruptedError extends Error {
  constructor() {
    super('interrupted');
    this.name = 'InterruptedError';
  }
}

/**
 * @param worked whether anything had been done by then: bad input that is found later is a failure (1), not a
 *   refusal (2).
 */
export function exitStatusOf(error: unknown, worked: boolean): number {
  if (error instanceof InterruptedError) return interruptedStatus;
  if (error instanceof CftError) return worked ? 1 : error.exitStatus;
  return 1;
}

/** The message for people: no stack trace, unless CFT_DEBUG is set or it is a bug of ours. */
export function describeFailure(error: unknown): string {
  if (process.env.CFT_DEBUG && error instanceof Error) return error.stack ?? error.message;
  if (error instanceof CftError) return error.message;
  if (isSystemError(error)) return error.message;
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return `${message} (unexpected; run again with CFT_DEBUG=1 to see where, and please report it)`;
}
