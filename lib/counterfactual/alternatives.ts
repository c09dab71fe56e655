/** The alternatives of a response's positions, as the prefill of its trunk found them. */
import { CftError } from '../errors.js';
import type { NativeTrunk } from '../native/binding.js';

/** Four decimals, as in the files; never minus zero, which JSON would not keep. */
const rounded = (logProb: number): number => Math.round(logProb * 1e4) / 1e4 + 0;

export class Alternatives {
  /** log p of the response's own tokens, rounded. */
  readonly logProbs: number[];
  readonly #perPosition: number;
  readonly #ids: Int32Array;
  readonly #logProbs: Float32Array;
  readonly #minProb: number;

  /** @throws CftError ERR_CFT_BAD_WEIGHTS for numbers that are not finite. */
  constructor(
    trunk: NativeTrunk,
    { id, k, minAlternativeProb }: { id: string; k: number; minAlternativeProb: number },
  ) {
    if (!trunk.logProbs.every(Number.isFinite) || !trunk.alternativeLogProbs.every(Number.isFinite)) {
      throw new CftError(
        'ERR_CFT_BAD_WEIGHTS',
        `question ${id}: expected finite log-probabilities, found NaN or infinity: the weights are damaged, or too ` +
          'large for this dtype',
      );
    }
    this.logProbs = Array.from(trunk.logProbs, rounded);
    this.#perPosition = k - 1;
    this.#ids = trunk.alternativeIds;
    this.#logProbs = trunk.alternativeLogProbs;
    this.#minProb = minAlternativeProb;
  }

  /** Place of an alternative among all, by position, then rank (from 2). */
  key(position: number, rank: number): number {
    return position * this.#perPosition + rank - 2;
  }

  token(position: number, rank: number): number {
    return this.#ids[this.key(position, rank)]!;
  }

  logProb(position: number, rank: number): number {
    return rounded(this.#logProbs[this.key(position, rank)]!);
  }

  /** The last rank that the probability floor leaves at a position; 1 where it leaves none. */
  lastRank(position: number): number {
    let rank = 1;
    while (
      rank <= this.#perPosition &&
      Math.exp(this.#logProbs[this.key(position, rank + 1)]!) >= this.#minProb
    )
      rank++;
    return rank;
  }
}
