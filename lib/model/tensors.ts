/**
 * The tensors that a checked config.json calls for, and the comparison with those that the files hold. A tensor that
 * is missing, of another shape or beyond the list is refused: config.json and weights must tell the same story.
 */
import { basename } from 'node:path';
import { CftError } from '../errors.js';
import type { NativeModelConfig, NativeTensorEntry } from '../native/binding.js';
import type { TensorHeader } from './safetensors.js';

/** Names and shapes of all weights, without a tied lm_head. */
export function expectedTensors(config: NativeModelConfig): Map<string, number[]> {
  const { hiddenSize: hidden, intermediateSize: inner, headDim } = config;
  const queries = config.heads * headDim;
  const keys = config.kvHeads * headDim;
  const shapes = new Map<string, number[]>();
  shapes.set('model.embed_tokens.weight', [config.vocabSize, hidden]);
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`;
    const linear = (name: string, [out, into]: [number, number], bias: boolean) => {
      shapes.set(`${layer}.${name}.weight`, [out, into]);
      if (bias) shapes.set(`${layer}.${name}.bias`, [out]);
    };
    const norm = (name: string, size: number) => shapes.set(`${layer}.${name}.weight`, [size]);
    if (config.normPlacement === 'pre') norm('input_layernorm', hidden);
    linear('self_attn.q_proj', [queries, hidden], config.qkvBias);
    linear('self_attn.k_proj', [keys, hidden], config.qkvBias);
    linear('self_attn.v_proj', [keys, hidden], config.qkvBias);
    linear('self_attn.o_proj', [hidden, queries], config.outputBias);
    if (config.qkNorm !== 'none') {
      norm('self_attn.q_norm', config.qkNorm === 'head' ? headDim : queries);
      norm('self_attn.k_norm', config.qkNorm === 'head' ? headDim : keys);
    }
    norm('post_attention_layernorm', hidden);
    linear('mlp.gate_proj', [inner, hidden], config.mlpBias);
    linear('mlp.up_proj', [inner, hidden], config.mlpBias);
    linear('mlp.down_proj', [hidden, inner], config.mlpBias);
    if (config.normPlacement === 'post') norm('post_feedforward_layernorm', hidden);
  }
  shapes.set('model.norm.weight', [hidden]);
  if (!config.tieWordEmbeddings) shapes.set('lm_head.weight', [config.vocabSize, hidden]);
  return shapes;
}

/** Buffers that old checkpoints carry and every loader recomputes. */
const ignored = /\.rotary_emb\.inv_freq$/;

export const isNativeDtype = (dtype: string): dtype is NativeTensorEntry['dtype'] =>
  dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';

/** @throws CftError ERR_CFT_UNSUPPORTED_MODEL for a dtype that is not a plain float. */
export function nativeEntry(tensor: TensorHeader): NativeTensorEntry {
  const { dtype } = tensor;
  if (!isNativeDtype(dtype)) {
    throw new CftError(
      'ERR_CFT_UNSUPPORTED_MODEL',
      `${tensor.file}: tensor ${tensor.name}: dtype ${dtype} is not supported; supported are F32, F16 and BF16`,
    );
  }
  return { ...tensor, dtype };
}

const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`;
export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((size, i) => size === b[i]);

/**
 * Picks the expected tensors out of those found.
 * @param place the model folder, for messages.
 * @returns entries for native, and the lm_head that a tied model's files hold beside the embedding, if any.
 * @throws CftError ERR_CFT_BAD_WEIGHTS naming tensor, file, expected and found.
 */
export function matchTensors(
  config: NativeModelConfig & { modelType: string },
  found: readonly TensorHeader[],
  place: string,
): { entries: NativeTensorEntry[]; tiedHead: NativeTensorEntry | undefined } {
  const byName = new Map(found.map((tensor) => [tensor.name, tensor]));
  const entries: NativeTensorEntry[] = [];
  const expected = expectedTensors(config);
  for (const [name, shape] of expected) {
    const tensor = byName.get(name);
    if (tensor === undefined) {
      const files = [...new Set(found.map(({ file }) => basename(file)))].join(', ');
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${place}: tensor ${name} ${shapeText(shape)} is missing in ${files}; config.json (model_type ` +
          `${config.modelType}) calls for it`,
      );
    }
    if (!sameShape(shape, tensor.shape)) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `${tensor.file}: tensor ${name}: expected shape ${shapeText(shape)} from config.json, found ` +
          shapeText(tensor.shape),
      );
    }
    entries.push(nativeEntry(tensor));
  }
  let tiedHead: NativeTensorEntry | undefined;
  for (const tensor of found) {
    if (expected.has(tensor.name) || ignored.test(tensor.name)) continue;
    const embedding = expected.get('model.embed_tokens.weight') as number[];
    if (tensor.name === 'lm_head.weight' && sameShape(tensor.shape, embedding)) {
      tiedHead = nativeEntry(tensor);
      continue;
    }
    throw new CftError(
      'ERR_CFT_BAD_WEIGHTS',
      `${tensor.file}: unexpected tensor ${tensor.name} ${shapeText(tensor.shape)}; config.json (model_type ` +
        `${config.modelType}) has no place for it`,
    );
  }
  return { entries, tiedHead };
}
