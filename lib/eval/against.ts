/** A paired comparison with the predictions that another evaluation left in its folder. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { badData } from '../data/errors.js';
import { CftError } from '../errors.js';
import { readJsonLinesSync, writeFileAtomic } from '../files.js';
import { forFile } from '../json-names.js';
import type { Question } from '../types.js';
import {
  type AverageComparison,
  type Comparison,
  compareAverages,
  comparePredictions,
} from './comparison.js';
import type { Prediction } from './predictions.js';

export interface EvaluationComparisons {
  /** Folder of the first of the two. */
  against: string;
  benchmarks: Record<string, Comparison>;
  /** Of several benchmarks. */
  average?: AverageComparison;
}

interface Evaluated {
  name: string;
  predictions: readonly (readonly Prediction[])[];
}

const predictionsIn = (folder: string, name: string): string | undefined =>
  [join(folder, name, 'predictions.jsonl'), join(folder, 'predictions.jsonl')].find((path) =>
    existsSync(path),
  );

interface Asked {
  name: string;
  questions: readonly Pick<Question, 'id' | 'answer'>[];
}

/**
 * Looks for the predictions of every set, before any work.
 * @throws CftError ERR_CFT_BAD_OPTION where there are none; ERR_CFT_BAD_DATA where they are of other questions or of an
 *   evaluation that is not finished.
 */
export function checkAgainst(folder: string, sets: readonly Asked[]): void {
  for (const set of sets) readPaired(folder, set);
}

/** Predictions of a set in an evaluation's folder, those of each question together. */
function readPaired(folder: string, { name, questions }: Asked): Prediction[][] {
  const path = predictionsIn(folder, name);
  if (path === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `against (--against): expected the folder of an evaluation of ${name} (with predictions.jsonl), found ${folder}`,
    );
  }
  const byId = new Map<string, Prediction[]>();
  for (const prediction of readJsonLinesSync<Prediction>(path)) {
    const group = byId.get(prediction.id) ?? [];
    group.push(prediction);
    byId.set(prediction.id, group);
  }
  const samples = byId.get(questions[0]?.id ?? '')?.length;
  return questions.map(({ id, answer }) => {
    const group = byId.get(id);
    if (group === undefined)
      throw badData(path, `expected a response to question ${id} of ${name}, found none`);
    if (samples !== undefined && group.length !== samples) {
      throw badData(
        path,
        `question ${id}: expected ${samples ?? 0} responses, as for the first question, found ${group.length}; ` +
          'the evaluation is not finished',
      );
    }
    if (group[0]!.answer !== answer) {
      throw badData(
        path,
        `question ${id}: expected the gold answer ${JSON.stringify(answer)}, found ${JSON.stringify(group[0]!.answer)}; ` +
          'the two evaluations asked different questions',
      );
    }
    return group;
  });
}

/**
 * Compares evaluations of the same questions; the folder given is the first, what was just evaluated the second.
 * @throws CftError ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA where the folder has no such predictions.
 */
export function compareWithFolder(
  folder: string,
  sets: readonly Evaluated[],
  seed: number,
): EvaluationComparisons {
  const pairs = sets.map((set) => ({
    name: set.name,
    before: readPaired(folder, { name: set.name, questions: set.predictions.map(([first]) => first!) }),
    after: set.predictions,
  }));
  return {
    against: folder,
    benchmarks: Object.fromEntries(
      pairs.map(({ name, before, after }) => [name, comparePredictions(before, after, seed)]),
    ),
    ...(pairs.length > 1 ? { average: compareAverages(pairs, seed) } : {}),
  };
}

/** comparison.json */
export const writeComparisons = (
  path: string,
  { against, benchmarks, average }: EvaluationComparisons,
): void =>
  writeFileAtomic(
    path,
    `${JSON.stringify(
      {
        against,
        benchmarks: Object.fromEntries(Object.entries(benchmarks).map(([name, one]) => [name, forFile(one)])),
        ...(average ? { average: forFile(average) } : {}),
      },
      null,
      2,
    )}\n`,
  );
