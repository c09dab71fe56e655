/** The rows of bench/exactness.ts, bench/gains.ts and bench/evaluation.ts as tables in Markdown. */
import type { Spread } from './statistics.js';

interface Row {
  bench?: string;
  date: string;
  device_name?: string;
}

interface ReDecodingRow extends Row {
  report: 're-decoding';
  model: string;
  verdicts: string;
  responses: number;
  rollouts: number;
  tokens: number;
  differences: number;
  near_ties: number;
}

interface Bfloat16Row extends Row {
  report: 'bfloat16';
  model: string;
  responses: number;
  positions: number;
  critical_float32: number;
  critical_bfloat16: number;
  precision: number | null;
  recall: number | null;
  jaccard: number | null;
  same_tokens: number;
  branches: number[];
  labels_that_flip: number;
  arithmetic: string;
}

interface GainsRow extends Row {
  case: string;
  variant: string;
  seconds_per_response: Spread;
  times_everything_on: Spread;
  rollouts: number;
  decoded_tokens: number;
  same_labels: boolean;
  repeats: number;
  disturbed_repeats: number;
  dtype: string;
}

interface EvaluationRow extends Row {
  case: string;
  model: string;
  dtype: string;
  questions: number;
  max_new_tokens: number;
  same_tokens: number;
  near_ties: number;
  accuracy: number;
  accuracy_of_peer_by_our_verifier: number;
  accuracy_of_peer_by_its_script: number;
  tokens: number;
  seconds: number;
  peer_seconds: number;
  peer_setting: string;
  ratio: number;
  quiet: boolean;
  versions: Record<string, string>;
}

const line = (cells: readonly (string | number)[]): string => `| ${cells.join(' | ')} |`;
const table = (head: readonly string[], rows: readonly (readonly (string | number)[])[]): string =>
  [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
const percent = (value: number | null): string => (value === null ? '-' : `${(100 * value).toFixed(1)} %`);
const count = (value: number): string => value.toLocaleString('en');
const short = (value: number): string => String(Number(value.toPrecision(3)));
const spread = ({ p20, p50, p80 }: Spread): string => `${short(p50)} (${short(p20)} to ${short(p80)})`;
const where = (rows: readonly Row[]): string =>
  [...new Set(rows.map(({ date, device_name }) => `${date.slice(0, 10)}, ${device_name ?? 'unknown'}`))].join(
    '; ',
  );

/** Of rows that tell the same thing the latest. */
function latest<T extends Row>(rows: readonly T[], key: (row: T) => string): T[] {
  const byKey = new Map<string, T>();
  for (const row of [...rows].sort((a, b) => a.date.localeCompare(b.date))) byKey.set(key(row), row);
  return [...byKey.values()];
}

function exactness(rows: readonly (ReDecodingRow | Bfloat16Row)[]): string[] {
  const plain = latest(
    rows.filter((row): row is ReDecodingRow => row.report === 're-decoding'),
    ({ model }) => model,
  );
  const half = latest(
    rows.filter((row): row is Bfloat16Row => row.report === 'bfloat16'),
    ({ model, arithmetic }) => `${model}\n${arithmetic}`,
  );
  const sections: string[] = [];
  if (plain.length > 0) {
    const total = plain.reduce((sum, row) => sum + row.rollouts, 0);
    const ties = plain.reduce((sum, row) => sum + row.near_ties, 0);
    sections.push(`## Rollouts against plain re-decoding, float32

${table(
  ['model', 'verdicts', 'responses', 'rollouts', 'tokens', 'differences', 'near ties'],
  plain.map((row) => [
    row.model,
    row.verdicts,
    row.responses,
    count(row.rollouts),
    count(row.tokens),
    row.differences,
    row.near_ties,
  ]),
)}

A near tie is a first difference at which the plain pass's top-2 gap is below 1e-4: ${ties} of ${count(total)} rollouts (at most 0.1 % are allowed). ${where(plain)}.
`);
  }
  if (half.length > 0) {
    sections.push(`## bfloat16 against float32

Same responses, same alternatives; critical positions of float32 are taken as true.

${table(
  [
    'model',
    'arithmetic',
    'responses',
    'positions',
    'critical, float32',
    'critical, bfloat16',
    'precision',
    'recall',
    'Jaccard',
    'rollouts with the same tokens',
    'labels that flip with the batch',
  ],
  half.map((row) => [
    row.model,
    row.arithmetic,
    row.responses,
    count(row.positions),
    row.critical_float32,
    row.critical_bfloat16,
    percent(row.precision),
    percent(row.recall),
    percent(row.jaccard),
    percent(row.same_tokens),
    `${percent(row.labels_that_flip)} (${row.branches.join(', ')})`,
  ]),
)}

${where(half)}.
`);
  }
  return sections;
}

function gains(rows: readonly GainsRow[]): string[] {
  const cases = new Map<string, GainsRow[]>();
  for (const row of latest(rows, ({ case: name, dtype, variant }) => `${name}\n${dtype}\n${variant}`)) {
    const key = `${row.case}, ${row.dtype}`;
    cases.set(key, [...(cases.get(key) ?? []), row]);
  }
  return [...cases].map(
    ([name, variants]) => `## What each technique is worth: ${name}

${table(
  [
    'annotation',
    's per response, p50 (p20 to p80)',
    'times as long',
    'rollouts',
    'decoded tokens',
    'same labels',
  ],
  variants.map((row) => [
    row.variant,
    spread(row.seconds_per_response),
    `${spread(row.times_everything_on)}x`,
    count(row.rollouts),
    count(row.decoded_tokens),
    row.same_labels ? 'yes' : 'no',
  ]),
)}

${variants[0]!.repeats} repeats in turn${variants.some((row) => row.disturbed_repeats > 0) ? ', **some of them disturbed by other processes**' : ''}. ${where(variants)}.
`,
  );
}

interface MemoryRow extends Row {
  model: string;
  responses: number;
  rollouts: number;
  rss_mb_after_500: number;
  rss_mb_most_after: number;
  growth: number;
}

function memory(all: readonly MemoryRow[]): string[] {
  const rows = latest(all, ({ model }) => model);
  if (rows.length === 0) return [];
  return [
    `## Resident memory over a long annotation

${table(
  ['model', 'responses', 'rollouts', 'MB after 500', 'most MB later', 'growth'],
  rows.map((row) => [
    row.model,
    count(row.responses),
    count(row.rollouts),
    row.rss_mb_after_500,
    row.rss_mb_most_after,
    percent(row.growth),
  ]),
)}

Each time after a collection of garbage. ${where(rows)}.
`,
  ];
}

function evaluation(all: readonly EvaluationRow[]): string[] {
  const rows = latest(all, ({ case: name, model, dtype }) => `${name}\n${model}\n${dtype}`);
  if (rows.length === 0) return [];
  return [
    `## Evaluation beside transformers

${table(
  [
    'benchmark',
    'model',
    'questions, token limit',
    'same tokens',
    'accuracy: ours',
    "transformers', our verifier",
    "transformers', plain script",
    'tokens',
    's, ours',
    's, transformers',
    'ratio',
  ],
  rows.map((row) => [
    row.case,
    `${row.model}, ${row.dtype}`,
    `${row.questions}, ${row.max_new_tokens}`,
    `${row.same_tokens}${row.same_tokens < row.questions ? ` (${row.near_ties} near ties)` : ''}`,
    percent(row.accuracy),
    percent(row.accuracy_of_peer_by_our_verifier),
    percent(row.accuracy_of_peer_by_its_script),
    count(row.tokens),
    short(row.seconds),
    short(row.peer_seconds),
    `${short(row.ratio)}x${row.quiet ? '' : ' (busy machine)'}`,
  ]),
)}

transformers: ${rows[0]!.peer_setting}, ${Object.entries(rows[0]!.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(
        ', ',
      )}. Ours is the whole \`eval\` but for loading, theirs decoding alone. A near tie is a first difference where the two most probable tokens' logits are within 1e-4, in double precision. ${where(rows)}.
`,
  ];
}

/** Sections for the rows that are of these reports. */
export function reportSections(values: readonly unknown[]): string[] {
  const rows = values as Row[];
  return [
    ...exactness(rows.filter(({ bench }) => bench === 'exactness') as (ReDecodingRow | Bfloat16Row)[]),
    ...gains(rows.filter(({ bench }) => bench === 'gains') as GainsRow[]),
    ...memory(rows.filter(({ bench }) => bench === 'memory') as MemoryRow[]),
    ...evaluation(rows.filter(({ bench }) => bench === 'evaluation') as EvaluationRow[]),
  ];
}
