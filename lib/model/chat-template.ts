/** Chat templates: Jinja with the extras that transformers adds (`raise_exception`, `strftime_now`, `tojson`). */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Environment, parse, tokenize } from '@huggingface/jinja';
import { CftError } from '../errors.js';
import { isFile, isFolder, isObject, type JsonObject, readText, show } from './json-file.js';
import { PythonInterpreter } from './python-jinja.js';

export interface ChatMessage {
  role: string;
  content: string;
  /** Tool calls and whatever else a template reads. */
  [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with what opens the assistant's turn. */
  addGenerationPrompt?: boolean;
  /** JSON schemas of functions; selects a template named `tool_use` where there is one. */
  tools?: JsonObject[];
  documents?: JsonObject[];
  /** What the template's `strftime_now` sees; the present by default. */
  now?: Date;
  /** More variables, e.g. `enable_thinking` (Qwen3). */
  variables?: Record<string, unknown>;
}

const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = [
  ...['January', 'February', 'March', 'April', 'May', 'June'],
  ...['July', 'August', 'September', 'October', 'November', 'December'],
];

/** Python's strftime in the C locale, so that a prompt does not depend on the machine's language. */
function strftime(date: Date, format: string): string {
  const padded = (value: number, width = 2) => String(value).padStart(width, '0');
  const hour12 = date.getHours() % 12 === 0 ? 12 : date.getHours() % 12;
  const midnight = (month: number, day: number) => Date.UTC(date.getFullYear(), month, day);
  const directives: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    y: () => padded(date.getFullYear() % 100),
    m: () => padded(date.getMonth() + 1),
    B: () => months[date.getMonth()] as string,
    b: () => (months[date.getMonth()] as string).slice(0, 3),
    d: () => padded(date.getDate()),
    j: () => padded((midnight(date.getMonth(), date.getDate()) - midnight(0, 1)) / 86_400_000 + 1, 3),
    A: () => days[date.getDay()] as string,
    a: () => (days[date.getDay()] as string).slice(0, 3),
    H: () => padded(date.getHours()),
    I: () => padded(hour12),
    p: () => (date.getHours() < 12 ? 'AM' : 'PM'),
    M: () => padded(date.getMinutes()),
    S: () => padded(date.getSeconds()),
    '%': () => '%',
  };
  return format.replace(/%(-?)(.)/gs, (whole, dash: string, letter: string) => {
    const text = directives[letter]?.();
    if (text === undefined) throw new Error(`strftime_now: ${whole} is not supported`);
    return dash === '-' ? text.replace(/^0+(?=\d)/, '') : text;
  });
}

/** As in the sandbox that transformers renders in. */
const longestRange = 100_000;

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (![from, to, step].every(Number.isInteger) || step === 0)
    throw new Error('range: expected integers, and a step that is not zero');
  const count = Math.max(0, Math.ceil((to - from) / step));
  if (count > longestRange)
    throw new Error(`range: expected at most ${longestRange} numbers, found ${count}`);
  return Array.from({ length: count }, (_, i) => from + i * step);
}

/** What a template itself says by `raise_exception`. */
class Refusal extends Error {}

/** What a template calls besides its own variables. */
function globals(now: Date): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: string) => {
      throw new Refusal(message);
    },
    strftime_now: (format: string) => strftime(now, format),
  };
}

/** The chat templates of one tokenizer by name; the usual one is `default`. */
export class ChatTemplate {
  readonly #sources: ReadonlyMap<string, string>;
  readonly #compiled = new Map<string, ReturnType<typeof parse>>();
  readonly #place: string;
  readonly #specialTokens: Readonly<Record<string, string>>;

  /**
   * @param place what messages call the template's origin.
   * @param specialTokens variables such as `bos_token`.
   */
  constructor(
    sources: ReadonlyMap<string, string>,
    place: string,
    specialTokens: Readonly<Record<string, string>>,
  ) {
    this.#sources = sources;
    this.#place = place;
    this.#specialTokens = specialTokens;
  }

  #template(withTools: boolean): ReturnType<typeof parse> {
    const name = withTools && this.#sources.has('tool_use') ? 'tool_use' : 'default';
    const source = this.#sources.get(name);
    if (source === undefined) {
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${this.#place}: expected a chat template named "default", found ${[...this.#sources.keys()].join(', ')}`,
      );
    }
    let program = this.#compiled.get(name);
    if (program === undefined) {
      try {
        program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
      } catch (error) {
        throw new CftError(
          'ERR_CFT_BAD_MODEL',
          `${this.#place}: the chat template is not valid Jinja: ${(error as Error).message}`,
          { cause: error },
        );
      }
      this.#compiled.set(name, program);
    }
    return program;
  }

  /** @throws CftError ERR_CFT_BAD_MODEL where the usual template is not valid Jinja; the others are parsed when used. */
  check(): void {
    if (this.#sources.has('default')) this.#template(false);
  }

  /** @throws CftError ERR_CFT_BAD_MODEL where the template is broken or refuses the messages. */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    try {
      return this.#render(messages, options);
    } catch (error) {
      if (error instanceof CftError) throw error;
      const refused = error instanceof Refusal ? 'refuses' : 'failed on';
      const roles = messages.map(({ role }) => role).join(', ');
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${this.#place}: the chat template ${refused} messages of roles ${roles}: ${(error as Error).message}` +
          (this.#systemIsToBlame(messages, options) ? ' (an empty system text leaves that message out)' : ''),
        { cause: error },
      );
    }
  }

  #systemIsToBlame(messages: readonly ChatMessage[], options: ChatTemplateOptions): boolean {
    const others = messages.filter(({ role }) => role !== 'system');
    if (others.length === messages.length || others.length === 0) return false;
    try {
      this.#render(others, options);
      return true;
    } catch {
      return false;
    }
  }

  #render(messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
    const program = this.#template(options.tools !== undefined);
    const environment = new Environment();
    // Later names win, as keyword arguments do in transformers; null (Python's None) counts as defined there.
    const variables = {
      ...globals(options.now ?? new Date()),
      ...this.#specialTokens,
      messages,
      tools: options.tools ?? null,
      documents: options.documents ?? null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
      ...options.variables,
    };
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    const result = new PythonInterpreter(environment).run(program).value;
    if (typeof result !== 'string') throw new Error(`it gave ${show(result)}`);
    return result;
  }
}

function checked(...parts: ConstructorParameters<typeof ChatTemplate>): ChatTemplate {
  const template = new ChatTemplate(...parts);
  template.check();
  return template;
}

/**
 * Finds the chat templates of a folder: chat_template.jinja with additional_chat_templates/, else `chat_template` in
 * tokenizer_config.json (one text or a list of named ones), else none.
 */
export function readChatTemplate(
  folder: string,
  tokenizerConfig: JsonObject,
  specialTokens: Readonly<Record<string, string>>,
): ChatTemplate | undefined {
  const sources = new Map<string, string>();
  const file = join(folder, 'chat_template.jinja');
  const more = join(folder, 'additional_chat_templates');
  if (isFile(file)) sources.set('default', readText(file, 'ERR_CFT_BAD_MODEL'));
  if (isFolder(more)) {
    for (const name of readdirSync(more).filter((entry) => entry.endsWith('.jinja'))) {
      sources.set(name.slice(0, -'.jinja'.length), readText(join(more, name), 'ERR_CFT_BAD_MODEL'));
    }
  }
  if (sources.size > 0) return checked(sources, file, specialTokens);

  const place = join(folder, 'tokenizer_config.json');
  const given = tokenizerConfig.chat_template;
  if (given === undefined || given === null) return undefined;
  const entries: unknown[] = Array.isArray(given) ? given : [{ name: 'default', template: given }];
  for (const entry of entries) {
    if (!isObject(entry) || typeof entry.name !== 'string' || typeof entry.template !== 'string') {
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${place}: chat_template: expected a text or a list of {name, template}, found ${show(given)}`,
      );
    }
    sources.set(entry.name, entry.template);
  }
  return checked(sources, place, specialTokens);
}
