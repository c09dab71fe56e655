/** What is measured: each case does its work once and says how many tokens that were. */
import type { Model } from '../lib/model/model.js';

export interface BenchCase {
  name: string;
  /** What one repeat does. */
  what: string;
  /** Prepares the case; the returned function is one repeat and resolves with its useful tokens. */
  prepare(model: Model): Promise<{ repeat: () => Promise<number>; dispose: () => void }>;
}

const tokens = (count: number, vocabulary: number, seed: number) =>
  Int32Array.from({ length: count }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 8) % vocabulary);

const prefill: BenchCase = {
  name: 'prefill',
  what: 'log-probabilities and entropies of one sequence of 256 tokens',
  async prepare(model) {
    const ids = tokens(256, model.config.vocabSize, 1);
    return {
      async repeat() {
        await model.native.scores(ids);
        return ids.length;
      },
      dispose() {},
    };
  },
};

const rollouts: BenchCase = {
  name: 'rollouts',
  what: '128 greedy branches of 64 tokens off one trunk of 128 tokens, 64 at a time',
  async prepare(model) {
    const ids = tokens(128, model.config.vocabSize, 2);
    const engine = model.addon.createRolloutEngine(model.native, {
      maxBranches: 64,
      endTokenIds: new Int32Array(),
    });
    const { trunk } = await engine.addTrunk({ tokenIds: ids, scoreFrom: 128, alternatives: 0 });
    return {
      async repeat() {
        engine.submit(
          Array.from({ length: 128 }, (_, id) => ({
            id,
            trunk,
            length: 1 + id,
            forcedTokens: Int32Array.of(id % model.config.vocabSize),
            maxNewTokens: 64,
            temperature: 0,
            topP: 1,
            seed: 0,
          })),
        );
        let decoded = 0;
        for (let left = 1; left > 0; ) {
          const step = await engine.step(64);
          decoded += step.decodedTokens;
          left = step.active + step.waiting;
        }
        return decoded;
      },
      dispose: () => engine.dispose(),
    };
  },
};

const training: BenchCase = {
  name: 'training',
  what: 'one optimizer step on 16 sequences of 192 tokens, a tenth of them selected (learning rate 0)',
  async prepare(model) {
    const [sequences, length] = [16, 192];
    const ids = tokens(sequences * length, model.config.vocabSize, 3);
    const selected = Int32Array.from({ length: Math.floor(ids.length / 10) }, (_, i) => i * 10 + 3);
    const trainer = await model.createTrainer({
      masterWeights: true,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 0,
      maxGradNorm: 1,
      seed: 0,
    });
    const batch = {
      tokenIds: ids,
      sequenceStarts: Int32Array.from({ length: sequences + 1 }, (_, i) => i * length),
      selected,
      targets: selected.map((i) => ids[i + 1] ?? 0),
      weights: new Float32Array(selected.length).fill(1 / selected.length),
      dropoutCounter: 0,
    };
    return {
      async repeat() {
        await trainer.accumulate(batch);
        await trainer.step(0);
        return ids.length;
      },
      dispose: () => trainer.dispose(),
    };
  },
};

export const cases: readonly BenchCase[] = [prefill, rollouts, training];
