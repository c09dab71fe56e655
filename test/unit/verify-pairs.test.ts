/**
 * What models really wrote, with our verdict and math-verify's: test/fixtures/verify/pairs.jsonl, made by
 * compare_math_verify.py. A change of the verifier that changes one of them changes docs/verifier.md too.
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { verify } from '../../lib/verify/index.js';

interface Pair {
  id: string;
  answer?: string;
  prediction?: string;
  correct: boolean;
  math_verify: boolean | null;
}

const pairs = readFileSync(new URL('../fixtures/verify/pairs.jsonl', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as Pair);

test('verdicts on real responses are those of the table', (t) => {
  t.is(pairs.length, 2068);
  let judged = 0;
  for (const { id, answer, prediction, correct } of pairs) {
    if (answer === undefined || prediction === undefined) continue;
    judged++;
    t.is(verify(prediction, answer).correct, correct, `${id}: ${answer} | ${prediction.slice(-200)}`);
  }
  t.true(judged > 1000, String(judged));
});

test('agreement with math-verify on them', (t) => {
  const agreeing = pairs.filter((pair) => pair.correct === pair.math_verify).length;
  t.is(agreeing, 2068 - 16);
});
