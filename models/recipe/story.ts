/**
 * Word problems about a changing pile of things, and worked solutions in many wordings.
 *
 * A solution can be spoiled in three ways, each of which gives the model something a critical token
 * needs: arithmetic errors make it continue from wrong numbers, replaced words make it recover from odd
 * words, and forgotten carries are a pupil's mistake that fine-tuning can mend.
 */
import type { Random } from './random.js';

export type Operator = '+' | '-' | '*';

export interface Change {
  readonly operator: Operator;
  readonly operand: number;
}

export interface Problem {
  readonly name: string;
  readonly item: string;
  readonly start: number;
  readonly changes: readonly Change[];
  readonly question: string;
  readonly answer: number;
}

/** Probabilities in [0, 1]; all zero gives a correct solution. */
export interface Spoiling {
  /** Per calculation: a result that is off by 1, 2 or 10. */
  readonly arithmeticErrors: number;
  /** Per word: another word of the vocabulary in its place. */
  readonly replacedWords: number;
  /** Per calculation with a carry or borrow: it is forgotten. */
  readonly forgottenCarries: number;
}

const LARGEST_PRODUCT = 200;

const NAMES = words('Tom Ann Sam Lily Max Nina Omar Ruth Ivan Mei Leo Zoe Carl Dana Eli Fay');
const ITEMS = words('apples books coins cards shells stamps pens eggs cups marbles');

const EVENTS: Record<Operator, readonly string[]> = {
  '+': ['buys {n} more', 'gets {n} more', 'finds {n} more', 'picks up {n} more', 'receives {n} more'],
  '-': ['gives away {n}', 'loses {n}', 'sells {n}', 'drops {n}', 'hands out {n}'],
  '*': ['then has {n} times as many', 'multiplies the pile by {n}'],
};
const STARTS = [
  '{name} starts out with {n} {item}.',
  'In the beginning there are {n} {item}.',
  'At first, {name} has {n} {item}.',
  'The story begins with {n} {item}.',
];
const CONNECTIVES = ['Then', 'Next', 'After that', 'Now', 'Later on'];
const REASONS: Record<Operator, readonly string[]> = {
  '+': [
    '{name} gets some more, so we add',
    'the pile grows, so we add',
    'more {item} come in, so this is an addition',
    'the number goes up, and we add',
  ],
  '-': [
    'some of the {item} are gone, so we take them away',
    'the pile shrinks, so we subtract',
    'there are fewer {item}, so this is a subtraction',
    'the number goes down, and we subtract',
  ],
  '*': [
    'the pile is made several times as big, so we multiply',
    'the count is multiplied, so we find a product',
    'every one of the {item} is copied, so we multiply',
  ],
};
const CALCULATIONS = ['{e}.', 'this gives {e}.', 'we have {e}.', 'that is {e}.'];
const NOTES = ['', '', '', 'So far so good.', 'That is the new count.', 'Keep this in mind.'];
const ENDS = [
  'So the answer is {n}.',
  'In the end, {name} has {n} {item}.',
  'That leaves {name} with {n} {item}.',
  'The final count is {n}.',
];

const VOCABULARY = vocabulary();

/** A problem with two to four changes. Its answer and every intermediate count are positive. */
export function makeProblem(random: Random): Problem {
  const name = random.pick(NAMES);
  const item = random.pick(ITEMS);
  const start = random.integer(3, 60);
  const changes: Change[] = [];
  const events: string[] = [];
  let count = start;
  for (let remaining = random.integer(2, 4); remaining > 0; remaining--) {
    const change = makeChange(random, count);
    changes.push(change);
    events.push(fill(random.pick(EVENTS[change.operator]), { n: change.operand }));
    count = apply(change, count);
  }
  const story = `${events.slice(0, -1).join(', ')} and ${events.at(-1)}`;
  const question = `${name} has ${start} ${item}. ${name} ${story}. How many ${item} does ${name} have?`;
  return { name, item, start, changes, question, answer: count };
}

/** Ten bare calculations, each on the last one's result: what a small model learns arithmetic from quickly. */
export function makeDrill(random: Random): { question: string; solution: string } {
  const start = random.integer(3, 60);
  const tasks: string[] = [];
  const equations: string[] = [];
  let count = start;
  for (let i = 0; i < 10; i++) {
    const change = makeChange(random, count);
    const result = apply(change, count);
    tasks.push(`${change.operator}${change.operand}`);
    equations.push(`${count}${change.operator}${change.operand}=${result}.`);
    count = result;
  }
  return { question: `${start} ${tasks.join(' ')}`, solution: `${equations.join(' ')} #### ${count}` };
}

/** A worked solution that ends with `#### <result>`; with spoiling the result may be wrong. */
export function writeSolution(random: Random, problem: Problem, spoiling: Spoiling): string {
  const { name, item } = problem;
  let count = problem.start;
  const sentences = [fill(random.pick(STARTS), { name, item, n: count })];
  for (const change of problem.changes) {
    const result = calculate(random, change, count, spoiling);
    const reason = fill(random.pick(REASONS[change.operator]), { name, item });
    const equation = `${count}${change.operator}${change.operand}=${result}`;
    const calculation = fill(random.pick(CALCULATIONS), { e: equation });
    sentences.push(`${random.pick(CONNECTIVES)} ${reason}: ${calculation}`);
    const note = random.pick(NOTES);
    if (note !== '') sentences.push(note);
    count = result;
  }
  sentences.push(fill(random.pick(ENDS), { name, item, n: count }));
  const text = sentences
    .join(' ')
    .split(' ')
    .map((word) => (random.chance(spoiling.replacedWords) && isWord(word) ? random.pick(VOCABULARY) : word))
    .join(' ');
  return `${text} #### ${count}`;
}

/** The result when the carry or borrow is forgotten, or undefined where there is none to forget. */
export function forgetCarry({ operator, operand }: Change, count: number): number | undefined {
  const ones = count % 10;
  switch (operator) {
    case '+':
      return ones + (operand % 10) >= 10 ? count + operand - 10 : undefined;
    case '-':
      return ones < operand % 10 ? count - operand + 10 : undefined;
    case '*': {
      const carry = Math.floor((ones * operand) / 10) * 10;
      return carry > 0 ? count * operand - carry : undefined;
    }
  }
}

function makeChange(random: Random, count: number): Change {
  const choice = random.float();
  if (count < 4 || choice < 0.42) return { operator: '+', operand: random.integer(2, 60) };
  if (choice >= 0.85) {
    const operand = random.integer(2, 4);
    if (count * operand <= LARGEST_PRODUCT) return { operator: '*', operand };
  }
  return { operator: '-', operand: random.integer(1, count - 1) };
}

function apply({ operator, operand }: Change, count: number): number {
  switch (operator) {
    case '+':
      return count + operand;
    case '-':
      return count - operand;
    case '*':
      return count * operand;
  }
}

function calculate(random: Random, change: Change, count: number, spoiling: Spoiling): number {
  const correct = apply(change, count);
  if (random.chance(spoiling.arithmeticErrors)) {
    return Math.max(0, correct + random.pick([-10, -2, -1, 1, 2, 10]));
  }
  if (random.chance(spoiling.forgottenCarries)) {
    // A wrong count can have fallen below the next operand.
    return Math.max(0, forgetCarry(change, count) ?? correct);
  }
  return Math.max(0, correct);
}

function fill(template: string, values: Record<string, string | number>): string {
  return template.replace(/\{(\w+)\}/g, (_, key: string) => {
    const value = values[key];
    if (value === undefined) throw new Error(`template "${template}" asks for "${key}"`);
    return String(value);
  });
}

function vocabulary(): string[] {
  const phrases = [STARTS, CONNECTIVES, CALCULATIONS, NOTES, ENDS, ...Object.values(REASONS)].flat();
  const spoken = phrases
    .join(' ')
    .replace(/\{\w+\}|[.,:]/g, ' ')
    .split(' ')
    .filter(isWord);
  return [...new Set([...spoken, ...ITEMS, ...NAMES])].sort();
}

function isWord(text: string): boolean {
  return /^[A-Za-z]+$/.test(text);
}

function words(text: string): string[] {
  return text.split(' ');
}
