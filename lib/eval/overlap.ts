/**
 * Questions that occur in two places: what is trained on and then asked says nothing. Questions are compared by their
 * letters and digits in lower case, so that spacing, punctuation and LaTeX's braces do not matter.
 */
import type { Question } from '../types.js';

/** Letters and digits of a text, in lower case, without what a benchmark adds to questions of two words. */
export const contentOf = (text: string): string =>
  text
    .replace(/ \((?:True or False|Yes or No)\)$/, '')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]/gu, '');

export interface NamedQuestions {
  name: string;
  questions: readonly Question[];
}

export interface Duplicates {
  name: string;
  questions: number;
  /** Questions that stand earlier in the same set as well. */
  repeated: number;
  /** Ids of the first few, each with the id of the earlier one. */
  examples: [id: string, earlier: string][];
}

export interface Overlap {
  /** What is asked. */
  name: string;
  questions: number;
  /** What it is compared with: the training file, or another benchmark. */
  with: string;
  /** Questions of `name` that `with` has too. */
  shared: number;
  examples: [id: string, other: string][];
}

const mostExamples = 5;

const firstIds = (questions: readonly Question[]): Map<string, string> => {
  const ids = new Map<string, string>();
  for (const { id, question } of questions) {
    const content = contentOf(question);
    if (content !== '' && !ids.has(content)) ids.set(content, id);
  }
  return ids;
};

/** Questions that one set holds more than once. */
export function findDuplicates({ name, questions }: NamedQuestions): Duplicates {
  const first = firstIds(questions);
  const repeated = questions.flatMap(({ id, question }): [string, string][] => {
    const earlier = first.get(contentOf(question));
    return earlier === undefined || earlier === id ? [] : [[id, earlier]];
  });
  return {
    name,
    questions: questions.length,
    repeated: repeated.length,
    examples: repeated.slice(0, mostExamples),
  };
}

/** Questions of `asked` that are in `other` as well, each counted as often as it is asked. */
export function findOverlap(asked: NamedQuestions, other: NamedQuestions): Overlap {
  const known = firstIds(other.questions);
  const shared = asked.questions.flatMap(({ id, question }): [string, string][] => {
    const found = known.get(contentOf(question));
    return found === undefined ? [] : [[id, found]];
  });
  return {
    name: asked.name,
    questions: asked.questions.length,
    with: other.name,
    shared: shared.length,
    examples: shared.slice(0, mostExamples),
  };
}

/** Duplicates of every set, overlaps of each with the training questions, and of the sets with each other. */
export function overlapReport(
  sets: readonly NamedQuestions[],
  training?: NamedQuestions,
): { duplicates: Duplicates[]; training: Overlap[]; between: Overlap[] } {
  const between = sets.flatMap((asked) =>
    sets.filter((other) => other !== asked).map((other) => findOverlap(asked, other)),
  );
  return {
    duplicates: [...(training ? [training] : []), ...sets].map(findDuplicates),
    training: training ? sets.map((asked) => findOverlap(asked, training)) : [],
    between: between.filter(({ shared }) => shared > 0),
  };
}
