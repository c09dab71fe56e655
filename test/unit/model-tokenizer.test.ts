import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { Tokenizer } from '../../lib/model/tokenizer.js';
import { needsData } from '../helpers/data.js';
import { copyOfFixture, editJson, fixturePath, readJson } from '../helpers/fixtures.js';

interface Expected {
  vocab_size: number;
  cases: { text: string; ids: number[]; decoded: string; without_special: string }[];
}

for (const name of ['qwen2', 'llama3', 'llama2', 'mistral']) {
  const folder = fixturePath(`tokenizers/${name}`);
  const { vocab_size: vocabSize, cases } = readJson<Expected>(join(folder, 'expected.json'));

  test(`${name}: ids and texts are those of transformers`, async (t) => {
    const tokenizer = Tokenizer.load(folder, vocabSize);
    t.teardown(() => tokenizer.dispose());
    const batch = await tokenizer.encodeBatch(cases.map(({ text }) => text));
    for (const [i, { text, ids, decoded, without_special }] of cases.entries()) {
      t.deepEqual([...(batch[i] as Int32Array)], ids, `encodeBatch ${JSON.stringify(text)}`);
      t.deepEqual(tokenizer.encode(text), Int32Array.from(ids), `encode ${JSON.stringify(text)}`);
      t.is(tokenizer.decode(ids), decoded);
      t.is(tokenizer.decode(ids, { skipSpecialTokens: true }), without_special);
    }
  });

  test(`${name}: a stream gives whole characters that add up to the text`, (t) => {
    const tokenizer = Tokenizer.load(folder, vocabSize);
    for (const { ids, without_special } of cases) {
      const stream = tokenizer.stream({ skipSpecialTokens: true });
      const pieces = [...ids.map((id) => stream.push(id)), stream.flush()];
      t.is(pieces.join(''), without_special);
      if (without_special.includes('\ufffd')) continue;
      t.false(pieces.some((piece) => piece.includes('\ufffd')));
    }
  });
}

test('a stream ends with what never became a character', (t) => {
  const { vocab_size } = readJson<Expected>(fixturePath('tokenizers/qwen2/expected.json'));
  const tokenizer = Tokenizer.load(fixturePath('tokenizers/qwen2'), vocab_size);
  t.teardown(() => tokenizer.dispose());
  const ids = tokenizer.encode('a😀').slice(0, 3);
  const stream = tokenizer.stream();
  const pieces = [...ids].map((id) => stream.push(id));
  t.deepEqual(pieces, ['a', '', '']);
  t.is(stream.flush(), tokenizer.decode(ids).slice(1));
  t.is(stream.flush(), '');
});

test('encode works in a promise-free loop and after other tokenizers', (t) => {
  const { vocab_size, cases } = readJson<Expected>(fixturePath('tokenizers/llama2/expected.json'));
  const first = Tokenizer.load(fixturePath('tokenizers/llama2'), vocab_size);
  const second = Tokenizer.load(fixturePath('tokenizers/llama2'), vocab_size);
  t.teardown(() => {
    first.dispose();
    second.dispose();
  });
  for (let i = 0; i < 200; i++) {
    const { text, ids } = cases[i % cases.length] as Expected['cases'][number];
    t.deepEqual([...(i % 2 ? first : second).encode(text)], ids);
  }
});

test('special tokens and end token', (t) => {
  const { vocab_size } = readJson<Expected>(fixturePath('tokenizers/llama3/expected.json'));
  const tokenizer = Tokenizer.load(fixturePath('tokenizers/llama3'), vocab_size);
  t.deepEqual({ ...tokenizer.specialTokens }, { bos_token: '<|begin_of_text|>', eos_token: '<|eot_id|>' });
  t.is(tokenizer.eosTokenId, tokenizer.tokenToId('<|eot_id|>'));
  t.is(tokenizer.tokenToId('no such token'), undefined);
});

test('special tokens come from special_tokens_map.json where tokenizer_config.json is silent', (t) => {
  const folder = copyOfFixture(t, 'tokenizers/llama2');
  editJson(join(folder, 'tokenizer_config.json'), (config) => {
    delete config.eos_token;
    config.bos_token = { content: '<s>', lstrip: false };
  });
  writeFileSync(
    join(folder, 'special_tokens_map.json'),
    '{"eos_token": {"content": "</s>"}, "bos_token": "x"}',
  );
  const tokenizer = Tokenizer.load(folder, 1000);
  t.is(tokenizer.specialTokens.eos_token, '</s>');
  t.is(tokenizer.specialTokens.bos_token, '<s>');
});

test('prompt of a model without a chat template: user text and newline', (t) => {
  const tokenizer = Tokenizer.load(fixturePath('tokenizers/llama2'), 1000);
  t.false(tokenizer.hasChatTemplate);
  t.is(
    tokenizer.promptText('What is $& 1 + 1?'),
    'What is $& 1 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}.\n',
  );
  t.is(tokenizer.promptText('x', { userTemplate: 'Q {question} {question}' }), 'Q x x\n');
  t.throws(() => tokenizer.promptText('x', { userTemplate: 'no place' }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: 'userTemplate (--user-template): expected a text with {question}, found "no place"',
  });
  t.throws(() => tokenizer.applyChatTemplate([{ role: 'user', content: 'x' }]), {
    code: 'ERR_CFT_BAD_MODEL',
    message: /the model has no chat template/,
  });
});

test('prompt of a model with a chat template', (t) => {
  const folder = copyOfFixture(t, 'tokenizers/qwen2');
  writeFileSync(
    join(folder, 'chat_template.jinja'),
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}" +
      '{% if add_generation_prompt %}[assistant]{% endif %}\n',
  );
  const tokenizer = Tokenizer.load(folder, 1000);
  t.is(
    tokenizer.promptText('1 + 1?', { userTemplate: '{question}!' }),
    '[system]You are a helpful assistant.<|im_end|>[user]1 + 1?!<|im_end|>[assistant]',
  );
  t.is(
    tokenizer.promptText('1 + 1?', { system: '', userTemplate: '{question}' }),
    '[user]1 + 1?<|im_end|>[assistant]',
  );
});

test('sha256 is that of tokenizer.json', (t) => {
  const tokenizer = Tokenizer.load(fixturePath('tokenizers/llama2'), 1000);
  const bytes = readFileSync(fixturePath('tokenizers/llama2/tokenizer.json'));
  t.is(tokenizer.sha256(), createHash('sha256').update(bytes).digest('hex'));
});

const refusals: [string, (folder: string) => void, number, RegExp][] = [
  [
    'a folder without tokenizer.json',
    (folder) => rmSync(join(folder, 'tokenizer.json')),
    1000,
    /copy: expected tokenizer\.json, found none\. transformers writes it: /,
  ],
  [
    'a vocabulary that exceeds the model',
    () => {},
    403,
    /tokenizer\.json: expected ids below vocab_size 403 of config\.json, found token "\[\/INST\]" with id 405/,
  ],
  [
    'a tokenizer.json that is cut off',
    (folder) => {
      const path = join(folder, 'tokenizer.json');
      writeFileSync(path, readFileSync(path).subarray(0, 500));
    },
    1000,
    /tokenizer\.json: not valid JSON: /,
  ],
  [
    'a tokenizer.json of another kind',
    (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{"model": {"type": "BPE", "vocab": {}}}'),
    1000,
    /tokenizer\.json: not a tokenizer: /,
  ],
  [
    'a tokenizer.json without vocabulary',
    (folder) => writeFileSync(join(folder, 'tokenizer.json'), '{"model": {}}'),
    1000,
    /tokenizer\.json: model\.vocab: expected the vocabulary, found undefined/,
  ],
  [
    'an added token whose id contradicts the vocabulary',
    (folder) =>
      editJson(join(folder, 'tokenizer.json'), (json) => {
        const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
        (json.added_tokens as unknown[]).push({ id: 900, content: 'a', ...flags });
      }),
    1000,
    /tokenizer\.json: added token "a": expected id 900, found \d+/,
  ],
  [
    'an added token without text',
    (folder) =>
      editJson(join(folder, 'tokenizer.json'), (json) => {
        json.added_tokens = [{ id: 'x' }];
      }),
    1000,
    /tokenizer\.json: added_tokens: expected \{id, content\}, found \{"id":"x"\}/,
  ],
  [
    'a broken tokenizer_config.json',
    (folder) => writeFileSync(join(folder, 'tokenizer_config.json'), '[]'),
    1000,
    /tokenizer_config\.json: expected a JSON object, found \[\]/,
  ],
  [
    'a special token that is no text',
    (folder) =>
      editJson(join(folder, 'tokenizer_config.json'), (json) => {
        json.eos_token = 7;
      }),
    1000,
    /tokenizer_config\.json: eos_token: expected a text or an object with content, found 7/,
  ],
];

for (const [what, damage, vocabSize, message] of refusals) {
  test(`refused: ${what}`, (t) => {
    const folder = copyOfFixture(t, 'tokenizers/qwen2');
    damage(folder);
    const error = t.throws(() => Tokenizer.load(folder, vocabSize), { instanceOf: CftError, message });
    t.is(error?.code, 'ERR_CFT_BAD_MODEL');
  });
}

test('the real stories260K tokenizer', (t) => {
  const folder = needsData(t, 'models/stories260K-hf');
  if (folder === undefined) return;
  const tokenizer = Tokenizer.load(folder, 512);
  t.teardown(() => tokenizer.dispose());
  // Ids from transformers, make_models.py; the first is <s>, which encode does not add.
  const { prompt } = readJson<{ prompt: number[] }>(fixturePath('expected/stories260K.json'));
  const text = 'Once upon a time, there was a little girl named Lily. She loved to play outside.';
  t.deepEqual([1, ...tokenizer.encode(text)], prompt);
  t.is(tokenizer.decode(prompt, { skipSpecialTokens: true }), text);
});
