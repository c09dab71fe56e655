/** The questions of the embedded model: what it is trained, tuned and tested on. */
import { Random } from './random.js';
import { makeProblem, type Problem } from './story.js';

const SPLITS = [
  { name: 'train', seed: 1, count: 400 },
  { name: 'validation', seed: 2, count: 200 },
  { name: 'test', seed: 3, count: 400 },
] as const;

export interface Split {
  readonly name: string;
  readonly problems: readonly Problem[];
}

/** The three sets of questions; no question text occurs twice. */
export function makeSplits(): Split[] {
  const taken = new Set<string>();
  return SPLITS.map(({ name, seed, count }) => {
    const random = new Random(seed);
    const problems = Array.from({ length: count }, () => makeNewProblem(random, taken));
    for (const problem of problems) taken.add(problem.question);
    return { name, problems };
  });
}

/** Draws until the question is not in `taken`. */
export function makeNewProblem(random: Random, taken: ReadonlySet<string>): Problem {
  for (;;) {
    const problem = makeProblem(random);
    if (!taken.has(problem.question)) return problem;
  }
}
