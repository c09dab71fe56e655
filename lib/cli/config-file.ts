/** --config file.(json|yaml): options by their camelCase names. */
import { readFileSync } from 'node:fs';
import { extname } from 'node:path';
import { CftError } from '../errors.js';
import type { Command } from '../option-table.js';
import { resolveOptions } from '../options.js';

/**
 * Reads and checks a configuration file.
 * @throws CftError ERR_CFT_BAD_OPTION naming the file and what is wrong in it.
 */
export async function readConfigFile(path: string, command: Command): Promise<Record<string, unknown>> {
  const bad = (message: string, cause?: unknown): CftError =>
    new CftError('ERR_CFT_BAD_OPTION', `the configuration file ${path}: ${message}`, { cause });
  const kind = extname(path).toLowerCase();
  if (!['.json', '.yaml', '.yml'].includes(kind))
    throw bad(`expected a name that ends in .json, .yaml or .yml, found "${kind}"`);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw bad(`cannot be read (${(error as Error).message})`, error);
  }
  let content: unknown;
  try {
    content = kind === '.json' ? JSON.parse(text) : (await import('yaml')).parse(text);
  } catch (error) {
    throw bad(
      `expected ${kind.slice(1).toUpperCase()}, found ${(error as Error).message.split('\n')[0]}`,
      error,
    );
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content))
    throw bad('expected names and values at the top level');
  resolveOptions(command, content as Record<string, unknown>, { where: `the configuration file ${path}` });
  return content as Record<string, unknown>;
}
