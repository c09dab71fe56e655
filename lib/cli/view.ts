/**
 * Progress on standard error: a bar that is redrawn on a terminal, a line every few seconds elsewhere. Results go to
 * standard output and never through here.
 */
import { type ColorStream, type Painter, painterOf, type Style } from './color.js';
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
export interface ViewStream extends ColorStream {
  write(text: string): unknown;
  columns?: number;
}

const lineEvery = 5000; // ms, where there is no terminal
/** Columns of the bar, on a wide terminal and on one of the usual 80. */
const barWidth = { wide: 24, narrow: 10 };

export class View {
  readonly #stream: ViewStream;
  readonly #now: () => number;
  readonly paint: Painter;
  #bar = false;
  #lastLine = Number.NEGATIVE_INFINITY;
  #title = '';

  constructor(stream: ViewStream = process.stderr, now: () => number = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
    this.paint = painterOf(stream);
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
    this.bar(share, `${count(done)}/${count(total)}, ${count(tokensPerSecond)} tokens/s${rest}${more}`);
  }

  /** @param share 0 to 1. @param figures what follows the bar. */
  bar(share: number, figures: string): void {
    const share100 = `${Math.floor(100 * share)} %`.padStart(5);
    if (this.#stream.isTTY) {
      // 0 where the terminal does not say.
      const columns = this.#stream.columns || 80;
      const width = columns < 100 ? barWidth.narrow : barWidth.wide;
      const filled = Math.max(0, Math.min(width, Math.round(width * share)));
      this.#clear();
      this.#stream.write(
        this.#cut(columns - 1, [
          [this.#title.padEnd(26), 'bold'],
          [' '],
          ['█'.repeat(filled), 'cyan'],
          ['░'.repeat(width - filled), 'dim'],
          [` ${share100}  ${figures}`],
        ]),
      );
      this.#bar = true;
    } else if (this.#now() - this.#lastLine >= lineEvery) {
      this.#lastLine = this.#now();
      this.line(`${this.#title}: ${share100.trim()}, ${figures}`);
    }
  }

  /** Painted pieces in so many columns: a bar that wraps could not be redrawn. */
  #cut(columns: number, pieces: readonly (readonly [text: string, style?: Style])[]): string {
    let left = columns;
    return pieces
      .map(([text, style]) => {
        const shown = text.slice(0, Math.max(0, left));
        left -= shown.length;
        return style === undefined || shown === '' ? shown : this.paint(style, shown);
      })
      .join('');
  }

  /** Removes the bar. */
  end(): void {
    this.#clear();
  }
}
