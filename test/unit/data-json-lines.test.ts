import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import test from 'ava';
import { type JsonLine, jsonLines, readJsonLines, textLines } from '../../lib/data/json-lines.js';
import { CftError } from '../../lib/errors.js';
import { appendLines } from '../../lib/files.js';
import { temporaryFolder } from '../helpers/fixtures.js';

async function all(source: AsyncIterable<JsonLine>): Promise<JsonLine[]> {
  const found: JsonLine[] = [];
  for await (const line of source) found.push(line);
  return found;
}

test('a file cut at any byte gives its whole lines, and where to append', async (t) => {
  const path = join(temporaryFolder(t), 'journal.jsonl');
  appendLines(path, ['{"a":1}', '{"a":"é"}', '{"a":3}']);
  const whole = readFileSync(path);
  const ends = [8, 19, 27];
  t.is(whole.length, 27);
  for (let length = whole.length; length >= 0; length--) {
    writeFileSync(path, whole.subarray(0, length));
    const found = await all(readJsonLines(path, { tornLastLine: 'drop' }));
    t.deepEqual(
      found.map(({ end }) => end),
      ends.filter((end) => end <= length),
    );
    truncateSync(path, found.at(-1)?.end ?? 0);
    appendLines(path, ['{"a":9}']);
    const after = await all(readJsonLines(path, { tornLastLine: 'refuse' }));
    t.is(after.length, found.length + 1);
    t.deepEqual(after.at(-1)?.value, { a: 9 });
  }
});

test('dropping the torn line does not hide a broken line before it', async (t) => {
  const path = join(temporaryFolder(t), 'journal.jsonl');
  writeFileSync(path, '{"a":1}\n{"a":\n{"a":3}\n{"a"');
  const error = await t.throwsAsync(all(readJsonLines(path, { tornLastLine: 'drop' })), {
    instanceOf: CftError,
  });
  t.true(error?.message.startsWith(`${path}:2:`));
});

test('a stream in pieces of one byte gives the same lines', async (t) => {
  const bytes = Buffer.from('\uFEFF{"a":"é\\n€"}\r\n\n{"a":2}');
  const pieces = Readable.from(Array.from(bytes, (byte) => Buffer.from([byte])));
  const found = await all(jsonLines(textLines(pieces, 'standard input'), 'standard input'));
  t.deepEqual(
    found.map(({ line, value }) => [line, value]),
    [
      [1, { a: 'é\n€' }],
      [3, { a: 2 }],
    ],
  );
});
