import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type AnnotateOptions, annotate } from '../../lib/counterfactual/annotate.js';
import type { AnnotateEvent } from '../../lib/counterfactual/events.js';
import { readAnnotations } from '../../lib/data/annotations.js';
import { loadModel } from '../../lib/model/load.js';
import type { AnnotationsMeta } from '../../lib/types.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';
import { hashTokens } from '../helpers/toy-model.js';

const modelFolder = fixturePath('annotation/qwen2');
const questions = Array.from({ length: 20 }, (_, i) => ({
  id: `q${i}`,
  question: `how many are ${i * 31}?`,
  answer: String(i),
}));

/** Options of a small run; what a test is about comes on top. */
function optionsFor(t: ExecutionContext, change: AnnotateOptions = {}): AnnotateOptions & { output: string } {
  return {
    model: modelFolder,
    device: 'cpu',
    threads: 1,
    data: questions,
    system: '',
    userTemplate: '{question}',
    maxNewTokens: 32,
    verifier: (_, { tokenIds }) => (hashTokens(tokenIds) >>> 7) % 2 === 0,
    output: join(temporaryFolder(t), 'run'),
    ...change,
  } as AnnotateOptions & { output: string };
}

const snapshot = (folder: string) =>
  readdirSync(folder)
    .sort()
    .map((name) => [name, statSync(join(folder, name)).mtimeMs, readFileSync(join(folder, name), 'utf8')]);

test('a run can be iterated and awaited, and leaves a run folder that holds all of it', async (t) => {
  const options = optionsFor(t);
  const run = annotate(options);
  const events: AnnotateEvent[] = [];
  for await (const event of run) events.push(event);
  const { annotations, summary } = await run;
  t.true(annotations.length >= 4);
  t.deepEqual(
    await readAnnotations(join(options.output, 'annotations.jsonl'), { vocabSize: 61 }),
    annotations,
  );
  t.deepEqual(events.at(-1), { type: 'done', summary });
  t.is(events.filter(({ type }) => type === 'response').length, annotations.length);

  const meta = readJson<AnnotationsMeta>(join(options.output, 'annotations.meta.json'));
  t.is(meta.model, modelFolder);
  t.regex(meta.weights_sha256, /^[0-9a-f]{64}$/);
  t.regex(meta.tokenizer_sha256, /^[0-9a-f]{64}$/);
  t.is(meta.options.max_new_tokens, 32);
  t.is(meta.options.verifier, '(in memory)');
  t.regex(meta.libtorch, /^2\./);
  t.is(meta.device, 'cpu');
  const record = readJson<Record<string, unknown>>(join(options.output, 'run.json'));
  t.is(record.status, 'done');
  t.deepEqual(record.data, { ...(record.data as object), name: '(in memory)', questions: 20 });
  t.deepEqual((record.model as Record<string, string>).weights_sha256, meta.weights_sha256);
});

test('a finished run is not touched by resuming it, and gives its result again', async (t) => {
  const options = optionsFor(t);
  const first = await annotate(options);
  const before = snapshot(options.output);
  const again = await annotate({ ...options, resume: true });
  t.deepEqual(snapshot(options.output), before);
  t.deepEqual(again, first);
  await t.throwsAsync(async () => annotate(options), { code: 'ERR_CFT_BAD_OUTPUT', message: /--resume/ });
  await t.throwsAsync(async () => annotate({ ...options, resume: true, k: 4 }), {
    code: 'ERR_CFT_BAD_OUTPUT',
    message: /k \(--k\) was 3, is 4/,
  });
  await t.throwsAsync(async () => annotate({ ...options, resume: true, data: questions.slice(1) }), {
    code: 'ERR_CFT_BAD_OUTPUT',
    message: /data\.sha256/,
  });
  await t.throwsAsync(
    async () => annotate({ ...options, resume: true, model: fixturePath('annotation/llama') }),
    { code: 'ERR_CFT_BAD_OUTPUT', message: /model\.weights_sha256/ },
  );
  t.deepEqual(snapshot(options.output), before);
});

for (const stopAt of ['trunk', 'response'] as const) {
  test(`aborted after a ${stopAt}: rejected with the reason, done work kept, resumed to the same file`, async (t) => {
    const undisturbed = optionsFor(t, { maxConcurrency: 4 });
    await annotate(undisturbed);
    const options = optionsFor(t, { maxConcurrency: 4 });
    const controller = new AbortController();
    const reason = new Error('enough');
    const run = annotate({ ...options, signal: controller.signal });
    const stopped = (async () => {
      for await (const { type } of run) if (type === stopAt) controller.abort(reason);
    })();
    t.is(await t.throwsAsync(stopped), reason);
    t.is(readJson<{ status: string }>(join(options.output, 'run.json')).status, 'interrupted');
    t.false(existsSync(join(options.output, 'annotations.jsonl')));
    t.true(readFileSync(join(options.output, 'responses.jsonl'), 'utf8').split('\n').length > 4);
    t.false(existsSync(join(options.output, 'run.lock')));
    await annotate({ ...options, resume: true });
    for (const name of ['responses.jsonl', 'annotations.jsonl']) {
      t.is(
        readFileSync(join(options.output, name), 'utf8'),
        readFileSync(join(undisturbed.output, name), 'utf8'),
      );
    }
  });
}

test('an abort ends a verifier that never answers', async (t) => {
  const controller = new AbortController();
  const run = annotate(
    optionsFor(t, {
      signal: controller.signal,
      verifier: () => {
        setImmediate(() => controller.abort(new Error('no patience')));
        return new Promise(() => {});
      },
    }),
  );
  await t.throwsAsync(async () => run, { message: 'no patience' });
});

test('a signal that is aborted already stops before anything is made', async (t) => {
  const options = optionsFor(t, { signal: AbortSignal.abort(new Error('never mind')) });
  await t.throwsAsync(async () => annotate(options), { message: 'never mind' });
  t.false(existsSync(options.output));
});

test('what is wrong with the options or the data is told before any work, and leaves no folder', async (t) => {
  const refused = async (change: AnnotateOptions, code: string, message: RegExp) => {
    const options = optionsFor(t, change);
    await t.throwsAsync(async () => annotate(options), { code, message } as object);
    t.false(existsSync(options.output), 'no run folder');
  };
  await refused({ rule: 'any' }, 'ERR_CFT_BAD_OPTION', /rule \(--rule\): "any" needs.*--complete/);
  await refused({ rule: 'graded', waves: true }, 'ERR_CFT_BAD_OPTION', /--no-waves/);
  await refused({ k: 1 }, 'ERR_CFT_BAD_OPTION', /k \(--k\): expected an integer of at least 2/);
  await refused({ data: undefined }, 'ERR_CFT_BAD_OPTION', /data \(--data\)/);
  await refused({ data: [] }, 'ERR_CFT_BAD_DATA', /at least one question/);
  await refused({ data: 'missing.jsonl' }, 'ERR_CFT_BAD_DATA', /missing\.jsonl/);
  await refused({ verifier: 'clairvoyant' }, 'ERR_CFT_BAD_OPTION', /verifier/);
  await refused({ model: 'no/such/model/folder' }, 'ERR_CFT_BAD_MODEL', /no such folder/);
  await refused(
    { data: [{ question: 'x'.repeat(300), answer: '1' }] },
    'ERR_CFT_BAD_DATA',
    /data \(item 1\): expected a prompt of fewer than 256 tokens/,
  );
  await t.throwsAsync(async () => annotate({ ...optionsFor(t), output: undefined, resume: true }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /--output/,
  });
});

test('an output that is not empty is refused before the model is loaded, and stays as it was', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'notes.txt'), 'mine');
  await t.throwsAsync(
    async () => annotate(optionsFor(t, { output: folder, model: 'no/such/model/folder' })),
    {
      code: 'ERR_CFT_BAD_OUTPUT',
      message: /notes\.txt/,
    },
  );
  t.deepEqual(readdirSync(folder), ['notes.txt']);
});

test('a loaded model is used as it is and stays loaded', async (t) => {
  await using model = await loadModel(modelFolder, { device: 'cpu', threads: 1 });
  const options = optionsFor(t, { model });
  const { annotations } = await annotate(options);
  t.true(annotations.length > 0);
  t.is((await model.logits([1, 5])).shape[0], 2);
});

test('a verifier that throws ends the run as failed; the next, with --resume, keeps what was done', async (t) => {
  const options = optionsFor(t);
  const { annotations } = await annotate(optionsFor(t));
  // The shortest: it starts last, when others are done.
  const { id, response } = [...annotations].sort(
    (a, b) => a.response_token_ids.length - b.response_token_ids.length,
  )[0]!;
  const good = options.verifier as Exclude<AnnotateOptions['verifier'], string | undefined>;
  await t.throwsAsync(
    async () =>
      annotate({
        ...options,
        maxConcurrency: 4,
        verifier: (text, context) => {
          if (context.id === id && text !== response) throw new Error('out of order');
          return good(text, context);
        },
      }),
    { code: 'ERR_CFT_VERIFIER', message: new RegExp(`question ${id}: out of order`) },
  );
  const record = readJson<Record<string, string>>(join(options.output, 'run.json'));
  t.is(record.status, 'failed');
  t.regex(record.error!, /out of order/);
  const events: AnnotateEvent[] = [];
  const run = annotate({ ...options, maxConcurrency: 4, resume: true });
  for await (const event of run) events.push(event);
  t.deepEqual((await run).annotations, annotations);
  const again = events.filter(({ type }) => type === 'response').length;
  const [start] = events;
  t.is(start?.type === 'start' && start.resumed.annotations, annotations.length - again);
  t.true(again < annotations.length);
});

test('verdicts that come after an abort or another failure are written nowhere and harm nobody', async (t) => {
  const unhandled: unknown[] = [];
  const note = (error: unknown): void => void unhandled.push(error);
  process.on('unhandledRejection', note);
  t.teardown(() => process.off('unhandledRejection', note));
  const later = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 300));
  for (const verdict of [true, false, undefined]) {
    const controller = new AbortController();
    const reason = new Error('enough');
    const trunks = new Set<string>();
    const options = optionsFor(t, {
      signal: controller.signal,
      verifier: async (_, { id }) => {
        if (!trunks.has(id)) {
          trunks.add(id);
          return true;
        }
        setImmediate(() => controller.abort(reason));
        await later();
        if (verdict === undefined) throw new Error('too late');
        return verdict;
      },
    });
    t.is(await t.throwsAsync(async () => annotate(options)), reason);
    const before = snapshot(options.output);
    await later();
    await later();
    t.deepEqual(snapshot(options.output), before);
    t.deepEqual(unhandled, []);
  }
});

test('questions may come from an async iterable and be limited', async (t) => {
  async function* source() {
    for (const question of questions) yield question;
  }
  const { summary } = await annotate(optionsFor(t, { data: source(), limit: 7, verifier: () => true }));
  t.is(summary.questions, 7);
});
