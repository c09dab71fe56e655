/**
 * The page: one HTML file with the viewer and the data in it. Its content security policy lets only this very script
 * and style run, by their hashes, forbids every connection (to its own server alone while it watches a run) and every
 * way from text to HTML; the data are compressed, so nothing in them can end their element.
 */
import { createHash } from 'node:crypto';
import { deflateRawSync } from 'node:zlib';
import { readAsset } from './assets.js';
import type { ReportData, ShownResponse } from './data.js';
import { escapeHtml } from './html.js';

/** Above this a page gets slow to open and awkward to send. */
export const mostBytes = 5_000_000;

const hashOf = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** @param live whether the page may ask the server that it comes from. */
export function contentSecurityPolicy(live: boolean): string {
  return [
    "default-src 'none'",
    `script-src ${hashOf(readAsset('viewer.js'))}`,
    `style-src ${hashOf(readAsset('viewer.css'))}`,
    'font-src data:',
    ...(live ? ["connect-src 'self'"] : []),
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ');
}

const pack = (data: ReportData): string =>
  deflateRawSync(JSON.stringify(data), { level: 6 }).toString('base64');

/** Data in the page, as `unpack` in the viewer reads them. */
function assemble(data: ReportData, packed: string, live: boolean): string {
  const title = escapeHtml(data.title);
  const attributes = live ? ' data-live="events"' : '';
  return `<!doctype html>
<html lang="en"${attributes}><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${escapeHtml(contentSecurityPolicy(live))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${title}</title>
<style>${readAsset('viewer.css')}</style></head><body>
<main id="report"><h1>${title}</h1><p>${escapeHtml(data.subtitle)}</p>
<noscript><p>The rest of this report is drawn by a script in this file, which loads nothing; please allow it.</p></noscript></main>
<script type="application/octet-stream" id="data">${packed}</script>
<script>${readAsset('viewer.js')}</script>
</body></html>
`;
}

/** Continuations only where `keep` says so. */
function withoutContinuations(
  responses: readonly ShownResponse[],
  keep: (weight: number) => boolean,
): ShownResponse[] {
  return responses.map((response) => ({
    ...response,
    alternatives: response.alternatives.map((alternative) => {
      if (keep(response.weights[alternative[0]] ?? 0)) return alternative;
      const [position, rank, text, logprob, verdict, extracted] = alternative;
      return [position, rank, text, logprob, verdict, extracted];
    }),
  }));
}

/** Ever less of the data, as long as it does not fit: first the long texts that few people open, then responses. */
function* smaller(data: ReportData): Generator<ReportData, void, number> {
  const note = (text: string): string[] => [...data.notes, text];
  let less = data;
  const keep = (notes: string[], is: (weight: number) => boolean): ReportData => ({
    ...data,
    responses: withoutContinuations(data.responses, is),
    notes,
  });
  yield data;
  if (data.responses.some(({ alternatives }) => alternatives.some((row) => row.length > 6))) {
    yield keep(
      note('To keep the page small, continuations are shown at critical tokens only.'),
      (weight) => weight > 0,
    );
    less = keep(
      note('To keep the page small, continuations were left out; annotations.jsonl has them.'),
      () => false,
    );
    yield less;
  }
  for (let { length } = less.responses; length > 0; ) {
    // What is over the limit tells how many to try next.
    const over = yield { ...less, responses: less.responses.slice(0, length) };
    length = Math.min(length - 1, Math.floor((0.97 * length) / over));
    less = { ...less, responsesLeft: data.responsesLeft + data.responses.length - length };
  }
}

/**
 * The page as text, below `mostBytes` where leaving out continuations and responses can bring it there.
 * @param live for a page that is served while the run goes on.
 */
export function renderPage(data: ReportData, { live = false, limit = mostBytes } = {}): string {
  const room = limit - assemble(data, '', live).length;
  const tries = smaller(data);
  let next = tries.next(1);
  for (;;) {
    const shown = next.value ?? {
      ...data,
      responses: [],
      responsesLeft: data.responsesLeft + data.responses.length,
    };
    const packed = pack(shown);
    if (packed.length <= room || next.done) return assemble(shown, packed, live);
    next = tries.next(packed.length / room);
  }
}
