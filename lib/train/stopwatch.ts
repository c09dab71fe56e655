/** Wall time of each stage, kept over interruptions. */
import { existsSync, readFileSync } from 'node:fs';
import { writeFileAtomic } from '../files.js';
import type { TrainStage } from './events.js';

export class Stopwatch {
  readonly seconds: Partial<Record<TrainStage, number>>;
  readonly #path: string;
  readonly #saveEvery: number;
  #timer: NodeJS.Timeout | undefined;
  #current: { stage: TrainStage; start: number } | undefined;

  /** @param path where the times are kept; read where it exists; @param saveEvery ms between writes. */
  constructor(path: string, saveEvery = 5000) {
    this.#path = path;
    this.#saveEvery = saveEvery;
    this.seconds = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  }

  /** Ends the stage under way and starts the next. */
  start(stage: TrainStage): void {
    this.stop();
    this.#current = { stage, start: performance.now() };
    // A run that is killed loses a few seconds of its account, not all of a stage.
    this.#timer = setInterval(() => this.#save(), this.#saveEvery).unref();
  }

  #save(): void {
    if (this.#current === undefined) return;
    const { stage, start } = this.#current;
    const now = performance.now();
    this.seconds[stage] = Number(((this.seconds[stage] ?? 0) + (now - start) / 1000).toFixed(3));
    this.#current.start = now;
    try {
      writeFileAtomic(this.#path, `${JSON.stringify(this.seconds)}\n`);
    } catch {
      // A full disk, most likely: an account of times is no reason to end a run, nor to hide why it ends.
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#save();
    this.#current = undefined;
  }
}
