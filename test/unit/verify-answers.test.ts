import test from 'ava';
import { verify } from '../../lib/verify/index.js';

/** [prediction, gold answer] pairs that must be judged correct, by what they show. */
const correct: Record<string, [string, string | number][]> = {
  'where the answer stands': [
    // The Node API's own example (interface.md).
    ['… so it is \\boxed{1/2}', '0.5'],
    // GSM8K solution style.
    ['3 + 4 = 7 apples.\n#### 7', 'Natalia has 3 + 4 = <<3+4=7>>7 apples.\n#### 7'],
    ['#### 1,080', '#### 1080'],
    ['#### Step 1\nAdd.\n#### 7', '7'],
    // MATH solution style as gold.
    ['The final answer is $42$. I hope it is correct.', 'We get $6\\cdot 7=\\boxed{42}$.'],
    ['\\boxed{3}. Wait, that is wrong: \\boxed{4}', '4'],
    ['\\boxed{\\boxed{5}}', '5'],
    ['\\boxed 5', '5'],
    ['\\fbox{5}', '5'],
    ['\\boxed{\\frac{1}{\\sqrt{2}}} and nothing else', '\\frac{\\sqrt{2}}{2}'],
    ['Put it within \\boxed{}. The answer is 5', '5'],
    ['The answer is 42.', '42'],
    ['**Final answer:** 18 dollars', '18'],
    ['The answer is:\n42', '42'],
    ['So the answer to the question is **3.5**.', '3.5'],
    ['The final answer is then $9 + 4 + 3 + 33 = 49.$', '49'],
    ['The answer is 5 because 2 + 3 = 5 and not 6.', '5'],
    ['The answer is: yes, because 4 is even.', 'Yes'],
    ['So she makes $18 every day.', '18'],
    ['Tom had $5 and $10, which is $15.', '15'],
    ['Thus $x = \\frac{3}{4}$ is the result', '3/4'],
    ['So \\(x = 12\\) is what we want.', '12'],
    ['Adding them gives \\[ 3 + 4 = 7. \\]', '7'],
    ['we have \\begin{align*} a &= 2 + 3 \\\\ &= 5. \\end{align*}', '5'],
    ['$x+2=5\\implies x=3$', '3'],
    ['so 3/4 of the cake is left', '0.75'],
    ['\\boxed{\\text{The total is } 5 \\text{ apples}}', '5'],
    ['\\boxed{3} or \\boxed{5}', '3,5'],
  ],
  numbers: [
    ['1,234', '1234'],
    ['1234', '1,234'],
    ['1{,}234', '1234'],
    ['1,\\!234', '1234'],
    ['11,\\! 111,\\! 111,\\! 100', '11111111100'], // MATH test
    ['$1,234.50', '1234.5'],
    ['12 345', '12345'],
    ['12\\,345', '12345'],
    ['007', '7'],
    ['27', 27.0],
    ['.5', '0.5'],
    ['5.', '5'],
    ['+5', '5'],
    ['−5', '-5'],
    ['- 5', '-5'],
    ['1.3 \\times 10^{-48}', '1.3e-48'],
    ['3*10^8', '3e8'],
    ['3 × 10⁸'.replace('⁸', '^8'), '300000000'],
    ['2 million', '2000000'],
    ['2^{10}', '1024'],
    ['2**10', '1024'],
    ['5!', '120'],
    ['\\binom{5}{2}', '10'],
    ['|-3|', '3'],
  ],
  'fractions and mixed numbers': [
    ['\\frac12', '0.5'],
    ['\\dfrac{1}{2}', '\\frac12'],
    ['\\tfrac{3}{4}', '3/4'],
    ['\\frac{1}2', '1/2'],
    ['2/4', '1/2'],
    ['½', '0.5'],
    ['1½', '3/2'],
    ['1 1/2', '1.5'],
    ['1\\frac{1}{2}', '3/2'],
    ['-2\\frac{1}{2}', '-2.5'],
    ['\\frac{\\frac{1}{2}}{3}', '1/6'],
    ['0.333333', '1/3'],
    ['2/3', '0.6666666667'], // MAWPS
    ['0.1666666667', '1/6'],
    ['-\\frac{3}{4}', '\\frac{-3}{4}'],
  ],
  percentages: [
    ['10\\%', '10'],
    ['10%', '0.1'],
    ['0.1', '10\\%'],
    ['10', '10\\%'],
    ['10 percent', '10%'],
    ['-5\\%', '-0.05'],
  ],
  'units and currency': [
    ['5 apples', '5'],
    ['5', '9 - 4 (apples)'],
    ['9', '9 (apples)'], // ASDiv
    ['18 dollars', '$18'],
    ['\\$18', '18'],
    ['€5', '5'],
    ['Rs. 50', '50'],
    ['20 cm^2', '20'],
    ['20\\text{ cm}^2', '20'],
    ['440\\text{ cm}^2', '440'],
    ['5 m/s', '5'],
    ['15 \\mathrm{~m}', '15'],
    ['36^\\circ', '36'],
    ['36 degrees', '36^{\\circ}'],
    ['36°', '36'],
    ['approximately 3.5 kg', '3.5'],
    ['36\\sqrt{7}', '$36\\sqrt{7}cm^{3}$'], // Gaokao 2023
    ['6', '6th'],
  ],
  'roots, constants and functions': [
    ['\\sqrt{8}', '2\\sqrt2'],
    ['sqrt(8)', '2√2'],
    ['\\sqrt[3]{27}', '3'],
    ['\\frac{\\sqrt{2}}{2}', '\\frac{1}{\\sqrt{2}}'],
    ['\\pi', '3.14159265'],
    ['3\\pi/2', '\\frac{3 \\pi}{2}'],
    ['\\sin 30^\\circ', '1/2'],
    ['\\log_{10} 100', '2'],
    ['\\log_2 8', '3'],
    ['\\ln e^2', '2'],
    ['\\infty', '\\infty'],
    ['8^{2/3}', '4'],
  ],
  'lists, tuples, sets, intervals': [
    ['(1,2)', '(1, 2)'],
    ['\\left(3,\\frac{\\pi}{2}\\right)', '\\left( 3, \\frac{\\pi}{2} \\right)'], // MATH-500
    ['(0.5, 2)', '(\\frac12, 2)'],
    ['1, 2', '(1, 2)'],
    ['2, 1', '1,2'],
    ['1, 3, 9 and 11', '1,3,9,11'], // OlympiadBench
    ['x=1 or x=2', '1, 2'],
    ['x = 1, x = 2', '\\{1, 2\\}'],
    ['\\{1,2\\}', '\\{2, 1\\}'],
    ['\\pm 3', '3,-3'],
    ['1+\\sqrt{2}, 1-\\sqrt{2}', '1 \\pm \\sqrt{2}'],
    ['[1, 2)', '[1,2)'],
    ['(-\\infty,2)\\cup(3,\\infty)', '(-\\infty, 2) \\cup (3, \\infty)'], // MATH-500
    ['(3,\\infty) \\cup (-\\infty,2)', '(-\\infty, 2) \\cup (3, \\infty)'],
    ['x \\in [1,2)', '[1,2)'],
    ['(1, 234)', '(1,234)'],
    ['5, 15', '5,15'],
    [
      '\\begin{bmatrix} 0.2 \\\\ -3.6 \\end{bmatrix}',
      '\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}', // MATH-500
    ],
  ],
  'equations and expressions': [
    ['x=5', '5'],
    ['5', 'x = 5'],
    ['5 = x', 'x=5'],
    ['a + b = 19', '19'],
    ['f^{-1}(11)=81', '81'],
    ['3+4=7', '7'],
    ['y = \\frac{6}{x}', 'y = \\frac { 6 } { x }'], // CARP
    ['x^{2}-7x+10=0', '$x^{2}-7 x+10=0$'], // College Math
    ['x \\geq -4', 'x \\ge - 4'],
    ['-4 ≤ x', 'x \\ge - 4'],
    ['-4n+10', '$10-4 n$'],
    ['b^2-9a^2', 'b ^ { 2 } - 9 a ^ { 2 }'],
    ['\\frac{1}{2}x + 1', '1 + x/2'],
    ['-(x - 1)', '1 - x'],
    ['e^{2 a t}', 'e^{2at}'],
    ['A=18, B=44/3', '$A=18, B=44 / 3$'],
    ['a_{1} + 1', '1 + a_1'],
    ['4210_{7}', '4210_7'],
  ],
  text: [
    ['\\boxed{\\text{Tuesday}}', 'Tuesday'],
    ['The answer is Tuesday.', 'tuesday'],
    ['the Spanish club', 'Spanish club'], // TabMWP
    ["men's track team", "The men's track team"],
    ['Mrs. Hilt', 'Mrs. Hilt'],
    ['The answer is Mrs. Hilt.', 'Mrs. Hilt'],
    ['3:30 PM', '3:30 p.m.'], // ASDiv
    ['No', 'no'],
    ['\\text{odd}', 'odd'],
    ['5 : 6', '5:6'],
  ],
  'multiple choice': [
    ['\\boxed{\\text{(C)}}', 'C'],
    ['\\boxed{B. 42}', '(B)'],
    ['\\boxed{\\textbf{(D)}\\ 42}', '\\text{(D)}'],
    ['The answer is (B) 42', 'B'],
    ['The correct answer is option D.', 'D'],
    ['Answer: c', 'C'],
    ['A dog and a cat. Therefore the choice is (B).', 'B'],
    ['Therefore **E**.', 'E'],
    ['A', 'A'],
    ['c', 'C'],
  ],
};

/** Pairs that must be judged incorrect. */
const incorrect: Record<string, [string, string | number][]> = {
  'where the answer stands': [
    ['\\boxed{6}', '5'],
    ['The number 5 appears, but \\boxed{6}', '5'],
    ['\\boxed{5} was my first idea, now \\boxed{6}', '5'],
    ['\\boxed{}', '5'],
    ['', '5'],
    ['no number at all', '5'],
    ['5', ''],
    ['The answer is 5. Or was it 6?', '6'],
    ['\\boxed{5', '6'],
    ['5 + 3', '3'],
  ],
  numbers: [
    ['-5', '5'],
    ['-5 apples', '5 apples'],
    ['1234568', '1234567'],
    ['0.33', '1/3'],
    ['1/3', '0.33'],
    ['12.35', '12.34'],
    ['7.5e-12', '7.4e-12'],
    ['14.5', '14.48'], // TabMWP
    ['1.41', '\\sqrt{2}'],
    ['0.6667', '0.6666666667'],
    ['600,1', '1,600'],
    ['2 1/2', '1'],
    ['23', '2 3'],
    ['10^{100}', '10^{101}'],
    ['\\frac{1}{x}', '1'],
    ['x + 5', '5'],
    ['5x', '5'],
    ['1/0', '0'],
  ],
  percentages: [
    ['0.1%', '10%'],
    ['0.1', '10'],
    ['1', '10%'],
    ['10%', '100'],
  ],
  'lists, tuples, sets, intervals': [
    ['(2,1)', '(1,2)'],
    ['[1,2)', '(1,2)'],
    ['(1,2]', '[1,2]'],
    ['\\{1,2\\}', '(1,2)'],
    ['1,2,3', '1,2'],
    ['1,1', '1,2'],
    ['1', '1,2'],
    ['3', '\\pm 3'],
    ['(-\\infty,2)', '(-\\infty, 2) \\cup (3, \\infty)'],
    ['\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}', '\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}'],
  ],
  'equations and expressions': [
    ['y=5', 'x=5'],
    ['-x=3', 'x=3'],
    ['x \\le 4', 'x \\ge 4'],
    ['x > 4', 'x \\ge 4'],
    ['4', '4 n'],
    ['10-4n', '10+4n'],
    ['x^2', 'x^3'],
    ['f(y)', 'f(x)'],
    ['4210_8', '4210_7'],
  ],
  text: [
    ['nonlinear', 'linear'],
    ['on', 'no'],
    ['Meg', 'Gem'],
    ['3:30 a.m.', '3:30 p.m.'],
    ['-Monday', 'Monday'],
    ['6:5', '5:6'],
    ['The steady state current is 3 amps', 'The steady state current is 2 amps'], // College Math
  ],
  'multiple choice': [
    ['\\boxed{A}', 'C'],
    ['A dog', 'A'],
    ['The answer is (B), not (C).', 'C'],
    ['42', 'C'],
    ['\\boxed{Carrot}', 'C'],
  ],
};

for (const [name, pairs] of Object.entries(correct)) {
  test(`correct: ${name}`, (t) => {
    for (const [prediction, answer] of pairs) {
      const result = verify(prediction, answer);
      t.true(result.correct, `${prediction} | ${answer} | ${JSON.stringify(result)}`);
      t.is(typeof result.extracted, 'string');
    }
  });
}

for (const [name, pairs] of Object.entries(incorrect)) {
  test(`incorrect: ${name}`, (t) => {
    for (const [prediction, answer] of pairs) {
      const result = verify(prediction, answer);
      t.false(result.correct, `${prediction} | ${answer} | ${JSON.stringify(result)}`);
    }
  });
}

test('the result says what was found, what was expected and how they were compared', (t) => {
  t.deepEqual(verify('… so it is \\boxed{1/2}', '0.5'), {
    correct: true,
    extracted: '1/2',
    expected: '0.5',
    method: 'number',
  });
  t.deepEqual(verify('The answer is $\\frac{1}{3}$ of it.', 'It is $\\boxed{\\frac14}$.'), {
    correct: false,
    extracted: '\\frac{1}{3}',
    expected: '\\frac14',
    method: 'number',
  });
  t.deepEqual(verify('I do not know.', '#### 42'), {
    correct: false,
    extracted: undefined,
    expected: '42',
    method: 'none',
  });
  const methods = [
    '(B)',
    'x^2',
    '[1,2]',
    'x<5',
    'Monday',
    '(1,2)\\cup(3,4)',
    '\\begin{pmatrix}1\\end{pmatrix}',
  ];
  t.deepEqual(
    methods.map((gold) => verify(gold, gold).method),
    ['choice', 'expression', 'list', 'relation', 'text', 'union', 'matrix'],
  );
});

test('the gold answer decides: the same prediction is read as number, letter or text', (t) => {
  const response = 'Box B holds 12 eggs, so the answer is B.';
  t.true(verify(response, 'B').correct);
  t.false(verify(response, '12').correct);
  t.true(verify('Box B holds 12 eggs', '12').correct);
});
