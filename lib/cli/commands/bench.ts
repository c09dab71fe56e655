import { type BenchEvent, type BenchOptions, type BenchResult, type BenchRow, bench } from '../../index.js';
import { count, counted, duration, percent, shellQuoted, shortPath, textTable } from '../format.js';
import type { CommandFunction } from '../program.js';
import { View } from '../view.js';

const significant = (value: number): string =>
  value >= 100 ? count(value) : String(Number(value.toPrecision(3)));

const printJson = (value: unknown): boolean => process.stdout.write(`${JSON.stringify(value)}\n`);

function tell(view: View, event: BenchEvent): void {
  switch (event.type) {
    case 'case':
      view.line(`${event.case}: ${event.what}`);
      break;
    case 'prepared': {
      const { responses, questions, rollouts } = event;
      view.line(
        rollouts > 0
          ? `${count(responses)} of ${count(questions)} responses correct, ${count(rollouts)} rollouts`
          : `${count(responses)} responses to ${count(questions)} questions`,
      );
      break;
    }
    case 'side': {
      const { side, dtype, setting, loadSeconds, rollouts } = event;
      view.line(
        `${side}: ${dtype}, ${setting}, ${count(rollouts)} rollouts, loaded in ${duration(loadSeconds)}`,
      );
      break;
    }
    case 'absent':
      view.line(`${event.side}: absent, so not measured: ${event.reason}`);
      if (event.install) view.line(`  install: ${event.install}`);
      break;
    case 'repeat': {
      const { side, round, what, seconds, tokensPerSecond, otherCpu } = event;
      const name = what === 'annotate' ? `${side} annotate` : side;
      const others = event.void ? `, void: others took ${percent(otherCpu ?? 0)} of a core` : '';
      view.line(`${round}. ${name}: ${duration(seconds)}, ${count(tokensPerSecond)} tokens/s${others}`);
      break;
    }
    case 'written':
      view.line(`${counted(event.rows, 'row')} appended to ${shortPath(event.file)}`);
      break;
    case 'row':
    case 'train-row':
      break;
  }
}

function tableRow({
  side,
  dtype,
  tokensPerSecond,
  ratio,
  annotate,
  secondsPerResponse,
  ...row
}: BenchRow): string[] {
  const { p20, p50, p80 } = tokensPerSecond;
  const seconds = (annotate?.secondsPerResponse ?? secondsPerResponse).p50;
  const { agreement } = row;
  return [
    side,
    dtype,
    `${significant(p50)} (${significant(p20)} to ${significant(p80)})`,
    ratio ? `${significant(ratio.tokensPerSecond.p50)}x` : '',
    significant(seconds),
    ratio?.secondsPerResponse ? `${significant(ratio.secondsPerResponse.p50)}x` : '',
    row.gemmLimit ? percent(row.gemmLimit.share) : '',
    row.peakMemoryBytes === null ? '' : `${(row.peakMemoryBytes / 2 ** 30).toFixed(2)} GB`,
    agreement ? percent(agreement.sameVerdict / Math.max(1, agreement.rollouts)) : '',
  ];
}

function summarizeTraining({ trainRows }: BenchResult): string {
  const head = [
    'side',
    'dtype',
    'tokens/s',
    'ours is',
    'of GEMM limit',
    'peak memory',
    'planned',
    'loss differs by',
  ];
  const gigabytes = (bytes: number | null | undefined): string =>
    bytes == null ? '' : `${(bytes / 2 ** 30).toFixed(2)} GB`;
  const cases = [...new Set(trainRows.map((row) => row.case))].map((name) => {
    const own = trainRows.filter((row) => row.case === name);
    const cells = own.map(({ side, dtype, setting, tokensPerSecond: { p20, p50, p80 }, ...row }) => [
      side,
      `${dtype}, ${setting}`,
      `${significant(p50)} (${significant(p20)} to ${significant(p80)})`,
      row.ratio ? `${significant(row.ratio.tokensPerSecond.p50)}x` : '',
      row.gemmLimit ? percent(row.gemmLimit.share) : '',
      gigabytes(row.peakMemoryBytes),
      gigabytes(row.plannedMemoryBytes),
      row.agreement ? row.agreement.largestDifference.toExponential(1) : '',
    ]);
    return `${name}\n${textTable([head, ...cells])}`;
  });
  if (trainRows.some((row) => !row.quiet))
    cases.push('The machine was busy with other work: only the ratios mean something, and little.');
  return cases.join('\n\n');
}

function summarize(result: BenchResult): string {
  if (result.trainRows.length > 0) return summarizeTraining(result);
  const { rows } = result;
  const head = [
    'side',
    'dtype',
    'useful tokens/s',
    'ours is',
    's per response',
    'ours is',
    'of GEMM limit',
    'peak memory',
    'same verdict',
  ];
  const cases = [...new Set(rows.map((row) => row.case))].map((name) => {
    const own = rows.filter((row) => row.case === name);
    return `${name}\n${textTable([head, ...own.map(tableRow)])}`;
  });
  const notes: string[] = [];
  if (rows.some((row) => !row.quiet))
    notes.push('The machine was busy: too few repeats were undisturbed, so these figures are no evidence.');
  if (rows.some((row) => row.every > 1))
    notes.push('Some peers had only a share of the positions; their seconds per response are scaled up.');
  return [...cases, ...notes].join('\n\n');
}

export const benchCommand: CommandFunction = async (given, { signal, json, worked, argv }) => {
  const view = new View();
  const command = `cft-native ${shellQuoted(argv)}`;
  const run = bench({ ...(given as BenchOptions), command, signal });
  for await (const event of run) {
    if (event.type === 'written') worked();
    if (json) printJson(event);
    else tell(view, event);
  }
  const result = await run;
  if (!json) process.stdout.write(`\n${summarize(result)}\n`);
};
