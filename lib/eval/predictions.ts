/** predictions.jsonl: one line per response of an evaluation. */
import { appendLines, recoverJsonLines } from '../files.js';

export interface Prediction {
  id: string;
  /** From 0; 0 alone where each question has one response. */
  sample: number;
  answer: string;
  response: string;
  /** Without the end token. */
  response_token_ids: number[];
  /** `length` where the token limit cut it. */
  finish_reason: 'stop' | 'length';
  /** Whatever the response's length: a cut response that holds the right answer is correct [ours, as harnesses do]. */
  correct: boolean;
  extracted?: string;
  /** Mean over the response's tokens of the entropy of their distributions, nats; absent where not measured. */
  mean_entropy?: number;
}

const key = (id: string, sample: number): string => `${sample}\u0000${id}`;
const flushEvery = 500; // ms

/** Collects predictions and puts them on disk twice a second: one sync per response would cost more than decoding. */
export class PredictionFile {
  readonly #path: string;
  readonly #known = new Map<string, Prediction>();
  #pending: string[] = [];
  #flushed = performance.now();

  /** Takes up what an interrupted run left at `path`. */
  constructor(path: string) {
    this.#path = path;
    for (const prediction of recoverJsonLines<Prediction>(path)) this.#remember(prediction);
  }

  #remember(prediction: Prediction): void {
    this.#known.set(key(prediction.id, prediction.sample), prediction);
  }

  get size(): number {
    return this.#known.size;
  }

  get(id: string, sample: number): Prediction | undefined {
    return this.#known.get(key(id, sample));
  }

  add(prediction: Prediction): void {
    this.#remember(prediction);
    this.#pending.push(JSON.stringify(prediction));
    if (performance.now() - this.#flushed > flushEvery) this.flush();
  }

  flush(): void {
    appendLines(this.#path, this.#pending);
    this.#pending = [];
    this.#flushed = performance.now();
  }
}
