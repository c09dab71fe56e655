/**
 * Encoding without a promise. The `tokenizers` package encodes on a thread pool and answers through the event loop,
 * but `tokenizer.encode(text)` is to return ids; so a worker thread with the same tokenizer does the work while this
 * thread waits. Started at the first use; about 0.3 ms a call, so loops use `encodeBatch`.
 */
import { createRequire } from 'node:module';
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { CftError } from '../errors.js';

// Plain JavaScript in a string: it runs alike from sources, from dist and under a loader. It must never throw
// outside its try, or the waiting thread would only learn of it by the timeout.
const workerSource = `
const { workerData } = require('node:worker_threads');
const { port, flag, modulePath, json } = workerData;
const done = (answer) => { port.postMessage(answer); Atomics.add(flag, 0, 1); Atomics.notify(flag, 0); };
let tokenizer, failure;
try { tokenizer = require(modulePath).Tokenizer.fromString(json); } catch (error) { failure = String(error); }
port.on('message', async (text) => {
  try {
    if (failure) throw new Error(failure);
    const encoding = await tokenizer.encode(text, null, { addSpecialTokens: false });
    done({ ids: Int32Array.from(encoding.getIds()) });
  } catch (error) { done({ error: String(error) }); }
});`;

/**
 * How long a worker may take; each next value is for a fresh one. Seen once in thousands of starts: a worker that
 * never answered. An encoding takes milliseconds, and may be done twice.
 */
const patienceMs = [10_000, 60_000, 120_000];

export class SyncEncoder {
  readonly #json: string;
  readonly #patienceMs: readonly number[];
  #worker!: Worker;
  #port!: MessagePort;
  #flag!: Int32Array;

  /** @param json the text of a tokenizer.json. */
  constructor(json: string, patience: readonly number[] = patienceMs) {
    this.#json = json;
    this.#patienceMs = patience;
    this.#start();
  }

  #start(): void {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#flag = new Int32Array(new SharedArrayBuffer(4));
    this.#worker = new Worker(workerSource, {
      eval: true,
      execArgv: [],
      workerData: {
        port: port2,
        flag: this.#flag,
        modulePath: createRequire(import.meta.url).resolve('tokenizers'),
        json: this.#json,
      },
      transferList: [port2],
    });
    // Neither keeps the process alive.
    this.#worker.unref();
    port1.unref();
  }

  encode(text: string): Int32Array {
    for (const [attempt, patience] of this.#patienceMs.entries()) {
      if (attempt > 0) {
        this.dispose();
        this.#start();
      }
      const answer = this.#ask(text, patience);
      if (answer === undefined) continue;
      if (answer.error !== undefined)
        throw new CftError('ERR_CFT_INTERNAL', `the tokenizer failed: ${answer.error}`);
      return answer.ids;
    }
    throw new CftError('ERR_CFT_INTERNAL', 'the tokenizer thread does not answer');
  }

  #ask(
    text: string,
    patience: number,
  ): { ids: Int32Array; error?: undefined } | { error: string } | undefined {
    const before = Atomics.load(this.#flag, 0);
    this.#port.postMessage(text);
    Atomics.wait(this.#flag, 0, before, patience);
    return receiveMessageOnPort(this.#port)?.message;
  }

  dispose(): void {
    this.#port.close();
    void this.#worker.terminate();
  }
}
