/** What the embedded model brings with it: its questions, and settings that suit it (models/embedded/preset.json). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from './option-table.js';
import { optionNames } from './options.js';

/** Lies at the same place seen from lib and from dist. */
export const embeddedFolder = fileURLToPath(new URL('../models/embedded', import.meta.url));

/** Options that hold a path; in the preset they are relative to its folder. */
const pathOptions = ['data', 'evalData'];

/**
 * The embedded model's defaults for the options of a command; paths are full. An evaluation alone is of the test
 * questions, all of them: "limit" is for those that are trained on.
 */
export function embeddedPreset(command: Command): Record<string, unknown> {
  const preset = JSON.parse(readFileSync(join(embeddedFolder, 'preset.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  if (command === 'eval') {
    preset.data = preset.evalData;
    delete preset.limit;
  }
  const known = new Set<string>(optionNames(command));
  return Object.fromEntries(
    Object.entries(preset)
      .filter(([name]) => known.has(name))
      .map(([name, value]) => [
        name,
        pathOptions.includes(name) ? join(embeddedFolder, value as string) : value,
      ]),
  );
}
