/** Encoding without a promise, and a worker that does not answer in time. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { SyncEncoder } from '../../lib/model/sync-encoder.js';
import { fixturePath } from '../helpers/fixtures.js';

const json = readFileSync(fixturePath('annotation/llama/tokenizer.json'), 'utf8');

test('a worker that does not answer is replaced, and the ids are the same', (t) => {
  const encoder = new SyncEncoder(json);
  const late = new SyncEncoder(json, [0.001, 60_000]);
  t.teardown(() => {
    encoder.dispose();
    late.dispose();
  });
  const expected = encoder.encode('what is 3+4?');
  t.true(expected.length > 3);
  t.deepEqual(late.encode('what is 3+4?'), expected);
});

test('none that answers: an error with a code', (t) => {
  const encoder = new SyncEncoder(json, [0.001, 0.001]);
  t.teardown(() => encoder.dispose());
  t.throws(() => encoder.encode('1'), { code: 'ERR_CFT_INTERNAL', message: /does not answer/ });
});
