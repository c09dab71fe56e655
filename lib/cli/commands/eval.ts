import type { Diversity } from '../../eval/diversity.js';
import { type EvalSummary, type EvaluateOptions, type EvaluateResult, evaluate } from '../../index.js';
import { follow } from '../follow.js';
import { count, counted, percent, shortPath } from '../format.js';
import type { CommandFunction } from '../program.js';

const interval = ([low, high]: readonly [number, number]): string =>
  `95 % interval ${percent(low)} to ${percent(high)}`;

const diversityText = ({ questions, distinctShare, distinctN }: Diversity): string =>
  distinctShare === null
    ? 'fewer than two responses per question'
    : `${percent(distinctShare)} distinct texts, distinct-1 to 4 ${Object.values(distinctN)
        .map((value) => (value === null ? '-' : value.toFixed(3)))
        .join(', ')} (${counted(questions, 'question')})`;

function summaryLines(name: string, summary: EvalSummary): string[] {
  const { samples, passAtKReliableTo = 1, diversity, responseTokenQuantiles } = summary;
  const lines = [
    `${name}: ${counted(summary.n, 'question')}, ${samples} response${samples > 1 ? 's' : ''} each, ` +
      `temperature ${summary.temperature}`,
    `accuracy     ${percent(summary.accuracy)} (${interval(summary.accuracyCi95)})`,
  ];
  if (samples > 1) {
    if (summary.majAtK !== null) lines.push(`majority     ${percent(summary.majAtK)}`);
    const pass = Object.entries(summary.passAtK).map(
      ([k, value]) => `@${k} ${percent(value)}${Number(k) > passAtKReliableTo ? '*' : ''}`,
    );
    lines.push(`pass         ${pass.join(', ')}`);
    if (pass.some((text) => text.endsWith('*')))
      lines.push('             * fewer than 4 k responses per question: rests on single lucky ones');
    if (diversity) {
      lines.push(
        `diversity    ${diversityText(diversity.all)}`,
        `  of correct ${diversityText(diversity.correct)}`,
      );
    }
  }
  const [short, , long] = responseTokenQuantiles ?? [];
  lines.push(
    `length       ${summary.meanResponseTokens.toFixed(1)} tokens` +
      `${short === undefined || long === undefined ? '' : ` (80 % within ${count(short)} to ${count(long)})`}, ` +
      `${count(summary.truncated)} truncated`,
  );
  if (summary.meanEntropy !== null) {
    const partly = summary.entropyResponses < summary.n * summary.samples;
    const of = partly ? ` (${summary.entropyResponses} responses)` : '';
    lines.push(`entropy      ${summary.meanEntropy.toFixed(3)} nats per token${of}`);
  }
  return lines;
}

const signed = (share: number): string => `${share > 0 ? '+' : ''}${(100 * share).toFixed(1)} points`;

function comparisonLines({ comparison }: EvaluateResult): string[] {
  if (comparison === undefined) return [];
  const { against, benchmarks, average } = comparison;
  const line = (name: string, one: { difference: number; differenceCi95: readonly [number, number] }) =>
    `${name}: ${signed(one.difference)} (95 % interval ${signed(one.differenceCi95[0])} to ${signed(one.differenceCi95[1])}`;
  return [
    `against ${shortPath(against)}, two checkpoints on the same questions`,
    ...Object.entries(benchmarks).map(
      ([name, one]) =>
        `${line(name, one)}, p = ${one.pValue.toPrecision(2)} by ${one.method === 'mcnemar-exact' ? "McNemar's exact test" : 'paired bootstrap'}): ${one.verdict}`,
    ),
    ...(average
      ? [
          `${line('average', average)}, p = ${average.pValue.toPrecision(2)} by paired bootstrap): ${average.verdict}`,
        ]
      : []),
  ];
}

export const evalCommand: CommandFunction = async (given, context) => {
  const run = evaluate({ ...(given as EvaluateOptions), signal: context.signal });
  const result = await follow(run, context);
  if (context.json) return;
  const { sets, average, trunkEntropy, output } = result;
  const paragraphs = sets.map(({ name, summary }) => summaryLines(name, summary));
  if (average !== undefined)
    paragraphs.push([
      `average of ${counted(average.benchmarks.length, 'benchmark')}`,
      `accuracy     ${percent(average.accuracy)} (${interval(average.accuracyCi95)})`,
    ]);
  if (result.comparison !== undefined) paragraphs.push(comparisonLines(result));
  if (trunkEntropy !== undefined) {
    const { meanEntropy, tokens, responses } = trunkEntropy;
    paragraphs.push([
      `fixed trunks ${meanEntropy.toFixed(3)} nats per token (${counted(responses, 'response')}, ${counted(tokens, 'token')})`,
    ]);
  }
  paragraphs.push([`folder       ${shortPath(output)}`]);
  process.stdout.write(`\n${paragraphs.map((lines) => lines.join('\n')).join('\n\n')}\n`);
};
