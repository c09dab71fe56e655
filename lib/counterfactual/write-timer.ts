/** Groups writes: a sync for each of many small results would cost more than making them. */
export class WriteTimer {
  readonly #interval: number;
  readonly #write: () => void;
  readonly #onError: (error: unknown) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #last = Number.NEGATIVE_INFINITY;

  /**
   * @param interval milliseconds that something waits at most.
   * @param write writes what there is.
   * @param onError hears of a write that fails when the time is up; other failures are thrown.
   */
  constructor(interval: number, write: () => void, onError: (error: unknown) => void) {
    this.#interval = interval;
    this.#write = write;
    this.#onError = onError;
  }

  /** There is something to write: at once where the last write is long ago, else when the time is up. */
  soon(): void {
    const left = this.#last + this.#interval - performance.now();
    if (left <= 0) this.now();
    else
      this.#timer ??= setTimeout(() => {
        try {
          this.now();
        } catch (error) {
          this.#onError(error);
        }
      }, left);
  }

  now(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#last = performance.now();
    this.#write();
  }
}
