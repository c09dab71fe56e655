/** The Node API of a model on the tiny checkpoints: generation, streaming, and what is refused. */
import test from 'ava';
import { CftError, type CftErrorCode } from '../../lib/errors.js';
import type { GenerateOptions } from '../../lib/model/generation.js';
import { type LoadEvent, loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import { fixturePath } from '../helpers/fixtures.js';
import { load } from '../helpers/load-model.js';

const prompts = [[43, 54, 5], [82, 29, 6, 73, 27], [33], [76, 63, 37, 4, 30, 38, 84, 24]];

/** Everything that one generation says, in a form that compares. */
async function texts(model: Model, options: GenerateOptions, given = prompts): Promise<string[][]> {
  const results = await model.generate(given, { maxNewTokens: 12, ...options });
  return results.map((samples) =>
    samples.map(({ tokenIds, text, finishReason }) => `${[...tokenIds]}|${text}|${finishReason}`),
  );
}

test('what a loaded model says about itself', async (t) => {
  const events: LoadEvent[] = [];
  const model = await load(t, fixturePath('models/qwen2'), { onProgress: (event) => events.push(event) });
  t.like(model, {
    device: 'cpu',
    dtype: 'float32',
    parameterCount: 18_720,
    name: fixturePath('models/qwen2'),
  });
  t.deepEqual([...model.endTokenIds], [1]);
  t.like(model.config, { modelType: 'qwen2', layers: 2, vocabSize: 96 });
  t.deepEqual(events, [
    {
      type: 'load',
      model: fixturePath('models/qwen2'),
      parameters: 18_720,
      device: 'cpu',
      dtype: 'float32',
    },
  ]);
  t.deepEqual(
    [...model.promptFor('1+1', { userTemplate: '{question}' })],
    [...model.tokenizer.encode('1+1\n')],
  );
  t.is(await model.weightsSha256(), await model.weightsSha256());
  t.regex(await model.weightsSha256(), /^[0-9a-f]{64}$/);
  t.is(model.tokenizerSha256(), (await load(t, fixturePath('models/olmo2'))).tokenizerSha256());
});

test('greedy generation of a batch is that of each prompt alone', async (t) => {
  const model = await load(t, fixturePath('models/olmo3'));
  const together = await texts(model, {});
  for (const [i, prompt] of prompts.entries()) {
    t.deepEqual(await texts(model, { maxBranches: 1 }, [prompt]), [together[i]!]);
  }
  t.deepEqual(await texts(model, { seed: 9, temperature: 0 }), together, 'a seed changes nothing in greedy');
});

test('samples depend on seed, prompt index and sample index alone', async (t) => {
  const model = await load(t, fixturePath('models/qwen3-sharded'));
  const options = { temperature: 1, topP: 0.95, n: 3, seed: 17 };
  const all = await texts(model, options);
  t.deepEqual(await texts(model, { ...options, maxBranches: 2 }), all);
  t.deepEqual(
    await texts(model, { ...options, n: 1 }),
    all.map((samples) => samples.slice(0, 1)),
  );
  t.deepEqual(await texts(model, options, prompts.slice(0, 2)), all.slice(0, 2));
  t.notDeepEqual(await texts(model, { ...options, seed: 18 }), all);
  t.is(new Set(all[0]).size, 3, 'samples of one prompt differ');
});

test('a tiny nucleus is greedy', async (t) => {
  const model = await load(t, fixturePath('models/mistral'));
  t.deepEqual(await texts(model, { temperature: 2, topP: 1e-9, seed: 3 }), await texts(model, {}));
});

test('sampled tokens follow the distribution of the logits', async (t) => {
  const model = await load(t, fixturePath('models/llama-yarn-f16'));
  const [prompt] = prompts as [number[], ...number[][]];
  const { data } = await model.logits(prompt);
  const last = Array.from(data.slice(-model.config.vocabSize), (logit) => Math.exp(logit / 2));
  const total = last.reduce((sum, value) => sum + value, 0);
  const n = 4000;
  const [samples] = await model.generate([prompt], { n, temperature: 2, maxNewTokens: 1, maxBranches: 128 });
  const counts = new Map<number, number>();
  for (const { tokenIds } of samples!) counts.set(tokenIds[0] ?? 1, (counts.get(tokenIds[0] ?? 1) ?? 0) + 1);
  for (const [id, weight] of last.entries()) {
    const share = weight / total;
    // Five standard deviations.
    const tolerance = 5 * Math.sqrt((share * (1 - share)) / n) + 1 / n;
    t.true(
      Math.abs((counts.get(id) ?? 0) / n - share) < tolerance,
      `token ${id}: ${counts.get(id)} of ${n}, ${share}`,
    );
  }
});

test('a response stops at an end token or at its length', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const results = await model.generate(prompts, { temperature: 1.5, n: 30, seed: 1, maxNewTokens: 60 });
  const all = results.flat();
  t.true(all.some(({ finishReason }) => finishReason === 'stop'));
  for (const { tokenIds, finishReason } of all) {
    t.false(tokenIds.includes(1), 'no end token');
    if (finishReason === 'length') t.is(tokenIds.length, 60);
    else t.true(tokenIds.length < 60, 'the end token counts');
  }
});

test('a response ends where the positions of the model end', async (t) => {
  const model = await load(t, fixturePath('models/olmo2'));
  const prompt = Array.from({ length: 120 }, (_, i) => 3 + (i % 90));
  const [[response] = []] = await model.generate([prompt], { maxNewTokens: 50 });
  t.is(response?.tokenIds.length, 8);
  t.is(response?.finishReason, 'length');
});

test('text is without special tokens', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const results = await model.generate(prompts, { temperature: 2, n: 40, maxNewTokens: 30 });
  const special = results.flat().find(({ tokenIds }) => tokenIds.includes(0));
  t.is(special?.text.length, special?.tokenIds.filter((id) => id > 2).length);
});

test('a stream gives the tokens and the text of generate', async (t) => {
  const model = await load(t, fixturePath('models/qwen2'));
  for (const options of [{}, { temperature: 1, seed: 5, topP: 0.9 }]) {
    const [[expected] = []] = await model.generate([prompts[1]!], { maxNewTokens: 20, ...options });
    const tokens: number[] = [];
    let text = '';
    const stream = model.stream(prompts[1]!, { maxNewTokens: 20, ...options });
    let step = await stream.next();
    for (; !step.done; step = await stream.next()) {
      if (step.value.tokenId !== undefined) tokens.push(step.value.tokenId);
      text += step.value.text;
    }
    t.deepEqual(step.value, expected);
    t.deepEqual(tokens, [...expected!.tokenIds]);
    t.is(text, expected!.text);
  }
});

test('an abort ends generation and streams with its reason, and the model goes on', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const before = await texts(model, {});
  const reason = new Error('enough');
  const controller = new AbortController();
  const running = model.generate(prompts, {
    n: 500,
    temperature: 1,
    maxNewTokens: 100,
    signal: controller.signal,
  });
  setTimeout(() => controller.abort(reason), 20);
  t.is(await t.throwsAsync(running), reason);
  await t.throwsAsync(model.generate(prompts, { signal: AbortSignal.abort(reason) }), { is: reason });
  const stopping = new AbortController();
  const stream = model.stream([5, 6], { signal: stopping.signal });
  await stream.next();
  stopping.abort(reason);
  await t.throwsAsync(stream.next(), { is: reason });
  // Leaving a stream early is no error.
  for await (const { tokenId } of model.stream([5, 6])) {
    t.is(typeof tokenId, 'number');
    break;
  }
  t.deepEqual(await texts(model, {}), before);
});

test('refused: prompts that no model could continue', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  const refused = async (prompt: number[], message: string) => {
    const error = await t.throwsAsync(model.generate([[5], prompt]), { instanceOf: CftError, message });
    t.is((error as CftError).code, 'ERR_CFT_BAD_DATA');
  };
  await refused([], 'prompt 1: expected at least one token, found none');
  await refused([5, 96], 'prompt 1: expected token ids below vocab_size 96, found 96');
  await refused([-1], 'prompt 1: expected token ids below vocab_size 96, found -1');
  await refused(
    new Array(128).fill(5),
    'prompt 1: expected fewer than 128 tokens (max_position_embeddings), found 128',
  );
  await t.throwsAsync(model.generate([[5]], { topP: 2 }), { instanceOf: CftError, message: /^topP: / });
  await t.throwsAsync(model.stream([]).next(), { message: /expected at least one token/ });
});

test('a disposed model says so', async (t) => {
  const model = await loadModel(fixturePath('models/llama'), { device: 'cpu', threads: 1 });
  await model[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
  const error = await t.throwsAsync(async () => model.generate([[5]]), { instanceOf: CftError });
  t.is((error as CftError).code, 'ERR_CFT_DISPOSED');
});

/** What a program without types might hand over; none may be rounded, guessed or end in a TypeError. */
const badCalls: [string, (model: Model) => unknown, CftErrorCode, string][] = [
  [
    'generate',
    (m) => m.generate([[1.5]]),
    'ERR_CFT_BAD_DATA',
    'prompt 0: expected token ids below vocab_size 96, found 1.5',
  ],
  [
    'generate',
    (m) => m.generate([5] as never),
    'ERR_CFT_BAD_DATA',
    'prompt 0: expected a list of token ids, found 5',
  ],
  [
    'generate',
    (m) => m.generate('hi' as never),
    'ERR_CFT_BAD_DATA',
    'prompts: expected a list of lists of token ids, found "hi"',
  ],
  [
    'generate',
    (m) => m.generate([[5]], { maxTokens: 3 } as never),
    'ERR_CFT_BAD_OPTION',
    'unknown option "maxTokens" for generate; did you mean "maxNewTokens"?',
  ],
  [
    'generate',
    (m) => m.generate([[5]], { tempreature: 1 } as never),
    'ERR_CFT_BAD_OPTION',
    'unknown option "tempreature" for generate; did you mean "temperature"?',
  ],
  [
    'generate',
    (m) => m.generate([[5]], { signal: {} as never }),
    'ERR_CFT_BAD_OPTION',
    'signal: expected an AbortSignal, found {}',
  ],
  [
    'generate',
    (m) => m.generate([[5]], null as never),
    'ERR_CFT_BAD_OPTION',
    'options of generate: expected an object, found null',
  ],
  [
    'stream',
    (m) => m.stream([5], { n: 2 } as never).next(),
    'ERR_CFT_BAD_OPTION',
    'unknown option "n" for stream; expected some of maxNewTokens, temperature, topP, seed, signal',
  ],
  [
    'logits',
    (m) => m.logits('hi' as never),
    'ERR_CFT_BAD_DATA',
    'tokenIds: expected a list of token ids, found "hi"',
  ],
  [
    'logits',
    (m) => m.logits([1.5]),
    'ERR_CFT_BAD_DATA',
    'tokenIds: expected token ids below vocab_size 96, found 1.5',
  ],
  [
    'logits',
    (m) => m.logits(undefined as never),
    'ERR_CFT_BAD_DATA',
    'tokenIds: expected a list of token ids, found undefined',
  ],
  ['scores', (m) => m.scores([]), 'ERR_CFT_BAD_DATA', 'tokenIds: expected at least one token, found []'],
  [
    'scores',
    (m) => m.scores(Float32Array.of(2 ** 31) as never),
    'ERR_CFT_BAD_DATA',
    'tokenIds: expected token ids below vocab_size 96, found 2147483648',
  ],
  ['encode', (m) => m.tokenizer.encode(5 as never), 'ERR_CFT_BAD_DATA', 'text: expected a text, found 5'],
  [
    'encodeBatch',
    (m) => m.tokenizer.encodeBatch(['a', null] as never),
    'ERR_CFT_BAD_DATA',
    'texts: expected a list of texts, found ["a",null]',
  ],
  [
    'decode',
    (m) => m.tokenizer.decode(5 as never),
    'ERR_CFT_BAD_DATA',
    'ids: expected a list of token ids, found 5',
  ],
  ['decode', (m) => m.tokenizer.decode([-1]), 'ERR_CFT_BAD_DATA', 'ids: expected token ids, found -1'],
  [
    'save',
    (m) => m.save(undefined as never),
    'ERR_CFT_BAD_OUTPUT',
    'folder: expected a path to save into, found undefined',
  ],
  [
    'loadModel',
    () => loadModel(undefined as never),
    'ERR_CFT_BAD_OPTION',
    'name of the model: expected a model folder, a hub id (org/name), or "embedded", found undefined',
  ],
  [
    'loadModel',
    (m) => loadModel(m.name, { dtype: 'int8' as never }),
    'ERR_CFT_BAD_OPTION',
    'dtype: expected one of auto, float32, bfloat16, found "int8"',
  ],
  [
    'loadModel',
    (m) => loadModel(m.name, { device: 0 as never }),
    'ERR_CFT_BAD_OPTION',
    'device: expected auto, cpu, cuda or cuda:N, found 0',
  ],
  [
    'loadModel',
    (m) => loadModel(m.name, { threads: 1.5 }),
    'ERR_CFT_BAD_OPTION',
    'threads: expected an integer from 1 to 1024, found 1.5',
  ],
  [
    'loadModel',
    (m) => loadModel(m.name, { dtyp: 'float32' } as never),
    'ERR_CFT_BAD_OPTION',
    'unknown option "dtyp" for loadModel; did you mean "dtype"?',
  ],
  [
    'loadModel',
    (m) => loadModel(m.name, 'cpu' as never),
    'ERR_CFT_BAD_OPTION',
    'options of loadModel: expected an object, found "cpu"',
  ],
];

test('what a program hands over is checked, never rounded or guessed', async (t) => {
  const model = await load(t, fixturePath('models/llama'));
  for (const [name, call, code, message] of badCalls) {
    const error = await t.throwsAsync(
      async () => call(model),
      { instanceOf: CftError, message },
      `${name}: ${message}`,
    );
    t.is((error as CftError | undefined)?.code, code);
  }
});
