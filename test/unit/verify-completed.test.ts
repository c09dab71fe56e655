import test from 'ava';
import { CftError } from '../../lib/errors.js';
import { AnswerStop } from '../../lib/model/answer-stop.js';
import { firstCompletedAnswer } from '../../lib/verify/completed.js';
import { verify } from '../../lib/verify/index.js';
import { completionOf, createVerifier } from '../../lib/verify/verifier.js';
import { fixturePath } from '../helpers/fixtures.js';

/** `|` marks the end of the first complete answer; a text without one has none. */
const texts: string[] = [
  'so it is \\boxed{42}| and more',
  '\\boxed{\\frac{1}{2}}|',
  '\\fbox {x}|',
  '\\boxed{a \\} b}|',
  'first \\boxed{1}| then \\boxed{2}',
  'empty \\boxed{ } then \\boxed{2}|',
  'open \\boxed{1 and \\boxed{2}',
  '\\boxed{\\frac{1}{2}',
  '\\boxed 5 is not sure',
  '#### 42|\n',
  'text\n####  -1,234.5 dollars|\nmore',
  '#### 42',
  '#### Step 1: think\n',
  '#### \\frac12|\n',
  'The answer is 42.| So',
  'the answer is: **$1,000**.| ',
  'The final answer is $x + 1$.|\n',
  'the answer is 3.14.| ',
  'The answer is 3.14',
  'The answer is 3.',
  'The answer is 42 because it is.',
  'the answer is near. ',
  'The answer is 12%.| #### 12\n',
  'the answer is \\(5\\).| ',
  'an answer. is 5. ',
  '',
];

for (const marked of texts) {
  const end = marked.indexOf('|');
  const text = marked.replace('|', '');
  test(`${end < 0 ? 'not complete' : 'complete'}: ${JSON.stringify(marked)}`, (t) => {
    t.is(firstCompletedAnswer(text), end < 0 ? undefined : end);
    // What is complete stays so, and nothing that comes after moves its end.
    for (const more of ['x', '\n', '5', ' and the answer is 7. ', '} \\boxed{9}'])
      if (end >= 0) t.is(firstCompletedAnswer(text + more), end);
    // The verifier reads that answer in the text up to there.
    if (end >= 0) t.not(verify(text.slice(0, end), '42').method, 'none');
  });
}

test('at the end of a text a line and a sentence end too', (t) => {
  t.is(firstCompletedAnswer('#### 42', { ended: true }), 7);
  t.is(firstCompletedAnswer('the answer is 42.', { ended: true }), 17);
  t.is(firstCompletedAnswer('the answer is 42', { ended: true }), undefined);
});

test('hostile texts cost milliseconds', (t) => {
  const many = (text: string): string => text.repeat(100_000 / text.length);
  const start = performance.now();
  for (const text of [
    many('\\boxed{'),
    many('answer is '),
    many('#### '),
    many('#'),
    `the answer is ${many(' ')}5`,
    `the answer is $${many('x')}`,
    many('the answer is \\('),
    many('1,'),
    `\\boxed{${many('{')}`,
  ])
    t.is(firstCompletedAnswer(text), undefined);
  t.true(performance.now() - start < 2000);
});

test('only a verifier that says when an answer is complete can stop there', async (t) => {
  const named = (verifier: string) => ({ stopAtAnswer: true, verifier });
  const builtin = completionOf(await createVerifier('builtin'), named('builtin'))!;
  t.true(builtin('\\boxed{5}'));
  t.false(builtin('\\boxed{5'));
  t.is(completionOf(await createVerifier('exact'), { stopAtAnswer: false, verifier: 'exact' }), undefined);
  for (const name of ['exact', 'regex', fixturePath('verify/even-digits.mjs')]) {
    const verifier = await createVerifier(name);
    const error = t.throws(() => completionOf(verifier, named(name)), { instanceOf: CftError });
    t.is((error as CftError).code, 'ERR_CFT_BAD_OPTION');
    t.regex(error!.message, /--stop-at-answer\): expected a verifier that says .*completed\(text\)/);
  }
  const own = Object.assign(() => true, { completed: (text: string) => text.endsWith('!') });
  t.true(completionOf(await createVerifier(own), named('own'))!('yes!'));
  const file = completionOf(await createVerifier(fixturePath('verify/stops.mjs')), named('file'))!;
  t.true(file('is it? yes'));
  const refused = (completed: (text: string) => unknown, message: string): void => {
    const bad = Object.assign(() => true, { completed: completed as (text: string) => boolean });
    const error = t.throws(() => completionOf(bad, named('bad'))!('text'), { instanceOf: CftError, message });
    t.is((error as CftError).code, 'ERR_CFT_VERIFIER');
  };
  refused(() => {
    throw new Error('boom');
  }, 'verifier bad: completed threw: boom');
  refused(async () => false, 'verifier bad: completed: expected true or false, found object');
});

test('a response is cut at the same token however it is looked at', (t) => {
  const letters = 'so \\boxed{42} and \\boxed{43}';
  const textOf = (ids: readonly number[]): string => String.fromCharCode(...ids);
  const ids = Array.from(letters, (letter) => letter.charCodeAt(0));
  const stop = new AnswerStop(textOf, (text) => firstCompletedAnswer(text) !== undefined);
  const enough = letters.indexOf('}') + 1;
  for (const stride of [1, 3, 7, 100]) {
    const stopAt = stop.whole();
    let found: number | undefined;
    for (let end = 0; found === undefined && end < ids.length + stride; end += stride)
      found = stopAt(ids.slice(0, end));
    t.is(found, enough, `every ${stride} tokens`);
  }
  // After an alternative at position 4 the same, and one that completes the answer itself needs no token.
  const after = stop.along(Int32Array.from(ids));
  t.is(after(4, ids[4]!)(ids.slice(5)), enough - 5);
  t.is(after(enough - 1, 125)([]), 0);
  t.is(after(4, 120)([]), undefined);
});
