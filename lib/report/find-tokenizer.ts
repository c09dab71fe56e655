/** The tokenizer of a run, without loading the model and without the network. */
import { isAbsolute, join, resolve } from 'node:path';
import { isAdapterFolder, readAdapterConfig } from '../model/adapter.js';
import { cachedHubModel, parseHubId } from '../model/hub.js';
import { isFile, isFolder } from '../model/json-file.js';
import { Tokenizer } from '../model/tokenizer.js';
import { embeddedFolder } from '../preset.js';
import { optionsOf } from './collect.js';
import { type Fields, textIn } from './run-files.js';
import { idTokenizer, type ReportTokenizer } from './tokens.js';

/** The local folder of a model's name; undefined where it is not on this machine. */
async function localFolder(name: string, revision?: string): Promise<string | undefined> {
  if (name === 'embedded') return embeddedFolder;
  if (isFolder(name)) return resolve(name);
  const id = isAbsolute(name) ? undefined : parseHubId(name, revision);
  return id && cachedHubModel(id);
}

async function* candidates(folder: string, name: string, revision?: string): AsyncGenerator<string> {
  yield join(folder, 'model');
  const found = await localFolder(name, revision);
  if (found === undefined) return;
  yield found;
  if (!isAdapterFolder(found)) return;
  const { base, baseRevision } = readAdapterConfig(found);
  const below = await localFolder(base, baseRevision);
  if (below !== undefined) yield below;
}

/**
 * The tokenizer whose hash the run has on record; else tokens are shown by their ids, and a note says so.
 * @param record run.json.
 */
export async function findTokenizer(
  folder: string,
  record: Fields,
): Promise<{ tokenizer: ReportTokenizer; notes: string[] }> {
  const model = record.model as Fields | undefined;
  const expected = textIn(model, 'tokenizer_sha256');
  const name = textIn(model, 'name') ?? '';
  for await (const candidate of candidates(folder, name, textIn(optionsOf(record), 'revision'))) {
    if (!isFile(join(candidate, 'tokenizer.json'))) continue;
    try {
      const tokenizer = Tokenizer.load(candidate, Number.MAX_SAFE_INTEGER);
      if (expected === undefined || tokenizer.sha256() === expected) return { tokenizer, notes: [] };
    } catch {
      // Damaged, or of another kind; the next one may do.
    }
  }
  const note = `The tokenizer of ${name} is not on this machine, so tokens are shown by their ids.`;
  return { tokenizer: idTokenizer, notes: [note] };
}
