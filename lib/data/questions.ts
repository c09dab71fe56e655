/**
 * Questions and gold answers from wherever the user has them: a file (.jsonl, .json, .csv, .parquet), an array, or an
 * (async) iterable of objects. Everything wrong with them is an ERR_CFT_BAD_DATA that names file, line and field.
 */
import { extname } from 'node:path';
import type { Question } from '../types.js';
import { badData, badField, describeValue } from './errors.js';
import { readJsonLines } from './json-lines.js';
import { csvRows, jsonRows, parquetRows, type Row } from './tables.js';

/** What a caller may hand over in memory; other fields are ignored. */
export interface QuestionInput {
  id?: string | number;
  question: string;
  answer: string | number;
}

export type QuestionSource = string | Iterable<unknown> | AsyncIterable<unknown>;

export interface ReadQuestionsOptions {
  /** Field that holds the question, default `question`. */
  questionField?: string | undefined;
  /** Field that holds the gold answer, default `answer`. */
  answerField?: string | undefined;
  /** Take only the first so many. */
  limit?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Names that public data sets use for the two fields, in the order in which they are suggested. */
const usualNames = {
  question: ['problem', 'prompt', 'query', 'input', 'instruction', 'content', 'body', 'text'],
  answer: ['final_answer', 'target', 'solution', 'output', 'label', 'gold', 'expected', 'response'],
} as const;

async function* jsonLineRows(path: string, signal?: AbortSignal): AsyncGenerator<Row> {
  for await (const { line, value } of readJsonLines(path, { signal })) {
    yield { where: `${path}:${line}`, number: line, value };
  }
}

async function* itemRows(items: Iterable<unknown> | AsyncIterable<unknown>): AsyncGenerator<Row> {
  let number = 0;
  for await (const value of items) {
    const where = `data (item ${++number})`;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw badData(where, `expected an object { id?, question, answer }, found ${describeValue(value)}`);
    }
    yield { where, number, value: value as Record<string, unknown> };
  }
}

function rowsOfFile(path: string, fields: readonly string[], signal?: AbortSignal): AsyncGenerator<Row> {
  switch (extname(path).toLowerCase()) {
    case '.jsonl':
      return jsonLineRows(path, signal);
    case '.json':
      return jsonRows(path, signal);
    case '.csv':
      return csvRows(path, signal);
    case '.parquet':
      return parquetRows(path, fields, signal);
    default:
      throw badData(path, 'expected a file whose name ends in .jsonl, .json, .csv or .parquet');
  }
}

/** The complaint about an absent field, with the flag that would name the one that is probably meant. */
function missingField({ where, value }: Row, role: 'question' | 'answer', field: string): Error {
  const names = Object.keys(value);
  const meant =
    names.find((name) => name.toLowerCase() === field.toLowerCase()) ??
    names.find((name) => name.toLowerCase() === role) ??
    usualNames[role].map((usual) => names.find((name) => name.toLowerCase() === usual)).find((name) => name);
  const found = names.length === 0 ? 'no fields' : `the fields ${names.slice(0, 12).join(', ')}`;
  const hint =
    meant === undefined ? '' : `; is it "${meant}"? Then say --${role}-field ${meant} (${role}Field)`;
  return badData(where, `field "${field}" is missing: expected the ${role} there, found ${found}${hint}`);
}

function textField(row: Row, role: 'question' | 'answer', field: string): string {
  const value = row.value[field];
  if (value === undefined) throw missingField(row, role, field);
  const text =
    typeof value === 'bigint' || (role === 'answer' && typeof value === 'number' && Number.isFinite(value))
      ? String(value)
      : value;
  if (typeof text !== 'string' || text.trim() === '') {
    throw badField(row.where, field, role === 'answer' ? 'text or a number' : 'text', value);
  }
  return text;
}

function idOf({ where, number, value }: Row): string {
  const { id } = value;
  if (id === undefined || id === null) return String(number);
  if (typeof id === 'bigint' || (typeof id === 'number' && Number.isFinite(id))) return String(id);
  if (typeof id === 'string' && id.trim() !== '') return id;
  throw badField(where, 'id', 'text or a number', id);
}

const places = new WeakMap<Question, string>();

/** Where a question was read, e.g. `questions.jsonl:12`; its id where that is unknown. */
export const placeOf = (question: Question): string => places.get(question) ?? `question ${question.id}`;

/**
 * Reads and checks questions, in order. `id` is kept as text; where it is absent it is the number of the line
 * (.jsonl) or of the record (elsewhere), from 1. Ids are unique. Answers may be numbers.
 * A JSON Lines, CSV or Parquet file is read as a stream, and no further than `limit`.
 *
 * @throws CftError ERR_CFT_BAD_DATA; the signal's reason when it is aborted.
 */
export async function readQuestions(
  source: QuestionSource,
  { questionField = 'question', answerField = 'answer', limit, signal }: ReadQuestionsOptions = {},
): Promise<Question[]> {
  signal?.throwIfAborted();
  const fromFile = typeof source === 'string';
  const rows = fromFile ? rowsOfFile(source, [questionField, answerField, 'id'], signal) : itemRows(source);
  const questions: Question[] = [];
  const placeOfId = new Map<string, string>();
  if (limit !== 0) {
    for await (const row of rows) {
      signal?.throwIfAborted();
      const id = idOf(row);
      const earlier = placeOfId.get(id);
      if (earlier !== undefined) {
        throw badData(
          row.where,
          `field "id": expected distinct ids, found "${id}" again (first in ${earlier})`,
        );
      }
      placeOfId.set(id, row.where);
      const question: Question = {
        id,
        question: textField(row, 'question', questionField),
        answer: textField(row, 'answer', answerField),
      };
      places.set(question, row.where);
      questions.push(question);
      if (questions.length === limit) break;
    }
  }
  if (questions.length === 0)
    throw badData(fromFile ? source : 'data', 'expected at least one question, found none');
  return questions;
}
