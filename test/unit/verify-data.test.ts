/**
 * The gold answers of public data sets: each against itself, against itself in the usual wrapping, and against itself
 * with the last digit changed. The figures are those of docs/verifier.md; a change of the verifier changes both.
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { verify } from '../../lib/verify/index.js';
import { needsData } from '../helpers/data.js';

interface Counts {
  answers: number;
  /** The gold text as prediction. */
  itself: number;
  /** `The answer is $\boxed{...}$.` */
  boxed: number;
  /** Wrong by one digit and yet accepted. */
  accepted: number;
}

type Row = Record<string, unknown>;
const rows = (path: string): Row[] =>
  path.endsWith('.json')
    ? Object.values(JSON.parse(readFileSync(path, 'utf8')) as Record<string, Row>)
    : readFileSync(path, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Row);

/** file, field of the gold answer, expected counts */
const sets: [string, string, Counts][] = [
  ['gsm8k/train.jsonl', 'answer', { answers: 7473, itself: 7473, boxed: 7473, accepted: 0 }],
  ['gsm8k/test.jsonl', 'answer', { answers: 1319, itself: 1319, boxed: 1319, accepted: 0 }],
  // Two solutions have an empty box, so nothing agrees with them.
  ['math/train.jsonl', 'solution', { answers: 7500, itself: 7498, boxed: 7498, accepted: 0 }],
  ['math/test.jsonl', 'solution', { answers: 5000, itself: 5000, boxed: 5000, accepted: 0 }],
  ['math500/test.jsonl', 'answer', { answers: 500, itself: 500, boxed: 500, accepted: 0 }],
  ['svamp/test.jsonl', 'Answer', { answers: 1000, itself: 1000, boxed: 1000, accepted: 0 }],
  ['asdiv/test.jsonl', 'answer', { answers: 2215, itself: 2215, boxed: 2215, accepted: 0 }],
  // Accepted: 0.8888888880, which is 0.8888888889 cut off after nine decimals.
  ['mawps/test.jsonl', 'target', { answers: 2065, itself: 2065, boxed: 2065, accepted: 4 }],
  ['tabmwp/problems_test1k.json', 'answer', { answers: 1000, itself: 1000, boxed: 1000, accepted: 0 }],
  ['carp_en/test.jsonl', 'answer', { answers: 976, itself: 976, boxed: 976, accepted: 0 }],
  ['college_math/test.jsonl', 'answer', { answers: 2818, itself: 2818, boxed: 2818, accepted: 0 }],
  // Two answers are empty.
  ['gaokao2023en/test.jsonl', 'answer', { answers: 385, itself: 383, boxed: 383, accepted: 0 }],
  ['minerva_math/test.jsonl', 'solution', { answers: 272, itself: 272, boxed: 272, accepted: 0 }],
  ['olympiadbench/test.jsonl', 'final_answer', { answers: 675, itself: 675, boxed: 675, accepted: 0 }],
  ['aime24/test.jsonl', 'answer', { answers: 30, itself: 30, boxed: 30, accepted: 0 }],
  ['aime25/test.jsonl', 'answer', { answers: 30, itself: 30, boxed: 30, accepted: 0 }],
  ['amc23/test.jsonl', 'answer', { answers: 40, itself: 40, boxed: 40, accepted: 0 }],
];

const withLastDigitChanged = (text: string): string =>
  text.replace(/(\d)(?=\D*$)/, (digit) => String((Number(digit) + 1) % 10));

for (const [file, field, expected] of sets) {
  test(`gold answers of ${file}`, (t) => {
    const path = needsData(t, file);
    if (path === undefined) return;
    const counts: Counts = { answers: 0, itself: 0, boxed: 0, accepted: 0 };
    for (const row of rows(path)) {
      const gold = Array.isArray(row[field]) ? row[field].join(', ') : String(row[field]);
      const own = verify(gold, gold);
      counts.answers++;
      if (own.correct) counts.itself++;
      if (verify(`The answer is $\\boxed{${own.expected}}$.`, gold).correct) counts.boxed++;
      const wrong = withLastDigitChanged(own.expected);
      if (wrong !== own.expected && verify(`\\boxed{${wrong}}`, gold).correct) counts.accepted++;
    }
    t.deepEqual(counts, expected);
  });
}

test('solutions of GSM8K without their marked answer: the last number', (t) => {
  const path = needsData(t, 'gsm8k/test.jsonl');
  if (path === undefined) return;
  const answers = rows(path).map(({ answer }) => String(answer));
  const right = answers.filter((answer) => {
    const response = answer.replace(/<<[^>]*>>/g, '').replace(/\n####.*$/s, '');
    return verify(response, answer).correct;
  });
  // Many solutions end in "... = 15 gallons in 30 days".
  t.is(right.length, 1281);
});

test('solutions of MATH without their box: the last formula', (t) => {
  const path = needsData(t, 'math/test.jsonl');
  if (path === undefined) return;
  const box = /\\boxed\s?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}/g;
  const solutions = rows(path).map(({ solution }) => String(solution));
  const right = solutions.filter((solution) => verify(solution.replace(box, '$1'), solution).correct);
  t.is(right.length, 4431);
});
