/** A trainer without tensors: its state is a few numbers that depend on everything it was given, in order. */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../lib/files.js';
import type {
  NativeBatchScores,
  NativeTensorEntry,
  NativeTrainBatch,
  NativeTrainer,
} from '../../lib/native/binding.js';

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

  /** A safetensors file of one tensor, whose bytes are the state as JSON. */
  async saveState(path: string): Promise<void> {
    const text = JSON.stringify({ state: this.state, steps: this.#steps });
    const data = Buffer.from(text.padEnd(Math.ceil(text.length / 4) * 4));
    const header = { state: { dtype: 'F32', shape: [data.length / 4], data_offsets: [0, data.length] } };
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    writeFileAtomic(path, Buffer.concat([length, json, data]));
  }

  async loadState([entry]: NativeTensorEntry[]): Promise<void> {
    const { file, offset, byteLength } = entry!;
    const text = readFileSync(file).toString('utf8', offset, offset + byteLength);
    const saved = JSON.parse(text) as { state: number[]; steps: number };
    this.state = saved.state;
    this.#steps = saved.steps;
  }

  async score(batch: NativeTrainBatch): Promise<NativeBatchScores> {
    const nll = Array.from(batch.selected, (position, i) =>
      Math.abs(Math.sin(this.state[i % 3]! + batch.tokenIds[position]! + batch.targets[i]!)),
    );
    return {
      nll: Float32Array.from(nll),
      entropies: Float32Array.from(nll, (value) => 2 * value),
      correct: Float32Array.from(nll, (value) => (value < 0.5 ? 1 : 0)),
    };
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

/** As much of a model as a training stage asks for; saved, it is the trainer's state. */
export function fakeModel(trainer: FakeTrainer) {
  return {
    dtype: 'float32',
    device: 'cpu',
    config: { vocabSize: 96, layers: 1, hiddenSize: 8, intermediateSize: 8, maxPositions: 128 },
    addon: {
      info: () => ({
        libtorch: '2.13.0',
        cpuCapability: 'AVX2',
        cpuKernels: 'avx2',
        fastBfloat16: false,
        ownProducts: true,
        threads: 1,
      }),
      peakMemoryBytes: () => 1000,
    },
    weightsSha256: async () => 'w',
    createTrainer: async () => trainer,
    save: async (path: string) => {
      mkdirSync(path);
      await trainer.saveState(join(path, 'model.safetensors'));
    },
    [Symbol.asyncDispose]: async () => {},
  };
}
