/** What to type next, as one would type it: with what the run was given and its defaults do not say. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TrainResult } from '../index.js';
import { type Command, optionTable } from '../option-table.js';
import { embeddedPreset } from '../preset.js';
import type { RunRecord } from '../run-folder.js';
import { shellQuoted, shortPath } from './format.js';

/** A question that fits on a line of its own. */
const longest = 300;

/** The options that `command` on `model` has to be told so that it asks as the run in the folder did. */
function promptFlags(folder: string, command: Command, model: string): string[] {
  const { options } = JSON.parse(readFileSync(join(folder, 'run.json'), 'utf8')) as RunRecord;
  const preset = model === 'embedded' ? embeddedPreset(command) : {};
  return (['system', 'userTemplate'] as const).flatMap((name) => {
    const value = options[name === 'system' ? 'system' : 'user_template'];
    const byDefault = preset[name] ?? optionTable[name].default;
    const flag = name === 'system' ? '--system' : '--user-template';
    return typeof value !== 'string' || value === byDefault ? [] : [flag, value];
  });
}

const line = (words: readonly string[]): string => `npx cft-native ${shellQuoted(words)}`;

/** Training on what `annotate` left in a folder. */
export function nextAfterAnnotate(folder: string, model: string, revision: string | undefined): string {
  return line([
    ...['train', '--annotations', shortPath(join(folder, 'annotations.jsonl'))],
    ...(model === 'embedded' ? [] : ['--model', model]),
    ...(revision === undefined ? [] : ['--revision', revision]),
    ...promptFlags(folder, 'train', model),
  ]);
}

/** A look at the trained model: a question that this very run taught it, where there is one. */
export function nextAfterTrain({ model, output, trained, example }: TrainResult): string[] {
  const folder = shortPath(trained.model);
  const text = example === undefined || example.question.length > longest ? '...' : example.question;
  // A text that starts with a dash would be read as a flag.
  const prompt = text.startsWith('-') ? [`--prompt=${text}`] : [text];
  const generate = ['generate', '--model', folder, ...promptFlags(output, 'generate', folder), ...prompt];
  return [
    line(generate),
    ...(model === 'embedded'
      ? ['npx cft-native train --model FOLDER_OR_HUB_ID --data questions.jsonl --eval-data test.jsonl']
      : []),
  ];
}
