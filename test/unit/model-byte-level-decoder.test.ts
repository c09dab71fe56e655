import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Tokenizer as RustTokenizer } from 'tokenizers';
import { Tokenizer } from '../../lib/model/tokenizer.js';
import { embeddedFolder } from '../../lib/preset.js';
import { Random } from '../../lib/random.js';
import { fixturePath } from '../helpers/fixtures.js';

const folders = {
  embedded: embeddedFolder,
  qwen2: fixturePath('tokenizers/qwen2'),
  llama3: fixturePath('tokenizers/llama3'),
};

for (const [name, folder] of Object.entries(folders)) {
  test(`${name}: any ids give the text that the tokenizers package gives, broken characters too`, (t) => {
    const ours = Tokenizer.load(folder, 1 << 20);
    const rust = RustTokenizer.fromString(readFileSync(join(folder, 'tokenizer.json'), 'utf8'));
    const decoder = rust.getDecoder()!;
    const size = rust.getVocabSize(true);
    const random = new Random('bytes', 1);
    let broken = 0;
    for (let i = 0; i < 3000; i++) {
      const ids = Array.from({ length: random.integer(12) }, () => random.integer(size));
      const tokens = ids.map((id) => rust.idToToken(id)!);
      const text = ours.decode(ids);
      t.is(text, decoder.decode(tokens), ids.join());
      if (text.includes('\ufffd')) broken++;
    }
    t.true(broken > 10, 'there are broken characters among them');
    t.is(ours.decode([5, size + 1000, 7]), ours.decode([5, 7]));
    ours.dispose();
  });
}
