/** `--stop-at-answer`: ends a response at the first token after which its answer is complete. */
import type { StopAt } from './rollout-driver.js';
import { StreamDecoder } from './stream-decoder.js';

/** A response that is decoded as it grows. */
interface GrowingText {
  decoder: StreamDecoder;
  text: string;
}

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

  /** For a response from its start. */
  whole(): StopAt {
    return this.#stopAt([], { decoder: new StreamDecoder(this.#textOf), text: '' });
  }

  /** For responses that leave this one; each of its tokens is turned into text only once. */
  along(tokenIds: Int32Array): (position: number, alternative: number) => StopAt {
    const decoder = new StreamDecoder(this.#textOf);
    const places: GrowingText[] = [{ decoder: decoder.copy(), text: '' }];
    for (const id of tokenIds) {
      const text = places.at(-1)!.text + decoder.push(id);
      places.push({ decoder: decoder.copy(), text });
    }
    return (position, alternative) => {
      const place = places[position]!;
      const after = place.decoder.copy();
      const text = place.text + after.push(alternative);
      return this.#stopAt([...tokenIds.subarray(0, position), alternative], { decoder: after, text });
    };
  }

  #stopAt(head: readonly number[], { decoder, text: start }: GrowingText): StopAt {
    let text = start;
    let seen = 0;
    return (tokenIds) => {
      const before = seen;
      seen = tokenIds.length;
      text += decoder.push(...tokenIds.slice(before));
      return this.#completed(text) ? this.#fewest(head, tokenIds, before) : undefined;
    };
  }

  /**
   * The fewest tokens that hold the answer, whenever and with how many more it was noticed.
   * @param before most likely fewer than needed.
   */
  #fewest(head: readonly number[], tokenIds: readonly number[], before: number): number | undefined {
    const enough = (count: number): boolean =>
      this.#completed(this.#textOf([...head, ...tokenIds.slice(0, count)]));
    if (!enough(tokenIds.length)) return undefined;
    let [low, high] = enough(before) ? [0, before] : [before + 1, tokenIds.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (enough(middle)) high = middle;
      else low = middle + 1;
    }
    return high;
  }
}
