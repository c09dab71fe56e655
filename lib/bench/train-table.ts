/** The rows of `bench train` as tables in Markdown. */
import type { Spread } from './statistics.js';
import type { TrainRow } from './train.js';

const significant = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));
const spread = ({ p20, p50, p80 }: Spread): string =>
  p20 === p80 ? significant(p50) : `${significant(p50)} (${significant(p20)} to ${significant(p80)})`;
const gigabytes = (bytes: number | null | undefined): string =>
  bytes == null ? '' : `${(bytes / 2 ** 30).toFixed(2)} GB`;

const head = [
  'side',
  'tokens/s, p50 (p20 to p80)',
  'ours is',
  'peak memory',
  'planned',
  'of ours',
  'first and last loss',
  'losses differ by',
];

function cells(row: TrainRow): string[] {
  const gemm = row.gemmLimit ? `, ${(100 * row.gemmLimit.share).toFixed(0)} % of the GEMM limit` : '';
  const { losses, ratio, agreement } = row;
  const memoryRatio = ratio?.deviceMemory ?? ratio?.memory;
  return [
    `${row.side}, ${row.dtype}, ${row.setting}`,
    `${spread(row.tokensPerSecond)}${gemm}`,
    ratio ? `${spread(ratio.tokensPerSecond)}x` : '',
    // Beside a GPU its own memory is what is short.
    row.peakDeviceBytes === undefined
      ? gigabytes(row.peakMemoryBytes)
      : `${gigabytes(row.peakDeviceBytes)} of the GPU`,
    gigabytes(row.plannedMemoryBytes),
    memoryRatio ? `${significant(memoryRatio)}x` : '',
    `${losses[0]!.toPrecision(6)}, ${losses.at(-1)!.toPrecision(6)}`,
    agreement ? `${agreement.largestDifference.toExponential(1)} in ${agreement.steps} steps` : '',
  ];
}

const line = (texts: readonly string[]): string => `| ${texts.join(' | ')} |`;

/** One run of one case in one dtype. */
export function trainSection(rows: readonly TrainRow[]): string {
  const own = rows.find((row) => row.side === 'cft-native') ?? rows[0]!;
  const versions = Object.entries(Object.assign({}, ...rows.map((row) => row.versions)) as object).map(
    ([name, version]) => `${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)} ${version}`,
  );
  const busy = Math.max(...rows.map(({ otherCpu }) => otherCpu ?? 0));
  const quiet = rows.every((row) => row.quiet)
    ? ''
    : `\n\n**The machine was busy** (others took up to ${busy} cores): the rates are lower bounds, the ratios rough.`;
  const limit = own.gemmLimit;
  return `## train: ${own.case}, ${own.dtype}

${own.what}. ${own.sequences} sequences, ${own.tokens.toLocaleString('en')} tokens, ${own.selectedTokens.toLocaleString('en')} of them trained, batches of ${own.batchSize}, learning rate ${own.learningRate}.

${line(head)}
${line(head.map(() => '---'))}
${rows.map((row) => line(cells(row))).join('\n')}

GEMM limit (${limit?.kernel ?? 'not measured'}; fp32, no shared prefixes): ${limit ? `${significant(limit.tokensPerSecond)} tokens/s at ${limit.rows} rows` : '-'}.

${own.date.slice(0, 10)}, ${own.deviceName}, ${own.cores} cores, ${own.threads} threads, ${gigabytes(own.memoryBytes)}, ${own.os}, GOMP_SPINCOUNT=${own.gompSpincount ?? '-'}; ${versions.join(', ')}; ${own.repeats} repeats.${quiet}

    ${own.command}
`;
}
