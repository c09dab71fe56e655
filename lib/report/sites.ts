/** Where critical tokens sit: by place in the response, by kind of token, and which tokens they are. */
import type { AnnotationRecord } from '../types.js';
import { type Frequent, type Kind, kinds, type Share, type Sites } from './data.js';

const parts = 10;
const mostFrequent = 30;

/**
 * Kind of a token by its text: a digit anywhere makes it a digit, else a letter a word, else a sign that computes or
 * compares an operator [ours].
 */
export function kindOf(text: string): Kind {
  if (/\p{N}/u.test(text)) return 'digit';
  if (/\p{L}/u.test(text)) return 'word';
  if (/[\p{Sm}\-−*/^%!:]/u.test(text)) return 'operator';
  return 'other';
}

/** Adds up responses one by one, so that none of them needs to stay in memory. */
export class SiteCounter {
  #responses = 0;
  readonly #positions: Share[] = Array.from({ length: parts }, (_, i) => ({
    name: `${(100 / parts) * i}–${(100 / parts) * (i + 1)} %`,
    tokens: 0,
    critical: 0,
  }));
  readonly #kinds = new Map<Kind, Share>(kinds.map((name) => [name, { name, tokens: 0, critical: 0 }]));
  readonly #texts = new Map<string, Frequent>();

  /** @param pieces text of each token of the response. */
  add(record: AnnotationRecord, pieces: readonly string[]): void {
    const weights = record.critical_mask ?? record.token_weights ?? [];
    this.#responses++;
    for (const [i, text] of pieces.entries()) {
      const kind = kindOf(text);
      const name = text.trim() === '' ? text : text.trim();
      let token = this.#texts.get(name);
      if (token === undefined) {
        token = { text: name, kind, tokens: 0, critical: 0 };
        this.#texts.set(name, token);
      }
      const place = this.#positions[Math.floor((parts * i) / pieces.length)]!;
      for (const group of [token, place, this.#kinds.get(kind)!]) {
        group.tokens++;
        if ((weights[i] ?? 0) > 0) group.critical++;
      }
    }
  }

  /** Undefined where there was no token. */
  get sites(): Sites | undefined {
    const byKind = [...this.#kinds.values()].filter(({ tokens }) => tokens > 0);
    const sum = (pick: (share: Share) => number): number =>
      byKind.reduce((total, share) => total + pick(share), 0);
    const tokens = sum((share) => share.tokens);
    if (tokens === 0) return undefined;
    const frequent = [...this.#texts.values()]
      // A token without text is a part of a character.
      .filter(({ critical, text }) => critical > 0 && text !== '')
      .sort((a, b) => b.critical - a.critical || a.tokens - b.tokens || (a.text < b.text ? -1 : 1))
      .slice(0, mostFrequent);
    const byPosition = this.#positions.filter((place) => place.tokens > 0);
    return {
      responses: this.#responses,
      tokens,
      critical: sum((share) => share.critical),
      byPosition,
      byKind,
      frequent,
    };
  }
}
