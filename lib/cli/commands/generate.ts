import { text } from 'node:stream/consumers';
import { CftError, type LoadEvent, loadModel } from '../../index.js';
import { type ResolvedOptions, resolveOptions } from '../../options.js';
import { embeddedPreset } from '../../preset.js';
import { Narrator } from '../narrate.js';
import type { CommandContext, CommandFunction } from '../program.js';
import { View } from '../view.js';

function resolve(given: Record<string, unknown>): ResolvedOptions<'generate'> {
  const embedded = given.model === undefined || given.model === 'embedded';
  const options = resolveOptions('generate', given, { defaults: embedded ? embeddedPreset('generate') : {} });
  if (options.samples > 1 && options.temperature === 0) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `samples (--samples): expected 1 at temperature 0, found ${options.samples}: greedy responses are all the ` +
        'same; add --temperature 1',
    );
  }
  return options;
}

/** The prompt of the flag, or all of standard input without its last line end. */
async function readPrompt(prompt: string | undefined): Promise<string> {
  if (prompt === undefined && process.stdin.isTTY) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'prompt (--prompt): expected a text, or one on standard input, found neither',
    );
  }
  const found = prompt ?? (await text(process.stdin)).replace(/\r?\n$/, '');
  if (found === '')
    throw new CftError('ERR_CFT_BAD_OPTION', 'prompt (--prompt): expected a text, found none');
  return found;
}

const print = (line: string): boolean => process.stdout.write(line);
const printJson = (value: unknown): boolean => print(`${JSON.stringify(value)}\n`);

export const generateCommand: CommandFunction = async (given, { signal, json }: CommandContext) => {
  const options = resolve(given);
  const prompt = await readPrompt(options.prompt);
  const { device, dtype, threads, revision, raw, samples } = options;
  const view = new View();
  const narrator = new Narrator(view);
  const onProgress = (event: LoadEvent): void => {
    if (event.type !== 'load' && !json) narrator.tell(event);
  };
  const loading = { device, dtype, threads, revision, signal, onProgress };
  await using model = await loadModel(options.model, loading).finally(() => view.end());
  const ids = raw ? model.tokenizer.encode(prompt) : model.promptFor(prompt, options);
  const { maxNewTokens, temperature, topP, seed } = options;
  const sampling = { maxNewTokens, temperature, topP, seed, signal };
  if (samples > 1) {
    const [responses = []] = await model.generate([ids], { ...sampling, n: samples });
    for (const [sample, { text: response, finishReason }] of responses.entries()) {
      if (json) printJson({ type: 'response', sample, text: response, finishReason });
      else print(`${sample > 0 ? '\n' : ''}--- ${sample + 1}\n${response}\n`);
    }
    return;
  }
  const stream = model.stream(ids, sampling);
  for (;;) {
    const { value, done } = await stream.next();
    if (done) {
      if (json)
        printJson({ type: 'response', sample: 0, text: value.text, finishReason: value.finishReason });
      else print('\n');
      return;
    }
    if (json) printJson({ type: 'token', ...value });
    else print(value.text);
  }
};
