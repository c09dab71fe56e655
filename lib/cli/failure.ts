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

/** What --json says of a failure, as its last line. */
export function failureEvent(error: unknown): { type: 'error'; code: string; message: string } {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof InterruptedError) return { type: 'error', code: 'INTERRUPTED', message };
  const known = error instanceof CftError || isSystemError(error);
  return { type: 'error', code: (known && error.code) || 'ERR_CFT_INTERNAL', message };
}

/** Text of a user's file may hold anything; a terminal would obey its control characters. */
const escaped = (text: string): string =>
  text.replace(/[^\P{Cc}\n\t]/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);

/** The message for people: no stack trace, unless CFT_DEBUG is set or it is a bug of ours. */
export function describeFailure(error: unknown): string {
  if (process.env.CFT_DEBUG && error instanceof Error) return error.stack ?? error.message;
  if (error instanceof CftError) return escaped(error.message);
  if (isSystemError(error)) return escaped(error.message);
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return `${message} (unexpected; run again with CFT_DEBUG=1 to see where, and please report it)`;
}
