/** A Hugging Face folder with random weights in the shape of a known model, for shapes that we have no weights of. */
import { closeSync, copyFileSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { embeddedFolder } from '../preset.js';
import { Random } from '../random.js';

interface ShapeConfig {
  model_type: 'llama' | 'qwen2';
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  rope_theta: number;
}

const qwen2 = (
  hidden_size: number,
  intermediate_size: number,
  num_hidden_layers: number,
  num_attention_heads: number,
  num_key_value_heads: number,
): ShapeConfig => ({
  model_type: 'qwen2',
  vocab_size: 151_936,
  hidden_size,
  intermediate_size,
  num_hidden_layers,
  num_attention_heads,
  num_key_value_heads,
  rope_theta: 1e6,
});

export const shapes = {
  '135m': {
    like: "SmolLM2-135M's shape",
    config: {
      model_type: 'llama',
      vocab_size: 49_152,
      hidden_size: 576,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      rope_theta: 1e5,
    } as ShapeConfig,
  },
  '0.5b': { like: "Qwen2.5-0.5B's shape", config: qwen2(896, 4864, 24, 14, 2) },
  '1.5b': { like: "Qwen2.5-1.5B's shape", config: qwen2(1536, 8960, 28, 12, 2) },
  '3b': { like: "Qwen2.5-3B's shape", config: qwen2(2048, 11_008, 36, 16, 2) },
} as const;

export type ShapeName = keyof typeof shapes;

/** Names and shapes of all tensors; the embedding is tied. */
function tensorsOf(c: ShapeConfig): [name: string, shape: number[]][] {
  const head = c.hidden_size / c.num_attention_heads;
  const kv = c.num_key_value_heads * head;
  const tensors: [string, number[]][] = [['model.embed_tokens.weight', [c.vocab_size, c.hidden_size]]];
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const layer = `model.layers.${i}.`;
    const linear = (name: string, out: number, input: number, bias = false) => {
      tensors.push([`${layer}${name}.weight`, [out, input]]);
      if (bias) tensors.push([`${layer}${name}.bias`, [out]]);
    };
    const biased = c.model_type === 'qwen2';
    linear('self_attn.q_proj', c.hidden_size, c.hidden_size, biased);
    linear('self_attn.k_proj', kv, c.hidden_size, biased);
    linear('self_attn.v_proj', kv, c.hidden_size, biased);
    linear('self_attn.o_proj', c.hidden_size, c.hidden_size);
    linear('mlp.gate_proj', c.intermediate_size, c.hidden_size);
    linear('mlp.up_proj', c.intermediate_size, c.hidden_size);
    linear('mlp.down_proj', c.hidden_size, c.intermediate_size);
    for (const norm of ['input_layernorm', 'post_attention_layernorm'])
      tensors.push([`${layer}${norm}.weight`, [c.hidden_size]]);
  }
  tensors.push(['model.norm.weight', [c.hidden_size]]);
  return tensors;
}

/** bfloat16 of normal numbers; the upper half of a float32, which is enough for weights that mean nothing. */
function normalBlock(values: number, deviation: number): Uint16Array {
  const random = new Random('random-model', 17);
  const floats = Float32Array.from({ length: values }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random.uniform()));
    return deviation * radius * Math.cos(2 * Math.PI * random.uniform());
  });
  const words = new Uint32Array(floats.buffer);
  return Uint16Array.from(words, (word) => word >>> 16);
}

/** Writes the folder: config.json, model.safetensors in bfloat16 and, so that it loads, the embedded tokenizer. */
export function writeRandomModel(folder: string, shape: ShapeName): void {
  const { config } = shapes[shape];
  const json = {
    architectures: [config.model_type === 'qwen2' ? 'Qwen2ForCausalLM' : 'LlamaForCausalLM'],
    ...config,
    hidden_act: 'silu',
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    eos_token_id: 1,
  };
  writeFileSync(join(folder, 'config.json'), `${JSON.stringify(json, null, 1)}\n`);
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(join(embeddedFolder, name), join(folder, name));

  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  const tensors = tensorsOf(config).map(([name, shape]) => {
    const bytes = 2 * shape.reduce((product, size) => product * size, 1);
    header[name] = { dtype: 'BF16', shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
    return { name, bytes };
  });
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  // One block of random numbers again and again: gigabytes of fresh ones would take minutes and measure the same.
  const block = Buffer.from(normalBlock(1 << 20, 0.02).buffer);
  const ones = Buffer.from(new Uint16Array(1 << 14).fill(0x3f80).buffer);
  const file = openSync(join(folder, 'model.safetensors'), 'w');
  try {
    writeSync(file, length);
    writeSync(file, text);
    for (const { name, bytes } of tensors) {
      const source = name.includes('norm') ? ones : block;
      for (let done = 0; done < bytes; )
        done += writeSync(file, source, 0, Math.min(source.length, bytes - done));
    }
  } finally {
    closeSync(file);
  }
}
