/**
 * Writes the questions, or a corpus for pre-training, as JSONL:
 *
 *   npx tsx models/recipe/generate.ts questions models/embedded/questions
 *   npx tsx models/recipe/generate.ts corpus FILE --seed N --count N
 *       [--drills SHARE] [--arithmetic-errors P] [--replaced-words P] [--forgotten-carries P]
 *
 * No question occurs twice among the three files, and none of them occurs in a corpus.
 */
import { createWriteStream, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { Random } from './random.js';
import { makeNewProblem, makeSplits } from './splits.js';
import { makeDrill, writeSolution } from './story.js';

function writeQuestions(folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const { name, problems } of makeSplits()) {
    const lines = problems.map(({ question, answer }, index) =>
      JSON.stringify({ id: `${name}-${index + 1}`, question, answer: String(answer) }),
    );
    writeFileSync(join(folder, `${name}.jsonl`), `${lines.join('\n')}\n`);
  }
}

async function writeCorpus(file: string, options: Record<string, string | undefined>): Promise<void> {
  const number = (name: string, fallback?: number): number => {
    const value = options[name] === undefined ? fallback : Number(options[name]);
    if (value === undefined || !(value >= 0))
      throw new Error(`--${name} must be a number that is not negative`);
    return value;
  };
  const spoiling = {
    arithmeticErrors: number('arithmetic-errors', 0),
    replacedWords: number('replaced-words', 0),
    forgottenCarries: number('forgotten-carries', 0),
  };
  const drills = number('drills', 0);
  const random = new Random(number('seed'));
  const heldOut = new Set(makeSplits().flatMap(({ problems }) => problems.map(({ question }) => question)));
  const makeText = (random: Random): { question: string; solution: string } => {
    const problem = makeNewProblem(random, heldOut);
    return { question: problem.question, solution: writeSolution(random, problem, spoiling) };
  };
  const output = createWriteStream(file);
  for (let remaining = number('count'); remaining > 0; remaining--) {
    output.write(
      `${JSON.stringify(drills > 0 && random.chance(drills) ? makeDrill(random) : makeText(random))}\n`,
    );
  }
  output.end();
  await finished(output);
}

const string = { type: 'string' } as const;
const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seed: string,
    count: string,
    drills: string,
    'arithmetic-errors': string,
    'replaced-words': string,
    'forgotten-carries': string,
  },
});
const [command, path] = positionals;
if (command === 'questions' && path !== undefined) writeQuestions(path);
else if (command === 'corpus' && path !== undefined) await writeCorpus(path, values);
else throw new Error('usage: generate.ts questions FOLDER | generate.ts corpus FILE --seed N --count N');
