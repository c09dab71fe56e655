/** Verifiers by name or file, and verdicts on streams of lines. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { type VerifiedLine, type VerifyLinesOptions, verifyLines } from '../../lib/verify/stream.js';
import { createVerifier } from '../../lib/verify/verifier.js';
import { fixturePath, temporaryFolder } from '../helpers/fixtures.js';

const context = (answer: string) => ({ id: '7', question: 'Q', answer, tokenIds: Int32Array.of(1, 2) });

test('builtin reads the answer, exact wants the whole text', async (t) => {
  const builtin = await createVerifier('builtin');
  const result = await builtin('So it is \\boxed{0.5}', context('#### 1/2'));
  t.deepEqual(result, { correct: true, extracted: '0.5', expected: '1/2', method: 'number' });
  const exact = await createVerifier('exact');
  t.deepEqual(await exact(' 1/2\n', context('1/2')), { correct: true, extracted: '1/2' });
  t.deepEqual(await exact('0.5', context('1/2')), { correct: false, extracted: '0.5' });
});

test('regex searches the gold pattern in the text', async (t) => {
  const regex = await createVerifier('regex');
  t.deepEqual(await regex('the total is 42 apples', context('\\b4[0-9]\\b')), {
    correct: true,
    extracted: '42',
  });
  t.deepEqual(await regex('the total is 142', context('\\b4[0-9]\\b')), { correct: false });
  t.deepEqual(await regex('YES', context('/^yes$/i')), { correct: true, extracted: 'YES' });
  t.deepEqual(await regex('a YES', context('/yes/gi')), { correct: true, extracted: 'YES' });
  t.deepEqual(await regex('a YES', context('/yes/iy')), { correct: false }, 'sticky: at the start');
  t.deepEqual(await regex('YES', context('^yes$')), { correct: false });
  const error = await t.throwsAsync(async () => regex('x', context('(')), { instanceOf: CftError });
  t.is(error?.code, 'ERR_CFT_BAD_DATA');
  t.true(error?.message.includes('question 7') && error.message.includes('"("'), error?.message);
});

test('a catastrophic pattern is stopped and counts as no match', async (t) => {
  const regex = await createVerifier('regex');
  const start = performance.now();
  t.deepEqual(await regex(`${'a'.repeat(60)}b`, context('(a+)+$')), { correct: false });
  t.true(performance.now() - start < 5000);
  t.deepEqual(await regex('aaa', context('(a+)+$')), { correct: true, extracted: 'aaa' });
});

test('a file gives the verdict, with details if it wants', async (t) => {
  const verifier = await createVerifier(fixturePath('verify/even-digits.mjs'));
  t.is(await verifier('ab', context('1')), true);
  t.is(await verifier('abc', context('1')), false);
  t.deepEqual(await verifier('details', context('1')), { correct: true, extracted: '7|Q|1|1 2' });
});

test('what a file does wrong is told with its name', async (t) => {
  const file = fixturePath('verify/even-digits.mjs');
  const verifier = await createVerifier(file);
  const threw = await t.throwsAsync(async () => verifier('throw', context('1')), { instanceOf: CftError });
  t.is(threw?.code, 'ERR_CFT_VERIFIER');
  t.is(threw?.message, `verifier ${file} threw: boom`);
  t.is((threw?.cause as Error | undefined)?.message, 'boom');
  const odd = await t.throwsAsync(async () => verifier('number', context('1')), { instanceOf: CftError });
  t.is(odd?.message, `verifier ${file}: expected true or false, found number`);
  const broken = join(temporaryFolder(t), 'broken.mjs');
  writeFileSync(broken, 'export default (');
  for (const [path, part] of [
    [fixturePath('verify/no-default.mjs'), 'default export, found none'],
    [broken, 'cannot be loaded'],
    [fixturePath('verify/absent.mjs'), 'builtin, exact, regex or a JavaScript file'],
  ] as const) {
    const error = await t.throwsAsync(createVerifier(path), { instanceOf: CftError });
    t.is(error?.code, 'ERR_CFT_BAD_OPTION');
    t.is(error?.exitStatus, 2);
    t.true(error?.message.includes(path) && error.message.includes(part), error?.message);
  }
});

async function all(options: VerifyLinesOptions): Promise<VerifiedLine[]> {
  const lines: VerifiedLine[] = [];
  for await (const line of verifyLines(options)) lines.push(line);
  return lines;
}

test('a file that takes ten seconds per verdict is waited for, side by side', async (t) => {
  const file = join(temporaryFolder(t), 'slow.mjs');
  writeFileSync(
    file,
    "export default async (text) => {\n  await new Promise((resolve) => setTimeout(resolve, 10_000));\n  return text === 'yes';\n};\n",
  );
  const verifier = await createVerifier(file);
  const start = performance.now();
  const verdicts = await Promise.all(['yes', 'no', 'yes', 'no'].map((text) => verifier(text, context('1'))));
  t.deepEqual(verdicts, [true, false, true, false]);
  t.true(performance.now() - start < 30_000, 'not one after the other');
});

test('lines keep what they hold and gain the verdict', async (t) => {
  const input = [
    '{"prediction":"\\\\boxed{42}","answer":42,"model":"a"}',
    '',
    '{"prediction":"","answer":"1"}',
    '{"prediction":"The answer is 5","answer":"#### 6"}',
  ].join('\n');
  const expected = [
    { prediction: '\\boxed{42}', answer: 42, model: 'a', correct: true, extracted: '42' },
    { prediction: '', answer: '1', correct: false, extracted: null },
    { prediction: 'The answer is 5', answer: '#### 6', correct: false, extracted: '5' },
  ];
  const path = join(temporaryFolder(t), 'predictions.jsonl');
  writeFileSync(path, input);
  t.deepEqual(await all({ data: path }), expected as never);
  t.deepEqual(await all({ data: Readable.from([Buffer.from(input)]) }), expected as never);
});

test('a verifier of lines sees their id, question and token ids', async (t) => {
  const input = '{"id":9,"question":"Q","prediction":"details","gold":"1","response_token_ids":[3,4]}\n';
  const [line] = await all({
    data: Readable.from([input]),
    answerField: 'gold',
    verifier: fixturePath('verify/even-digits.mjs'),
  });
  t.is(line?.extracted, '9|Q|1|3 4');
});

test('a line without a usable field is named', async (t) => {
  for (const [line, part] of [
    ['{"answer":"1"}', 'field "prediction": expected text or a number, found nothing'],
    ['{"prediction":["1"],"answer":"1"}', 'field "prediction"'],
    ['{"prediction":"1","answer":""}', 'field "answer": expected text or a number, found empty text'],
    ['{"prediction":"1"', 'broken line'],
  ] as const) {
    const data = Readable.from([`{"prediction":"1","answer":"1"}\n${line}\n`]);
    const error = await t.throwsAsync(all({ data }), { instanceOf: CftError });
    t.is(error?.code, 'ERR_CFT_BAD_DATA');
    t.true(error?.message.startsWith('standard input:2: ') && error.message.includes(part), error?.message);
  }
});

test('an abort ends the wait for input with its reason', async (t) => {
  const controller = new AbortController();
  const reason = new Error('enough');
  const silent = new Readable({ read() {} });
  const pending = all({ data: silent, signal: controller.signal });
  setTimeout(() => controller.abort(reason), 20);
  await t.throwsAsync(pending, { is: reason });
});

test('a table is refused by name, for predictions come as JSON Lines', async (t) => {
  for (const name of ['a.csv', 'a.parquet', 'a.json']) {
    const error = await t.throwsAsync(all({ data: name }), { instanceOf: CftError });
    t.is(error?.code, 'ERR_CFT_BAD_DATA');
    t.true(error?.message.startsWith(`${name}: expected predictions as JSON Lines`), error?.message);
  }
});
