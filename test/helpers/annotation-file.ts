/** Annotations made by hand for the tiny models of the fixtures, so that training needs no rollouts. */
import { writeFileSync } from 'node:fs';
import { Random } from '../../lib/random.js';
import type { AnnotationRecord } from '../../lib/types.js';

/** Records with random tokens below `vocabSize`; every third token is critical, but none in the third record. */
export function makeAnnotations(count: number, vocabSize = 96, responseTokens = 12): AnnotationRecord[] {
  const random = new Random('annotations', count);
  const tokens = (length: number): number[] =>
    Array.from({ length }, () => 2 + random.integer(vocabSize - 2));
  return Array.from({ length: count }, (_, i) => {
    const length = responseTokens + (i % 5);
    return {
      id: String(i + 1),
      question: `question ${i + 1}`,
      answer: '1',
      response: `response ${i + 1}`,
      prompt_token_ids: tokens(4 + (i % 3)),
      response_token_ids: tokens(length),
      end_token_id: 1,
      logprobs: new Array<number>(length).fill(-1),
      critical_mask: Array.from({ length }, (_, t) => (i !== 2 && t % 3 === 0 ? 1 : 0)),
      alternatives: [],
      rollouts: 0,
    };
  });
}

export function writeAnnotations(path: string, records: readonly object[]): string {
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
  return path;
}
