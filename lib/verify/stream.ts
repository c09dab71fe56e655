/** Verdicts on a stream of predictions: what the `verify` command does. */
import { addAbortSignal, Readable } from 'node:stream';
import { badData, badField } from '../data/errors.js';
import { jsonLines, textLines, textLinesOfFile } from '../data/json-lines.js';
import type { Verifier } from '../types.js';
import { createVerifier } from './verifier.js';

export interface VerifyLinesOptions {
  /** JSON Lines of `{prediction, answer}`: a path, or a byte stream such as `process.stdin`. */
  data: string | AsyncIterable<Uint8Array | string>;
  /** Field that holds the gold answer, default `answer`. */
  answerField?: string | undefined;
  /** Default `builtin`. Verifiers see `id` (else the line number), `question` and `response_token_ids` of the line. */
  verifier?: string | Verifier | undefined;
  signal?: AbortSignal | undefined;
}

/** The stream itself, which ends with the signal's reason when that is aborted, also while it waits for input. */
async function* untilAborted(
  stream: AsyncIterable<Uint8Array | string>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array | string> {
  try {
    yield* signal !== undefined && stream instanceof Readable ? addAbortSignal(signal, stream) : stream;
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}

/** A line as it was read, with the verdict added; `extracted` is null where no answer was found. */
export type VerifiedLine = Record<string, unknown> & { correct: boolean; extracted: string | null };

function textOf(value: Record<string, unknown>, field: string, where: string, mayBeEmpty: boolean): string {
  const found = value[field];
  const text = typeof found === 'number' && Number.isFinite(found) ? String(found) : found;
  if (typeof text === 'string' && (mayBeEmpty || text.trim() !== '')) return text;
  throw badField(where, field, 'text or a number', found);
}

/**
 * Yields each line with its verdict, in order.
 *
 * @throws CftError ERR_CFT_BAD_DATA naming line and field; what the verifier throws; the signal's reason.
 */
export async function* verifyLines({
  data,
  answerField = 'answer',
  verifier = 'builtin',
  signal,
}: VerifyLinesOptions): AsyncGenerator<VerifiedLine> {
  const judge = await createVerifier(verifier);
  const name = typeof data === 'string' ? data : 'standard input';
  const table = typeof data === 'string' ? /\.(?:csv|json|parquet)$/i.exec(data)?.[0] : undefined;
  if (table !== undefined)
    throw badData(name, `expected predictions as JSON Lines (.jsonl), found a file of the kind ${table}`);
  const lines =
    typeof data === 'string'
      ? textLinesOfFile(data, { signal })
      : textLines(untilAborted(data, signal), name, { signal });
  for await (const { line, value } of jsonLines(lines, name)) {
    const where = `${name}:${line}`;
    const prediction = textOf(value, 'prediction', where, true);
    const answer = textOf(value, answerField, where, false);
    const { id = line, question = '', response_token_ids: ids } = value;
    const result = await judge(prediction, {
      id: String(id),
      question: String(question),
      answer,
      tokenIds: Int32Array.from(Array.isArray(ids) ? ids : []),
    });
    const { correct, extracted } = typeof result === 'boolean' ? { correct: result } : result;
    yield { ...value, correct: correct === true, extracted: extracted ?? null };
  }
}
