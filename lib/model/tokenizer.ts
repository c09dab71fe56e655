/**
 * The tokenizer of a model folder: tokenizer.json through the official `tokenizers` package, with the added tokens
 * and special tokens of tokenizer_config.json, and the model's chat template.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Decoder, Tokenizer as RustTokenizer } from 'tokenizers';
import { CftError } from '../errors.js';
import { optionTable } from '../option-table.js';
import { ByteLevelDecoder, isByteLevel } from './byte-level-decoder.js';
import {
  type ChatMessage,
  type ChatTemplate,
  type ChatTemplateOptions,
  readChatTemplate,
} from './chat-template.js';
import { expect } from './checks.js';
import { Fields, isFile, isObject, type JsonObject, readJsonObject, show } from './json-file.js';
import { StreamDecoder } from './stream-decoder.js';
import { SyncEncoder } from './sync-encoder.js';

export interface PromptOptions {
  /** System message, empty for none; the default of --system where absent. */
  system?: string;
  /** User message around `{question}`; the default of --user-template where absent. */
  userTemplate?: string;
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

const specialTokenNames = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];

/** Special tokens by name, from tokenizer_config.json, else special_tokens_map.json. */
function readSpecialTokens(folder: string, config: JsonObject): Record<string, string> {
  const path = join(folder, 'special_tokens_map.json');
  const map = isFile(path) ? readJsonObject(path, 'ERR_CFT_BAD_MODEL') : {};
  const tokens: Record<string, string> = {};
  for (const name of specialTokenNames) {
    const value = config[name] !== undefined ? config[name] : map[name];
    if (value === undefined || value === null) continue;
    const content: unknown = isObject(value) ? value.content : value;
    if (typeof content === 'string') tokens[name] = content;
    else
      new Fields(config, join(folder, 'tokenizer_config.json')).fail(
        name,
        'a text or an object with content',
      );
  }
  return tokens;
}

/**
 * Puts what transformers changes after loading into tokenizer.json itself: tokens of tokenizer_config.json's
 * `added_tokens_decoder` are added (their flags win), truncation and padding are off.
 * @returns the added tokens.
 */
function mergeAddedTokens(json: JsonObject, config: JsonObject, place: string): AddedToken[] {
  json.truncation = null;
  json.padding = null;
  const own = json.added_tokens ?? [];
  if (!Array.isArray(own)) new Fields(json, place).fail('added_tokens', 'a list');
  const byContent = new Map<string, JsonObject>();
  for (const token of own as unknown[]) {
    if (!isObject(token) || typeof token.content !== 'string' || !Number.isInteger(token.id))
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${place}: added_tokens: expected {id, content}, found ${show(token)}`,
      );
    byContent.set(token.content, token);
  }
  const decoder = isObject(config.added_tokens_decoder) ? config.added_tokens_decoder : {};
  for (const [id, token] of Object.entries(decoder)) {
    if (!isObject(token) || typeof token.content !== 'string') continue;
    const known = byContent.get(token.content);
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
    byContent.set(token.content, { ...flags, ...known, ...token, id: known?.id ?? Number(id) });
  }
  const merged = [...byContent.values()].sort((a, b) => (a.id as number) - (b.id as number));
  json.added_tokens = merged;
  return merged.map(({ id, content, special }) => ({
    id: id as number,
    content: content as string,
    special: special === true,
  }));
}

/** The largest id of the model's own vocabulary; Unigram's is a list, the others' a map. */
function largestId(
  json: JsonObject,
  added: readonly AddedToken[],
  place: string,
): { id: number; token: string } {
  const model = new Fields(json, place).object('model');
  const vocab = model?.values.vocab;
  let largest = { id: -1, token: '' };
  const see = (token: string, id: number) => {
    if (id > largest.id) largest = { id, token };
  };
  if (Array.isArray(vocab)) see(String(vocab.at(-1)?.[0]), vocab.length - 1);
  else if (isObject(vocab)) for (const [token, id] of Object.entries(vocab)) see(token, Number(id));
  else
    throw new CftError(
      'ERR_CFT_BAD_MODEL',
      `${place}: model.vocab: expected the vocabulary, found ${show(vocab)}`,
    );
  for (const { id, content } of added) see(content, id);
  return largest;
}

export class Tokenizer {
  /** Special tokens by name, e.g. `eos_token`. */
  readonly specialTokens: Readonly<Record<string, string>>;
  readonly #rust: RustTokenizer;
  readonly #decoder: Decoder | null;
  readonly #json: string;
  readonly #added: ReadonlyMap<number, AddedToken>;
  readonly #chatTemplate: ChatTemplate | undefined;
  readonly #place: string;
  /** Where the decoder is ByteLevel. */
  readonly #text: ByteLevelDecoder | undefined;
  readonly #textWithoutSpecial: ByteLevelDecoder | undefined;
  #syncEncoder: SyncEncoder | undefined;

  private constructor(
    json: string,
    added: readonly AddedToken[],
    specialTokens: Readonly<Record<string, string>>,
    chatTemplate: ChatTemplate | undefined,
    place: string,
    byteLevel: boolean,
  ) {
    try {
      this.#rust = RustTokenizer.fromString(json);
    } catch (error) {
      throw new CftError('ERR_CFT_BAD_MODEL', `${place}: not a tokenizer: ${(error as Error).message}`, {
        cause: error,
      });
    }
    this.#decoder = this.#rust.getDecoder();
    this.#json = json;
    this.#added = new Map(added.map((token) => [token.id, token]));
    this.specialTokens = specialTokens;
    this.#chatTemplate = chatTemplate;
    this.#place = place;
    if (byteLevel) {
      const size = this.#rust.getVocabSize(true);
      this.#text = new ByteLevelDecoder(size, (id) => this.#tokenOf(id, false));
      this.#textWithoutSpecial = new ByteLevelDecoder(size, (id) => this.#tokenOf(id, true));
    }
    for (const { id, content } of added) {
      const found = this.#rust.tokenToId(content);
      if (found !== id) {
        throw new CftError(
          'ERR_CFT_BAD_MODEL',
          `${place}: added token ${show(content)}: expected id ${id}, found ${found ?? 'none'}`,
        );
      }
    }
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json and the chat template of a folder.
   * @param vocabSize ids at or above it are refused.
   * @throws CftError ERR_CFT_BAD_MODEL
   */
  static load(folder: string, vocabSize: number): Tokenizer {
    const place = join(folder, 'tokenizer.json');
    if (!isFile(place)) {
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${folder}: expected tokenizer.json, found none. transformers writes it: ` +
          'AutoTokenizer.from_pretrained(folder).save_pretrained(folder)',
      );
    }
    const json = readJsonObject(place, 'ERR_CFT_BAD_MODEL');
    const configPath = join(folder, 'tokenizer_config.json');
    const config = isFile(configPath) ? readJsonObject(configPath, 'ERR_CFT_BAD_MODEL') : {};
    const added = mergeAddedTokens(json, config, place);
    const largest = largestId(json, added, place);
    if (largest.id >= vocabSize) {
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${place}: expected ids below vocab_size ${vocabSize} of config.json, found token ` +
          `${show(largest.token)} with id ${largest.id}`,
      );
    }
    const specialTokens = readSpecialTokens(folder, config);
    const chatTemplate = readChatTemplate(folder, config, specialTokens);
    return new Tokenizer(JSON.stringify(json), added, specialTokens, chatTemplate, place, isByteLevel(json));
  }

  /** Ids of a text; special tokens written in it are recognised, none are added. Blocks; see encodeBatch. */
  encode(text: string): Int32Array {
    expect('ERR_CFT_BAD_DATA', 'text', text, typeof text === 'string', 'a text');
    this.#syncEncoder ??= new SyncEncoder(this.#json);
    return this.#syncEncoder.encode(text);
  }

  /** Ids of many texts at once, on the tokenizer's thread pool. */
  async encodeBatch(texts: readonly string[]): Promise<Int32Array[]> {
    const good = Array.isArray(texts) && texts.every((text) => typeof text === 'string');
    expect('ERR_CFT_BAD_DATA', 'texts', texts, good, 'a list of texts');
    const encodings = await this.#rust.encodeBatch([...texts], { addSpecialTokens: false });
    return encodings.map((encoding) => Int32Array.from(encoding.getIds()));
  }

  /** Text of ids, as transformers' `decode` without cleaning up spaces. Ids without a token give no text. */
  decode(ids: Iterable<number>, { skipSpecialTokens = false }: { skipSpecialTokens?: boolean } = {}): string {
    const isList = typeof ids === 'object' && ids !== null && Symbol.iterator in ids;
    expect('ERR_CFT_BAD_DATA', 'ids', ids, isList, 'a list of token ids');
    const fast = skipSpecialTokens ? this.#textWithoutSpecial : this.#text;
    if (fast !== undefined) return fast.decode(ids);
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.#tokenOf(id, skipSpecialTokens);
      if (token !== null) tokens.push(token);
    }
    return this.#decoder === null ? tokens.join(' ') : this.#decoder.decode(tokens);
  }

  /** null for an id without a token, and for a special one that is to be skipped. */
  #tokenOf(id: number, skipSpecialTokens: boolean): string | null {
    expect('ERR_CFT_BAD_DATA', 'ids', id, Number.isInteger(id) && id >= 0 && id < 2 ** 32, 'token ids');
    const added = this.#added.get(id);
    if (skipSpecialTokens && added?.special) return null;
    return added?.content ?? this.#rust.idToToken(id);
  }

  /** A decoder for one sequence that arrives token by token. */
  stream(options?: { skipSpecialTokens?: boolean }): StreamDecoder {
    return new StreamDecoder((ids) => this.decode(ids, options));
  }

  get hasChatTemplate(): boolean {
    return this.#chatTemplate !== undefined;
  }

  /** @throws CftError ERR_CFT_BAD_MODEL where the model has no template or it refuses the messages. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    if (this.#chatTemplate === undefined) {
      throw new CftError(
        'ERR_CFT_BAD_MODEL',
        `${this.#place}: the model has no chat template (chat_template.jinja or tokenizer_config.json)`,
      );
    }
    return this.#chatTemplate.render(messages, options);
  }

  /**
   * The prompt for a question: its user text under the model's chat template; a model without one gets the user text
   * followed by a newline.
   */
  promptText(
    question: string,
    {
      system = optionTable.system.default,
      userTemplate = optionTable.userTemplate.default,
    }: PromptOptions = {},
  ): string {
    if (!userTemplate.includes('{question}')) {
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `userTemplate (--user-template): expected a text with {question}, found ${show(userTemplate)}`,
      );
    }
    const content = userTemplate.replaceAll('{question}', () => question);
    if (this.#chatTemplate === undefined) return `${content}\n`;
    const messages = [{ role: 'user', content }];
    if (system !== '') messages.unshift({ role: 'system', content: system });
    return this.#chatTemplate.render(messages, { addGenerationPrompt: true });
  }

  /** Id of a token by its text, e.g. of `specialTokens.eos_token`. */
  tokenToId(token: string): number | undefined {
    return this.#rust.tokenToId(token) ?? undefined;
  }

  get eosTokenId(): number | undefined {
    const { eos_token: token } = this.specialTokens;
    return token === undefined ? undefined : this.tokenToId(token);
  }

  /** SHA-256 of tokenizer.json. */
  sha256(): string {
    return createHash('sha256').update(readFileSync(this.#place)).digest('hex');
  }

  dispose(): void {
    this.#syncEncoder?.dispose();
    this.#syncEncoder = undefined;
  }
}
