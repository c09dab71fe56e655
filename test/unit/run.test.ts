/** Events and results of a run. */
import test from 'ava';
import { Run } from '../../lib/run.js';

test('events that wait are read in their order, however many there are', async (t) => {
  t.timeout(60_000);
  const count = 400_000;
  const run = new Run<number, string>(async (emit) => {
    for (let i = 0; i < count; i++) emit(i);
    return 'done';
  });
  t.is(await run, 'done');
  const start = performance.now();
  let expected = 0;
  let wrong = 0;
  for await (const event of run) if (event !== expected++) wrong++;
  t.is(expected, count);
  t.is(wrong, 0);
  // A list that is shifted event by event takes twice as long and more.
  t.true(performance.now() - start < 6000);
});

test('events are read while others come', async (t) => {
  const run = new Run<number, void>(async (emit) => {
    for (let i = 0; i < 5000; i++) {
      emit(i);
      if (i % 7 === 0) await new Promise(setImmediate);
    }
  });
  const read: number[] = [];
  for await (const event of run) read.push(event);
  t.deepEqual(
    read,
    Array.from({ length: 5000 }, (_, i) => i),
  );
});

test('two readers share the events, and both come to an end', async (t) => {
  t.timeout(10_000);
  const run = new Run<number, void>(async (emit) => {
    for (let i = 0; i < 20; i++) {
      await new Promise(setImmediate);
      emit(i);
    }
  });
  const read = async (): Promise<number[]> => {
    const events: number[] = [];
    for await (const event of run) events.push(event);
    return events;
  };
  const [first, second] = await Promise.all([read(), read()]);
  t.deepEqual(
    [...first!, ...second!].sort((a, b) => a - b),
    Array.from({ length: 20 }, (_, i) => i),
  );
});

test('a run that fails tells its events first', async (t) => {
  const run = new Run<number, void>(async (emit) => {
    emit(1);
    throw new Error('failed');
  });
  const read: number[] = [];
  const error = await t.throwsAsync(async () => {
    for await (const event of run) read.push(event);
  });
  t.is(error?.message, 'failed');
  t.deepEqual(read, [1]);
});
