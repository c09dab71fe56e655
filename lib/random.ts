/**
 * A small seeded generator for everything that JavaScript draws: data order, bootstrap resamples. Its sequence is
 * part of the run's reproducibility, so it must not change between versions. Never for secrets.
 */

/** FNV-1a, 32 bit, with a final avalanche so that near labels give far seeds. */
function hash(text: string, basis: number): number {
  let state = basis >>> 0;
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193);
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35);
  return (state ^ (state >>> 16)) >>> 0;
}

/** sfc32 (Chris Doty-Humphrey, PractRand), seeded by labels: `new Random('order', seed, epoch)`. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(...labels: (string | number)[]) {
    const text = labels.join('\u0000');
    this.#a = hash(text, 0x811c9dc5);
    this.#b = hash(text, 0x9e3779b9);
    this.#c = hash(text, 0x243f6a88);
    for (let i = 0; i < 12; i++) this.uint32();
  }

  uint32(): number {
    const result = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + result;
    return result >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.uint32() / 0x100000000;
  }

  /** Uniform integer in [0, below), below up to 2^32. */
  integer(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  /** A random order of 0..count-1 (Fisher and Yates). */
  permutation(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}
