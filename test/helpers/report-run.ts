/** Run folders for the report, made by hand: everything that a run can leave there, with the embedded tokenizer. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { inflateRawSync } from 'node:zlib';
import type { ExecutionContext } from 'ava';
import { Tokenizer } from '../../lib/model/tokenizer.js';
import { embeddedFolder } from '../../lib/preset.js';
import type { ReportData } from '../../lib/report/data.js';
import type { AlternativeRecord, AnnotationRecord } from '../../lib/types.js';
import { temporaryFolder } from './fixtures.js';

export const embeddedTokenizer = Tokenizer.load(embeddedFolder, Number.MAX_SAFE_INTEGER);

/** What must stay text, wherever it comes from. */
export const attack = `</script><script>window.attacked=1</script><img src=x onerror="window.attacked=2">\u2028<!--`;

export interface MadeResponse {
  id: string;
  question: string;
  answer: string;
  response: string;
}

export const responses: MadeResponse[] = [
  {
    id: 'plain',
    question: 'Tom has 12 apples and buys 7 more. How many?',
    answer: '19',
    response: 'Tom has 12+7=19 apples. #### 19',
  },
  {
    id: 'math',
    question: 'What is $\\frac{1}{2}+\\sqrt{4}$?',
    answer: '\\frac52',
    response: 'It is $\\frac12+2$, so \\boxed{\\frac{5}{2}}.\nIt costs $5 and $6.',
  },
  { id: `hostile ${attack}`, question: attack, answer: attack, response: `${attack} 3` },
  { id: 'bytes', question: 'Größe? 数', answer: '5', response: 'né 数 🙂 5' },
];

/** Every fifth token is critical; at every second one something was tried. */
export function makeRecord(made: MadeResponse, keepRollouts = true): AnnotationRecord {
  const ids = [...embeddedTokenizer.encode(made.response)];
  const other = (id: number, by: number): number => ((id + by) % 500) + 4;
  const alternatives = ids.flatMap((id, position): AlternativeRecord[] => {
    if (position % 2 === 1 && position % 5 !== 0) return [];
    const critical = position % 5 === 0;
    return [2, 3].map((rank) => ({
      position,
      rank,
      token_id: other(id, rank),
      logprob: -rank,
      verdict: critical ? (rank === 2 ? 'incorrect' : 'truncated') : rank === 2 ? 'incorrect' : 'correct',
      ...(rank === 2 ? { extracted: made.id === 'plain' ? '42' : attack } : {}),
      ...(keepRollouts ? { continuation: ` and then ${made.answer} $x^2$ ${attack}` } : {}),
    }));
  });
  return {
    ...made,
    prompt_token_ids: [1, 2],
    response_token_ids: ids,
    end_token_id: 1,
    logprobs: ids.map((_, i) => -0.1 * i),
    critical_mask: ids.map((_, i) => (i % 5 === 0 ? 1 : 0)),
    alternatives,
    rollouts: alternatives.length,
  };
}

const lines = (values: readonly unknown[]): string =>
  values.map((value) => `${JSON.stringify(value)}\n`).join('');

const summary = (accuracy: number, samples = 1) => ({
  n: 400,
  samples,
  temperature: samples > 1 ? 1 : 0,
  accuracy,
  accuracy_ci95: [accuracy - 0.04, accuracy + 0.04],
});

const comparison = (difference: number, verdict: string) => ({
  method: 'mcnemar-exact',
  n: 400,
  difference,
  difference_ci95: [difference - 0.05, difference + 0.05],
  p_value: 0.03,
  verdict,
});

/** One line per step, and every fifth a probe and a validation. */
const metrics = (scale: number): Record<string, unknown>[] =>
  Array.from({ length: 20 }, (_, i) => i + 1).flatMap((step) => [
    {
      step,
      epoch: step / 5,
      loss: step === 3 ? null : scale / step,
      learning_rate: 1e-4 / step,
      grad_norm: 1 / step,
      tokens: 100,
      selected_tokens: step === 4 ? 0 : 20,
      tokens_per_second: 1000,
      peak_memory_bytes: 5e8,
    },
    ...(step % 5 === 0
      ? [
          { step, critical_loss: 1 / step, other_loss: 0.1, critical_entropy: 0.9, other_entropy: 0.2 },
          { step, validation_accuracy: 0.5 + step / 100 },
        ]
      : []),
  ]);

export function writeAll(folder: string, files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
}

export const runRecord = (fields: Record<string, unknown> = {}) => ({
  format: 'cft-run/1',
  command: 'train',
  status: 'done',
  started: '2026-01-01T00:00:00.000Z',
  seed: 7,
  device: 'cpu',
  dtype: 'float32',
  model: { name: 'embedded', weights_sha256: 'x', tokenizer_sha256: embeddedTokenizer.sha256() },
  data: { name: 'train.jsonl', sha256: 'x', questions: 10 },
  options: { model: 'embedded', strategy: 'cft', epochs: 3, batch_size: 16, system: attack },
  versions: { cft_native: '0.1.0', libtorch: '2.13.0', node: 'v20' },
  ...fields,
});

const training = (strategy: string, folder: string) => ({
  strategy,
  learning_rate: 1e-4,
  responses: 4,
  selected_share: 0.2,
  model: folder,
  steps: 20,
  skipped_steps: 0,
  first_loss: 1,
  last_loss: 0.1,
  tokens: 2000,
  selected_tokens: 400,
  seconds: 3,
  change: { greedy: comparison(0.1, 'better') },
});

/** A finished training run with a baseline. */
export function makeRun(t: ExecutionContext, made: readonly MadeResponse[] = responses): string {
  const folder = temporaryFolder(t);
  const records = made.map((one) => makeRecord(one));
  const seconds = { trunks: 1, rollouts: 6, train: 3 };
  writeAll(folder, {
    'run.json': JSON.stringify(runRecord()),
    'responses.jsonl': lines(records.map((record) => ({ ...record, verdict: 'correct' }))),
    'annotations.jsonl': lines(records),
    'annotations.meta.json': JSON.stringify({
      format: 'cft-annotations/1',
      questions: 10,
      correct: made.length,
      rollouts: 100,
      rollouts_saved: 40,
      accepted_tokens: 7,
      drafted_tokens: 9,
      decoded_tokens: 5000,
      p2: 0.5,
      seconds: 7,
    }),
    'metrics.jsonl': lines(metrics(1)),
    'baseline-sft/metrics.jsonl': lines(metrics(2)),
    'eval/before/summary.json': JSON.stringify({ test: summary(0.6) }),
    'eval/before/sampled/summary.json': JSON.stringify({ test: summary(0.4, 2) }),
    'eval/after/summary.json': JSON.stringify({ test: summary(0.7) }),
    'eval/after/sampled/summary.json': JSON.stringify({ test: summary(0.45, 2) }),
    'baseline-sft/eval/after/summary.json': JSON.stringify({ test: summary(0.65) }),
    'stages.json': JSON.stringify(seconds),
    'result.json': JSON.stringify({
      output: folder,
      report: join(folder, 'report.html'),
      model: 'embedded',
      strategy: 'cft',
      seed: 7,
      evaluated_on: 'test',
      trained: training('cft', join(folder, 'model')),
      baseline: training('sft', join(folder, 'baseline-sft/model')),
      against_baseline: { greedy: comparison(0.05, 'no difference detected') },
      seconds,
    }),
    'model/config.json': '{}',
  });
  return folder;
}

/** The data that a page holds. */
export function dataIn(page: string): ReportData {
  const packed = /<script type="application\/octet-stream" id="data">([^<]*)<\/script>/.exec(page)![1]!;
  return JSON.parse(inflateRawSync(Buffer.from(packed, 'base64')).toString('utf8')) as ReportData;
}
