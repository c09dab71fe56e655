/** What the `overlap` command does: reads the sets and says what they share. */
import { basename } from 'node:path';
import { readQuestions } from '../data/questions.js';
import { CftError } from '../errors.js';
import type { GivenOptions } from '../options.js';
import { resolveOptions } from '../options.js';
import { readBenchmark, resolveBenchmarks } from './benchmarks.js';
import { overlapReport } from './overlap.js';

export interface OverlapOptions extends GivenOptions<'overlap'> {
  signal?: AbortSignal | undefined;
}

export type OverlapReport = ReturnType<typeof overlapReport>;

/**
 * Overlaps of a training file with benchmarks, of the benchmarks with each other, and questions that a set repeats.
 * @throws CftError ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA, ERR_CFT_DOWNLOAD; the signal's reason.
 */
export async function findOverlaps({ signal, ...given }: OverlapOptions): Promise<OverlapReport> {
  const { data, benchmark, questionField, limit } = resolveOptions('overlap', given);
  if (benchmark === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'benchmark (--benchmark): expected the names of benchmarks, found none',
    );
  }
  const sets = [];
  for (const name of resolveBenchmarks(benchmark)) sets.push(await readBenchmark(name, { limit, signal }));
  const training =
    data === undefined
      ? undefined
      : {
          name: basename(data),
          // Answers do not matter here.
          questions: await readQuestions(data, { questionField, answerField: questionField, signal }),
        };
  return overlapReport(sets, training);
}
