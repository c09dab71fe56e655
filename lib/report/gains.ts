/** What was gained: accuracies from summary.json files, and their comparison from result.json. */
import { basename, join } from 'node:path';
import type { TrainResult } from '../train/result.js';
import type { Accuracy, GainComparison, GainRow, Gains } from './data.js';
import { describeComparison } from './describe.js';
import { type Fields, foldersIn, numberIn, readFields } from './run-files.js';

function accuracyIn(summary: Fields | undefined): Accuracy | undefined {
  const value = numberIn(summary, 'accuracy');
  const interval = summary?.accuracy_ci95;
  if (value === undefined || !Array.isArray(interval) || interval.length !== 2) return undefined;
  const [low, high] = interval;
  return typeof low === 'number' && typeof high === 'number' ? { value, interval: [low, high] } : undefined;
}

const fieldsIn = (fields: Fields | undefined, name: string): Fields | undefined => {
  const value = fields?.[name];
  return typeof value === 'object' && value !== null ? (value as Fields) : undefined;
};

/** One model on the questions of every name that its summaries have. */
interface Evaluated {
  name: string;
  greedy: Fields | undefined;
  sampled: Fields | undefined;
}

const evaluatedIn = (name: string, folder: string): Evaluated => ({
  name,
  greedy: readFields(join(folder, 'summary.json')),
  sampled: readFields(join(folder, 'sampled', 'summary.json')),
});

function gainsOn(evaluatedOn: string, all: readonly Evaluated[]): Gains | undefined {
  let questions = 0;
  let samples: number | undefined;
  const rows = all.flatMap(({ name, greedy, sampled }): GainRow[] => {
    let [first, second] = [fieldsIn(greedy, evaluatedOn), fieldsIn(sampled, evaluatedOn)];
    // An evaluation alone has one summary, sampled or not.
    if (second === undefined && ((numberIn(first, 'samples') ?? 1) > 1 || numberIn(first, 'temperature')))
      [first, second] = [undefined, first];
    const [a, b] = [accuracyIn(first), accuracyIn(second)];
    questions = Math.max(questions, numberIn(first, 'n') ?? numberIn(second, 'n') ?? 0);
    samples = numberIn(second, 'samples') ?? samples;
    return a || b ? [{ name, ...(a && { greedy: a }), ...(b && { sampled: b }) }] : [];
  });
  if (rows.length === 0) return undefined;
  return { evaluatedOn, questions, ...(samples !== undefined && { samples }), rows, comparisons: [] };
}

function comparisonsOf({ trained, baseline, againstBaseline }: TrainResult): GainComparison[] {
  const pairs = [
    [`${trained.strategy} against before`, trained.change],
    [`${baseline?.strategy} against before`, baseline?.change],
    [`${trained.strategy} against ${baseline?.strategy}`, againstBaseline],
  ] as const;
  return pairs.flatMap(([name, pair]) =>
    (['greedy', 'sampled'] as const).flatMap((kind): GainComparison[] => {
      const one = pair?.[kind];
      return one ? [{ name, kind, text: describeComparison(one), verdict: one.verdict }] : [];
    }),
  );
}

/**
 * @param strategy of the run; undefined for an evaluation alone.
 * @param model the name of the evaluated model, for an evaluation alone.
 */
export function gainsOf(
  folder: string,
  strategy: string | undefined,
  model: string,
  result: TrainResult | undefined,
): Gains[] {
  const baselines = foldersIn(folder, 'baseline-').map((name) =>
    evaluatedIn(`after ${name.slice('baseline-'.length)}`, join(folder, name, 'eval', 'after')),
  );
  const all =
    strategy === undefined
      ? [evaluatedIn(basename(model) || model, folder)]
      : [
          evaluatedIn('before', join(folder, 'eval', 'before')),
          evaluatedIn(`after ${strategy}`, join(folder, 'eval', 'after')),
          ...baselines,
        ];
  const names = new Set(
    all.flatMap(({ greedy, sampled }) => [...Object.keys(greedy ?? {}), ...Object.keys(sampled ?? {})]),
  );
  const gains = [...names].flatMap((name) => gainsOn(name, all) ?? []);
  for (const one of gains)
    if (result !== undefined && (result.evaluatedOn === one.evaluatedOn || gains.length === 1))
      one.comparisons = comparisonsOf(result);
  return gains;
}
