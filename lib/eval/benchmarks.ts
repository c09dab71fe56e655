/**
 * The benchmarks by name: where each lies, and what of a row is the question and what the gold answer, as the
 * evaluation of Qwen2.5-Math has it (evaluation/parser.py there). Files are read from CFT_DATA_DIR or, where that is not
 * set, from the Hugging Face hub into its usual cache.
 */
import { existsSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { badData } from '../data/errors.js';
import { parquetRows } from '../data/tables.js';
import { CftError } from '../errors.js';
import { nearest } from '../options.js';
import type { Question } from '../types.js';
import { downloadDataset, type HubDataset } from './hub-data.js';

type Row = Record<string, unknown>;

interface Benchmark {
  /** Below CFT_DATA_DIR. */
  file: string;
  /** Questions; where the hub has a few less, as many as there. */
  size: number;
  /** Files of a dataset repository with the same questions; the paper's eleven are not all there. */
  hub?: HubDataset;
  /** Fields of which the first that a row has is the question; or how to put it together. */
  question: readonly string[] | ((row: Row) => string);
  /** Likewise the gold answer; solutions (`#### 42`, `\boxed{42}`) are read by the verifier. */
  answer: readonly string[] | ((row: Row) => string);
}

const text = (value: unknown): string => (value === undefined || value === null ? '' : String(value).trim());
const withStop = (body: string): string => (body === '' || body.endsWith('.') ? body : `${body}.`);
const withoutDollars = (answer: string): string => answer.replaceAll('$', '').trim();

/** As Python writes a text in a list, which is what the options look like in that evaluation's prompt. */
const quoted = (choice: unknown): string =>
  String(choice).includes("'") && !String(choice).includes('"') ? `"${choice}"` : `'${choice}'`;

/** The table comes before the question, the options after it. */
function tabmwpQuestion(row: Row): string {
  const title = text(row.table_title);
  const options = Array.isArray(row.choices)
    ? ` Please select from the following options: [${row.choices.map(quoted).join(', ')}]`
    : '';
  return (
    `Read the following table ${title === '' ? '' : `regarding "${title}" `}and answer a question:\n` +
    `${text(row.table)}\n${text(row.question)}${options}`
  );
}

const problem = ['question', 'problem'] as const;
const onHub = (dataset: string, files: RegExp): HubDataset => ({ dataset, files });
const testFile = /(?:^|\/)test(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?\.(?:parquet|jsonl)$/;

const table: Readonly<Record<string, Benchmark>> = {
  gsm8k: {
    file: 'gsm8k/test.jsonl',
    size: 1319,
    hub: onHub('openai/gsm8k', /^main\/test-.*\.parquet$/),
    question: problem,
    answer: ['answer'],
  },
  math: {
    file: 'math/test.jsonl',
    size: 5000,
    hub: onHub('EleutherAI/hendrycks_math', /^[a-z_]+\/test-.*\.parquet$/),
    question: problem,
    answer: ['solution'],
  },
  svamp: {
    file: 'svamp/test.jsonl',
    size: 1000,
    hub: onHub('ChilleD/SVAMP', /^data\/(?:train|test)-.*\.parquet$/),
    question: (row) => `${withStop(text(row.Body))} ${text(row.Question)}`.trim(),
    answer: ['Answer'],
  },
  asdiv: {
    file: 'asdiv/test.jsonl',
    size: 2215,
    hub: onHub('EleutherAI/asdiv', /\.parquet$/),
    question: (row) => `${text(row.body)} ${text(row.question)}`.trim(),
    answer: (row) => text(row.answer).replace(/\(.*?\)/g, ''),
  },
  mawps: { file: 'mawps/test.jsonl', size: 2065, question: ['input'], answer: ['target'] },
  carp_en: { file: 'carp_en/test.jsonl', size: 976, question: ['content'], answer: ['answer'] },
  tabmwp: { file: 'tabmwp/problems_test1k.json', size: 1000, question: tabmwpQuestion, answer: ['answer'] },
  minerva_math: {
    file: 'minerva_math/test.jsonl',
    size: 272,
    hub: onHub('math-ai/minervamath', testFile),
    question: problem,
    answer: ['solution', 'answer'],
  },
  gaokao2023en: {
    file: 'gaokao2023en/test.jsonl',
    size: 385,
    hub: onHub('MARIO-Math-Reasoning/Gaokao2023-Math-En', /\.(?:parquet|jsonl)$/),
    question: problem,
    answer: (row) => withoutDollars(text(row.answer)),
  },
  olympiadbench: {
    file: 'olympiadbench/test.jsonl',
    size: 674,
    hub: onHub('Hothan/OlympiadBench', /OE_TO_maths_en_COMP.*\.parquet$/),
    question: problem,
    answer: (row) => withoutDollars(text(Array.isArray(row.final_answer) ? row.final_answer[0] : '')),
  },
  college_math: {
    file: 'college_math/test.jsonl',
    size: 2818,
    hub: onHub('realtreetune/college_math', testFile),
    question: problem,
    answer: (row) => withoutDollars(text(row.answer)),
  },
  math500: {
    file: 'math500/test.jsonl',
    size: 500,
    hub: onHub('HuggingFaceH4/MATH-500', testFile),
    question: problem,
    answer: ['answer'],
  },
  aime24: {
    file: 'aime24/test.jsonl',
    size: 30,
    hub: onHub('math-ai/aime24', testFile),
    question: problem,
    answer: ['answer', 'solution'],
  },
  aime25: {
    file: 'aime25/test.jsonl',
    size: 30,
    hub: onHub('math-ai/aime25', testFile),
    question: problem,
    answer: ['answer'],
  },
  amc23: {
    file: 'amc23/test.jsonl',
    size: 40,
    hub: onHub('math-ai/amc23', testFile),
    question: problem,
    answer: ['answer'],
  },
};

export const benchmarkNames = Object.keys(table);

/** Names that stand for several. `paper-11` are the eleven of the paper, over which it averages. */
export const benchmarkGroups: Readonly<Record<string, readonly string[]>> = {
  'paper-11': benchmarkNames.slice(0, 11),
};

/**
 * Names as given to names of benchmarks, groups spelled out, each once; `MATH-500` and `Minerva-Math` are understood.
 * @throws CftError ERR_CFT_BAD_OPTION for a name that is none.
 */
export function resolveBenchmarks(names: readonly string[]): string[] {
  const found = new Set<string>();
  for (const name of names) {
    const plain = (spelling: string): string => spelling.toLowerCase().replace(/[-_ ]/g, '');
    const group = Object.keys(benchmarkGroups).find((known) => plain(known) === plain(name));
    const known = benchmarkNames.find((candidate) => plain(candidate) === plain(name));
    if (group === undefined && known === undefined) {
      const all = [...benchmarkNames, ...Object.keys(benchmarkGroups)];
      const near = nearest(name, all);
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `benchmark (--benchmark): expected ${all.join(', ')}, found "${name}"${near ? `; did you mean "${near}"?` : ''}`,
      );
    }
    for (const member of group === undefined ? [known as string] : benchmarkGroups[group]!) found.add(member);
  }
  return [...found];
}

function jsonRows(path: string): Row[] {
  try {
    const content = readFileSync(path, 'utf8');
    if (extname(path) === '.json') return Object.values(JSON.parse(content) as Record<string, Row>);
    return content
      .split('\n')
      .filter((line) => line.trim() !== '')
      .map((line) => JSON.parse(line) as Row);
  } catch (error) {
    throw badData(path, `expected a benchmark, found a broken file (${(error as Error).message})`, error);
  }
}

async function rowsOf(path: string, signal: AbortSignal | undefined): Promise<Row[]> {
  if (extname(path) !== '.parquet') return jsonRows(path);
  const rows: Row[] = [];
  for await (const { value } of parquetRows(path, [...allFields], signal)) rows.push(value);
  return rows;
}

/** What the table reads of Parquet files. */
const allFields = new Set(
  'question problem answer solution body Body Question Answer input target final_answer'.split(' '),
);

const take = (from: Benchmark['question'], row: Row): string =>
  typeof from === 'function'
    ? from(row).trim()
    : text(row[from.find((field) => text(row[field]) !== '') ?? '']);

/** The file in CFT_DATA_DIR, else the files from the hub. */
async function filesOf(name: string, signal: AbortSignal | undefined): Promise<string[]> {
  const { file, hub } = table[name] as Benchmark;
  const folder = process.env.CFT_DATA_DIR;
  const path = folder ? join(folder, file) : undefined;
  if (path !== undefined && existsSync(path)) return [path];
  if (hub !== undefined) return downloadDataset(hub, signal);
  throw new CftError(
    'ERR_CFT_BAD_DATA',
    `benchmark ${name}: expected ${path ?? `CFT_DATA_DIR/${file}`}, found none, and no repository of the hub has the ` +
      'same questions; put the file of the Qwen2.5-Math evaluation there (docs/evaluation.md)',
  );
}

export interface BenchmarkQuestions {
  name: string;
  /** Ids are the numbers of the rows, from 0. A row without a gold answer stays: nothing is right for it. */
  questions: Question[];
  /** How many rows have no gold answer. */
  withoutAnswer: number;
  /** Questions of the whole benchmark as they were found, whatever `limit`, and as there should be. */
  found: number;
  expected: number;
}

/** What the evaluation of Qwen2.5-Math adds to a question that wants one of two words. */
function hintOf(answer: string): string {
  const plain = answer.toLowerCase().replace(/\.$/, '');
  if (plain === 'true' || plain === 'false') return ' (True or False)';
  return plain === 'yes' || plain === 'no' ? ' (Yes or No)' : '';
}

/**
 * Reads a benchmark.
 * @param limit only the first so many questions.
 * @throws CftError ERR_CFT_BAD_DATA where the file is missing, broken or has no questions; ERR_CFT_DOWNLOAD; the
 *   signal's reason.
 */
export async function readBenchmark(
  name: string,
  { limit, signal }: { limit?: number | undefined; signal?: AbortSignal | undefined } = {},
): Promise<BenchmarkQuestions> {
  const { question, answer, size } = table[name] as Benchmark;
  const questions: Question[] = [];
  let row = 0;
  for (const path of await filesOf(name, signal)) {
    for (const value of await rowsOf(path, signal)) {
      const asked = take(question, value);
      if (asked === '') {
        const fields = typeof question === 'function' ? 'the fields of its question' : question.join(' or ');
        throw badData(
          `${path} (row ${row + 1})`,
          `expected ${fields}, found ${Object.keys(value).join(', ')}`,
        );
      }
      const gold = take(answer, value);
      questions.push({ id: String(row++), question: `${asked}${hintOf(gold)}`, answer: gold });
    }
  }
  if (questions.length === 0)
    throw badData(`benchmark ${name}`, 'expected at least one question, found none');
  const chosen = questions.slice(0, limit);
  const withoutAnswer = chosen.filter((one) => one.answer === '').length;
  return { name, questions: chosen, withoutAnswer, found: questions.length, expected: size };
}
