import { readFileSync } from 'node:fs';
import test from 'ava';
import { Random } from '../../models/recipe/random.js';
import { makeSplits } from '../../models/recipe/splits.js';
import { forgetCarry, makeProblem, writeSolution } from '../../models/recipe/story.js';

const folder = new URL('../../models/embedded/questions/', import.meta.url);

interface Question {
  id: string;
  question: string;
  answer: string;
}

function read(split: string): Question[] {
  const text = readFileSync(new URL(`${split}.jsonl`, folder), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Question);
}

test('the committed questions are those that the recipe makes', (t) => {
  for (const { name, problems } of makeSplits()) {
    const expected = problems.map(({ question, answer }, index) => ({
      id: `${name}-${index + 1}`,
      question,
      answer: String(answer),
    }));
    t.deepEqual(read(name), expected);
  }
});

test('no question occurs in two splits, or twice in one', (t) => {
  const questions = ['train', 'validation', 'test'].flatMap(read).map(({ question }) => question);
  t.is(questions.length, 1000);
  t.is(new Set(questions).size, questions.length);
});

test('a solution without spoiling is right in every step', (t) => {
  const random = new Random(5);
  const spoiling = { arithmeticErrors: 0, replacedWords: 0, forgottenCarries: 0 };
  for (let i = 0; i < 200; i++) {
    const problem = makeProblem(random);
    const solution = writeSolution(random, problem, spoiling);
    t.is(solution.split(' #### ').at(-1), String(problem.answer));
    let count = problem.start;
    for (const [, left, operator, right, result] of solution.matchAll(/(\d+)([-+*])(\d+)=(\d+)/g)) {
      t.is(Number(left), count);
      count = { '+': count + Number(right), '-': count - Number(right), '*': count * Number(right) }[
        operator as '+' | '-' | '*'
      ];
      t.is(Number(result), count);
    }
    t.is(count, problem.answer);
  }
});

test('a forgotten carry loses ten, a forgotten borrow gains ten, and without either nothing is forgotten', (t) => {
  t.is(forgetCarry({ operator: '+', operand: 15 }, 27), 32);
  t.is(forgetCarry({ operator: '+', operand: 12 }, 27), undefined);
  t.is(forgetCarry({ operator: '-', operand: 18 }, 45), 37);
  t.is(forgetCarry({ operator: '-', operand: 13 }, 45), undefined);
  t.is(forgetCarry({ operator: '*', operand: 4 }, 27), 88);
  t.is(forgetCarry({ operator: '*', operand: 3 }, 23), undefined);
});
