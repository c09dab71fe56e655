/**
 * What the words around a number make of it: [prediction, gold answer] pairs in test/fixtures/verify/phrases.json, each
 * judged by hand. They are signs, magnitudes, denials, bounds, ranges, several answers, units, notes and spellings.
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { verify } from '../../lib/verify/index.js';
import { numberOfWords, spelledNumber } from '../../lib/verify/words.js';
import { fixturePath } from '../helpers/fixtures.js';

const cases = JSON.parse(readFileSync(fixturePath('verify/phrases.json'), 'utf8')) as Record<
  'correct' | 'incorrect',
  [string, string][]
>;

for (const kind of ['correct', 'incorrect'] as const) {
  test(`phrases that are ${kind}`, (t) => {
    t.true(cases[kind].length >= 150);
    const wrong = cases[kind].filter(([text, gold]) => verify(text, gold).correct !== (kind === 'correct'));
    t.deepEqual(wrong, []);
  });
}

test('a denial, a bound or a second value never counts as the answer, whatever the number', (t) => {
  const frames = [
    'The answer is not N.',
    'The answer is more than N.',
    'The answer is N or M.',
    'The answer is N to M.',
    'The answer is N thousand.',
    'The answer is minus N.',
    'The answer is N plus M.',
    'She has at least N.',
    'She has not N.',
    'It costs N million.',
    '\\boxed{\\text{not }N}',
    '\\boxed{N\\text{ hundred}}',
    '\\boxed{\\ge N}',
    '#### N or M',
  ];
  for (const frame of frames) {
    for (const number of ['2', '18', '3.5', '1,200']) {
      const text = frame.replace('N', number).replace('M', '7');
      t.false(verify(text, number).correct, text);
    }
  }
});

test('numbers in words', (t) => {
  const values: [string, number][] = [
    ['zero', 0],
    ['nineteen', 19],
    ['twenty one', 21],
    ['ninety nine', 99],
    ['one hundred', 100],
    ['two hundred and five', 205],
    ['three million two hundred thousand', 3_200_000],
  ];
  for (const [text, value] of values) t.is(numberOfWords(text.split(' ')), value, text);
  for (const text of [
    'five six',
    'ten two',
    'twenty twelve',
    'hundred',
    'one thousand million',
    'and',
    '',
    'five and',
  ])
    t.is(numberOfWords(text.split(' ').filter(Boolean)), undefined, text);
  t.is(spelledNumber('Forty-Two'), '42');
  t.is(spelledNumber('a hundred'), '100');
  t.is(spelledNumber('one of them'), undefined);
});

test('what is neither text nor a number is no answer', (t) => {
  for (const odd of [Object.create(null), Symbol('x'), () => 1, { toString: () => '5' }, Number.NaN])
    t.false(verify(odd as never, '5').correct);
  t.false(verify('5', Object.create(null) as never).correct);
});

test('long lists in another order end within 50 ms', (t) => {
  const items = Array.from({ length: 60 }, (_, i) => `x_{${i}}+0.${i + 10}`);
  let best = Infinity;
  for (let run = 0; run < 8; run++) {
    const usage = process.cpuUsage();
    t.true(verify(`\\boxed{${items.toReversed().join(',')}}`, items.join(',')).correct);
    const { user, system } = process.cpuUsage(usage);
    best = Math.min(best, (user + system) / 1000);
  }
  t.true(best <= 50, `${best.toFixed(1)} ms`);
});
