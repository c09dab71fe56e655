/** `--stop-at-answer`: ends a response at the first token after which its answer is complete. */
import type { StopAt } from './rollout-driver.js';
import { StreamDecoder } from './stream-decoder.js';

export class AnswerStop {
  readonly #textOf: (tokenIds: readonly number[]) => string;
  readonly #completed: (text: string) => boolean;

  /**
   * @param textOf text of a response as verifiers see it.
   * @param completed whether a text holds a complete answer; once true it must stay true, whatever is added.
   */
  constructor(textOf: (tokenIds: readonly number[]) => string, completed: (text: string) => boolean) {
    this.#textOf = textOf;
    this.#completed = completed;
  }

  /** @param head tokens of the response before those that are looked at. */
  after(head: readonly number[]): StopAt {
    const decoder = new StreamDecoder(this.#textOf);
    let text = decoder.push(...head);
    let seen = 0;
    return (tokenIds) => {
      text += decoder.push(...tokenIds.slice(seen));
      seen = tokenIds.length;
      return this.#completed(text) ? this.#fewest(head, tokenIds) : undefined;
    };
  }

  /** The fewest tokens that hold the answer, whenever and with how many more it was noticed. */
  #fewest(head: readonly number[], tokenIds: readonly number[]): number | undefined {
    const enough = (count: number): boolean =>
      this.#completed(this.#textOf([...head, ...tokenIds.slice(0, count)]));
    if (!enough(tokenIds.length)) return undefined;
    let [low, high] = [0, tokenIds.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (enough(middle)) high = middle;
      else low = middle + 1;
    }
    return high;
  }
}
