/** Annotated responses as the viewer reads them: the text of each token, and what was tried at each position. */
import type { AnnotationRecord } from '../types.js';
import { type ShownResponse, verdicts } from './data.js';

/** What the report needs of a tokenizer. */
export interface ReportTokenizer {
  decode(tokenIds: Iterable<number>, options: { skipSpecialTokens: boolean }): string;
  stream(options: { skipSpecialTokens: boolean }): { push(tokenId: number): string; flush(): string };
}

/** Stands in where the model's tokenizer is not to be had: tokens are shown by their ids. */
export const idTokenizer: ReportTokenizer = {
  decode: (ids) => [...ids].map((id) => `‹${id}›`).join(''),
  stream: () => ({ push: (id) => `‹${id}›`, flush: () => '' }),
};

/** The text of each token; empty where a character is only complete with a later token. */
export function piecesOf(tokenizer: ReportTokenizer, tokenIds: readonly number[]): string[] {
  const decoder = tokenizer.stream({ skipSpecialTokens: false });
  const pieces = tokenIds.map((id) => decoder.push(id));
  const rest = decoder.flush();
  if (rest !== '' && pieces.length > 0) pieces[pieces.length - 1] += rest;
  return pieces;
}

/** @param pieces of the record, see piecesOf. */
export function shownResponse(
  record: AnnotationRecord,
  pieces: string[],
  tokenizer: ReportTokenizer,
): ShownResponse {
  return {
    id: record.id,
    question: record.question,
    answer: record.answer,
    pieces,
    logprobs: record.logprobs,
    weights: record.critical_mask ?? record.token_weights ?? [],
    alternatives: record.alternatives.map(
      ({ position, rank, token_id: id, logprob, verdict, extracted, continuation }) => [
        position,
        rank,
        tokenizer.decode([id], { skipSpecialTokens: false }),
        logprob,
        verdicts.indexOf(verdict),
        extracted ?? null,
        ...(continuation === undefined ? ([] as const) : ([continuation] as const)),
      ],
    ),
  };
}
