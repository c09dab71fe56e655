/** The plan of a training's memory: what it is made of, and what follows from it. */
import test from 'ava';
import {
  type MemoryRequest,
  type MemorySettings,
  planMemory,
  planMicroBatch,
} from '../../lib/train/memory-plan.js';
import { mostRows, planRun } from '../../lib/train/run-plan.js';

/** SmolLM2-135M. */
const config = {
  vocabSize: 49_152,
  hiddenSize: 576,
  intermediateSize: 1536,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  headDim: 64,
  tieWordEmbeddings: true,
  qkNorm: 'none' as const,
  normPlacement: 'pre' as const,
};
const settings: MemorySettings = {
  config,
  dtype: 'float32',
  parameters: 134_515_008,
  lora: undefined,
  widens: true,
};
const request: MemoryRequest = {
  ...settings,
  microBatchTokens: 600,
  selectedTokens: 45,
  checkpoint: false,
  bf16Moments: false,
  masterWeights: true,
};

test('full fine-tuning takes 16 bytes a parameter in fp32, 18 in bf16 with masters, 14 with bf16 moments', (t) => {
  const perParameter = (changes: Partial<MemoryRequest>): number => {
    const { weights, optimizer } = planMemory({ ...request, ...changes });
    return (weights + optimizer) / request.parameters;
  };
  t.is(perParameter({}), 16);
  t.is(perParameter({ dtype: 'bfloat16' }), 18);
  t.is(perParameter({ dtype: 'bfloat16', bf16Moments: true }), 14);
  t.is(perParameter({ dtype: 'bfloat16', masterWeights: false }), 14);
  t.true(perParameter({ lora: { parameters: 1e6 } }) < 4.2);
});

test('checkpointing keeps one layer and the inputs of the others', (t) => {
  const kept = planMemory(request).activations;
  const checkpointed = planMemory({ ...request, checkpoint: true }).activations;
  t.is(kept, 4 * 600 * 30 * (576 + 960 + 576 + 9 + 576 + 3072 + 2));
  t.is(checkpointed, 4 * 600 * (30 * 576 + 576 + 960 + 576 + 9 + 576 + 3072 + 2));
});

test('bf16 weights are widened by libtorch alone: our products need no fp32 copy of the head', (t) => {
  const half = { ...request, dtype: 'bfloat16', lora: { parameters: 4.4e6 } } as const;
  const head = 4 * 45 * 49_152;
  t.is(planMemory({ ...half, widens: true }).temporary, head + 4 * 49_152 * 576);
  // Gradients of a layer are more then, as in fp32.
  t.is(planMemory({ ...half, widens: false }).temporary, planMemory(request).temporary);

  const of = (ownProducts: boolean): number => {
    const model = {
      config,
      device: 'cpu',
      dtype: 'bfloat16',
      parameterCount: request.parameters,
      addon: { info: () => ({ ownProducts }) },
    } as unknown as Parameters<typeof planRun>[0];
    const options = {
      batch: { batchSize: 2 },
      microBatchTokens: 'auto',
      gradientCheckpointing: 'auto',
      moments: 'float32',
      masterWeights: 'float32',
      lora: undefined,
    } as const;
    return planRun(model, options, [{ tokenIds: new Int32Array(300), selected: Int32Array.of(9) }])
      .peakBytes!;
  };
  t.true(of(false) - of(true) > 100e6);
});

test('micro-batches grow with the model, within bounds; a sequence that is too long for it is checkpointed', (t) => {
  const { microBatchTokens, checkpoint } = planMicroBatch(settings, 300);
  t.true(microBatchTokens >= 512 && microBatchTokens <= 1024, `${microBatchTokens}`);
  t.false(checkpoint);
  t.true(planMicroBatch(settings, 8192).checkpoint);
  const tiny = {
    ...config,
    hiddenSize: 64,
    intermediateSize: 128,
    layers: 2,
    heads: 2,
    kvHeads: 1,
    headDim: 32,
  };
  t.is(planMicroBatch({ ...settings, config: tiny, parameters: 1e5 }, 100).microBatchTokens, 4096);
});

test('on a GPU activations and a chunk of logits share 16 GB; checkpointing is done where it is asked for', (t) => {
  const half = { ...settings, dtype: 'bfloat16' } as const;
  const plain = planMicroBatch(half, 300, false);
  t.deepEqual(plain, { microBatchTokens: 16_384, checkpoint: false });
  t.true(planMicroBatch(half, 300, false, 'on').checkpoint);
  const large = {
    ...config,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    layers: 32,
    heads: 32,
    headDim: 128,
  };
  const one = planMicroBatch({ ...half, config: large }, 300, false);
  t.false(one.checkpoint);
  const long = planMicroBatch({ ...half, config: large }, 8192, false);
  t.true(long.checkpoint, 'one sequence alone would not fit');
  t.true(long.microBatchTokens > one.microBatchTokens);
  t.is(planMicroBatch({ ...half, config: large }, 300, false, 'on').microBatchTokens, one.microBatchTokens);
  const wider = planMicroBatch({ ...half, config: { ...large, vocabSize: 256_000 } }, 300, false);
  t.true(wider.microBatchTokens < one.microBatchTokens, 'more logits leave less');
});

test('on a CPU checkpointing can be asked for and refused', (t) => {
  t.true(planMicroBatch(settings, 300, true, 'on').checkpoint);
  t.false(planMicroBatch(settings, 8192, true, 'off').checkpoint);
});

test('rows that sequences share count once, unless dropout makes them differ', (t) => {
  const of = (...lists: number[][]) =>
    lists.map((ids) => ({ tokenIds: Int32Array.from(ids), selected: Int32Array.of(ids.length - 1) }));
  t.is(mostRows(of([1, 2, 3], [4, 5], [6]), 3), 6);
  t.is(mostRows(of([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6, 7]), 3), 3 + 1 + 1 + 2 + 0);
  t.is(mostRows(of([1, 2], [1, 2], [1, 2]), 2), 2);
  t.is(mostRows([], 2), 0);

  const shared = Array.from({ length: 400 }, (_, i) => i);
  const examples = of(
    ...Array.from({ length: 24 }, (_, j) => [...shared, ...Array.from({ length: 60 }, () => 500 + j)]),
  );
  const model = {
    config,
    device: 'cpu',
    dtype: 'float32',
    parameterCount: request.parameters,
    addon: { info: () => ({ ownProducts: true }) },
  } as unknown as Parameters<typeof planRun>[0];
  const lora = { rank: 8, alpha: 16, dropout: 0, targets: ['q_proj'], rankStabilized: false };
  const options = {
    batch: { batchSize: 12 },
    microBatchTokens: 6000,
    gradientCheckpointing: 'off',
    moments: 'float32',
    masterWeights: 'float32',
    lora,
  } as const;
  const plain = planRun(model, options, examples).peakBytes!;
  const dropped = planRun(model, { ...options, lora: { ...lora, dropout: 0.1 } }, examples).peakBytes!;
  const perRow = 4 * 30 * (576 + 960 + 576 + 9 + 576 + 3072 + 2);
  // 12 x 460 rows against 400 + 12 x 60, and what a layer's backward needs beside.
  t.true(dropped - plain > perRow * (5520 - 1120), `${plain} ${dropped}`);
});
