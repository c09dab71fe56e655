/** Wall time of each stage, kept over interruptions. */
import { existsSync, readFileSync } from 'node:fs';
import { writeFileAtomic } from '../files.js';
import type { TrainStage } from './events.js';

export class Stopwatch {
  readonly seconds: Partial<Record<TrainStage, number>>;
  readonly #path: string;
  #current: { stage: TrainStage; start: number } | undefined;

  /** @param path where the times are kept; read where it exists. */
  constructor(path: string) {
    this.#path = path;
    this.seconds = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  }

  /** Ends the stage under way and starts the next. */
  start(stage: TrainStage): void {
    this.stop();
    this.#current = { stage, start: performance.now() };
  }

  stop(): void {
    if (this.#current === undefined) return;
    const { stage, start } = this.#current;
    const before = this.seconds[stage] ?? 0;
    this.seconds[stage] = Number((before + (performance.now() - start) / 1000).toFixed(3));
    this.#current = undefined;
    writeFileAtomic(this.#path, `${JSON.stringify(this.seconds)}\n`);
  }
}
