/** What a run cost: rollouts, what each technique saved, seconds of each stage and their share of the whole. */
import type { Costs, StageTime } from './data.js';
import { count, percent } from './describe.js';
import { type Fields, numberIn } from './run-files.js';

type Row = readonly [string, string];

const counted = (name: string, value: number | undefined): Row[] =>
  value === undefined ? [] : [[name, count(value)]];

const shared = (name: string, value: number | undefined): Row[] =>
  value === undefined ? [] : [[name, percent(value)]];

/** Tokens that a rollout takes on average, without those of the trunks. */
function tokensPerRollout(meta: Fields | undefined, trunkTokens: number): number | undefined {
  const decoded = numberIn(meta, 'decoded_tokens');
  const rollouts = numberIn(meta, 'rollouts');
  if (decoded === undefined || rollouts === undefined || rollouts === 0) return undefined;
  return Math.max(0, decoded - trunkTokens) / rollouts;
}

function savedRows(meta: Fields | undefined, trunkTokens: number): Row[] {
  const rows: Row[] = [];
  const waves = numberIn(meta, 'rollouts_saved') ?? 0;
  const each = tokensPerRollout(meta, trunkTokens);
  if (waves > 0) {
    const tokens = each === undefined ? '' : `, about ${count(waves * each)} tokens`;
    rows.push(['waves', `${count(waves)} rollouts${tokens}`]);
  }
  const accepted = numberIn(meta, 'accepted_tokens') ?? 0;
  const drafted = numberIn(meta, 'drafted_tokens') ?? 0;
  if (accepted > 0) rows.push(['drafts', `${count(accepted)} tokens of ${count(drafted)} tried`]);
  const stopped = numberIn(meta, 'stopped_rollouts') ?? 0;
  if (stopped > 0) rows.push(['stopping at the answer', `${count(stopped)} rollouts ended early`]);
  const wasted = numberIn(meta, 'wasted_tokens') ?? 0;
  if (wasted > 0) rows.push(['speculation (a cost)', `${count(wasted)} tokens wasted`]);
  return rows;
}

function stagesOf(seconds: Fields | undefined): StageTime[] {
  const stages = Object.keys(seconds ?? {}).flatMap((name) => {
    const value = numberIn(seconds, name);
    return value === undefined ? [] : [{ name, seconds: value }];
  });
  const total = stages.reduce((sum, stage) => sum + stage.seconds, 0);
  return stages.map((stage) => ({ ...stage, share: total > 0 ? stage.seconds / total : 0 }));
}

/**
 * @param meta annotations.meta.json. @param trunkTokens of all responses. @param seconds stages.json.
 * @param metrics of the trained model.
 */
export function costsOf(
  meta: Fields | undefined,
  trunkTokens: number,
  seconds: Fields | undefined,
  metrics: readonly Fields[],
): Costs {
  const steps = metrics.filter((line) => numberIn(line, 'loss') !== undefined || line.loss === null);
  const sum = (field: string): number =>
    steps.reduce((total, line) => total + (numberIn(line, field) ?? 0), 0);
  const peak = metrics.reduce((most, line) => Math.max(most, numberIn(line, 'peak_memory_bytes') ?? 0), 0);
  const annotationSeconds = numberIn(meta, 'seconds');
  const rate =
    annotationSeconds && annotationSeconds > 0
      ? (numberIn(meta, 'decoded_tokens') ?? 0) / annotationSeconds
      : undefined;
  const rows: Row[] = [
    ...counted('questions', numberIn(meta, 'questions')),
    ...counted('correct responses', numberIn(meta, 'correct')),
    ...counted('counterfactual rollouts', numberIn(meta, 'rollouts')),
    ...shared('rank 2 correct', numberIn(meta, 'p2')),
    ...counted('decoded tokens', numberIn(meta, 'decoded_tokens')),
    ...counted('decoded tokens per second', rate),
    ...(annotationSeconds === undefined
      ? []
      : [['seconds of annotation', annotationSeconds.toFixed(1)] as const]),
    ...counted('optimizer steps', steps.length || undefined),
    ...counted('skipped steps', steps.filter((line) => line.skipped === true).length || undefined),
    ...counted('tokens trained on', sum('tokens') || undefined),
    ...counted('of them with loss', sum('selected_tokens') || undefined),
    ...(peak > 0 ? [['peak memory', `${(peak / 1e9).toFixed(2)} GB`] as const] : []),
  ];
  return { rows, saved: savedRows(meta, trunkTokens), stages: stagesOf(seconds) };
}
