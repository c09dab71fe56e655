/** The report as data: from the run folder, tolerant of what is missing, and into one page. */
import { createHash } from 'node:crypto';
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { Comparison } from '../../lib/eval/comparison.js';
import { RunReader } from '../../lib/report/collect.js';
import { costsOf } from '../../lib/report/costs.js';
import { curvesOf } from '../../lib/report/curves.js';
import type { ReportData } from '../../lib/report/data.js';
import { describeComparison } from '../../lib/report/describe.js';
import { findTokenizer } from '../../lib/report/find-tokenizer.js';
import { escapeHtml } from '../../lib/report/html.js';
import { renderPage } from '../../lib/report/page.js';
import { report } from '../../lib/report/report.js';
import { kindOf, SiteCounter } from '../../lib/report/sites.js';
import { idTokenizer, piecesOf, type ReportTokenizer, shownResponse } from '../../lib/report/tokens.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import {
  attack,
  dataIn,
  embeddedTokenizer,
  makeRecord,
  makeRun,
  responses,
  runRecord,
  writeAll,
} from '../helpers/report-run.js';

const tokenizer = embeddedTokenizer;
const read = (folder: string, limit?: number): Promise<ReportData> =>
  new RunReader(folder, { tokenizer, limit }).read();

test('a finished run shows what was gained, its curves, costs, sites and responses', async (t) => {
  const data = await read(makeRun(t));
  t.is(data.title, 'cft: 60.0 % → 70.0 % (95 % interval +5.0 to +15.0 points, better)');
  t.is(data.subtitle, 'embedded · float32 on cpu · seed 7 · evaluated on test (400 questions)');
  const [gains] = data.gains;
  t.deepEqual(
    gains!.rows.map(({ name, greedy, sampled }) => [name, greedy?.value, sampled?.value]),
    [
      ['before', 0.6, 0.4],
      ['after cft', 0.7, 0.45],
      ['after sft', 0.65, undefined],
    ],
  );
  t.is(gains!.samples, 2);
  t.deepEqual(
    gains!.comparisons.map(({ name, verdict }) => `${name}: ${verdict}`),
    ['cft against before: better', 'sft against before: better', 'cft against sft: no difference detected'],
  );
  t.deepEqual(
    data.curves.map(({ id, series }) => [id, series.map(({ name }) => name)]),
    [
      ['loss', ['cft', 'sft']],
      ['probe-loss', ['cft, critical', 'cft, other', 'sft, critical', 'sft, other']],
      ['entropy', ['cft, critical', 'cft, other', 'sft, critical', 'sft, other']],
      ['validation-accuracy', ['cft', 'sft']],
      ['learning-rate', ['']],
      ['gradient-norm', ['cft', 'sft']],
    ],
  );
  // Step 3 was not finite, step 4 had no selected token: the line breaks there.
  t.deepEqual(data.curves[0]!.series[0]!.points.slice(1, 5), [
    [2, 0.5],
    [3, null],
    [4, null],
    [5, 0.2],
  ]);
  t.deepEqual(
    data.costs.stages.map(({ name, share }) => [name, share]),
    [
      ['trunks', 0.1],
      ['rollouts', 0.6],
      ['train', 0.3],
    ],
  );
  const saved = Object.fromEntries(data.costs.saved);
  // 40 of them, each of what the other 100 took beside the trunks.
  const trunkTokens = responses.reduce((sum, one) => sum + makeRecord(one).response_token_ids.length, 0);
  t.is(
    saved.waves,
    `40 rollouts, about ${Math.round((40 * (5000 - trunkTokens)) / 100).toLocaleString('en')} tokens`,
  );
  t.is(saved.drafts, '7 tokens of 9 tried');
  t.is(data.responses.length, 4);
  t.is(data.responses[0]!.pieces.join(''), responses[0]!.response);
  t.true(data.options.some(([flag, value]) => flag === '--batch-size' && value === '16'));
});

test('a run with nothing but its record can be shown; each missing file leaves out its part', async (t) => {
  const folder = temporaryFolder(t);
  writeAll(folder, { 'run.json': JSON.stringify(runRecord({ status: 'failed', error: 'no disk' })) });
  const data = await read(folder);
  t.like(data, { title: 'cft: failed', error: 'no disk', gains: [], curves: [], responses: [] });
  t.is(data.sites, undefined);
  t.deepEqual(data.costs, { rows: [], saved: [], stages: [] });
  t.true(renderPage(data).includes('cft: failed'));
});

test('damaged and foreign lines are passed over, and no file is changed', async (t) => {
  const folder = makeRun(t);
  const path = join(folder, 'metrics.jsonl');
  const text =
    '{"step": 1, "loss": 2}\nnot JSON\n[1]\n{"step": 2, "loss": 1, "later": {"a": 1}}\n{"step": 3, "lo';
  writeFileSync(path, text);
  const { curves } = await read(folder);
  t.deepEqual(curves[0]!.series[0]!.points, [
    [1, 2],
    [2, 1],
  ]);
  t.is(curves.find(({ id }) => id === 'gradient-norm')?.series.length, 1);
  t.is(readFileSync(path, 'utf8'), text);
  for (const broken of ['{', '[]', '{"trained": 1}']) {
    writeFileSync(join(folder, 'result.json'), broken);
    t.deepEqual((await read(folder)).gains[0]!.comparisons, []);
  }
});

test('what is no run folder is refused with what was expected', (t) => {
  const folder = temporaryFolder(t);
  const open = (): unknown => new RunReader(folder, { tokenizer });
  t.throws(open, { code: 'ERR_CFT_BAD_DATA', message: /expected a run folder with run\.json.*, found none/ });
  writeFileSync(join(folder, 'run.json'), '{"format": "other"}');
  t.throws(open, { message: /found format "other"/ });
});

test('while a run goes on, its journal is followed; the final file takes its place', async (t) => {
  const folder = temporaryFolder(t);
  const journal = join(folder, 'annotations.journal.jsonl');
  const line = (i: number): string =>
    `${JSON.stringify({ type: 'annotation', index: i, record: makeRecord(responses[i]!) })}\n`;
  writeAll(folder, {
    'run.json': JSON.stringify(runRecord({ status: 'running' })),
    'stages.json': '{"trunks": 1, "rollouts": 2}',
    'responses.jsonl': '{"verdict": "correct", "response_token_ids": [1]}\n{"verdict": "incorrect"}\n',
    'annotations.journal.jsonl': `${line(1)}{"type": "trunks", "seconds": 1}\n${line(0).slice(0, 50)}`,
  });
  const reader = new RunReader(folder, { tokenizer });
  const first = await reader.read();
  t.deepEqual(
    first.responses.map(({ id }) => id),
    ['math'],
  );
  t.deepEqual(first.progress, [
    ['stage', 'rollouts'],
    ['responses', '2 of 10, 1 correct'],
    ['annotated', '1 of 1'],
  ]);
  const { stamp } = reader;
  appendFileSync(journal, line(0).slice(50));
  t.not(reader.stamp, stamp);
  t.deepEqual(
    (await reader.read()).responses.map(({ id }) => id),
    ['math', 'plain'],
  );
  writeFileSync(
    join(folder, 'annotations.jsonl'),
    [0, 1, 3].map((i) => `${JSON.stringify(makeRecord(responses[i]!))}\n`).join(''),
  );
  rmSync(journal);
  const last = await reader.read();
  t.deepEqual(
    last.responses.map(({ id }) => id),
    ['plain', 'math', 'bytes'],
  );
  t.is(last.sites!.responses, 3);
});

test('an evaluation alone is shown by its own name', async (t) => {
  const folder = temporaryFolder(t);
  const one = { n: 50, samples: 4, temperature: 1, accuracy: 0.5, accuracy_ci95: [0.4, 0.6] };
  writeAll(folder, {
    'run.json': JSON.stringify(runRecord({ command: 'eval', options: {} })),
    'summary.json': JSON.stringify({ gsm8k: one, svamp: { ...one, samples: 1, temperature: 0 } }),
  });
  const { title, gains } = await read(folder);
  t.is(title, '50.0 % (40.0 % to 60.0 %) of 50 questions');
  t.deepEqual(
    gains.map(({ evaluatedOn, rows }) => [evaluatedOn, Object.keys(rows[0]!)]),
    [
      ['gsm8k', ['name', 'sampled']],
      ['svamp', ['name', 'greedy']],
    ],
  );
});

test('of several benchmarks the average is the headline', async (t) => {
  const folder = temporaryFolder(t);
  const one = { n: 50, samples: 4, temperature: 1, accuracy: 0.5, accuracy_ci95: [0.4, 0.6] };
  writeAll(folder, {
    'run.json': JSON.stringify(runRecord({ command: 'eval', options: {} })),
    'summary.json': JSON.stringify({
      gsm8k: one,
      svamp: { ...one, accuracy: 0.7 },
      average: { ...one, n: 100, accuracy: 0.6 },
    }),
  });
  const { title, gains } = await read(folder);
  t.is(title, '60.0 % (40.0 % to 60.0 %) of 100 questions');
  t.like(gains.at(-1), { evaluatedOn: 'average', questions: 100, samples: 4 });
});

test('options that would do nothing are refused', async (t) => {
  const run = makeRun(t);
  await t.throwsAsync(report({ run, watch: true, charts: true, signal: AbortSignal.timeout(5000) }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /charts \(--charts\): expected none beside watch/,
  });
  await t.throwsAsync(report({ run, watch: true, output: 'x.html', signal: AbortSignal.timeout(5000) }), {
    message: /output \(--output\): expected none beside watch .* found "x\.html"/,
  });
});

test('the page holds all data, and nothing of them outside of escaped text', async (t) => {
  const data = { ...(await read(makeRun(t))), title: attack, subtitle: attack };
  const page = renderPage(data);
  t.deepEqual(dataIn(page), JSON.parse(JSON.stringify(data)));
  t.false(page.includes(attack));
  t.is(page.split(escapeHtml(attack)).length - 1, 3);
  t.is(escapeHtml('\u0000\u001b[31m'), '\ufffd\ufffd[31m');
});

test('its policy allows its own script and style by their hashes, and no connection', async (t) => {
  const data = await read(makeRun(t));
  const page = renderPage(data);
  const policy = /http-equiv="Content-Security-Policy" content="([^"]*)"/
    .exec(page)![1]!
    .replaceAll('&#39;', "'");
  const hash = (pattern: RegExp): string =>
    `'sha256-${createHash('sha256').update(pattern.exec(page)![1]!).digest('base64')}'`;
  t.regex(policy, /^default-src 'none'; /);
  t.true(policy.includes(`script-src ${hash(/<script>([\s\S]*?)<\/script>/)};`));
  t.true(policy.includes(`style-src ${hash(/<style>([\s\S]*?)<\/style>/)};`));
  t.notRegex(policy, /unsafe|connect-src|https?:/);
  t.regex(policy, /require-trusted-types-for 'script'/);
  t.true(renderPage(data, { live: true }).includes('connect-src &#39;self&#39;'));
});

test('200 long responses with their rollouts stay below 5 MB; continuations go first, then responses', async (t) => {
  const made = Array.from({ length: 200 }, (_, i) => ({
    id: `r${i}`,
    question: `How many? ${i}`,
    answer: '1',
    response: Array.from({ length: 30 }, (_, k) => `Step ${k}: we add ${i * k} and ${k * 7} to it.`).join(
      ' ',
    ),
  }));
  const data = await read(makeRun(t, made));
  const page = renderPage(data);
  t.log(`${(page.length / 1e6).toFixed(2)} MB`);
  t.true(Buffer.byteLength(page) < 5_000_000);
  t.is(dataIn(page).responses.length, 200);
  const withNotes = (limit: number): ReportData => dataIn(renderPage(data, { limit }));
  const small = withNotes(page.length - 1);
  t.regex(small.notes.at(-1)!, /continuations/);
  const smaller = withNotes(1_000_000);
  t.true(smaller.responses.length < 200 && smaller.responses.length > 0);
  t.is(smaller.responses.length + smaller.responsesLeft, 200);
  t.is(smaller.responses[0]!.alternatives[0]!.length, 6);
});

test('--limit shows the first responses and counts over all', async (t) => {
  const data = await read(makeRun(t), 1);
  t.is(data.responses.length, 1);
  t.is(data.responsesLeft, 3);
  t.is(data.sites!.responses, 4);
});

test('critical tokens are counted by place, kind and text', (t) => {
  const counter = new SiteCounter();
  const record = { ...makeRecord(responses[0]!), critical_mask: [1, 0, 1, 0] };
  counter.add(record, [' 12', '+', ' so', '.']);
  counter.add({ ...record, critical_mask: [1, 0, 0, 0] }, ['12', '+', ' so', '.']);
  const sites = counter.sites!;
  t.like(sites, { responses: 2, tokens: 8, critical: 3 });
  t.deepEqual(sites.byKind, [
    { name: 'digit', tokens: 2, critical: 2 },
    { name: 'operator', tokens: 2, critical: 0 },
    { name: 'word', tokens: 2, critical: 1 },
    { name: 'other', tokens: 2, critical: 0 },
  ]);
  t.deepEqual(
    sites.byPosition.map(({ name, critical }) => [name, critical]),
    [
      ['0–10 %', 2],
      ['20–30 %', 0],
      ['50–60 %', 1],
      ['70–80 %', 0],
    ],
  );
  t.deepEqual(sites.frequent, [
    { text: '12', kind: 'digit', tokens: 2, critical: 2 },
    { text: 'so', kind: 'word', tokens: 2, critical: 1 },
  ]);
  t.is(new SiteCounter().sites, undefined);
  t.deepEqual([' 7.', 'x', '×', ' =', '\n', '.', 'é', '½'].map(kindOf), [
    'digit',
    'word',
    'operator',
    'operator',
    'other',
    'other',
    'word',
    'digit',
  ]);
});

test('characters that need several tokens are shown with the last of them', (t) => {
  const decoder: ReportTokenizer = {
    ...idTokenizer,
    stream: () => ({ push: (id: number) => (id === 97 ? '' : 'é'), flush: () => '!' }),
  };
  t.deepEqual(piecesOf(decoder, [97, 98]), ['', 'é!']);
  t.deepEqual(piecesOf(decoder, []), []);
  const { response_token_ids: ids } = makeRecord(responses[3]!);
  t.is(piecesOf(tokenizer, ids).join(''), responses[3]!.response);
});

test('alternatives become rows with their verdicts, and continuations where they were kept', (t) => {
  const record = makeRecord(responses[0]!, false);
  const [first] = shownResponse(record, [], tokenizer).alternatives;
  t.deepEqual(first, [0, 2, tokenizer.decode([record.alternatives[0]!.token_id]), -2, 1, '42']);
  t.is(shownResponse(makeRecord(responses[0]!), [], tokenizer).alternatives[0]!.length, 7);
});

test('without the tokenizer of the run tokens are shown by their ids, and a note says so', async (t) => {
  const found = await findTokenizer('/nowhere', runRecord());
  t.deepEqual(found.notes, []);
  const model = { name: 'org/absent', tokenizer_sha256: 'other' };
  const missing = await findTokenizer('/nowhere', runRecord({ model }));
  t.regex(missing.notes[0]!, /tokenizer of org\/absent is not on this machine/);
  t.is(missing.tokenizer.decode([5, 6], { skipSpecialTokens: false }), '‹5›‹6›');
  const changed = await findTokenizer(
    '/nowhere',
    runRecord({ model: { name: 'embedded', tokenizer_sha256: 'x' } }),
  );
  t.is(changed.notes.length, 1, 'another tokenizer would show wrong texts');
});

test('curves need two points; the learning rate is shown once where strategies share it', (t) => {
  const line = (step: number) => ({ step, loss: 1, learning_rate: step });
  t.deepEqual(curvesOf([{ strategy: 'cft', lines: [line(1)] }]), []);
  const lines = [line(1), line(2)];
  const both = curvesOf([
    { strategy: 'cft', lines },
    { strategy: 'sft', lines },
  ]);
  t.deepEqual(
    both.map(({ id, series }) => [id, series.length]),
    [
      ['loss', 2],
      ['learning-rate', 1],
    ],
  );
  t.regex(both[0]!.note!, /cannot be compared/);
  const long = Array.from({ length: 100_000 }, (_, step) => ({ step, loss: step === 777 ? 50 : step % 7 }));
  const { points } = curvesOf([{ strategy: 'cft', lines: long }])[0]!.series[0]!;
  t.true(points.length <= 2000 && points.length > 1000, String(points.length));
  t.true(
    points.some(([step, y]) => step === 777 && y === 50),
    'a spike stays',
  );
  t.true(points.every(([step], i) => i === 0 || step > points[i - 1]![0]));
  t.notThrows(() => costsOf(undefined, 0, undefined, Array(200_000).fill({ step: 1, loss: 1 })));
  const validated = [1, 2].map((step) => ({ step, validation_tokens: 9, validation_loss: step }));
  t.deepEqual(
    curvesOf([{ strategy: 'cft', lines: validated }]).map(({ id }) => id),
    ['validation-loss'],
  );
});

test('comparisons say their interval, p-value and verdict', (t) => {
  const comparison: Comparison = {
    method: 'mcnemar-exact',
    n: 200,
    difference: 0.05,
    differenceCi95: [0.01, 0.11],
    pValue: 1e-9,
    verdict: 'better',
  };
  t.is(describeComparison(comparison), '+5.0 points (+1.0 to +11.0), p < 0.001: better');
  t.regex(describeComparison({ ...comparison, pValue: 0.123 }), /p = 0\.123/);
});
