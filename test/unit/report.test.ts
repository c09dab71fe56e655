import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { Comparison } from '../../lib/eval/comparison.js';
import type { EvalSummary } from '../../lib/eval/summary.js';
import { lineChart } from '../../lib/report/chart.js';
import { escapeHtml, html } from '../../lib/report/html.js';
import { describeComparison, renderReport } from '../../lib/report/report.js';
import { type ReportTokenizer, responseHtml } from '../../lib/report/tokens.js';
import type { TrainedModel, TrainResult } from '../../lib/train/result.js';
import { readResult, writeResult } from '../../lib/train/result.js';
import type { AnnotationRecord } from '../../lib/types.js';
import { temporaryFolder } from '../helpers/fixtures.js';

/** Token ids are characters. */
const tokenizer: ReportTokenizer = {
  decode: (ids) => String.fromCharCode(...ids),
  stream: () => ({ push: (id) => String.fromCharCode(id), flush: () => '' }),
};
const ids = (text: string): number[] => [...text].map((c) => c.charCodeAt(0));
const attack = `<script>alert("1")</script><img src=x onerror='y'>&`;

const record: AnnotationRecord = {
  id: attack,
  question: attack,
  answer: attack,
  response: attack,
  prompt_token_ids: [1],
  response_token_ids: ids('a<b'),
  end_token_id: 2,
  logprobs: [-0.1, -0.5, -0.01],
  critical_mask: [0, 1, 0],
  alternatives: [
    { position: 1, rank: 2, token_id: 62, logprob: Math.log(0.25), verdict: 'incorrect', extracted: attack },
    { position: 1, rank: 3, token_id: 34, logprob: Math.log(0.125), verdict: 'truncated' },
  ],
  rollouts: 2,
};

const summary = (accuracy: number): EvalSummary => ({
  n: 200,
  samples: 1,
  temperature: 0,
  accuracy,
  accuracyCi95: [accuracy - 0.05, accuracy + 0.05],
  accuracyStderr: 0.03,
  majAtK: accuracy,
  passAtK: { 1: accuracy },
  distinctShare: 1,
  meanResponseTokens: 50,
  truncated: 0,
  meanEntropy: 0.2,
  entropyResponses: 64,
});

const comparison: Comparison = {
  method: 'mcnemar-exact',
  n: 200,
  difference: 0.05,
  differenceCi95: [-0.01, 0.11],
  pValue: 0.123,
  verdict: 'no difference detected',
};

function makeResult(output: string): TrainResult {
  const trained = (strategy: 'cft' | 'sft', accuracy: number): TrainedModel => ({
    strategy,
    learningRate: 1e-4,
    responses: 120,
    selectedShare: 0.2,
    model: join(output, 'model'),
    steps: 3,
    skippedSteps: 0,
    firstLoss: 1,
    lastLoss: 0.5,
    tokens: 100,
    selectedTokens: 20,
    seconds: 2,
    heldOutSeconds: 0,
    evaluation: { greedy: summary(accuracy) },
    change: { greedy: comparison },
  });
  return {
    output,
    report: join(output, 'report.html'),
    model: attack,
    strategy: 'cft',
    seed: 0,
    evaluatedOn: 'test',
    before: { greedy: summary(0.6) },
    trained: trained('cft', 0.65),
    baseline: trained('sft', 0.62),
    againstBaseline: { greedy: comparison },
    seconds: { 'eval-before': 1.5, train: 2 },
  };
}

function render(output: string, more: readonly object[] = []): string {
  const line = (step: number): string =>
    JSON.stringify({
      step,
      epoch: step,
      loss: 1 / step,
      tokens: 9,
      selected_tokens: 3,
      tokens_per_second: 5,
    });
  mkdirSync(join(output, 'baseline-sft'), { recursive: true });
  for (const folder of [output, join(output, 'baseline-sft')])
    writeFileSync(
      join(folder, 'metrics.jsonl'),
      `${[...[1, 2, 3].map(line), ...more.map((one) => JSON.stringify(one))].join('\n')}\n`,
    );
  const options = { system: attack, epochs: 3, learningRate: undefined };
  return renderReport({ result: makeResult(output), options, records: [record], tokenizer });
}

test('everything from data, options and model is escaped', (t) => {
  const page = render(temporaryFolder(t));
  t.notRegex(page, /<script|<img/);
  t.true(page.includes(escapeHtml(attack)));
  // Once as id, question, answer and model, once in a tooltip, once in an option.
  t.true(page.split(escapeHtml(attack)).length - 1 >= 6);
  t.is(escapeHtml('\u0000\u001b[31m'), '\ufffd\ufffd[31m');
});

test('the page loads and runs nothing', (t) => {
  const page = render(temporaryFolder(t));
  t.true(page.includes(`content="default-src 'none'; style-src 'unsafe-inline'"`));
  const own = page.replaceAll(escapeHtml(attack), '');
  t.notRegex(own, /\b(src|href|action|data)=|url\(|@import|\bon\w+="/);
});

test('it shows the head line, both strategies, the verdicts, the curves and the options', (t) => {
  const page = render(temporaryFolder(t));
  t.regex(page, /<h1>cft: 60\.0 % → 65\.0 % greedy \(no difference detected\)<\/h1>/);
  t.regex(page, /after sft<\/th>\s*<td class="n">62\.0 %<\/td><td>57\.0 % to 67\.0 %/);
  t.regex(page, /cft against sft, greedy: \+5\.0 points \(-1\.0 to \+11\.0\), p = 0\.123: no difference/);
  t.is(page.split('<polyline').length - 1, 2);
  t.regex(page, /--epochs<\/th><td>3/);
  t.notRegex(page, /--learning-rate/);
});

test('it shows what was measured on held-out responses, critical and other tokens apart', (t) => {
  const at = (step: number) => [
    { step, epoch: step, validation_loss: 1 / (step + 1), validation_accuracy: 0.5, validation_tokens: 3 },
    { step, epoch: step, critical_loss: 2, other_loss: 0.5, critical_entropy: 1.5, other_entropy: 0.25 },
  ];
  const page = render(temporaryFolder(t), [...at(0), ...at(3)]);
  t.is(page.split('<polyline').length - 1, 2 + 2 * 5);
  for (const label of ['validation loss', 'loss of critical tokens', 'entropy at other tokens'])
    t.true(page.includes(`aria-label="${label} over optimizer step"`), label);
  t.notRegex(render(temporaryFolder(t)), /Held-out responses/);
});

test('critical tokens are marked, with what was tried', (t) => {
  const { text } = responseHtml(record, tokenizer);
  t.is(text.split('<mark').length - 1, 1);
  t.regex(text, /<mark[^>]*>&lt;<\/mark>/);
  t.regex(text, /2: &quot;&gt;&quot; 25\.0 % → incorrect/);
  t.regex(text, /3: &quot;\\&quot;&quot; 12\.5 % → truncated/);
  t.regex(text, /1 of 3 tokens critical/);
});

test('characters that need several tokens are shown with the last of them', (t) => {
  const decoder = {
    ...tokenizer,
    stream: () => ({ push: (id: number) => (id === 97 ? '' : 'é'), flush: () => '' }),
  };
  t.regex(responseHtml(record, decoder).text, /<span[^>]*><\/span><mark[^>]*>é<\/mark>/);
});

test('a chart leaves out what is not finite and needs two points', (t) => {
  const series = (ys: number[]) => [{ name: 'a', className: 'first', points: ys.map((y, x) => ({ x, y })) }];
  t.is(lineChart(series([1]), 'x', 'y'), undefined);
  const chart = lineChart(series([1, Number.NaN, 3]), 'x', 'y')!.text;
  t.is(/points="([^"]*)"/.exec(chart)![1]!.split(' ').length, 2);
  t.notRegex(chart, /NaN/);
});

test('lists and numbers render, undefined does not', (t) => {
  t.is(html`<p>${[html`<b>${1}</b>`, '<', undefined]}</p>`.text, '<p><b>1</b>&lt;</p>');
});

test('comparisons say their interval, p-value and verdict', (t) => {
  t.is(
    describeComparison({ ...comparison, pValue: 1e-9, verdict: 'better', differenceCi95: [0.01, 0.11] }),
    '+5.0 points (+1.0 to +11.0), p < 0.001: better',
  );
});

test('result.json is in snake_case and reads back as it was', (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'result.json');
  t.is(readResult(path), undefined);
  const result = makeResult(folder);
  writeResult(path, result);
  t.deepEqual(readResult(path), result);
});
