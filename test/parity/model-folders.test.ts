/** Model folders on the tiny checkpoints: saving, loading, and what is refused. */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join, relative } from 'node:path';
import test from 'ava';
import { CftError, type CftErrorCode } from '../../lib/errors.js';
import type { LoadEvent, LoadOptions } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import { readSafetensorsHeader } from '../../lib/model/safetensors.js';
import { saveModel } from '../../lib/model/save.js';
import { projectRoot } from '../helpers/data.js';
import { startFakeHub } from '../helpers/fake-hub.js';
import {
  copyOfFixture,
  editJson,
  fixturePath,
  readJson,
  relativeError,
  temporaryFolder,
} from '../helpers/fixtures.js';
import { load } from '../helpers/load-model.js';

const prompt = [76, 63, 37, 4, 30, 38, 84, 24];

const logitsOf = async (model: Model) => (await model.logits(prompt)).data;

for (const name of ['llama', 'qwen2', 'qwen3-sharded', 'olmo3', 'llama-linear-bf16', 'qwen2-lora']) {
  test(`${name}: saved and loaded again it is the same model`, async (t) => {
    const model = await load(t, fixturePath(`models/${name}`), { dtype: 'float32' });
    const folder = join(temporaryFolder(t), 'new', 'model');
    await model.save(folder);
    t.deepEqual(readdirSync(folder).sort(), [
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
      'tokenizer_config.json',
    ]);
    t.deepEqual(readdirSync(join(folder, '..')), ['model'], 'no temporary files');
    const again = await load(t, folder, { dtype: 'float32' });
    t.deepEqual(await logitsOf(again), await logitsOf(model));
    t.deepEqual([...again.endTokenIds], [...model.endTokenIds]);
    t.is(again.tokenizerSha256(), model.tokenizerSha256());
  });
}

test('the saved config is the original in its dialect, with the dtype of the weights', async (t) => {
  for (const [name, field, other] of [
    ['qwen2', 'torch_dtype', 'dtype'],
    ['llama', 'dtype', 'torch_dtype'],
  ] as const) {
    const model = await load(t, fixturePath(`models/${name}`), { dtype: 'bfloat16' });
    const folder = join(temporaryFolder(t), 'model');
    await model.save(folder);
    const original = readJson<Record<string, unknown>>(fixturePath(`models/${name}/config.json`));
    const saved = readJson<Record<string, unknown>>(join(folder, 'config.json'));
    t.deepEqual(saved, { ...original, [field]: 'bfloat16' });
    t.false(other in saved);
    t.true(readSafetensorsHeader(join(folder, 'model.safetensors')).every(({ dtype }) => dtype === 'BF16'));
  }
});

test('a large model is saved in shards with an index', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const folder = join(temporaryFolder(t), 'model');
  const source = fixturePath('models/llama');
  await saveModel(
    folder,
    { native: model.native, configJson: model.config.json, modelFolder: source, tokenizerFolder: source },
    30_000,
  );
  const shards = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
  t.deepEqual(shards, [1, 2, 3, 4].map((i) => `model-0000${i}-of-00004.safetensors`).slice(0, shards.length));
  t.true(shards.length > 1);
  const index = readJson<{ metadata: { total_size: number }; weight_map: Record<string, string> }>(
    join(folder, 'model.safetensors.index.json'),
  );
  t.is(index.metadata.total_size, 4 * model.parameterCount);
  t.is(Object.keys(index.weight_map).length, 20);
  t.deepEqual(await logitsOf(await load(t, folder)), await logitsOf(model));
});

test('chat templates are saved too', async (t) => {
  const source = copyOfFixture(t, 'models/llama');
  writeFileSync(join(source, 'chat_template.jinja'), '{{ messages[0].content }}');
  mkdirSync(join(source, 'additional_chat_templates'));
  writeFileSync(join(source, 'additional_chat_templates', 'tool_use.jinja'), 'tools');
  const folder = join(temporaryFolder(t), 'model');
  await (await load(t, source)).save(folder);
  const { tokenizer } = await load(t, folder);
  const messages = [{ role: 'user', content: 'hi' }];
  t.is(tokenizer.applyChatTemplate(messages), 'hi');
  t.is(tokenizer.applyChatTemplate(messages, { tools: [] }), 'tools');
});

test('refused: saving over something, or where nothing can be written', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const refused = async (folder: string, code: CftErrorCode, message: RegExp) => {
    const error = await t.throwsAsync(model.save(folder), { instanceOf: CftError, message });
    t.is((error as CftError).code, code);
  };
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'precious'), 'x');
  await refused(
    folder,
    'ERR_CFT_BAD_OUTPUT',
    /expected an empty or new folder to save into, found 1 entries \(precious/,
  );
  await refused(
    join(folder, 'precious'),
    'ERR_CFT_BAD_OUTPUT',
    /expected a folder to save into, found a file/,
  );
  await refused(join(folder, 'precious', 'model'), 'ERR_CFT_BAD_OUTPUT', /cannot be written: /);
  t.is(readFileSync(join(folder, 'precious'), 'utf8'), 'x');
  const empty = join(folder, 'empty');
  mkdirSync(empty);
  await model.save(empty);
  t.true(existsSync(join(empty, 'config.json')));
});

test('a failure in the middle leaves nothing behind', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const folder = temporaryFolder(t);
  const source = fixturePath('models/llama');
  const parts = { configJson: {}, modelFolder: source, tokenizerFolder: source };
  const failing = {
    ...model.native,
    dtype: 'float32' as const,
    tensorNames: () => model.native.tensorNames(),
    tensorShape: (name: string) => model.native.tensorShape(name),
    saveTensors: async () => {
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), {
        code: 'ENOSPC',
        errno: -28,
      });
    },
  };
  const error = await t.throwsAsync(saveModel(join(folder, 'model'), { native: failing, ...parts }), {
    instanceOf: CftError,
    message: /model: saving the model failed: ENOSPC: no space left on device/,
  });
  t.is((error as CftError).code, 'ERR_CFT_IO');
  t.deepEqual(readdirSync(folder), []);
});

// Loading.

test('an adapter finds its base beside itself, by an absolute path, and brings its own tokenizer', async (t) => {
  const folder = copyOfFixture(t, 'models/qwen2-lora');
  editJson(join(folder, 'adapter_config.json'), (json) => {
    json.base_model_name_or_path = fixturePath('models/qwen2');
  });
  const model = await load(t, folder);
  const beside = await load(t, fixturePath('models/qwen2-lora'));
  t.deepEqual(await logitsOf(model), await logitsOf(beside));
  const base = await load(t, fixturePath('models/qwen2'));
  t.not(await model.weightsSha256(), await base.weightsSha256());
  t.is(model.tokenizerSha256(), base.tokenizerSha256());
  editJson(join(folder, 'adapter_config.json'), (json) => {
    json.base_model_name_or_path = '../nowhere';
  });
  await t.throwsAsync(load(t, folder), {
    message: `${join(folder, 'adapter_config.json')}: base_model_name_or_path: ../nowhere: expected a model folder or a hub id (org/name), found no such folder`,
  });
});

test('relative paths and symlinked folders', async (t) => {
  const link = join(temporaryFolder(t), 'link');
  symlinkSync(fixturePath('models/llama'), link);
  t.is((await load(t, link)).parameterCount, 21_664);
  t.is((await load(t, relative(process.cwd(), fixturePath('models/llama')))).parameterCount, 21_664);
});

test('an output matrix stored beside tied embeddings must be the embedding', async (t) => {
  const folder = copyOfFixture(t, 'models/llama-llama3');
  editJson(join(folder, 'config.json'), (json) => {
    json.tie_word_embeddings = true;
  });
  const error = await t.throwsAsync(load(t, folder), {
    instanceOf: CftError,
    message:
      /model\.safetensors: lm_head\.weight differs from model\.embed_tokens\.weight, but config\.json ties them/,
  });
  t.is((error as CftError).code, 'ERR_CFT_BAD_WEIGHTS');
  const file = join(folder, 'model.safetensors');
  const bytes = readFileSync(file);
  const header = new Map(readSafetensorsHeader(file).map((entry) => [entry.name, entry]));
  const [head, embedding] = [header.get('lm_head.weight')!, header.get('model.embed_tokens.weight')!];
  bytes.copy(bytes, head.offset, embedding.offset, embedding.offset + embedding.byteLength);
  writeFileSync(file, bytes);
  const model = await load(t, folder);
  t.false(model.native.tensorNames().includes('lm_head.weight'));
});

test.serial('a hub id is downloaded and loaded', async (t) => {
  const cache = temporaryFolder(t);
  await startFakeHub(
    t,
    { 'org/tiny': fixturePath('models/qwen2'), 'org/lora': fixturePath('models/qwen2-lora') },
    cache,
  );
  const events: LoadEvent[] = [];
  const model = await load(t, 'org/tiny@main', { onProgress: (event) => events.push(event) });
  const local = await load(t, fixturePath('models/qwen2'));
  t.deepEqual(await logitsOf(model), await logitsOf(local));
  t.is(await model.weightsSha256(), await local.weightsSha256());
  t.deepEqual([...new Set(events.map(({ type }) => type))], ['download', 'load']);
  await t.throwsAsync(load(t, 'org/none'), {
    message: /status 404: no such model or revision \(nor a local folder/,
  });
  await t.throwsAsync(load(t, 'org/tiny', { revision: 'v9' }), { message: /org\/tiny@v9 on .*status 404/ });
});

function poison(folder: string, name: string, value: number): void {
  const file = join(folder, 'model.safetensors');
  const bytes = readFileSync(file);
  const { offset } = readSafetensorsHeader(file).find((entry) => entry.name === name)!;
  bytes.writeFloatLE(value, offset + 8);
  writeFileSync(file, bytes);
}

const refusals: [string, (folder: string) => void, LoadOptions, CftErrorCode, RegExp][] = [
  [
    'NaN in the weights',
    (folder) => poison(folder, 'model.layers.1.mlp.up_proj.weight', Number.NaN),
    {},
    'ERR_CFT_BAD_WEIGHTS',
    /model\.layers\.1\.mlp\.up_proj\.weight/,
  ],
  [
    'infinity in the weights',
    (folder) => poison(folder, 'model.norm.weight', Number.POSITIVE_INFINITY),
    {},
    'ERR_CFT_BAD_WEIGHTS',
    /model\.norm\.weight/,
  ],
  [
    'a tokenizer beyond the vocabulary',
    (folder) =>
      editJson(join(folder, 'tokenizer.json'), (json) => {
        (json.added_tokens as unknown[]).push({ id: 96, content: '<extra>', special: true });
      }),
    {},
    'ERR_CFT_BAD_MODEL',
    /expected ids below vocab_size 96 of config\.json, found token "<extra>" with id 96/,
  ],
  [
    'an end token beyond the vocabulary',
    (folder) => writeFileSync(join(folder, 'generation_config.json'), '{"eos_token_id": 96}'),
    {},
    'ERR_CFT_BAD_MODEL',
    /generation_config\.json: eos_token_id: expected token ids below vocab_size \(96\), found 96/,
  ],
  [
    'a device of no kind',
    () => {},
    { device: 'tpu' },
    'ERR_CFT_BAD_OPTION',
    /device: expected auto, cpu, cuda/,
  ],
];

for (const [what, damage, options, code, message] of refusals) {
  test(`refused: ${what}`, async (t) => {
    const folder = copyOfFixture(t, 'models/llama');
    damage(folder);
    const error = await t.throwsAsync(load(t, folder, options), { instanceOf: CftError, message });
    t.is((error as CftError).code, code);
  });
}

test('refused: names that lead nowhere', async (t) => {
  const refused = async (name: string, message: RegExp) => {
    const error = await t.throwsAsync(load(t, name), { instanceOf: CftError, message });
    t.is((error as CftError).code, 'ERR_CFT_BAD_MODEL');
  };
  await refused(
    './no/such/folder',
    /^\.\/no\/such\/folder: expected a model folder or a hub id \(org\/name\), found no/,
  );
  await refused(join(projectRoot, 'package.json'), /package\.json: expected a model folder, found a file/);
  await refused(
    join(projectRoot, 'docs'),
    /docs: expected a Hugging Face model folder, found no config\.json in it/,
  );
  const reason = new Error('no');
  await t.throwsAsync(load(t, fixturePath('models/llama'), { signal: AbortSignal.abort(reason) }), {
    is: reason,
  });
});

test('bfloat16 is close to float32', async (t) => {
  const folder = fixturePath('models/llama-linear-bf16');
  const exact = await load(t, folder, { dtype: 'float32' });
  const rounded = await load(t, folder, { dtype: 'bfloat16' });
  t.is(rounded.dtype, 'bfloat16');
  const error = relativeError(await logitsOf(rounded), await logitsOf(exact));
  t.true(error > 1e-5 && error < 0.05, `${basename(folder)}: ${error}`);
});

test('a folder that cannot be read is named', async (t) => {
  if (process.getuid?.() === 0) return t.pass('root reads everything');
  const folder = copyOfFixture(t, 'models/llama');
  chmodSync(join(folder, 'model.safetensors'), 0);
  await t.throwsAsync(load(t, folder), { message: /model\.safetensors: cannot be read: / });
});

test('refused: a revision of what is no hub model', async (t) => {
  for (const name of ['embedded', fixturePath('models/llama')]) {
    await t.throwsAsync(load(t, name, { revision: 'main' }), {
      code: 'ERR_CFT_BAD_OPTION',
      message: /^revision \(--revision\): expected none for .*, which is no hub model, found "main"$/,
    });
  }
});

test('an adapter whose base is "." means its own folder', async (t) => {
  const folder = copyOfFixture(t, 'models/qwen2');
  for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
    copyFileSync(fixturePath(`models/qwen2-lora/${name}`), join(folder, name));
  editJson(join(folder, 'adapter_config.json'), (json) => {
    json.base_model_name_or_path = '.';
  });
  t.deepEqual(
    await logitsOf(await load(t, folder)),
    await logitsOf(await load(t, fixturePath('models/qwen2-lora'))),
  );
});
