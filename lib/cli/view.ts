/**
 * Progress on standard error: a bar that is redrawn on a terminal, a line every few seconds elsewhere. Results go to
 * standard output and never through here.
 */
import { count, duration } from './format.js';

export interface ProgressState {
  done: number;
  total: number;
  /** 0 to 1. */
  share: number;
  tokensPerSecond: number;
  secondsLeft?: number | undefined;
  /** What the techniques saved so far, in words. */
  note?: string | undefined;
}

/** Where a view writes: standard error, or a stand-in in tests. */
export interface ViewStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

const lineEvery = 5000; // ms, where there is no terminal
/** Columns of the bar, on a wide terminal and on one of the usual 80. */
const barWidth = { wide: 24, narrow: 10 };

export class View {
  readonly #stream: ViewStream;
  readonly #now: () => number;
  #bar = false;
  #lastLine = Number.NEGATIVE_INFINITY;
  #title = '';

  constructor(stream: ViewStream = process.stderr, now: () => number = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
  }

  #clear(): void {
    if (this.#bar) this.#stream.write('\r\u001b[2K');
    this.#bar = false;
  }

  /** A line that stays. */
  line(text: string): void {
    this.#clear();
    this.#stream.write(`${text}\n`);
  }

  /** A new piece of work begins. */
  start(title: string): void {
    this.#title = title;
    this.#lastLine = this.#now();
    if (!this.#stream.isTTY) this.line(`${title} ...`);
  }

  progress({ done, total, share, tokensPerSecond, secondsLeft, note }: ProgressState): void {
    const rest = secondsLeft === undefined ? '' : `, ${duration(secondsLeft)} left`;
    const more = note ? `, ${note}` : '';
    const figures = `${count(done)}/${count(total)}, ${count(tokensPerSecond)} tokens/s${rest}${more}`;
    const share100 = `${Math.floor(100 * share)} %`.padStart(5);
    if (this.#stream.isTTY) {
      const columns = this.#stream.columns ?? 80;
      const width = columns < 100 ? barWidth.narrow : barWidth.wide;
      const filled = Math.round(width * share);
      const bar = `${'█'.repeat(filled)}${'░'.repeat(width - filled)}`;
      const text = `${this.#title.padEnd(26)} ${bar} ${share100}  ${figures}`;
      this.#clear();
      this.#stream.write(text.slice(0, columns - 1));
      this.#bar = true;
    } else if (this.#now() - this.#lastLine >= lineEvery) {
      this.#lastLine = this.#now();
      this.line(`${this.#title}: ${share100.trim()}, ${figures}`);
    }
  }

  /** Removes the bar. */
  end(): void {
    this.#clear();
  }
}
