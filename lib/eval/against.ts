/** A paired comparison with the predictions that another evaluation left in its folder. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { badData } from '../data/errors.js';
import { CftError } from '../errors.js';
import { readJsonLinesSync, writeFileAtomic } from '../files.js';
import { forFile } from '../json-names.js';
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

/**
 * Looks for the predictions of every set, before any work.
 * @throws CftError ERR_CFT_BAD_OPTION
 */
export function checkAgainst(folder: string, names: readonly string[]): void {
  for (const name of names) {
    if (predictionsIn(folder, name) !== undefined) continue;
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `against (--against): expected the folder of an evaluation of ${name} (with predictions.jsonl), found ${folder}`,
    );
  }
}

/** Predictions of a set in an evaluation's folder, grouped like those given. */
function readPaired(folder: string, { name, predictions }: Evaluated): Prediction[][] {
  checkAgainst(folder, [name]);
  const path = predictionsIn(folder, name) as string;
  const byId = new Map<string, Prediction[]>();
  for (const prediction of readJsonLinesSync<Prediction>(path)) {
    const group = byId.get(prediction.id) ?? [];
    group.push(prediction);
    byId.set(prediction.id, group);
  }
  return predictions.map((own) => {
    const { id, answer } = own[0]!;
    const group = byId.get(id);
    if (group === undefined)
      throw badData(path, `expected a response to question ${id} of ${name}, found none`);
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
    before: readPaired(folder, set),
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
