/** From a run folder to what the report shows. The run may be finished, interrupted, or under way in another process. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { CftError } from '../errors.js';
import { flagOf } from '../options.js';
import { packageVersion } from '../run-folder.js';
import { readResult, type TrainResult } from '../train/result.js';
import type { AnnotationRecord } from '../types.js';
import { AnnotatedResponses, annotationsOption } from './annotated.js';
import { costsOf } from './costs.js';
import { curvesOf, type Metrics } from './curves.js';
import type { Gains, ReportData } from './data.js';
import { count, interval, percent, shortComparison } from './describe.js';
import { gainsOf } from './gains.js';
import {
  type Fields,
  foldersIn,
  GrowingLines,
  numberIn,
  readFields,
  readLines,
  stampOf,
  textIn,
} from './run-files.js';
import type { ReportTokenizer } from './tokens.js';

/** Responses on the page where nobody says how many. */
export const usualLimit = 200;

export interface RunReaderOptions {
  /** Most responses in full. */
  limit?: number | undefined;
  tokenizer: ReportTokenizer;
  /** Said under the heading of the responses. */
  notes?: readonly string[] | undefined;
  /** In memory already, at the end of a run; else they are read. */
  records?: readonly AnnotationRecord[] | undefined;
  result?: TrainResult | undefined;
}

/**
 * run.json of a folder.
 * @throws CftError ERR_CFT_BAD_DATA where it is no run folder.
 */
export function readRunRecord(folder: string): Fields {
  const path = join(folder, 'run.json');
  const record = readFields(path);
  if (record !== undefined && record.format === 'cft-run/1') return record;
  const found = !existsSync(folder)
    ? 'no such folder'
    : !existsSync(path)
      ? 'none'
      : `${record === undefined ? 'no JSON object' : `format ${JSON.stringify(record.format)}`}`;
  throw new CftError(
    'ERR_CFT_BAD_DATA',
    `${folder}: expected a run folder with run.json (format "cft-run/1"), found ${found}`,
  );
}

/** Options as they were typed, those of the file's own snake_case names. */
export const optionsOf = (record: Fields): Fields => (record.options as Fields | undefined) ?? {};

/** result.json, where it is there and of a shape that can be read. */
function resultIn(folder: string): TrainResult | undefined {
  try {
    const result = readResult(join(folder, 'result.json'));
    return typeof result?.trained === 'object' ? result : undefined;
  } catch {
    return undefined;
  }
}

const camelCase = (name: string): string => name.replace(/_([a-z])/g, (_, c: string) => c.toUpperCase());

function titleOf(
  { command, status, strategy }: { command: string; status: string; strategy: string },
  gains: Gains[],
  meta: Fields | undefined,
  result: TrainResult | undefined,
): string {
  const first = gains.find(({ evaluatedOn }) => evaluatedOn === 'average') ?? gains[0];
  const before = first?.rows.find(({ name }) => name === 'before')?.greedy;
  const after = first?.rows.find(({ name }) => name === `after ${strategy}`)?.greedy;
  if (command === 'train' && before && after) {
    const change = result?.trained.change?.greedy;
    const more = change ? ` (${shortComparison(change)})` : '';
    return `${strategy}: ${percent(before.value)} → ${percent(after.value)}${more}`;
  }
  const share = numberIn(meta, 'critical_share');
  if (command === 'annotate' && share !== undefined)
    return `${percent(share)} of ${count(numberIn(meta, 'tokens') ?? 0)} tokens are critical`;
  const only = first?.rows[0]?.greedy ?? first?.rows[0]?.sampled;
  if (command === 'eval' && only)
    return `${percent(only.value)} (${interval(only.interval)}) of ${count(first!.questions)} questions`;
  return `${command === 'train' ? strategy : command}: ${status}`;
}

export class RunReader {
  readonly folder: string;
  readonly #options: RunReaderOptions;
  readonly #annotated: AnnotatedResponses;
  readonly #responses: GrowingLines;
  #trunks = { count: 0, correct: 0, tokens: 0 };

  /** @throws CftError ERR_CFT_BAD_DATA where it is no run folder. */
  constructor(folder: string, options: RunReaderOptions) {
    this.folder = resolve(folder);
    this.#options = options;
    readRunRecord(folder);
    this.#annotated = new AnnotatedResponses(this.folder, options.limit ?? usualLimit, options.tokenizer);
    this.#responses = new GrowingLines(join(this.folder, 'responses.jsonl'));
  }

  /** Changes when there is something new to read. */
  get stamp(): string {
    return stampOf(this.folder, [
      ...['run.json', 'stages.json', 'responses.jsonl', 'annotations.journal.jsonl', 'annotations.jsonl'],
      ...['annotations.meta.json', 'metrics.jsonl', 'result.json', 'predictions.jsonl', 'summary.json'],
      ...['eval/before', 'eval/after'].flatMap((name) => [`${name}/summary.json`, `${name}/sampled`]),
      ...foldersIn(this.folder, 'baseline-').flatMap((name) => [
        `${name}/metrics.jsonl`,
        `${name}/eval/after/summary.json`,
      ]),
    ]);
  }

  #readTrunks(): void {
    const { fresh, values } = this.#responses.read();
    if (fresh) this.#trunks = { count: 0, correct: 0, tokens: 0 };
    for (const { verdict, response_token_ids: ids } of values) {
      this.#trunks.count++;
      if (verdict === 'correct') this.#trunks.correct++;
      if (Array.isArray(ids)) this.#trunks.tokens += ids.length;
    }
  }

  #metrics(strategy: string): Metrics[] {
    const folders = ['', ...foldersIn(this.folder, 'baseline-')];
    return folders.flatMap((name) => {
      const lines = readLines(join(this.folder, name, 'metrics.jsonl'));
      return lines.length === 0
        ? []
        : [{ strategy: name === '' ? strategy : name.slice('baseline-'.length), lines }];
    });
  }

  #progress(record: Fields, annotated: number, metrics: readonly Metrics[]): (readonly [string, string])[] {
    const stages = Object.keys(readFields(join(this.folder, 'stages.json')) ?? {});
    const questions = numberIn(record.data as Fields | undefined, 'questions');
    const steps = metrics.at(-1)?.lines.at(-1)?.step;
    const { count: trunks, correct } = this.#trunks;
    const of = questions === undefined ? '' : ` of ${count(questions)}`;
    return [
      ...(stages.length > 0 ? [['stage', stages.at(-1)!] as const] : []),
      ...(trunks > 0 ? [['responses', `${count(trunks)}${of}, ${count(correct)} correct`] as const] : []),
      ...(annotated > 0 ? [['annotated', `${count(annotated)} of ${count(correct)}`] as const] : []),
      ...(typeof steps === 'number' ? [['step', count(steps)] as const] : []),
    ];
  }

  /** @throws CftError ERR_CFT_BAD_DATA for files that were changed or damaged since. */
  async read(): Promise<ReportData> {
    const record = readRunRecord(this.folder);
    const options = optionsOf(record);
    const command = textIn(record, 'command') ?? 'run';
    // At the end of a run the page is written just before the run says that it is done.
    const status = this.#options.result ? 'done' : (textIn(record, 'status') ?? 'unknown');
    const strategy = textIn(options, 'strategy') ?? 'training';
    const model = textIn(record.model as Fields | undefined, 'name') ?? 'unknown model';
    const result = this.#options.result ?? resultIn(this.folder);
    this.#readTrunks();
    const { records } = this.#options;
    const annotated =
      records === undefined
        ? await this.#annotated.read(annotationsOption(options))
        : this.#annotated.use(records);
    const meta = readFields(join(this.folder, 'annotations.meta.json'));
    const metrics = this.#metrics(strategy);
    const gains = gainsOf(this.folder, command === 'eval' ? undefined : strategy, model, result);
    const seconds = (this.#options.result?.seconds as Fields) ?? readFields(join(this.folder, 'stages.json'));
    const evaluated = gains.map(
      ({ evaluatedOn, questions }) => `${evaluatedOn} (${count(questions)} questions)`,
    );
    const error = textIn(record, 'error');
    return {
      format: 'cft-report/1',
      generator: `cft-native ${packageVersion}`,
      title: titleOf({ command, status, strategy }, gains, meta, result),
      subtitle: [
        model,
        `${textIn(record, 'dtype')} on ${textIn(record, 'device')}`,
        `seed ${numberIn(record, 'seed')}`,
        ...(evaluated.length > 0 ? [`evaluated on ${evaluated.join(', ')}`] : []),
      ].join(' · '),
      status,
      ...(error !== undefined && { error }),
      progress: status === 'running' ? this.#progress(record, annotated.total, metrics) : [],
      gains,
      curves: curvesOf(metrics),
      costs: costsOf(meta, this.#trunks.tokens, seconds, metrics[0]?.lines ?? []),
      ...(annotated.sites && { sites: annotated.sites }),
      responses: annotated.shown,
      responsesLeft: annotated.total - annotated.shown.length,
      notes: [...(this.#options.notes ?? [])],
      options: Object.entries(options).map(([name, value]) => [
        flagOf(camelCase(name)),
        typeof value === 'string' ? value : JSON.stringify(value),
      ]),
    };
  }
}
