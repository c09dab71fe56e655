/**
 * config.json of a Hugging Face folder, in the dialects of transformers 4 (`rope_theta`, `rope_scaling`,
 * `torch_dtype`) and 5 (`rope_parameters`, `dtype`, `layer_types`), to the structural facts of the decoder. What the
 * decoder lacks is refused by name here, before any weight is read.
 */
import { join } from 'node:path';
import { CftError } from '../errors.js';
import type { NativeModelConfig, NativeRope } from '../native/binding.js';
import { type Family, families, familyNames } from './families.js';
import { refuseFeatures, refusePartialRotary, refuseRopeFeatures, unsupported } from './features.js';
import { Fields, isFile, isFolder, isObject, type JsonObject, readJsonObject, show } from './json-file.js';
import { ropeOf } from './rope.js';

export interface ModelConfig extends NativeModelConfig {
  modelType: string;
  /** config.json as it was read; `save` writes it again with the new dtype. */
  json: JsonObject;
}

type LayerType = 'full_attention' | 'sliding_attention';
const layerTypes: readonly string[] = ['full_attention', 'sliding_attention'] satisfies LayerType[];

function familyOf(fields: Fields): { modelType: string; family: Family } {
  const modelType = fields.string('model_type');
  if (modelType === undefined) fields.fail('model_type', `one of ${familyNames.join(', ')}`);
  const family = Object.hasOwn(families, modelType) ? families[modelType] : undefined;
  if (family === undefined) {
    unsupported(
      `${fields.place}: model_type "${modelType}" is not supported; supported are ${familyNames.join(', ')}`,
    );
  }
  return { modelType, family };
}

function layerTypesOf(fields: Fields, layers: number): LayerType[] | undefined {
  if (!fields.has('layer_types')) return undefined;
  const types = fields.values.layer_types;
  if (!Array.isArray(types) || types.length !== layers)
    fields.fail('layer_types', `a list of ${layers} names (num_hidden_layers)`);
  for (const type of types) {
    if (!layerTypes.includes(type)) {
      unsupported(
        `${fields.place}: layer_types: ${show(type)} is not supported; supported are ${layerTypes.join(', ')}`,
      );
    }
  }
  return types as LayerType[];
}

/** Window per layer, 0 = full attention, and the type of each layer. */
function windowsOf(
  fields: Fields,
  family: Family,
  layers: number,
): { windows: Int32Array; types: LayerType[] } {
  const given = layerTypesOf(fields, layers);
  const windowSize = (absent?: number) => fields.integer('sliding_window', { max: 2 ** 31 - 1, absent });
  const allFull = () => new Array<LayerType>(layers).fill('full_attention');
  let types: LayerType[];
  let size = 0;
  switch (family.window) {
    case 'none':
      types = allFull();
      break;
    case 'all':
      // Here null means no window, absent means the family's default.
      if (fields.values.sliding_window !== null) size = windowSize(family.defaults.slidingWindow);
      types = size > 0 ? new Array<LayerType>(layers).fill('sliding_attention') : allFull();
      break;
    case 'upper-layers': {
      const from = fields.integer('max_window_layers', { min: 0, max: 2 ** 31 - 1, absent: 28 });
      if (fields.boolean('use_sliding_window', false) && fields.values.sliding_window !== null)
        size = windowSize(family.defaults.slidingWindow);
      types = given ?? allFull().map((full, i) => (size > 0 && i >= from ? 'sliding_attention' : full));
      if (size === 0 && types.includes('sliding_attention')) {
        fields.fail(
          'use_sliding_window',
          'true and a sliding_window, since layer_types has sliding_attention',
        );
      }
      break;
    }
    case 'three-of-four':
      types = given ?? allFull().map((full, i) => ((i + 1) % 4 === 0 ? full : 'sliding_attention'));
      if (types.includes('sliding_attention')) {
        if (fields.values.sliding_window === null)
          fields.fail('sliding_window', 'an integer, since layer_types has sliding_attention');
        size = windowSize(family.defaults.slidingWindow);
      }
      break;
  }
  // transformers goes by sliding_window alone there; a list that only says "full" contradicts nobody's intention.
  const ignored = family.window === 'all' && given?.every((type) => type === 'full_attention');
  if (!ignored && given?.some((type, i) => type !== types[i])) {
    unsupported(
      `${fields.place}: layer_types: layers of this family are all ${types[0]}, found ${show(given)}`,
    );
  }
  return { windows: Int32Array.from(types, (type) => (type === 'sliding_attention' ? size : 0)), types };
}

function ropesOf(
  fields: Fields,
  family: Family,
  types: LayerType[],
  { headDim, maxPositions }: { headDim: number; maxPositions: number },
): { ropes: NativeRope[]; ropeOfLayer: Int32Array } {
  refusePartialRotary(fields);
  const theta = fields.number('rope_theta', { above: 1, absent: family.defaults.ropeTheta });
  // transformers 4 writes rope_scaling (null where there is none), transformers 5 rope_parameters.
  const name = fields.has('rope_scaling') ? 'rope_scaling' : 'rope_parameters';
  const given = fields.object(name) ?? new Fields({}, `${fields.place}: ${name}`);
  const nested = Object.keys(given.values).some((key) => layerTypes.includes(key));
  const build = (parameters: Fields): NativeRope => {
    refuseRopeFeatures(parameters);
    const length = { max: 2 ** 31 - 1, absent: maxPositions };
    const original = 'original_max_position_embeddings';
    const originalLength =
      !nested && fields.has(original)
        ? fields.integer(original, length)
        : parameters.integer(original, length);
    return ropeOf(parameters, { headDim, theta, maxPositions, originalLength, nested });
  };

  const ropes: NativeRope[] = [];
  const indexOfType = new Map<LayerType, number>();
  const ropeOfLayer = Int32Array.from(types, (type) => {
    let index = indexOfType.get(type);
    if (index !== undefined) return index;
    let parameters = given;
    if (nested) {
      const own = given.values[type];
      // null stands for layers without positions.
      if (own === null) unsupported(`${given.place}: ${type}: null (no rotary embedding) is not supported`);
      parameters = given.object(type) ?? given.fail(type, 'rotary parameters, since there are such layers');
    } else if (family.unscaledSlidingRope && type === 'sliding_attention') {
      const { rope_theta } = given.values;
      parameters = new Fields(rope_theta === undefined ? {} : { rope_theta }, given.place);
    } else if (ropes.length > 0 && !family.unscaledSlidingRope) {
      // One dictionary for all layers is one embedding for all layers.
      indexOfType.set(type, 0);
      return 0;
    }
    index = ropes.push(build(parameters)) - 1;
    indexOfType.set(type, index);
    return index;
  });
  return { ropes, ropeOfLayer };
}

/**
 * Checks the fields of a config.json and turns them into structural facts.
 * @param place what messages call the file.
 * @throws CftError ERR_CFT_UNSUPPORTED_MODEL for a feature that the decoder lacks, ERR_CFT_BAD_MODEL for fields that
 * are missing, of the wrong kind, absurd or inconsistent.
 */
export function parseConfig(json: JsonObject, place: string): ModelConfig {
  const fields = new Fields(json, place);
  const { modelType, family } = familyOf(fields);
  refuseFeatures(fields, family);
  const layers = fields.integer('num_hidden_layers', { max: 4096 });
  const hiddenSize = fields.integer('hidden_size', { max: 2 ** 20 });
  const heads = fields.integer('num_attention_heads', { max: 2 ** 16 });
  const kvHeads = fields.integer('num_key_value_heads', {
    max: 2 ** 16,
    absent: fields.values.num_key_value_heads === null ? heads : (family.defaults.kvHeads ?? heads),
  });
  if (heads % kvHeads !== 0)
    fields.fail('num_key_value_heads', `a divisor of num_attention_heads (${heads})`);
  if (!fields.has('head_dim') && family.defaults.headDim === undefined && hiddenSize % heads !== 0)
    fields.fail('hidden_size', `a multiple of num_attention_heads (${heads}), or a head_dim`);
  const headDim = fields.integer('head_dim', {
    max: 8192,
    absent: family.defaults.headDim ?? hiddenSize / heads,
  });
  if (headDim % 2 !== 0) fields.fail('head_dim', 'an even number (rotary embedding)');
  const maxPositions = fields.integer('max_position_embeddings', {
    max: 2 ** 31 - 1,
    absent: family.defaults.maxPositions,
  });
  const { windows, types } = windowsOf(fields, family, layers);
  const attentionBias = fields.boolean('attention_bias', false);
  return {
    modelType,
    json,
    vocabSize: fields.integer('vocab_size', { max: 2 ** 24 }),
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', { max: 2 ** 22 }),
    layers,
    heads,
    kvHeads,
    headDim,
    rmsNormEps: fields.number('rms_norm_eps', { max: 1, absent: family.defaults.rmsNormEps }),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    qkvBias: family.qkvBias === 'always' || (family.qkvBias === 'attention_bias' && attentionBias),
    outputBias: family.outputBias === 'attention_bias' && attentionBias,
    mlpBias: family.mlpBias === 'mlp_bias' && fields.boolean('mlp_bias', false),
    qkNorm: family.qkNorm,
    normPlacement: family.normPlacement,
    maxPositions,
    ...ropesOf(fields, family, types, { headDim, maxPositions }),
    windowOfLayer: windows,
  };
}

/** Reads and checks config.json of a model folder. */
export function readConfig(folder: string): ModelConfig {
  if (!isFolder(folder)) {
    throw new CftError('ERR_CFT_BAD_MODEL', `${folder}: expected a model folder, found no such folder`);
  }
  const path = join(folder, 'config.json');
  if (!isFile(path)) {
    throw new CftError(
      'ERR_CFT_BAD_MODEL',
      `${folder}: expected a Hugging Face model folder, found no config.json in it`,
    );
  }
  const json = readJsonObject(path, 'ERR_CFT_BAD_MODEL');
  // Multimodal folders keep the language model's fields one level down.
  if (json.model_type === undefined && isObject(json.text_config)) {
    unsupported(`${path}: text_config: multimodal models are not supported`);
  }
  return parseConfig(json, path);
}
