/** Sets questions (or annotation records) aside for validation. */
import { createHash } from 'node:crypto';

/**
 * Splits by a hash of seed and id, so that the sides do not depend on the order of the items: the `share` of the
 * distinct ids with the smallest hashes is for validation, the rest for training. Items keep their order; items of
 * one id stay together; at least one id stays for training, and with `share > 0` and two ids or more at least one is
 * for validation.
 *
 * @param share in [0, 1)
 */
export function splitValidation<T extends { id: string }>(
  items: readonly T[],
  share: number,
  seed: number,
): { training: T[]; validation: T[] } {
  const hashes = new Map<string, string>();
  for (const { id } of items) {
    if (!hashes.has(id)) hashes.set(id, createHash('sha256').update(`${seed}\0${id}`).digest('hex'));
  }
  const wanted = share > 0 ? Math.max(1, Math.round(share * hashes.size)) : 0;
  const count = Math.max(0, Math.min(wanted, hashes.size - 1));
  const sorted = [...hashes].sort(([, a], [, b]) => (a < b ? -1 : 1));
  const chosen = new Set(sorted.slice(0, count).map(([id]) => id));
  return {
    training: items.filter(({ id }) => !chosen.has(id)),
    validation: items.filter(({ id }) => chosen.has(id)),
  };
}
