/**
 * What a config.json may ask for and no family of ours computes. Some of it transformers would pass over as well, but
 * whoever wrote such a field into the file of a known family changed the family; a wrong number would be the result.
 */
import { CftError } from '../errors.js';
import type { Family } from './families.js';
import { type Fields, show } from './json-file.js';

/** Where the decoder lacks a feature. */
export function unsupported(message: string): never {
  throw new CftError('ERR_CFT_UNSUPPORTED_MODEL', message);
}

interface Feature {
  /** What the field stands for. */
  means: string;
  /** Values beside null, false and 0 that change nothing. */
  neutral?: (value: unknown) => boolean;
  /** Families that have it in their own right. */
  unless?: (family: Family) => boolean;
}

const isOne = (value: unknown): boolean => value === 1;
const isSilu = (value: unknown): boolean => value === 'silu' || value === 'swish';
const experts: Feature = { means: 'mixtures of experts are' };
const activation: Feature = { means: 'activations other than silu are', neutral: isSilu };
const multiplier: Feature = { means: 'scaled activations are', neutral: isOne };
const latent: Feature = { means: 'multi-head latent attention is' };
const softcap: Feature = { means: 'capped logits are' };

const features: Readonly<Record<string, Feature>> = {
  num_experts: experts,
  num_experts_per_tok: experts,
  num_local_experts: experts,
  n_routed_experts: experts,
  moe_intermediate_size: experts,
  hidden_act: activation,
  hidden_activation: activation,
  final_logit_softcapping: softcap,
  attn_logit_softcapping: softcap,
  attention_chunk_size: { means: 'chunked attention is' },
  attention_sinks: { means: 'attention sinks are' },
  clip_qkv: { means: 'clipped projections are' },
  no_rope_layers: {
    means: 'layers without rotary embedding are',
    neutral: (value) => Array.isArray(value) && value.every(isOne),
  },
  use_qk_norm: { means: 'norms of query and key are', unless: ({ qkNorm }) => qkNorm !== 'none' },
  rotary_pct: { means: 'partial rotary embeddings are', neutral: isOne },
  embedding_multiplier: multiplier,
  logits_scaling: multiplier,
  residual_multiplier: multiplier,
  attention_multiplier: multiplier,
  kv_lora_rank: latent,
  q_lora_rank: latent,
  is_encoder_decoder: { means: 'encoder-decoder models are' },
  quantization_config: {
    means: 'use the bf16 or fp32 original; quantised weights are',
    neutral: () => false,
  },
};

/** @throws CftError ERR_CFT_UNSUPPORTED_MODEL naming the field. */
export function refuseFeatures(fields: Fields, family: Family): void {
  const { place, values } = fields;
  for (const [name, { means, neutral, unless }] of Object.entries(features)) {
    const value = values[name];
    if (!fields.has(name) || value === false || value === 0) continue;
    if (neutral?.(value) || unless?.(family)) continue;
    unsupported(`${place}: ${name} = ${show(value)}: ${means} not supported`);
  }
  if (!fields.boolean('is_causal', true))
    unsupported(`${place}: is_causal = false: attention to later tokens is not supported`);
  const { architectures } = values;
  if (!Array.isArray(architectures) || architectures.length === 0) return;
  if (!architectures.some((name) => typeof name === 'string' && name.endsWith('ForCausalLM'))) {
    unsupported(
      `${place}: architectures: expected one that ends in ForCausalLM, found ${show(architectures)}: only causal ` +
        'language models are supported',
    );
  }
}

/** As refuseFeatures, for a dictionary of rotary parameters. */
export function refuseRopeFeatures(parameters: Fields): void {
  for (const name of ['llama_4_scaling_beta', 'mrope_section']) {
    if (!parameters.has(name) || parameters.values[name] === 0) continue;
    unsupported(`${parameters.place}: ${name} = ${show(parameters.values[name])} is not supported`);
  }
  refusePartialRotary(parameters);
}

export function refusePartialRotary(fields: Fields): void {
  const factor = fields.number('partial_rotary_factor', { absent: 1 });
  if (factor !== 1)
    unsupported(`${fields.place}: partial_rotary_factor ${factor} is not supported; only 1 is`);
}
