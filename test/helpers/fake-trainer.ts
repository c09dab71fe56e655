/** A trainer without tensors: its state is a few numbers that depend on everything it was given, in order. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { NativeTensorEntry, NativeTrainBatch, NativeTrainer } from '../../lib/native/binding.js';

export class FakeTrainer implements NativeTrainer {
  readonly trainableParameters = 3;
  state = [0.1, 0.2, 0.3];
  #gradient = [0, 0, 0];
  /** Steps at which the gradient is not finite. */
  readonly #bad: ReadonlySet<number>;
  #steps = 0;

  constructor(badSteps: readonly number[] = []) {
    this.#bad = new Set(badSteps);
  }

  async accumulate(batch: NativeTrainBatch): Promise<number> {
    let loss = 0;
    for (let i = 0; i < batch.selected.length; i++) {
      const nll = Math.abs(
        Math.sin(this.state[i % 3]! + batch.tokenIds[batch.selected[i]!]! + batch.targets[i]!),
      );
      loss += batch.weights[i]! * nll;
      this.#gradient[i % 3]! += batch.weights[i]! * nll;
    }
    return loss;
  }

  async step(learningRate: number): Promise<{ gradNorm: number; applied: boolean }> {
    const gradNorm = Math.hypot(...this.#gradient);
    const applied = !this.#bad.has(this.#steps++);
    if (applied) this.state = this.state.map((value, i) => value - learningRate * this.#gradient[i]!);
    this.#gradient = [0, 0, 0];
    return { gradNorm: applied ? gradNorm : Number.POSITIVE_INFINITY, applied };
  }

  async saveState(path: string): Promise<void> {
    writeFileSync(path, JSON.stringify({ state: this.state, steps: this.#steps }));
  }

  async loadState(entries: NativeTensorEntry[]): Promise<void> {
    const saved = JSON.parse(readFileSync(entries[0]!.file, 'utf8')) as { state: number[]; steps: number };
    this.state = saved.state;
    this.#steps = saved.steps;
  }

  score(): never {
    throw new Error('the loop does not score');
  }
  gradient(): never {
    throw new Error('the loop does not read gradients');
  }
  parameterNames(): string[] {
    return [];
  }
  async saveAdapter(): Promise<void> {}
  dispose(): void {}
}

/** Stands for reading a safetensors header: one entry that names the file. */
export const fakeTensors = (path: string): NativeTensorEntry[] => [
  { name: 'state', file: path, dtype: 'F32', shape: [1], offset: 0, byteLength: 4 },
];
