import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError, type CftErrorCode } from '../../lib/errors.js';
import { isAdapterFolder, readAdapterConfig, readAdapterTensors } from '../../lib/model/adapter.js';
import { readConfig } from '../../lib/model/config.js';
import { expectedTensors } from '../../lib/model/tensors.js';
import { copyOfFixture, editJson, fixturePath } from '../helpers/fixtures.js';

const shapes = expectedTensors(readConfig(fixturePath('models/qwen2')));

test('reads what PEFT wrote', (t) => {
  const folder = fixturePath('models/qwen2-lora');
  t.true(isAdapterFolder(folder));
  t.false(isAdapterFolder(fixturePath('models/qwen2')));
  const config = readAdapterConfig(folder);
  t.deepEqual(config, {
    base: '../qwen2',
    baseRevision: undefined,
    rank: 3,
    targets: ['down_proj', 'q_proj', 'v_proj'],
    scale: 8 / 3,
  });
  t.is(readAdapterConfig(fixturePath('models/qwen2-rslora')).scale, 8 / Math.sqrt(3));
  const tensors = readAdapterTensors(folder, config, shapes);
  t.is(tensors.length, 2 * 3 * 2, 'two factors of three modules in two layers');
});

const options: [Record<string, unknown>, CftErrorCode, string][] = [
  [
    { peft_type: 'IA3' },
    'ERR_CFT_UNSUPPORTED_MODEL',
    'peft_type = "IA3" is not supported; merge the adapter',
  ],
  [{ task_type: 'SEQ_CLS' }, 'ERR_CFT_UNSUPPORTED_MODEL', 'task_type = "SEQ_CLS" is not supported'],
  [{ use_dora: true }, 'ERR_CFT_UNSUPPORTED_MODEL', 'use_dora = true is not supported'],
  [
    { modules_to_save: ['lm_head'] },
    'ERR_CFT_UNSUPPORTED_MODEL',
    'modules_to_save = ["lm_head"] is not supported',
  ],
  [
    { rank_pattern: { q_proj: 2 } },
    'ERR_CFT_UNSUPPORTED_MODEL',
    'rank_pattern = {"q_proj":2} is not supported',
  ],
  [{ bias: 'lora_only' }, 'ERR_CFT_UNSUPPORTED_MODEL', 'bias = "lora_only" is not supported'],
  [
    { init_lora_weights: 'pissa' },
    'ERR_CFT_UNSUPPORTED_MODEL',
    'init_lora_weights = "pissa" is not supported',
  ],
  [{ option_of_2030: 1 }, 'ERR_CFT_UNSUPPORTED_MODEL', 'option_of_2030 = 1 is not supported'],
  [
    { target_modules: ['model.embed_tokens'] },
    'ERR_CFT_UNSUPPORTED_MODEL',
    'target_modules = ["model.embed_tokens"]: an adapter on model.embed_tokens is not supported',
  ],
  [{ r: 0 }, 'ERR_CFT_BAD_MODEL', 'r: expected an integer from 1 to 65536, found 0'],
  [{ lora_alpha: -1 }, 'ERR_CFT_BAD_MODEL', 'lora_alpha: expected a number above 0, found -1'],
  [
    { base_model_name_or_path: null },
    'ERR_CFT_BAD_MODEL',
    'base_model_name_or_path: expected the folder or hub id of the base model, found null',
  ],
];

for (const [fields, code, message] of options) {
  test(`refused: ${message}`, (t) => {
    const folder = copyOfFixture(t, 'models/qwen2-lora');
    editJson(join(folder, 'adapter_config.json'), (json) => Object.assign(json, fields));
    const error = t.throws(() => readAdapterConfig(folder), { instanceOf: CftError });
    t.is(error?.code, code);
    t.true(error?.message.startsWith(`${join(folder, 'adapter_config.json')}: ${message}`), error?.message);
  });
}

/** A safetensors file of float32 zeros. */
function writeTensors(path: string, tensors: Record<string, number[]>): void {
  let end = 0;
  const header = JSON.stringify(
    Object.fromEntries(
      Object.entries(tensors).map(([name, shape]) => {
        const begin = end;
        end += 4 * shape.reduce((product, size) => product * size, 1);
        return [name, { dtype: 'F32', shape, data_offsets: [begin, end] }];
      }),
    ),
  );
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(path, Buffer.concat([prefix, Buffer.from(header), Buffer.alloc(end)]));
}

const module = 'base_model.model.model.layers.0.self_attn.q_proj';
const files: [string, Record<string, number[]>, RegExp][] = [
  ['no tensors', {}, /the adapter holds no tensors/],
  [
    'one factor alone',
    { [`${module}.lora_A.weight`]: [3, 32] },
    /model\.layers\.0\.self_attn\.q_proj has no lora_B\.weight/,
  ],
  [
    'a factor of another rank',
    { [`${module}.lora_A.weight`]: [4, 32] },
    /tensor base_model\S+q_proj\.lora_A\.weight: expected shape \[3, 32\], found \[4, 32\]/,
  ],
  [
    'a factor of another model',
    { [`${module}.lora_B.weight`]: [64, 3] },
    /lora_B\.weight: expected shape \[32, 3\], found \[64, 3\]/,
  ],
  [
    'factors of a module that target_modules leaves out',
    { 'base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight': [3, 32] },
    /k_proj\.lora_A\.weight is of no module in target_modules of adapter_config\.json \(down_proj, q_proj, v_proj\)/,
  ],
  [
    'a layer that the model lacks',
    { 'base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight': [3, 32] },
    /unexpected tensor base_model\.model\.model\.layers\.9\S+; expected LoRA factors of linear layers/,
  ],
  [
    'factors of the embedding',
    { 'base_model.model.model.embed_tokens.lora_embedding_A': [3, 96] },
    /unexpected tensor base_model\.model\.model\.embed_tokens\.lora_embedding_A/,
  ],
  [
    'factors of a norm',
    { 'base_model.model.model.norm.lora_A.weight': [3, 32] },
    /unexpected tensor base_model\.model\.model\.norm\.lora_A\.weight/,
  ],
  [
    'a magnitude vector (DoRA)',
    { [`${module}.lora_magnitude_vector`]: [32] },
    /unexpected tensor \S+lora_magnitude_vector/,
  ],
];

for (const [what, tensors, message] of files) {
  test(`refused: ${what}`, (t) => {
    const folder = copyOfFixture(t, 'models/qwen2-lora');
    writeTensors(join(folder, 'adapter_model.safetensors'), tensors);
    const error = t.throws(() => readAdapterTensors(folder, readAdapterConfig(folder), shapes), {
      instanceOf: CftError,
      message,
    });
    t.is(error?.code, 'ERR_CFT_BAD_WEIGHTS');
  });
}

test('an adapter on lm_head is for a base whose head is its own', (t) => {
  const folder = copyOfFixture(t, 'models/qwen2-lora');
  editJson(join(folder, 'adapter_config.json'), (json) =>
    Object.assign(json, { target_modules: ['lm_head'] }),
  );
  const untied = expectedTensors(readConfig(fixturePath('models/mistral')));
  const [vocabulary, hidden] = untied.get('lm_head.weight')!;
  const name = (letter: string) => `base_model.model.lm_head.lora_${letter}.weight`;
  writeTensors(join(folder, 'adapter_model.safetensors'), {
    [name('A')]: [3, hidden!],
    [name('B')]: [vocabulary!, 3],
  });
  const config = readAdapterConfig(folder);
  t.is(readAdapterTensors(folder, config, untied).length, 2);
  const error = t.throws(() => readAdapterTensors(folder, config, shapes), { instanceOf: CftError });
  t.is(error?.code, 'ERR_CFT_UNSUPPORTED_MODEL');
  t.regex(error!.message, /lm_head\.lora_A\.weight: an adapter on lm_head is not supported where .* ties it/);
});

test('refused: an adapter folder without tensors', (t) => {
  const folder = copyOfFixture(t, 'models/qwen2-lora');
  rmSync(join(folder, 'adapter_model.safetensors'));
  t.throws(() => readAdapterTensors(folder, readAdapterConfig(folder), shapes), {
    message: /copy: expected adapter_model\.safetensors, found none/,
  });
});
