/** Turns a growing sequence of ids into text; what it gives concatenates to the decoding of the whole sequence. */
export class StreamDecoder {
  readonly #decode: (ids: readonly number[]) => string;
  #ids: number[] = [];
  /** Ids before this are context only: their text is out. */
  #done = 0;

  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode;
  }

  /** One that goes on from here on its own. */
  copy(): StreamDecoder {
    const copy = new StreamDecoder(this.#decode);
    copy.#ids = [...this.#ids];
    copy.#done = this.#done;
    return copy;
  }

  /** Text that has become certain; empty while a character is incomplete. */
  push(...ids: readonly number[]): string {
    if (ids.length === 0) return '';
    this.#ids.push(...ids);
    const before = this.#decode(this.#ids.slice(0, this.#done));
    const text = this.#decode(this.#ids);
    // A replacement character at the end may be the first bytes of a character still to come.
    if (text.length <= before.length || text.endsWith('\ufffd')) return '';
    this.#ids = this.#ids.slice(this.#done);
    this.#done = this.#ids.length;
    return text.slice(before.length);
  }

  /** What is left at the end: bytes that never became a character. */
  flush(): string {
    const before = this.#decode(this.#ids.slice(0, this.#done));
    const text = this.#decode(this.#ids);
    this.#done = this.#ids.length;
    return text.slice(before.length);
  }
}
