/**
 * A long piece of work that can be watched and awaited: iterate it for events, await it for the result.
 * The work starts at once and goes on whether or not anybody reads the events; unread events are kept for the first
 * reader until the run ends, so nothing is lost and nothing blocks.
 */
export class Run<Event, Result> implements AsyncIterable<Event>, PromiseLike<Result> {
  #events: Event[] = [];
  /** Events before this one were read. */
  #read = 0;
  readonly #result: Promise<Result>;
  /** Readers that wait for news. */
  #waiting: (() => void)[] = [];
  #ended = false;

  /** @param work receives `emit`; its promise is the run's result. */
  constructor(work: (emit: (event: Event) => void) => Promise<Result>) {
    const emit = (event: Event) => {
      this.#events.push(event);
      this.#wake();
    };
    // Deferred by a microtask so that a synchronous throw in `work` becomes a rejection, never an exception here.
    this.#result = Promise.resolve()
      .then(() => work(emit))
      .finally(() => {
        this.#ended = true;
        this.#wake();
      });
    // A caller who only iterates sees the failure there; this keeps it from being reported as unhandled as well.
    this.#result.catch(() => {});
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** The next unread event. */
  #take(): Event {
    const event = this.#events[this.#read++] as Event;
    // Now and then: shifting a long list moves all of it for each event.
    if (this.#read >= 1024 && 2 * this.#read >= this.#events.length) {
      this.#events = this.#events.slice(this.#read);
      this.#read = 0;
    }
    return event;
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
      while (this.#read < this.#events.length) yield this.#take();
      if (this.#ended) break;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    await this.#result;
  }
}
