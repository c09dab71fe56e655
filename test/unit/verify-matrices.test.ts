/** Capital letters that are matrices: what holds for all of them is accepted, in this order of factors and no other. */
import test from 'ava';
import { Random } from '../../lib/random.js';
import { verify } from '../../lib/verify/index.js';

const equal = (prediction: string, gold: string, question?: string): boolean =>
  verify(`\\boxed{${prediction}}`, gold, { question }).correct;

interface Factor {
  name: string;
  exponent: number;
}

const written = (word: readonly Factor[]): string =>
  word.map(({ name, exponent }) => (exponent === 1 ? name : `${name}^{${exponent}}`)).join(' ');

/** Powers of the same matrix side by side become one; what has the exponent 0 goes. */
function reduced(word: readonly Factor[]): Factor[] {
  const result: Factor[] = [];
  for (const factor of word) {
    const last = result.at(-1);
    const exponent = (last?.name === factor.name ? last.exponent : 0) + factor.exponent;
    if (last?.name === factor.name) result.pop();
    if (exponent !== 0) result.push({ ...factor, exponent });
  }
  return result;
}

test('words of three matrices and their inverses are equal where they reduce to the same word', (t) => {
  const random = new Random('matrices');
  const word = (): Factor[] =>
    Array.from({ length: 2 + random.integer(4) }, () => ({
      name: 'ABC'[random.integer(3)] as string,
      exponent: random.integer(2) === 0 ? 1 : -1,
    }));
  let [same, different] = [0, 0];
  for (let round = 0; round < 400; round++) {
    const [a, b] = [word(), word()];
    // At least two names and an inverse: else the letters may be numbers.
    const isOfMatrices = (words: Factor[]): boolean =>
      new Set(words.map(({ name }) => name)).size > 1 && words.some(({ exponent }) => exponent < 0);
    const [x, y] = [reduced(a), reduced(b)];
    if (!isOfMatrices(x) || x.length < 2) continue;
    t.true(equal(written(a), written(x)), `${written(a)} | ${written(x)}`);
    same++;
    if (!isOfMatrices(y) || written(x) === written(y)) continue;
    t.false(equal(written(b), written(x)), `${written(b)} | ${written(x)}`);
    different++;
  }
  t.true(same > 200 && different > 150, `${same} ${different}`);
});

test('rules of the algebra of matrices', (t) => {
  t.true(equal('A^{-1}B + A^{-1}C', 'A^{-1}(B+C)'));
  t.true(equal('(A B C)^{-1}', 'C^{-1} B^{-1} A^{-1}'));
  t.true(equal('C^T B^T A^T', '(ABC)^T'));
  t.true(equal('I + A^{-1}B', 'A^{-1}(A+B)'));
  t.true(equal('\\det(A)\\det(B)A^{-1}', 'A^{-1}\\det(BA)'));
  t.true(equal('\\frac{1}{3}A^{-1}B', '(3A)^{-1}B'));
  t.false(equal('A^{-1}(B+C)', '(B+C)A^{-1}'));
  t.false(equal('A^2 + 2AB^{-1} + B^{-2}', '(A+B^{-1})^2'));
  t.false(equal('|2A|\\,A^{-1}B', '8|A|\\,A^{-1}B'));
  t.false(equal('\\operatorname{tr}(ABC)A^{-1}', '\\operatorname{tr}(BAC)A^{-1}'));
});

test('products without an inverse are of numbers, unless the question speaks of matrices', (t) => {
  t.true(equal('2BA', '2AB'));
  t.true(equal('(A+B)^2', 'A^2+2AB+B^2'));
  const question = 'Let $A$ and $B$ be matrices. Simplify.';
  t.false(equal('2BA', '2AB', question));
  t.false(equal('(A+B)^2', 'A^2+2AB+B^2', question));
  t.true(equal('A^2+AB+BA+B^2', '(A+B)^2', question));
});
