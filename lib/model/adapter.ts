/** PEFT LoRA adapter folders: adapter_config.json and adapter_model.safetensors, merged into the base while loading. */
import { join } from 'node:path';
import { CftError } from '../errors.js';
import type { NativeTensorEntry } from '../native/binding.js';
import { Fields, isFile, type JsonObject, readJsonObject, show } from './json-file.js';
import { readSafetensorsHeader, type TensorHeader } from './safetensors.js';
import { nativeEntry, sameShape } from './tensors.js';

export interface AdapterConfig {
  /** Folder or hub id of the base model, as the file says. */
  base: string;
  baseRevision: string | undefined;
  rank: number;
  /** Names of the adapted modules; undefined where they are given by a pattern. */
  targets: string[] | undefined;
  /** The merged weight is W + scale * B A. */
  scale: number;
}

/** Fields that change nothing once the adapter is trained. */
const harmless = new Set([
  ...['auto_mapping', 'base_model_name_or_path', 'exclude_modules', 'inference_mode', 'layers_pattern'],
  ...['layers_to_transform', 'lora_alpha', 'lora_dropout', 'megatron_config', 'megatron_core', 'peft_type'],
  ...['peft_version', 'qalora_group_size', 'r', 'revision', 'target_modules', 'task_type', 'use_rslora'],
]);

/** Initialisations that leave the base weights alone; the others (PiSSA, OLoRA, ...) rewrite them at each load. */
const plainInits: unknown[] = [true, false, 'gaussian', null, undefined];

const isOff = (value: unknown): boolean =>
  value === undefined ||
  value === null ||
  value === false ||
  (typeof value === 'object' && Object.keys(value).length === 0);

export const isAdapterFolder = (folder: string): boolean => isFile(join(folder, 'adapter_config.json'));

/**
 * @throws CftError ERR_CFT_UNSUPPORTED_MODEL naming the field for anything but a plain LoRA, ERR_CFT_BAD_MODEL for
 * bad values.
 */
export function readAdapterConfig(folder: string): AdapterConfig {
  const place = join(folder, 'adapter_config.json');
  const json: JsonObject = readJsonObject(place, 'ERR_CFT_BAD_MODEL');
  const fields: Fields = new Fields(json, place);
  const unsupported = (name: string, which = ''): never => {
    throw new CftError(
      'ERR_CFT_UNSUPPORTED_MODEL',
      `${place}: ${name} = ${show(json[name])}${which} is not supported; merge the adapter with PEFT and load the merged model`,
    );
  };
  if (fields.string('peft_type') !== 'LORA') unsupported('peft_type');
  if (fields.has('task_type') && fields.string('task_type') !== 'CAUSAL_LM') unsupported('task_type');
  if (!plainInits.includes(json.init_lora_weights)) unsupported('init_lora_weights');
  if (fields.has('bias') && json.bias !== 'none') unsupported('bias');
  for (const [name, value] of Object.entries(json)) {
    if (!harmless.has(name) && name !== 'bias' && name !== 'init_lora_weights' && !isOff(value))
      unsupported(name);
  }
  const targets = Array.isArray(json.target_modules) ? json.target_modules.map(String) : undefined;
  const outside = targets?.find((name) => /(^|\.)embed_tokens$/.test(name));
  if (outside !== undefined) unsupported('target_modules', `: an adapter on ${outside}`);
  const rank = fields.integer('r', { max: 65536 });
  const alpha = fields.number('lora_alpha', {});
  const base = fields.string('base_model_name_or_path');
  if (base === undefined || base === '')
    fields.fail('base_model_name_or_path', 'the folder or hub id of the base model');
  return {
    base,
    baseRevision: fields.string('revision'),
    rank,
    targets,
    scale: fields.boolean('use_rslora', false) ? alpha / Math.sqrt(rank) : alpha / rank,
  };
}

const factorPattern = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/;

/**
 * Checks the adapter's tensors against the base model's linear layers.
 * @param shapes of the base model's tensors by name.
 * @throws CftError ERR_CFT_BAD_WEIGHTS naming tensor, expected and found; ERR_CFT_UNSUPPORTED_MODEL for one of a head
 *   that is the embedding.
 */
export function readAdapterTensors(
  folder: string,
  { rank, targets }: AdapterConfig,
  shapes: ReadonlyMap<string, number[]>,
): NativeTensorEntry[] {
  const file = join(folder, 'adapter_model.safetensors');
  if (!isFile(file)) {
    throw new CftError(
      'ERR_CFT_BAD_WEIGHTS',
      `${folder}: expected adapter_model.safetensors, found none (pickled adapters are never read)`,
    );
  }
  const factors = new Map<string, Set<string>>();
  const check = (tensor: TensorHeader): NativeTensorEntry => {
    const [, module, letter] = factorPattern.exec(tensor.name) ?? [];
    const weight = module === undefined ? undefined : shapes.get(`${module}.weight`);
    if (module === 'lm_head' && weight === undefined) {
      throw new CftError(
        'ERR_CFT_UNSUPPORTED_MODEL',
        `${file}: tensor ${tensor.name}: an adapter on lm_head is not supported where the base model's config.json ties it ` +
          'to the embedding (tie_word_embeddings); merge the adapter with PEFT and load the merged model',
      );
    }
    // A norm's weight has one dimension; embeddings have LoRA factors of other names.
    if (
      module === undefined ||
      letter === undefined ||
      weight?.length !== 2 ||
      /embed_tokens$/.test(module)
    ) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${file}: unexpected tensor ${tensor.name}; expected LoRA factors of linear layers of the base model`,
      );
    }
    if (targets && !targets.some((target) => module === target || module.endsWith(`.${target}`))) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${file}: tensor ${tensor.name} is of no module in target_modules of adapter_config.json ` +
          `(${targets.join(', ')}), so PEFT would leave it out`,
      );
    }
    const expected = letter === 'A' ? [rank, weight[1]!] : [weight[0]!, rank];
    if (!sameShape(expected, tensor.shape)) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${file}: tensor ${tensor.name}: expected shape [${expected.join(', ')}], found ` +
          `[${tensor.shape.join(', ')}]`,
      );
    }
    factors.set(module, (factors.get(module) ?? new Set()).add(letter));
    return nativeEntry(tensor);
  };
  const entries = readSafetensorsHeader(file).map(check);
  for (const [module, letters] of factors) {
    if (letters.size === 2) continue;
    const missing = letters.has('A') ? 'B' : 'A';
    throw new CftError('ERR_CFT_BAD_WEIGHTS', `${file}: ${module} has no lora_${missing}.weight`);
  }
  if (entries.length === 0)
    throw new CftError('ERR_CFT_BAD_WEIGHTS', `${file}: the adapter holds no tensors`);
  return entries;
}
