/** What a training run ends with on standard output. */
import {
  type Comparison,
  describeComparison,
  type EvalSummary,
  type Evaluation,
  type TrainResult,
} from '../index.js';
import type { Painter } from './color.js';
import { count, counted, duration, percent, savingsText, shortPath, textTable } from './format.js';
import { nextAfterTrain } from './next.js';

const cells = (summary: EvalSummary | undefined): string[] =>
  summary === undefined
    ? ['', '']
    : [percent(summary.accuracy), summary.accuracyCi95.map((v) => (100 * v).toFixed(1)).join(' to ')];

const row = (name: string, evaluation: Evaluation | undefined): string[] => [
  name,
  ...cells(evaluation?.greedy),
  ...cells(evaluation?.sampled),
];

function accuracies({ before, trained, baseline }: TrainResult): string[] {
  if (before === undefined) return [];
  const { n } = before.greedy;
  const header = [`accuracy on ${counted(n, 'question')}`, 'greedy', '95 % interval'];
  if (before.sampled) header.push(`sampled x ${before.sampled.samples}`, '95 % interval');
  return [
    textTable([
      header,
      row('before', before),
      row(`after ${trained.strategy}`, trained.evaluation),
      ...(baseline ? [row(`after ${baseline.strategy}`, baseline.evaluation)] : []),
    ]),
    '',
  ];
}

/** The verdict in its colour; the words say it as well. */
function painted(comparison: Comparison, paint: Painter): string {
  const text = describeComparison(comparison);
  const { verdict } = comparison;
  if (verdict !== 'better' && verdict !== 'worse') return text;
  return text.slice(0, -verdict.length) + paint(verdict === 'better' ? 'green' : 'red', verdict);
}

function comparisons({ trained, baseline, againstBaseline }: TrainResult, paint: Painter): string[] {
  const rows: string[][] = [];
  const add = (name: string, pair: { greedy: Comparison; sampled?: Comparison } | undefined): void => {
    if (pair === undefined) return;
    rows.push([name, `greedy   ${painted(pair.greedy, paint)}`]);
    if (pair.sampled) rows.push(['', `sampled  ${painted(pair.sampled, paint)}`]);
  };
  add(`${trained.strategy} against before`, trained.change);
  add(`${baseline?.strategy} against before`, baseline?.change);
  add(`${trained.strategy} against ${baseline?.strategy}`, againstBaseline);
  if (rows.length === 0) return [];
  const width = Math.max(...rows.map(([name]) => name!.length));
  return [...rows.map(([name, text]) => `${name!.padEnd(width)}   ${text}`), ''];
}

/** Files have null where no step had a loss. */
const lossText = (loss: number | null): string => (Number.isFinite(loss) ? loss!.toFixed(3) : 'none');

function costs({ annotation, trained, seconds }: TrainResult): string[] {
  const lines: string[] = [];
  if (annotation) {
    lines.push(
      `annotation   ${count(annotation.correct)} of ${count(annotation.questions)} responses correct, ` +
        `${percent(annotation.criticalShare)} of ${count(annotation.tokens)} tokens critical, ` +
        `${count(annotation.rollouts)} rollouts, ${count(annotation.tokensPerSecond)} decoded tokens/s`,
      `techniques   ${savingsText(annotation) || 'nothing saved'} (rank 2 correct at ${percent(annotation.p2)})`,
    );
  }
  lines.push(
    `training     ${counted(trained.steps, 'step')}, learning rate ${trained.learningRate}, ` +
      `loss ${lossText(trained.firstLoss)} → ${lossText(trained.lastLoss)}` +
      `${trained.skippedSteps > 0 ? `, ${trained.skippedSteps} steps skipped` : ''}`,
  );
  if (trained.validation) {
    const { before, best, last } = trained.validation;
    const one = ({ loss, accuracy }: typeof best): string => `${lossText(loss)} (${percent(accuracy)} right)`;
    lines.push(
      `validation   loss ${one(before)} before, ${one(best)} at best (step ${best.step}), ${one(last)} at the end`,
    );
  }
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  const stages = Object.entries(seconds).filter(([, value]) => value >= 0.05);
  lines.push(
    `time         ${duration(total)}: ${stages.map(([name, s]) => `${name} ${s.toFixed(1)}`).join(', ')}`,
  );
  return lines;
}

/** The table, the verdicts, the costs, where things are and what to type next. */
export function trainTable(result: TrainResult, paint: Painter): string {
  const { trained, report, before } = result;
  const next = nextAfterTrain(result);
  return [
    ...accuracies(result),
    ...comparisons(result, paint),
    ...costs(result),
    `model        ${shortPath(trained.model)}`,
    `report       ${shortPath(report)}`,
    ...next.map((line, i) => `${i === 0 ? 'next' : '    '}         ${line}`),
    ...(before === undefined
      ? [
          '             (no evaluation: give --eval-data, or with --data a share of the questions by --validation 0.1)',
        ]
      : []),
  ].join('\n');
}
