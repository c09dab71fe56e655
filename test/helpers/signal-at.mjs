/**
 * Loaded before the command line: sends the process a signal once it has printed what CFT_TEST_SIGNAL_AT says. A watcher
 * outside may be seconds late on a busy machine, and a small run is over before that.
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads';

/** Milliseconds after each training step that is told, so that a delayed signal falls into the run. */
const pause = 100;

function wait(milliseconds, cell = new Int32Array(new SharedArrayBuffer(4)), value = 0) {
  Atomics.wait(cell, 0, value, milliseconds);
}

if (isMainThread) {
  const { pattern, times, signal, delays } = JSON.parse(process.env.CFT_TEST_SIGNAL_AT);
  const cell = new Int32Array(new SharedArrayBuffer(4));
  // Beside the main thread, which may be in the middle of anything when the moment comes.
  if (delays.length > 0)
    new Worker(new URL(import.meta.url), { workerData: { cell, signal, delays } }).unref();
  const write = process.stdout.write.bind(process.stdout);
  let text = '';
  let sent = false;
  process.stdout.write = (chunk, ...rest) => {
    const done = write(chunk, ...rest);
    text += chunk;
    const seen = sent ? 0 : [...text.matchAll(new RegExp(pattern, 'g'))].length;
    if (!sent && seen >= times) {
      sent = true;
      if (delays.length === 0) process.kill(process.pid, signal);
      Atomics.store(cell, 0, 1);
      Atomics.notify(cell, 0);
    }
    if (String(chunk).includes('"type":"step"')) wait(pause);
    return done;
  };
} else {
  const { cell, signal, delays } = workerData;
  wait(Number.POSITIVE_INFINITY, cell);
  for (const delay of delays) {
    wait(delay);
    process.kill(process.pid, signal);
  }
}
