/** Each native call occupies the JavaScript thread for less than a millisecond; the work is done elsewhere. */
import test from 'ava';
import { loadModel } from '../../lib/model/load.js';

/** Least time of several calls, in milliseconds: what the call itself costs, not what a busy machine adds. */
function cost(call: () => unknown, repeats = 7): number {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < repeats; i++) {
    const start = performance.now();
    call();
    least = Math.min(least, performance.now() - start);
  }
  return least;
}

test('every native call returns within a millisecond', async (t) => {
  const model = await loadModel('embedded', { device: 'cpu', dtype: 'float32' });
  const { addon, native } = model;
  const tokenIds = Int32Array.from({ length: 500 }, (_, i) => (i * 7) % 500);
  const costs: Record<string, number> = {};
  const pending: Promise<unknown>[] = [];
  const measure = (name: string, call: () => unknown, repeats?: number) => {
    costs[name] = cost(() => {
      const result = call();
      if (result instanceof Promise) pending.push(result);
    }, repeats);
  };

  measure('info', () => addon.info());
  measure('cudaDevices', () => addon.cudaDevices());
  measure('setThreads', () => addon.setThreads(2));
  measure('peakMemoryBytes', () => addon.peakMemoryBytes());
  measure('accessors', () => [
    native.parameterCount,
    native.weightBytes,
    native.device,
    native.weightVersion,
  ]);
  measure('tensorNames', () => native.tensorNames());
  measure('tensorShape', () => native.tensorShape('model.norm.weight'));
  measure('logits', () => native.logits(tokenIds));
  measure('scores', () => native.scores(tokenIds));
  await Promise.all(pending.splice(0));

  const engine = addon.createRolloutEngine(native, { maxBranches: 64, endTokenIds: new Int32Array() });
  measure('createRolloutEngine', () =>
    addon.createRolloutEngine(native, { maxBranches: 64, endTokenIds: new Int32Array() }).dispose(),
  );
  measure('addTrunk', () => engine.addTrunk({ tokenIds, scoreFrom: 1, alternatives: 2 }));
  const { trunk } = await engine.addTrunk({ tokenIds, scoreFrom: tokenIds.length, alternatives: 0 });
  let id = 0;
  const branches = () =>
    Array.from({ length: 64 }, () => ({
      id: id++,
      trunk,
      length: 100,
      forcedTokens: Int32Array.of(5),
      maxNewTokens: 300,
      temperature: 0,
      topP: 1,
      seed: 1,
    }));
  const batches = Array.from({ length: 7 }, branches);
  measure('submit', () => engine.submit(batches.pop() ?? []));
  // Each of these while a step is under way, which must not hold them up.
  measure('step', () => engine.step(3), 3);
  const more = Array.from({ length: 7 }, branches);
  measure('submit in mid-step', () => engine.submit(more.pop() ?? []));
  measure('cancel in mid-step', () => engine.cancel([id - 1, id - 2, id - 3]));
  measure('releaseTrunk in mid-step', () => engine.releaseTrunk(trunk), 1);
  measure('interrupt in mid-step', () => engine.interrupt());
  measure('dispose in mid-step', () => engine.dispose(), 1);
  await Promise.allSettled(pending.splice(0));

  const options = {
    masterWeights: false,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: 1,
  };
  measure('createTrainer', () => addon.createTrainer(native, { ...options, seed: 0 }), 1);
  const trainer = await addon.createTrainer(native, { ...options, seed: 0 });
  const selected = Int32Array.from({ length: 499 }, (_, i) => i);
  const batch = {
    tokenIds,
    sequenceStarts: Int32Array.of(0, 500),
    selected,
    targets: selected.map((i) => i % 500),
    weights: new Float32Array(499).fill(1 / 499),
    dropoutCounter: 0,
  };
  measure('accumulate', () => trainer.accumulate(batch), 3);
  measure('score', () => trainer.score(batch), 3);
  measure('optimizer step', () => trainer.step(1e-4), 2);
  measure('gradient', () => trainer.gradient('model.norm.weight'), 2);
  measure('parameterNames', () => trainer.parameterNames());
  measure('trainer.dispose', () => trainer.dispose(), 1);
  await Promise.allSettled(pending);
  measure('model.dispose', () => native.dispose(), 1);

  const slow = Object.entries(costs).filter(([, milliseconds]) => !(milliseconds < 1));
  t.deepEqual(slow, []);
  t.log(
    Object.entries(costs)
      .map(([name, milliseconds]) => `${name} ${Math.round(milliseconds * 1000)}`)
      .join(', '),
    'µs',
  );
});
