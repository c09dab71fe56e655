/**
 * A long piece of work that can be watched and awaited: iterate it for events, await it for the result.
 * The work starts at once and goes on whether or not anybody reads the events; unread events are kept for the first
 * reader until the run ends, so nothing is lost and nothing blocks.
 */
export class Run<Event, Result> implements AsyncIterable<Event>, PromiseLike<Result> {
  readonly #events: Event[] = [];
  readonly #result: Promise<Result>;
  #wake: (() => void) | undefined;
  #ended = false;

  /** @param work receives `emit`; its promise is the run's result. */
  constructor(work: (emit: (event: Event) => void) => Promise<Result>) {
    const emit = (event: Event) => {
      this.#events.push(event);
      this.#wake?.();
    };
    // Deferred by a microtask so that a synchronous throw in `work` becomes a rejection, never an exception here.
    this.#result = Promise.resolve()
      .then(() => work(emit))
      .finally(() => {
        this.#ended = true;
        this.#wake?.();
      });
    // A caller who only iterates sees the failure there; this keeps it from being reported as unhandled as well.
    this.#result.catch(() => {});
  }

  // biome-ignore lint/suspicious/noThenProperty: a Run is awaitable by design (the public interface says PromiseLike)
  then<A = Result, B = never>(
    onFulfilled?: ((value: Result) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(onFulfilled, onRejected);
  }

  /** Yields the events in order, then ends; throws the run's error after the last event if it failed. */
  async *[Symbol.asyncIterator](): AsyncIterator<Event> {
    for (;;) {
      while (this.#events.length > 0) yield this.#events.shift() as Event;
      if (this.#ended) break;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    await this.#result;
  }
}
