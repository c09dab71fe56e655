/** The table of forms that the built-in verifier knows: test/fixtures/verify/cases.json. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { verify } from '../../lib/verify/index.js';

interface Group {
  group: string;
  /** Where the forms come from. */
  source: string;
  /** [prediction, gold answer] */
  correct: [string, string][];
  incorrect: [string, string][];
}

const groups = JSON.parse(
  readFileSync(new URL('../fixtures/verify/cases.json', import.meta.url), 'utf8'),
) as Group[];

/** Bare answers also as a box in a sentence; what is a whole response stays as it is. */
const isResponse = (text: string): boolean =>
  /answer|boxed|####|option|guess|value is|left|wrong|\n/.test(text);

for (const { group, correct, incorrect } of groups) {
  test(group, (t) => {
    for (const [pairs, expected] of [
      [correct, true],
      [incorrect, false],
    ] as const) {
      for (const [prediction, gold] of pairs) {
        t.is(verify(prediction, gold).correct, expected, `${prediction} | ${gold}`);
        if (isResponse(prediction)) continue;
        const boxed = verify(`So we get $\\boxed{${prediction}}$.`, gold);
        t.is(boxed.correct, expected, `boxed: ${prediction} | ${gold}`);
        if (expected) t.not(boxed.method, 'none');
      }
    }
  });
}

test('what is shown of a computation is all of it', (t) => {
  t.like(verify('… and we add: 22+37', '37'), { correct: false, extracted: '22+37' });
  t.like(verify('We have to add the two: 22 + 37', '37'), { correct: false, extracted: '22 + 37' });
  t.like(
    verify(
      'We add the two numbers. Then there are 22 + 37 = 59 of them, so that nobody has to go without one.',
      '59',
    ),
    { correct: true, extracted: '59' },
  );
});

test('tuples in any order where the question says so', (t) => {
  const question = 'Find both roots. Enter your answers in any order.';
  t.true(verify('\\boxed{(2, 1)}', '(1, 2)', { question }).correct);
  t.true(verify('\\boxed{[2, 1]}', '(1, 2)', { question }).correct);
  t.false(verify('\\boxed{(2, 3)}', '(1, 2)', { question }).correct);
  t.false(verify('\\boxed{(2, 1)}', '(1, 2)', { question: 'Find the point. Order your work.' }).correct);
  t.false(verify('\\boxed{(2, 1)}', '(1, 2)').correct);
});
