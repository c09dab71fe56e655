import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { readConfig } from '../../lib/model/config.js';
import { sameBytes, sha256OfFile, sha256OfFiles } from '../../lib/model/hash.js';
import { readSafetensorsHeader, readWeights, weightFiles } from '../../lib/model/safetensors.js';
import { matchTensors } from '../../lib/model/tensors.js';
import { copyOfFixture, editJson, fixturePath, temporaryFolder } from '../helpers/fixtures.js';

/** A safetensors file of a header as text and so many bytes of data. */
function fileOf(header: string, dataBytes: number, length = BigInt(Buffer.byteLength(header))): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length);
  return Buffer.concat([prefix, Buffer.from(header), Buffer.alloc(dataBytes)]);
}

const tensor = (begin: number, end: number, shape = [(end - begin) / 4], dtype = 'F32') =>
  JSON.stringify({ dtype, shape, data_offsets: [begin, end] });

test('reads names, dtypes, shapes and places', (t) => {
  const path = join(temporaryFolder(t), 'model.safetensors');
  const header =
    `{"__metadata__":{"format":"pt"},"b":${tensor(24, 24, [0, 5])},` +
    `"a":${tensor(12, 24, [3, 2], 'BF16')},"c \\"}":${tensor(0, 12)}}   `;
  writeFileSync(path, fileOf(header, 24));
  const start = 8 + header.length;
  t.deepEqual(readSafetensorsHeader(path), [
    { name: 'c "}', file: path, dtype: 'F32', shape: [3], offset: start, byteLength: 12 },
    { name: 'a', file: path, dtype: 'BF16', shape: [3, 2], offset: start + 12, byteLength: 12 },
    { name: 'b', file: path, dtype: 'F32', shape: [0, 5], offset: start + 24, byteLength: 0 },
  ]);
});

const damaged: [string, Buffer, string | RegExp][] = [
  ['an empty file', Buffer.alloc(0), 'truncated: expected at least 8 bytes, found 0'],
  [
    'a header that is cut off',
    fileOf('{}', 0, 100n),
    'truncated or not safetensors: header of 100 bytes in a file of 10 bytes',
  ],
  [
    'a negative header length',
    fileOf('{}', 0, 2n ** 64n - 1n),
    'truncated or not safetensors: header of 18446744073709551615 bytes in a file of 10 bytes',
  ],
  ['a header that is no JSON', fileOf('{"a": }', 0), /header is not valid JSON: /],
  ['an empty header', fileOf('', 0, 0n), /header is not valid JSON: /],
  ['a header that is no object', fileOf('[1, 2]', 0), 'header: expected a JSON object, found [1,2]'],
  [
    'the same tensor twice',
    fileOf(
      `{"a":${tensor(0, 4)},"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"\\u0061":${tensor(0, 4)}}`,
      4,
    ),
    'header names tensor a twice',
  ],
  [
    'the same tensor twice, far from its colon',
    fileOf(`{"a":${tensor(0, 4)},"a"${' '.repeat(100)}:${tensor(0, 4)}}`, 4),
    'header names tensor a twice',
  ],
  ['an entry that is no object', fileOf('{"a":[]}', 0), 'tensor a: expected an object, found []'],
  [
    'an unknown dtype',
    fileOf(`{"a":${tensor(0, 4, [1], 'Q4_0')}}`, 4),
    /tensor a: unknown dtype "Q4_0"; known are BOOL, U8, /,
  ],
  [
    'a dtype from the prototype chain',
    fileOf(`{"a":${tensor(0, 4, [1], 'constructor')}}`, 4),
    /tensor a: unknown dtype "constructor"/,
  ],
  [
    'a negative size',
    fileOf(`{"a":${tensor(0, 4, [-1, -1])}}`, 4),
    'tensor a: shape: expected a list of sizes, found [-1,-1]',
  ],
  [
    'a size beyond all numbers',
    fileOf('{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,4]}}', 4),
    'tensor a: shape: expected a list of sizes, found [1e+300]',
  ],
  [
    'sizes whose product overflows',
    fileOf(`{"a":${tensor(0, 4, [2 ** 52, 2 ** 52, 2 ** 52])}}`, 4),
    /tensor a: F32 \[\d+,\d+,\d+\] takes [\de+.]+ bytes, data_offsets hold 4/,
  ],
  [
    'one offset',
    fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}', 4),
    'tensor a: data_offsets: expected two offsets, found [0]',
  ],
  [
    'a negative offset',
    fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', 4),
    'tensor a: data_offsets: expected two offsets, found [-4,0]',
  ],
  [
    'offsets in the wrong order',
    fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4),
    'tensor a: data_offsets [4, 0] lie outside the 4 bytes of data in the file',
  ],
  [
    'offsets past the end',
    fileOf(`{"a":${tensor(0, 4e12)}}`, 4),
    'tensor a: data_offsets [0, 4000000000000] lie outside the 4 bytes of data in the file',
  ],
  [
    'a size that is not shape times dtype',
    fileOf(`{"a":${tensor(0, 8, [3])}}`, 8),
    'tensor a: F32 [3] takes 12 bytes, data_offsets hold 8',
  ],
  [
    'overlapping tensors',
    fileOf(`{"a":${tensor(0, 8)},"b":${tensor(4, 12)}}`, 12),
    'tensor b overlaps tensor a',
  ],
  [
    'a hole between tensors',
    fileOf(`{"a":${tensor(0, 4)},"b":${tensor(8, 12)}}`, 12),
    '4 bytes between tensor a and tensor b belong to no tensor',
  ],
  [
    'a hole at the start',
    fileOf(`{"b":${tensor(8, 12)}}`, 12),
    '8 bytes between the header and tensor b belong to no tensor',
  ],
  [
    'bytes at the end',
    fileOf(`{"a":${tensor(0, 4)}}`, 7),
    /expected \d+ bytes from the header, found \d+: the file is damaged/,
  ],
];

for (const [what, bytes, message] of damaged) {
  test(`refused: ${what}`, (t) => {
    const path = join(temporaryFolder(t), 'model.safetensors');
    writeFileSync(path, bytes);
    const error = t.throws(() => readSafetensorsHeader(path), { instanceOf: CftError });
    t.is(error?.code, 'ERR_CFT_BAD_WEIGHTS');
    if (typeof message === 'string') t.is(error?.message, `${path}: ${message}`);
    else t.regex(error?.message as string, message);
  });
}

test('refused: invalid UTF-8 in a tensor name, a file that is absent, a pipe', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'model.safetensors');
  const bytes = fileOf(`{"aX":${tensor(0, 4)}}`, 4);
  bytes[11] = 0xff;
  writeFileSync(path, bytes);
  t.throws(() => readSafetensorsHeader(path), { message: /header is not valid JSON: / });
  t.throws(() => readSafetensorsHeader(join(folder, 'none')), {
    message: /none: expected a safetensors file, found no such file/,
  });
  execFileSync('mkfifo', [join(folder, 'pipe')]);
  t.throws(() => readSafetensorsHeader(join(folder, 'pipe')), { message: /found no such file/ });
});

test('single and sharded folders hold what config.json calls for', (t) => {
  for (const [name, files] of [
    ['llama', ['model.safetensors']],
    ['qwen3-sharded', [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`)],
  ] as const) {
    const folder = fixturePath(`models/${name}`);
    t.deepEqual(
      weightFiles(folder).map((file) => basename(file)),
      [...files],
    );
    const { entries, tiedHead } = matchTensors(readConfig(folder), readWeights(folder), folder);
    t.true(entries.length > 19);
    t.is(tiedHead, undefined);
  }
});

test('symlinked weights are read, as in the cache of the hub', (t) => {
  const folder = copyOfFixture(t, 'models/llama');
  const blob = join(temporaryFolder(t), 'blob');
  renameSync(join(folder, 'model.safetensors'), blob);
  symlinkSync(blob, join(folder, 'model.safetensors'));
  t.is(readWeights(folder).length, 20);
});

const sharded: [string, (folder: string) => void, RegExp][] = [
  [
    'only pickled weights',
    (folder) => {
      rmSync(join(folder, 'model.safetensors.index.json'));
      writeFileSync(join(folder, 'pytorch_model.bin'), '');
    },
    /copy: expected model\.safetensors, found only pytorch_model\.bin; pickled weights can run code and are never read\. Convert them/,
  ],
  [
    'no weights',
    (folder) => rmSync(join(folder, 'model.safetensors.index.json')),
    /copy: expected model\.safetensors or model\.safetensors\.index\.json, found neither/,
  ],
  [
    'a shard that is absent',
    (folder) => rmSync(join(folder, 'model-00002-of-00003.safetensors')),
    /model-00002-of-00003\.safetensors: expected a safetensors file, found no such file/,
  ],
  [
    'a shard that is cut off',
    (folder) => truncateSync(join(folder, 'model-00002-of-00003.safetensors'), 3000),
    /model-00002-of-00003\.safetensors: tensor .* lie outside the \d+ bytes of data in the file/,
  ],
  ...['../secret', '/etc/passwd', 'a/b.safetensors', 'C:evil', '..', '', 7].map(
    (name): [string, (folder: string) => void, RegExp] => [
      `a shard called ${JSON.stringify(name)}`,
      (folder) =>
        editJson(join(folder, 'model.safetensors.index.json'), (json) => {
          (json.weight_map as Record<string, unknown>)['lm_head.weight'] = name;
        }),
      /index\.json: weight_map: lm_head\.weight: expected a plain file name, found /,
    ],
  ),
  [
    'an index without a map',
    (folder) => writeFileSync(join(folder, 'model.safetensors.index.json'), '{}'),
    /index\.json: weight_map: expected an object from tensors to files, found nothing/,
  ],
  [
    'an index that names another shard',
    (folder) =>
      editJson(join(folder, 'model.safetensors.index.json'), (json) => {
        (json.weight_map as Record<string, unknown>)['lm_head.weight'] = 'model-00002-of-00003.safetensors';
      }),
    /weight_map puts tensor lm_head\.weight into model-00002-of-00003\.safetensors, it is in .*00003-of-00003/,
  ],
  [
    'an index that names a tensor of no shard',
    (folder) =>
      editJson(join(folder, 'model.safetensors.index.json'), (json) => {
        (json.weight_map as Record<string, unknown>).extra = 'model-00002-of-00003.safetensors';
      }),
    /weight_map puts tensor extra into model-00002-of-00003\.safetensors, it is nowhere/,
  ],
  [
    'a tensor in two shards',
    (folder) =>
      writeFileSync(
        join(folder, 'model-00002-of-00003.safetensors'),
        readFileSync(join(folder, 'model-00001-of-00003.safetensors')),
      ),
    /model-00002-of-00003\.safetensors: tensor \S+ is also in .*model-00001-of-00003\.safetensors/,
  ],
];

for (const [what, damage, message] of sharded) {
  test(`refused: ${what}`, (t) => {
    const folder = copyOfFixture(t, 'models/qwen3-sharded');
    damage(folder);
    const error = t.throws(() => readWeights(folder), { instanceOf: CftError, message });
    t.is(error?.code, 'ERR_CFT_BAD_WEIGHTS');
  });
}

/** Rewrites config.json and matches the tensors against it. */
function matched(folder: string, edit: (config: Record<string, unknown>) => void) {
  editJson(join(folder, 'config.json'), edit);
  return matchTensors(readConfig(folder), readWeights(folder), folder);
}

test('refused: tensors that contradict config.json', (t) => {
  const refused = (fixture: string, edit: (config: Record<string, unknown>) => void, message: RegExp) => {
    const folder = copyOfFixture(t, `models/${fixture}`);
    const error = t.throws(() => matched(folder, edit), { instanceOf: CftError, message });
    t.is(error?.code, 'ERR_CFT_BAD_WEIGHTS');
  };
  refused(
    'llama',
    (config) => {
      config.intermediate_size = 64;
    },
    /model\.safetensors: tensor model\.layers\.0\.mlp\.gate_proj\.weight: expected shape \[64, 32\] from config\.json, found \[48, 32\]/,
  );
  refused(
    'llama',
    (config) => {
      config.tie_word_embeddings = false;
    },
    /tensor lm_head\.weight \[96, 32\] is missing in model\.safetensors; config\.json \(model_type llama\) calls for it/,
  );
  refused(
    'llama',
    (config) => {
      config.num_hidden_layers = 1;
    },
    /unexpected tensor model\.layers\.1\.\S+ \[.*\]; config\.json \(model_type llama\) has no place for it/,
  );
  refused(
    'llama-linear-bf16',
    (config) => {
      config.attention_bias = false;
    },
    /unexpected tensor model\.layers\.0\.self_attn\.\w_proj\.bias \[(16|32)\]/,
  );
  refused(
    'qwen2',
    (config) => {
      config.model_type = 'mistral';
    },
    /unexpected tensor model\.layers\.0\.self_attn\.\w_proj\.bias/,
  );
  refused(
    'qwen3-sharded',
    (config) => {
      config.model_type = 'olmo2';
    },
    /tensor model\.layers\.0\.self_attn\.q_norm\.weight: expected shape \[64\] from config\.json, found \[16\]/,
  );
});

test('an output matrix beside tied embeddings is handed out for comparison, old rotary buffers are ignored', (t) => {
  const folder = copyOfFixture(t, 'models/llama-llama3');
  const { entries, tiedHead } = matched(folder, (config) => {
    config.tie_word_embeddings = true;
  });
  t.is(tiedHead?.name, 'lm_head.weight');
  t.false(entries.some(({ name }) => name === 'lm_head.weight'));
  const found = readWeights(folder);
  const buffer = { ...found[0]!, name: 'model.layers.0.self_attn.rotary_emb.inv_freq', shape: [4] };
  t.is(matchTensors(readConfig(folder), [...found, buffer], folder).entries.length, entries.length);
});

test('refused: weights of a dtype that is no plain float', (t) => {
  const folder = fixturePath('models/llama');
  const found = readWeights(folder).map((entry) => ({ ...entry, dtype: 'F8_E4M3' }));
  const error = t.throws(() => matchTensors(readConfig(folder), found, folder), {
    instanceOf: CftError,
    message:
      /tensor model\.embed_tokens\.weight: dtype F8_E4M3 is not supported; supported are F32, F16 and BF16/,
  });
  t.is(error?.code, 'ERR_CFT_UNSUPPORTED_MODEL');
});

test('hashes of files are those of sha256sum', async (t) => {
  const folder = fixturePath('models/qwen3-sharded');
  const files = weightFiles(folder);
  const sha256sum = (input: string[], options: object) =>
    execFileSync('sha256sum', input, { encoding: 'utf8', ...options });
  const lines = sha256sum(
    files.map((file) => basename(file)),
    { cwd: folder },
  );
  t.is(await sha256OfFile(files[0]!), lines.slice(0, 64));
  t.is(await sha256OfFiles(files.slice(0, 1)), lines.slice(0, 64));
  t.is(await sha256OfFiles(files), sha256sum([], { input: lines }).slice(0, 64));
});

test('comparison of stretches of files', async (t) => {
  const folder = temporaryFolder(t);
  mkdirSync(folder, { recursive: true });
  const big = Buffer.alloc(9_000_000, 'abcdefg');
  writeFileSync(join(folder, 'a'), big);
  big[8_999_999] = 0;
  writeFileSync(join(folder, 'b'), big);
  const part = (file: string, offset: number, byteLength: number) => ({
    file: join(folder, file),
    offset,
    byteLength,
  });
  t.true(await sameBytes(part('a', 0, 8_999_999), part('b', 0, 8_999_999)));
  t.false(await sameBytes(part('a', 0, 9_000_000), part('b', 0, 9_000_000)));
  t.true(await sameBytes(part('a', 7, 700), part('b', 14, 700)));
  t.false(await sameBytes(part('a', 7, 700), part('b', 15, 700)));
  t.false(await sameBytes(part('a', 0, 7), part('a', 0, 14)));
});

test('an index without tensors is refused by its field', (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'model.safetensors.index.json'), '{"weight_map": {}}');
  t.throws(() => weightFiles(folder), {
    code: 'ERR_CFT_BAD_WEIGHTS',
    message: /index\.json: weight_map: expected at least one tensor, found \{\}/,
  });
});
