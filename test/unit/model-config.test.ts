import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError, type CftErrorCode } from '../../lib/errors.js';
import { parseConfig, readConfig } from '../../lib/model/config.js';
import type { JsonObject } from '../../lib/model/json-file.js';
import { expectedTensors } from '../../lib/model/tensors.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const base = {
  vocab_size: 96,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
};
const config = (fields: JsonObject) => parseConfig({ ...base, ...fields }, 'config.json');
const llama = (fields: JsonObject) => config({ model_type: 'llama', ...fields });
const windows = (fields: JsonObject) => [...config(fields).windowOfLayer];

test('families differ in biases, norms and their places', (t) => {
  const facts = (fields: JsonObject) => {
    const { qkvBias, outputBias, mlpBias, qkNorm, normPlacement } = config(fields);
    return [qkvBias, outputBias, mlpBias, qkNorm, normPlacement];
  };
  const biases = { attention_bias: true, mlp_bias: true };
  t.deepEqual(facts({ model_type: 'llama' }), [false, false, false, 'none', 'pre']);
  t.deepEqual(facts({ model_type: 'llama', ...biases }), [true, true, true, 'none', 'pre']);
  t.deepEqual(facts({ model_type: 'qwen2', ...biases }), [true, false, false, 'none', 'pre']);
  t.deepEqual(facts({ model_type: 'qwen3' }), [false, false, false, 'head', 'pre']);
  t.deepEqual(facts({ model_type: 'qwen3', ...biases }), [true, true, false, 'head', 'pre']);
  t.deepEqual(facts({ model_type: 'olmo2' }), [false, false, false, 'projection', 'post']);
  t.deepEqual(facts({ model_type: 'olmo3', ...biases }), [true, true, false, 'projection', 'post']);
  t.deepEqual(facts({ model_type: 'mistral', ...biases }), [false, false, false, 'none', 'pre']);
});

test('numbers, and what is assumed where config.json is silent', (t) => {
  const given = llama({ head_dim: 16, tie_word_embeddings: true, attention_bias: true });
  t.like(given, { headDim: 16, kvHeads: 2, tieWordEmbeddings: true, rmsNormEps: 1e-5, maxPositions: 128 });
  const silent = { num_key_value_heads: undefined, rms_norm_eps: undefined };
  t.like(llama(silent), { headDim: 8, kvHeads: 4, rmsNormEps: 1e-6, tieWordEmbeddings: false });
  t.like(config({ model_type: 'qwen3', head_dim: undefined }), { headDim: 128 });
  t.like(config({ model_type: 'olmo2', ...silent }), { kvHeads: 4, rmsNormEps: 1e-5 });
  t.like(
    config({
      model_type: 'mistral',
      num_key_value_heads: undefined,
      num_attention_heads: 16,
      sliding_window: null,
    }),
    { kvHeads: 8 },
  );
});

test('fields that change nothing are no reason to refuse', (t) => {
  const off = [null, false, 0].map((nothing) =>
    Object.fromEntries(
      ['num_experts', 'final_logit_softcapping', 'attention_chunk_size', 'clip_qkv', 'use_qk_norm'].map(
        (name) => [name, nothing],
      ),
    ),
  );
  const neutral = { logits_scaling: 1, rotary_pct: 1, no_rope_layers: [1, 1, 1, 1], is_causal: true };
  const facts = ({ json: _, ...rest }: ReturnType<typeof config>) => rest;
  const more = {
    architectures: ['LlamaForCausalLM'],
    auto_map: { AutoConfig: 'own.Config' },
    hidden_act: 'swish',
  };
  for (const fields of [...off, neutral, more]) t.deepEqual(facts(llama(fields)), facts(llama({})));
  t.notThrows(() => config({ model_type: 'qwen3', use_qk_norm: true }));
});

test('the longest sequence where config.json is silent is that of the family in transformers 5.18', (t) => {
  const positions = (model_type: string) =>
    config({ model_type, max_position_embeddings: undefined }).maxPositions;
  t.deepEqual(
    ['llama', 'qwen2', 'qwen3', 'olmo2', 'olmo3', 'mistral'].map(positions),
    [2048, 32_768, 32_768, 2048, 2048, 131_072],
  );
});

test('sliding windows of each family', (t) => {
  t.deepEqual(windows({ model_type: 'llama', sliding_window: 9 }), [0, 0, 0, 0]);
  t.deepEqual(windows({ model_type: 'mistral', sliding_window: 9 }), [9, 9, 9, 9]);
  t.deepEqual(windows({ model_type: 'mistral', sliding_window: null }), [0, 0, 0, 0]);
  t.deepEqual(windows({ model_type: 'mistral' }), [4096, 4096, 4096, 4096]);
  const listed = new Array(4).fill('full_attention');
  t.deepEqual(
    windows({ model_type: 'mistral', sliding_window: 9, layer_types: listed }),
    [9, 9, 9, 9],
    'transformers passes over the list',
  );
  t.deepEqual(windows({ model_type: 'mistral', sliding_window: null, layer_types: listed }), [0, 0, 0, 0]);
  const qwen = { model_type: 'qwen2', sliding_window: 9, max_window_layers: 3 };
  t.deepEqual(windows(qwen), [0, 0, 0, 0]);
  t.deepEqual(windows({ ...qwen, use_sliding_window: true }), [0, 0, 0, 9]);
  t.deepEqual(windows({ ...qwen, use_sliding_window: true, max_window_layers: undefined }), [0, 0, 0, 0]);
  const full = 'full_attention';
  const sliding = 'sliding_attention';
  t.deepEqual(
    windows({ ...qwen, use_sliding_window: true, layer_types: [sliding, full, full, full] }),
    [9, 0, 0, 0],
  );
  t.deepEqual(windows({ model_type: 'olmo3', sliding_window: 5 }), [5, 5, 5, 0]);
  t.deepEqual(
    windows({ model_type: 'olmo3', sliding_window: 5, layer_types: [full, sliding, full, full] }),
    [0, 5, 0, 0],
  );
});

const close = (a: Float32Array, b: readonly number[]) =>
  a.length === b.length && a.every((value, i) => Math.abs(value - b[i]!) <= 3e-7 * Math.abs(b[i]!));

for (const [name, expected] of Object.entries(
  readJson<Record<string, { config: JsonObject; inverse_frequencies: number[]; scale: number }>>(
    fixturePath('rope.json'),
  ),
)) {
  if (name === 'versions') continue;
  test(`rotary frequencies as in transformers: ${name}`, (t) => {
    const { ropes, ropeOfLayer } = parseConfig(expected.config, name);
    t.is(ropes.length, 1);
    t.deepEqual([...ropeOfLayer], [0]);
    t.true(close(ropes[0]!.inverseFrequencies, expected.inverse_frequencies));
    t.is(ropes[0]!.scale, expected.scale);
  });
}

test('both dialects of the rotary parameters mean the same', (t) => {
  const scaling = { factor: 4, original_max_position_embeddings: 32 };
  const old = llama({ rope_theta: 5e5, rope_scaling: { type: 'yarn', ...scaling } });
  const middle = llama({ rope_theta: 5e5, rope_scaling: { rope_type: 'yarn', ...scaling } });
  const fresh = llama({ rope_parameters: { rope_type: 'yarn', rope_theta: 5e5, ...scaling } });
  t.deepEqual(old.ropes, fresh.ropes);
  t.deepEqual(middle.ropes, fresh.ropes);
  t.notDeepEqual(llama({ rope_theta: 5e5 }).ropes, fresh.ropes);
  t.deepEqual(llama({ rope_theta: 5e5, rope_scaling: null }).ropes, llama({ rope_theta: 5e5 }).ropes);
  t.deepEqual(llama({}).ropes, llama({ rope_parameters: { rope_type: 'default', rope_theta: 1e4 } }).ropes);
  const outside = { rope_type: 'yarn', rope_theta: 5e5, factor: 4 };
  t.deepEqual(
    llama({ rope_parameters: outside, original_max_position_embeddings: 32 }).ropes,
    fresh.ropes,
    'the length beside the dictionary counts',
  );
});

test('sliding layers of OLMo3 keep the unscaled embedding', (t) => {
  const olmo3 = (fields: JsonObject) => config({ model_type: 'olmo3', ...fields });
  const yarn = { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 64 };
  const old = olmo3({ rope_theta: 5e5, rope_scaling: yarn });
  const fresh = olmo3({
    rope_parameters: {
      full_attention: { ...yarn, rope_theta: 5e5 },
      sliding_attention: { rope_type: 'default', rope_theta: 5e5 },
    },
  });
  t.deepEqual(old.ropes, fresh.ropes);
  t.deepEqual([...old.ropeOfLayer], [0, 0, 0, 1]);
  t.deepEqual(old.ropes[0], llama({ rope_theta: 5e5 }).ropes[0]);
  t.not(old.ropes[1]!.scale, 1);
  t.deepEqual(olmo3({}).ropes[1], llama({ rope_theta: 5e5 }).ropes[0], 'its default base is 500000');
});

test('tensors follow from the facts', (t) => {
  const names = (fields: JsonObject) => [...expectedTensors(config({ num_hidden_layers: 1, ...fields }))];
  t.deepEqual(names({ model_type: 'olmo2', tie_word_embeddings: true }), [
    ['model.embed_tokens.weight', [96, 32]],
    ['model.layers.0.self_attn.q_proj.weight', [32, 32]],
    ['model.layers.0.self_attn.k_proj.weight', [16, 32]],
    ['model.layers.0.self_attn.v_proj.weight', [16, 32]],
    ['model.layers.0.self_attn.o_proj.weight', [32, 32]],
    ['model.layers.0.self_attn.q_norm.weight', [32]],
    ['model.layers.0.self_attn.k_norm.weight', [16]],
    ['model.layers.0.post_attention_layernorm.weight', [32]],
    ['model.layers.0.mlp.gate_proj.weight', [48, 32]],
    ['model.layers.0.mlp.up_proj.weight', [48, 32]],
    ['model.layers.0.mlp.down_proj.weight', [32, 48]],
    ['model.layers.0.post_feedforward_layernorm.weight', [32]],
    ['model.norm.weight', [32]],
  ]);
  const qwen3 = new Map(names({ model_type: 'qwen3', head_dim: 16 }));
  t.deepEqual(qwen3.get('model.layers.0.self_attn.q_norm.weight'), [16]);
  t.deepEqual(qwen3.get('model.layers.0.self_attn.q_proj.weight'), [64, 32]);
  t.deepEqual(qwen3.get('lm_head.weight'), [96, 32]);
});

const bad: CftErrorCode = 'ERR_CFT_BAD_MODEL';
const unsupported: CftErrorCode = 'ERR_CFT_UNSUPPORTED_MODEL';
const refusals: [JsonObject, CftErrorCode, string][] = [
  [
    { model_type: undefined },
    bad,
    'model_type: expected one of llama, qwen2, qwen3, olmo2, olmo3, mistral, found nothing',
  ],
  [{ model_type: 7 }, bad, 'model_type: expected a text, found 7'],
  [
    { model_type: 'gpt2' },
    unsupported,
    'model_type "gpt2" is not supported; supported are llama, qwen2, qwen3, olmo2, olmo3, mistral',
  ],
  [{ model_type: 'toString' }, unsupported, 'model_type "toString" is not supported'],
  [{ num_local_experts: 8 }, unsupported, 'num_local_experts = 8: mixtures of experts are not supported'],
  [{ hidden_act: 'gelu' }, unsupported, 'hidden_act = "gelu": activations other than silu are not supported'],
  [{ hidden_activation: 'gelu' }, unsupported, 'hidden_activation = "gelu": activations other than'],
  [{ num_experts_per_tok: 2 }, unsupported, 'num_experts_per_tok = 2: mixtures of experts are not supported'],
  [{ final_logit_softcapping: 30 }, unsupported, 'final_logit_softcapping = 30: capped logits are not'],
  [{ attn_logit_softcapping: 50 }, unsupported, 'attn_logit_softcapping = 50: capped logits are not'],
  [{ attention_chunk_size: 4 }, unsupported, 'attention_chunk_size = 4: chunked attention is not supported'],
  [{ attention_sinks: true }, unsupported, 'attention_sinks = true: attention sinks are not supported'],
  [{ clip_qkv: 8 }, unsupported, 'clip_qkv = 8: clipped projections are not supported'],
  [{ no_rope_layers: [1, 1, 1, 0] }, unsupported, 'no_rope_layers = [1,1,1,0]: layers without rotary'],
  [{ use_qk_norm: true }, unsupported, 'use_qk_norm = true: norms of query and key are not supported'],
  [{ rotary_pct: 0.25 }, unsupported, 'rotary_pct = 0.25: partial rotary embeddings are not supported'],
  [{ embedding_multiplier: 12 }, unsupported, 'embedding_multiplier = 12: scaled activations are not'],
  [{ logits_scaling: 8 }, unsupported, 'logits_scaling = 8: scaled activations are not supported'],
  [{ residual_multiplier: 0.2 }, unsupported, 'residual_multiplier = 0.2: scaled activations are not'],
  [{ attention_multiplier: 0.01 }, unsupported, 'attention_multiplier = 0.01: scaled activations are not'],
  [{ kv_lora_rank: 512 }, unsupported, 'kv_lora_rank = 512: multi-head latent attention is not supported'],
  [{ q_lora_rank: 512 }, unsupported, 'q_lora_rank = 512: multi-head latent attention is not supported'],
  [{ is_encoder_decoder: true }, unsupported, 'is_encoder_decoder = true: encoder-decoder models are not'],
  [{ is_causal: false }, unsupported, 'is_causal = false: attention to later tokens is not supported'],
  [
    { architectures: ['LlamaForSequenceClassification'] },
    unsupported,
    'architectures: expected one that ends in ForCausalLM, found ["LlamaForSequenceClassification"]',
  ],
  [
    { rope_parameters: { rope_type: 'default', mrope_section: [2, 1, 1] } },
    unsupported,
    'rope_parameters: mrope_section = [2,1,1] is not supported',
  ],
  [
    { rope_parameters: { rope_type: 'default', llama_4_scaling_beta: 0.1 } },
    unsupported,
    'rope_parameters: llama_4_scaling_beta = 0.1 is not supported',
  ],
  [
    { quantization_config: { quant_method: 'gptq' } },
    unsupported,
    'quantization_config = {"quant_method":"gptq"}: use the bf16 or fp32 original; quantised weights are',
  ],
  [
    { rope_scaling: { type: 'dynamic', factor: 2 } },
    unsupported,
    'rope_scaling: type: "dynamic" is not supported; supported are default, linear, llama3, yarn',
  ],
  [
    { rope_parameters: { rope_type: 'longrope' } },
    unsupported,
    'rope_parameters: rope_type: "longrope" is not supported',
  ],
  [{ partial_rotary_factor: 0.5 }, unsupported, 'partial_rotary_factor 0.5 is not supported; only 1 is'],
  [
    { rope_parameters: { partial_rotary_factor: 0.25 } },
    unsupported,
    'rope_parameters: partial_rotary_factor 0.25 is not supported',
  ],
  [
    {
      model_type: 'olmo3',
      rope_parameters: { sliding_attention: null, full_attention: { rope_type: 'default' } },
    },
    unsupported,
    'rope_parameters: sliding_attention: null (no rotary embedding) is not supported',
  ],
  [
    { model_type: 'olmo3', rope_parameters: { full_attention: { rope_type: 'default' } } },
    bad,
    'rope_parameters: sliding_attention: expected rotary parameters, since there are such layers, found nothing',
  ],
  [{ rope_scaling: 'linear' }, bad, 'rope_scaling: expected an object, found "linear"'],
  [
    { rope_scaling: { type: 'linear' } },
    bad,
    'rope_scaling: factor: expected a number above 0, found nothing',
  ],
  [{ rope_scaling: { type: 'yarn' } }, bad, 'rope_scaling: factor: expected a number, found nothing'],
  [
    { rope_scaling: { type: 'llama3', factor: 8, low_freq_factor: 4, high_freq_factor: 4 } },
    bad,
    'rope_scaling: high_freq_factor: expected a number above low_freq_factor (4), found 4',
  ],
  [{ rope_theta: -1 }, bad, 'rope_theta: expected a number above 1, found -1'],
  [
    { layer_types: ['full_attention'] },
    bad,
    'layer_types: expected a list of 4 names (num_hidden_layers), found ["full_attention"]',
  ],
  [
    { layer_types: ['chunked_attention', 'full_attention', 'full_attention', 'full_attention'] },
    unsupported,
    'layer_types: "chunked_attention" is not supported; supported are full_attention, sliding_attention',
  ],
  [
    { layer_types: ['sliding_attention', 'full_attention', 'full_attention', 'full_attention'] },
    unsupported,
    'layer_types: layers of this family are all full_attention, found [',
  ],
  [
    {
      model_type: 'qwen2',
      layer_types: ['sliding_attention', 'full_attention', 'full_attention', 'full_attention'],
    },
    bad,
    'use_sliding_window: expected true and a sliding_window, since layer_types has sliding_attention, found nothing',
  ],
  [
    { model_type: 'olmo3', sliding_window: null },
    bad,
    'sliding_window: expected an integer, since layer_types has sliding_attention, found null',
  ],
  [
    { num_key_value_heads: 3 },
    bad,
    'num_key_value_heads: expected a divisor of num_attention_heads (4), found 3',
  ],
  [
    { hidden_size: 30 },
    bad,
    'hidden_size: expected a multiple of num_attention_heads (4), or a head_dim, found 30',
  ],
  [{ head_dim: 7 }, bad, 'head_dim: expected an even number (rotary embedding), found 7'],
  [{ vocab_size: undefined }, bad, 'vocab_size: expected an integer from 1 to 16777216, found nothing'],
  [{ num_hidden_layers: -3 }, bad, 'num_hidden_layers: expected an integer from 1 to 4096, found -3'],
  [{ hidden_size: 1e12 }, bad, 'hidden_size: expected an integer from 1 to 1048576, found 1000000000000'],
  [{ intermediate_size: 1.5 }, bad, 'intermediate_size: expected an integer from 1 to 4194304, found 1.5'],
  [{ num_attention_heads: '4' }, bad, 'num_attention_heads: expected an integer from 1 to 65536, found "4"'],
  [{ rms_norm_eps: 0 }, bad, 'rms_norm_eps: expected a number above 0 and at most 1, found 0'],
  [
    { rms_norm_eps: Number.POSITIVE_INFINITY },
    bad,
    'rms_norm_eps: expected a number above 0 and at most 1, found Infinity',
  ],
  [{ tie_word_embeddings: 'yes' }, bad, 'tie_word_embeddings: expected true or false, found "yes"'],
  [
    { max_position_embeddings: 0 },
    bad,
    'max_position_embeddings: expected an integer from 1 to 2147483647, found 0',
  ],
];

for (const [fields, code, message] of refusals) {
  test(`refused: ${message}`, (t) => {
    const error = t.throws(() => llama(fields), { instanceOf: CftError });
    t.is(error?.code, code);
    t.true(error?.message.startsWith(`config.json: ${message}`), error?.message);
  });
}

test('refused: folders without a usable config.json', (t) => {
  const folder = temporaryFolder(t);
  const throws = (path: string, code: CftErrorCode, message: RegExp) =>
    t.is(t.throws(() => readConfig(path), { instanceOf: CftError, message })?.code, code);
  throws(join(folder, 'none'), bad, /none: expected a model folder, found no such folder/);
  throws(folder, bad, /expected a Hugging Face model folder, found no config\.json in it/);
  const file = join(folder, 'config.json');
  writeFileSync(file, '{"model_type": NaN}');
  throws(folder, bad, /config\.json: not valid JSON: /);
  writeFileSync(file, Buffer.from([0x7b, 0xff, 0x7d]));
  throws(folder, bad, /config\.json: expected UTF-8 text, found invalid bytes/);
  writeFileSync(file, '[1]');
  throws(folder, bad, /config\.json: expected a JSON object, found \[1\]/);
  writeFileSync(file, '{"text_config": {"model_type": "llama"}}');
  throws(folder, unsupported, /text_config: multimodal models are not supported/);
  const other = join(folder, 'other');
  mkdirSync(join(other, 'config.json'), { recursive: true });
  throws(other, bad, /found no config\.json in it/);
});
