/** Annotated responses as HTML: critical tokens marked, what was tried at each position in the token's tooltip. */
import type { AlternativeRecord, AnnotationRecord } from '../types.js';
import { type Html, html } from './html.js';

/** What the report needs of a tokenizer. */
export interface ReportTokenizer {
  decode(tokenIds: Iterable<number>, options: { skipSpecialTokens: boolean }): string;
  stream(options: { skipSpecialTokens: boolean }): { push(tokenId: number): string; flush(): string };
}

/** The text of each token; empty where a character is only complete with a later token. */
function piecesOf(tokenizer: ReportTokenizer, tokenIds: readonly number[]): string[] {
  const decoder = tokenizer.stream({ skipSpecialTokens: false });
  const pieces = tokenIds.map((id) => decoder.push(id));
  const rest = decoder.flush();
  if (rest !== '') pieces[pieces.length - 1] += rest;
  return pieces;
}

const percent = (logprob: number): string => `${(100 * Math.exp(logprob)).toPrecision(3)} %`;

function tooltip(
  tokenizer: ReportTokenizer,
  alternatives: readonly AlternativeRecord[],
  logprob: number | undefined,
): string {
  const tried = alternatives.map(({ rank, token_id, logprob: p, verdict, extracted }) => {
    const token = JSON.stringify(tokenizer.decode([token_id], { skipSpecialTokens: false }));
    return `${rank}: ${token} ${percent(p)} → ${verdict}${extracted === undefined ? '' : ` (${extracted})`}`;
  });
  return [...(logprob === undefined ? [] : [`own: ${percent(logprob)}`]), ...tried].join('\n');
}

/** One response: question, its tokens, its answer. */
export function responseHtml(record: AnnotationRecord, tokenizer: ReportTokenizer): Html {
  const weights = record.critical_mask ?? record.token_weights ?? [];
  const byPosition = new Map<number, AlternativeRecord[]>();
  for (const alternative of record.alternatives) {
    const list = byPosition.get(alternative.position) ?? [];
    byPosition.set(alternative.position, [...list, alternative]);
  }
  const tokens = piecesOf(tokenizer, record.response_token_ids).map((piece, position) => {
    const title = tooltip(tokenizer, byPosition.get(position) ?? [], record.logprobs[position]);
    const weight = weights[position] ?? 0;
    if (weight === 0) return html`<span title="${title}">${piece}</span>`;
    const opacity = Math.max(0.25, Math.min(1, weight)).toFixed(2);
    return html`<mark style="--w:${opacity}" title="${title}">${piece}</mark>`;
  });
  const critical = weights.filter((weight) => weight > 0).length;
  const length = record.response_token_ids.length;
  return html`<details open><summary>${record.id}: ${critical} of ${length} tokens critical, answer ${record.answer}</summary>
<p class="question">${record.question}</p><p class="response">${tokens}</p></details>`;
}
