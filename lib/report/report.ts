/**
 * report.html: one self-contained page about a training run. It loads nothing and runs nothing (its content security
 * policy forbids both), and everything in it that came from data or model is escaped.
 */
import { join } from 'node:path';
import type { Comparison } from '../eval/comparison.js';
import type { EvalSummary } from '../eval/summary.js';
import { writeFileAtomic } from '../files.js';
import { flagOf } from '../options.js';
import { packageVersion } from '../run-folder.js';
import { type Metrics, readAllMetrics } from '../train/metrics.js';
import type { TrainedModel, TrainResult } from '../train/result.js';
import type { AnnotationRecord } from '../types.js';
import { lineChart } from './chart.js';
import { Html, html } from './html.js';
import { type ReportTokenizer, responseHtml } from './tokens.js';

export interface ReportContents {
  result: TrainResult;
  options: Record<string, unknown>;
  records: readonly AnnotationRecord[];
  tokenizer: ReportTokenizer;
}

/** More would make the page too heavy to open; the rest is in annotations.jsonl. */
const mostResponses = 100;

const style = `body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}
td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.9em}
svg{max-width:100%;font-size:11px}svg polyline{fill:none;stroke-width:1.5}svg .grid{stroke:#ddd}
svg .first{stroke:#b3261e}svg .second{stroke:#2456a6}svg text.first,svg text.second{stroke:none}
svg text.first{fill:#b3261e}svg text.second{fill:#2456a6}
.question{color:#555;white-space:pre-wrap}.response{white-space:pre-wrap}
mark{background:rgb(255 193 7/var(--w));border-bottom:2px solid #b3261e;color:inherit}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#333}.question{color:#aaa}
mark{background:rgb(179 120 0/var(--w))}svg text{fill:#e6e6e6}svg .grid{stroke:#333}}`;

const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;
const interval = ([low, high]: readonly [number, number]): string => `${percent(low)} to ${percent(high)}`;

const accuracyCell = (summary: EvalSummary | undefined): Html =>
  summary === undefined
    ? html`<td></td>`
    : html`<td class="n">${percent(summary.accuracy)}</td><td>${interval(summary.accuracyCi95)}</td>`;

/** "+3.2 points (-0.4 to 6.9), p = 0.08: no difference detected". */
export function describeComparison({ difference, differenceCi95, pValue, verdict }: Comparison): string {
  const points = (value: number): string => `${value > 0 ? '+' : ''}${(100 * value).toFixed(1)}`;
  const p = pValue < 0.001 ? 'p < 0.001' : `p = ${pValue.toFixed(3)}`;
  const [low, high] = differenceCi95;
  return `${points(difference)} points (${points(low)} to ${points(high)}), ${p}: ${verdict}`;
}

function accuracyTable({ before, trained, baseline }: TrainResult): Html | undefined {
  if (before === undefined) return undefined;
  const sampled = before.sampled !== undefined;
  const row = (name: string, evaluation: TrainedModel['evaluation']): Html => html`<tr><th>${name}</th>
${accuracyCell(evaluation?.greedy)}${sampled ? accuracyCell(evaluation?.sampled) : undefined}</tr>`;
  return html`<table><tr><th></th><th>greedy</th><th>95 % interval</th>${
    sampled
      ? html`<th>sampled (${before.sampled!.samples} per question)</th><th>95 % interval</th>`
      : undefined
  }</tr>${row('before', before)}${row(`after ${trained.strategy}`, trained.evaluation)}${
    baseline && row(`after ${baseline.strategy}`, baseline.evaluation)
  }</table>`;
}

function comparisonList({ trained, baseline, againstBaseline }: TrainResult): Html | undefined {
  const items: [string, Comparison | undefined][] = [
    [`${trained.strategy} against before, greedy`, trained.change?.greedy],
    [`${trained.strategy} against before, sampled`, trained.change?.sampled],
    [`${baseline?.strategy} against before, greedy`, baseline?.change?.greedy],
    [`${baseline?.strategy} against before, sampled`, baseline?.change?.sampled],
    [`${trained.strategy} against ${baseline?.strategy}, greedy`, againstBaseline?.greedy],
    [`${trained.strategy} against ${baseline?.strategy}, sampled`, againstBaseline?.sampled],
  ];
  const lines = items.map(
    ([name, comparison]) => comparison && html`<li>${name}: ${describeComparison(comparison)}</li>`,
  );
  return (
    trained.change &&
    html`<ul>${lines}</ul>
<p>Paired on the same questions: the exact McNemar test for greedy responses, a bootstrap over questions for samples.</p>`
  );
}

function headline({ trained, before }: TrainResult): string {
  if (before === undefined || trained.evaluation === undefined || trained.change === undefined)
    return `${trained.strategy}: ${trained.steps} steps on ${trained.responses} responses`;
  const [from, to] = [before.greedy.accuracy, trained.evaluation.greedy.accuracy];
  return `${trained.strategy}: ${percent(from)} → ${percent(to)} greedy (${trained.change.greedy.verdict})`;
}

function keyValues(rows: readonly (readonly [string, string | number | undefined])[]): Html {
  const lines = rows.map(([name, value]) =>
    value === undefined ? undefined : html`<tr><th>${name}</th><td>${value}</td></tr>`,
  );
  return html`<table>${lines}</table>`;
}

function costs({ annotation, trained, seconds }: TrainResult): Html {
  return keyValues([
    ...(annotation
      ? ([
          ['questions', annotation.questions],
          ['correct responses', annotation.correct],
          ['critical share', percent(annotation.criticalShare)],
          ['rollouts', annotation.rollouts],
          ['rank 2 correct', percent(annotation.p2)],
          ['decoded tokens', annotation.decodedTokens],
          ['decoded tokens per second', Math.round(annotation.tokensPerSecond)],
        ] as const)
      : []),
    ['optimizer steps', trained.steps],
    ['learning rate', trained.learningRate],
    ['share of response tokens trained', percent(trained.selectedShare)],
    ['skipped steps', trained.skippedSteps || undefined],
    ...Object.entries(seconds).map(([stage, value]) => [`seconds: ${stage}`, value.toFixed(1)] as const),
  ]);
}

/** One chart of the trained model and, beside it, of the baseline. */
function metricsChart(
  { output, trained, baseline }: TrainResult,
  label: string,
  pick: (metrics: Metrics) => readonly { step: number; value: number }[],
): Html | undefined {
  const series = [
    { name: trained.strategy, className: 'first', file: join(output, 'metrics.jsonl') },
    ...(baseline
      ? [
          {
            name: baseline.strategy,
            className: 'second',
            file: join(output, `baseline-${baseline.strategy}`, 'metrics.jsonl'),
          },
        ]
      : []),
  ].map(({ file, ...rest }) => ({
    ...rest,
    points: pick(readAllMetrics(file)).map(({ step, value }) => ({ x: step, y: value })),
  }));
  return lineChart(series, 'optimizer step', label);
}

/** What was measured on held-out responses; charts without points are left out. */
function heldOutCharts(result: TrainResult): Html | undefined {
  const probe = (label: string, name: 'criticalLoss' | 'otherLoss' | 'criticalEntropy' | 'otherEntropy') =>
    metricsChart(result, label, ({ probes }) => probes.map((one) => ({ step: one.step, value: one[name] })));
  const charts = [
    metricsChart(result, 'validation loss', ({ validations }) =>
      validations.map(({ step, validationLoss }) => ({ step, value: validationLoss })),
    ),
    probe('loss of critical tokens', 'criticalLoss'),
    probe('loss of other tokens', 'otherLoss'),
    probe('entropy at critical tokens', 'criticalEntropy'),
    probe('entropy at other tokens', 'otherEntropy'),
  ].filter((chart) => chart !== undefined);
  return charts.length > 0 ? html`<h2>Held-out responses</h2>${charts}` : undefined;
}

/** The page as text. */
export function renderReport({ result, options, records, tokenizer }: ReportContents): string {
  const chart = metricsChart(result, 'loss', ({ steps }) =>
    steps.filter(({ selectedTokens }) => selectedTokens > 0).map(({ step, loss }) => ({ step, value: loss })),
  );
  const shown = records.slice(0, mostResponses);
  const left = records.length - shown.length;
  const optionRows = Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .map(
      ([name, value]) => [flagOf(name), typeof value === 'string' ? value : JSON.stringify(value)] as const,
    );
  const page = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${headline(result)}</title><style>${new Html(style)}</style></head><body>
<h1>${headline(result)}</h1>
<p>Model ${result.model}, seed ${result.seed}${
    result.evaluatedOn === undefined
      ? undefined
      : `, evaluated on ${result.before!.greedy.n} questions (${result.evaluatedOn})`
  }, cft-native ${packageVersion}.</p>
${accuracyTable(result)}${comparisonList(result)}
<h2>Costs</h2>${costs(result)}
${
  chart &&
  html`<h2>Loss</h2>${chart}${
    result.baseline && html`<p>Each strategy's loss is over its own tokens; the two cannot be compared.</p>`
  }`
}
${heldOutCharts(result)}
<h2>Options</h2>${keyValues(optionRows)}
<h2>Responses and their critical tokens</h2>
<p>Marked: the critical tokens. Point at a token for the alternatives that were tried there, and their verdicts.</p>
${shown.map((record) => responseHtml(record, tokenizer))}
${left > 0 ? html`<p>${left} more are in the annotations file.</p>` : undefined}
</body></html>
`;
  return page.text;
}

export const writeReport = (path: string, contents: ReportContents): void =>
  writeFileAtomic(path, renderReport(contents));
