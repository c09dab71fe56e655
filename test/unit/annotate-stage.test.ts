import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { AnnotateEvent } from '../../lib/counterfactual/events.js';
import type { DetailedVerifier } from '../../lib/counterfactual/judge.js';
import { promptsOf } from '../../lib/counterfactual/rollout-model.js';
import { defaultSettings } from '../../lib/counterfactual/settings.js';
import { type AnnotationStageOptions, runAnnotationStage } from '../../lib/counterfactual/stage.js';
import { readAnnotations } from '../../lib/data/annotations.js';
import type { AnnotationRecord, AnnotationsMeta, Question } from '../../lib/types.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { isRight, reference } from '../helpers/toy-annotation.js';
import { toyDecode, toyEndTokenIds, toyModel } from '../helpers/toy-model.js';

type Settings = AnnotationStageOptions['settings'];

const defaults: Settings = { ...defaultSettings, maxNewTokens: 40 };

const questionsOf = (count: number): Question[] =>
  Array.from({ length: count }, (_, i) => ({ id: `q${i}`, question: `question ${i * 37}`, answer: '0' }));

const verifier: DetailedVerifier = (_, { tokenIds }) => isRight(tokenIds);

interface StageRun {
  folder: string;
  events: AnnotateEvent[];
  model: ReturnType<typeof toyModel>;
}

async function annotateToy(
  t: ExecutionContext,
  change: Partial<Omit<AnnotationStageOptions, 'settings'>> & {
    settings?: Partial<Settings>;
    folder?: string;
    onEvent?: (event: AnnotateEvent) => void;
  } = {},
) {
  const folder = change.folder ?? temporaryFolder(t);
  const events: AnnotateEvent[] = [];
  const model = toyModel();
  const run: StageRun = { folder, events, model };
  const settings = { ...defaults, ...change.settings };
  const questions = change.questions ?? questionsOf(24);
  const options: AnnotationStageOptions = {
    model,
    questions,
    prompts: promptsOf(change.model ?? model, questions, {
      ...settings,
      system: '',
      userTemplate: '{question}',
    }),
    verifier,
    maxBranches: 8,
    file: (name) => join(folder, name),
    origin: {
      model: { name: 'toy', weightsSha256: 'aa', tokenizerSha256: 'bb' },
      options: {},
      libtorch: '0',
      device: 'cpu',
    },
    ...change,
    settings,
  };
  const result = await runAnnotationStage(options, (event) => {
    events.push(event);
    change.onEvent?.(event);
  });
  return { ...run, ...result };
}

const text = (folder: string, name: string): string => readFileSync(join(folder, name), 'utf8');

const cases: Record<string, Partial<Settings>> = {
  defaults: {},
  'no waves': { waves: false },
  complete: { complete: true },
  'four alternatives': { k: 5 },
  'one alternative': { k: 2 },
  'end token as a position': { includeEos: true },
  'end token as a position, tight limit': { includeEos: true, maxNewTokens: 20 },
  'limit of 20 tokens': { maxNewTokens: 20 },
  'truncated rollouts left out': { maxNewTokens: 20, truncated: 'skip' },
  'truncated rollouts left out, complete': { maxNewTokens: 20, truncated: 'skip', complete: true },
  'rule any': { rule: 'any', complete: true },
  'rule graded': { rule: 'graded', waves: false, k: 4 },
  'probability floor': { minAlternativeProb: 0.12, k: 4 },
  'probability floor that leaves nothing': { minAlternativeProb: 1 },
  'kept rollouts': { keepRollouts: true, maxNewTokens: 25 },
};

for (const [name, settings] of Object.entries(cases)) {
  test(`the records are those of the method by the letter: ${name}`, async (t) => {
    const expected = questionsOf(24).map((question) => reference(question, { ...defaults, ...settings }));
    const records = expected.filter((one) => typeof one !== 'string');
    t.true(records.length >= 4, 'enough correct responses to test something');
    const { annotations, folder, summary, model } = await annotateToy(t, { settings });
    t.deepEqual(annotations, records);
    t.deepEqual(await readAnnotations(join(folder, 'annotations.jsonl')), records);

    const responses = text(folder, 'responses.jsonl')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    t.deepEqual(
      responses.map(({ verdict }) => verdict),
      expected.map((one) => (typeof one === 'string' ? one : 'correct')),
    );
    t.is(summary.questions, 24);
    t.is(summary.correct, records.length);
    t.is(summary.truncatedResponses, expected.filter((one) => one === 'truncated').length);
    t.is(
      summary.rollouts,
      records.reduce((sum, record) => sum + record.alternatives.length, 0),
    );
    t.deepEqual(readdirSync(folder).sort(), [
      'annotations.jsonl',
      'annotations.meta.json',
      'responses.jsonl',
    ]);
    for (const engine of model.engines) {
      t.is(engine.openTrunks, 0);
      t.true(engine.disposed);
    }
  });
}

test('the cases have what they are about', async (t) => {
  const verdicts = (records: AnnotationRecord[]) =>
    new Set(records.flatMap((record) => record.alternatives.map(({ verdict }) => verdict)));
  const ends = (records: AnnotationRecord[]) =>
    records.some((record) => record.alternatives.some(({ token_id }) => toyEndTokenIds.includes(token_id)));
  const { annotations: tight } = await annotateToy(t, { settings: { maxNewTokens: 20 } });
  t.deepEqual([...verdicts(tight)].sort(), ['correct', 'incorrect', 'truncated']);
  t.true(ends(tight));
  const { annotations: plain } = await annotateToy(t);
  const mask = plain.flatMap((record) => record.critical_mask!);
  t.true(mask.includes(0) && mask.includes(1));
});

test('p2, unjudged, saved rollouts and decoded tokens are counted', async (t) => {
  const settings = { maxNewTokens: 20, truncated: 'skip' as const };
  const waves = await annotateToy(t, { settings });
  const complete = await annotateToy(t, { settings: { ...settings, complete: true } });
  const alternatives = waves.annotations.flatMap((record) => record.alternatives);
  const rank2 = alternatives.filter(({ rank }) => rank === 2);
  t.is(waves.summary.p2, rank2.filter(({ verdict }) => verdict === 'correct').length / rank2.length);
  t.is(waves.summary.p2, complete.summary.p2);
  t.is(waves.summary.rollouts + waves.summary.rolloutsSaved, complete.summary.rollouts);
  t.is(complete.summary.rolloutsSaved, 0);
  t.true(waves.summary.rolloutsSaved > 0);
  t.false(waves.summary.complete);
  t.true(complete.summary.complete);
  t.is(waves.summary.truncatedRollouts, alternatives.filter(({ verdict }) => verdict === 'truncated').length);
  const unjudged = waves.annotations.reduce((sum, record) => {
    const judged = new Set(
      record.alternatives.filter(({ verdict }) => verdict !== 'truncated').map(({ position }) => position),
    );
    return sum + record.response_token_ids.length - judged.size;
  }, 0);
  t.true(unjudged > 0);
  t.is(waves.summary.unjudged, unjudged);
  t.is(
    waves.summary.criticalTokens,
    waves.annotations.flatMap((record) => record.critical_mask!).filter((critical) => critical).length,
  );

  const kept = await annotateToy(t, { settings: { ...settings, keepRollouts: true } });
  const trunkTokens = text(kept.folder, 'responses.jsonl').trimEnd().split('\n');
  const inTrunks = trunkTokens.reduce((sum, line) => sum + JSON.parse(line).response_token_ids.length, 0);
  const inRollouts = kept.annotations
    .flatMap((record) => record.alternatives)
    .reduce((sum, { continuation }) => sum + continuation!.length, 0); // a token is a letter here
  t.is(kept.summary.decodedTokens, inTrunks + inRollouts);
});

test('the meta file holds counts and origin, and gives the summary back', async (t) => {
  const { folder, summary } = await annotateToy(t);
  const meta = readJson<AnnotationsMeta>(join(folder, 'annotations.meta.json'));
  t.is(meta.format, 'cft-annotations/1');
  t.is(meta.weights_sha256, 'aa');
  t.is(meta.decoded_tokens, summary.decodedTokens);
  t.true(meta.seconds > 0);
  const again = await annotateToy(t, { folder });
  t.deepEqual(again.summary, summary);
  t.deepEqual(
    again.events.map(({ type }) => type),
    ['done'],
  );
});

test('the branches of many responses share a batch, and the longest responses start first', async (t) => {
  const { model, events, annotations } = await annotateToy(t, { maxBranches: 64 });
  const [, engine] = model.engines;
  t.true(engine!.mostTrunks >= 3 && engine!.mostTrunks <= 128);
  const started = annotations.map((record) => record.response_token_ids.length).sort((a, b) => b - a);
  const finished = events.flatMap((event) => (event.type === 'response' ? [event.tokens] : []));
  t.not(finished.join(), annotations.map((record) => record.response_token_ids.length).join());
  t.is(finished.at(-1)! < started[Math.floor(started.length / 2)]!, true, 'a short response ends the run');
});

test('a slow verifier of one response holds up no other', async (t) => {
  const swift = await annotateToy(t);
  // The longest: it starts first and would block everything behind it.
  const { id, response } = [...swift.annotations].sort(
    (a, b) => b.response_token_ids.length - a.response_token_ids.length,
  )[0]!;
  let left = swift.annotations.length - 1;
  let othersDone = (): void => {};
  const others = new Promise<void>((resolve) => {
    othersDone = resolve;
  });
  const slow = await annotateToy(t, {
    verifier: async (given, { id: asked, tokenIds }) => {
      if (asked === id && given !== response) await others;
      return isRight(tokenIds);
    },
    onEvent: ({ type }) => {
      if (type === 'response' && --left === 0) othersDone();
    },
  });
  t.is(text(slow.folder, 'annotations.jsonl'), text(swift.folder, 'annotations.jsonl'));
});

test('a different number of branches changes nothing where arithmetic does not depend on the batch', async (t) => {
  const folders = await Promise.all(
    [1, 3, 64].map(async (maxBranches) => (await annotateToy(t, { maxBranches })).folder),
  );
  const files = folders.map((folder) => text(folder, 'annotations.jsonl'));
  t.is(files[0], files[1]);
  t.is(files[0], files[2]);
});

test('verifiers see text without special tokens, tokens without the end, and the question', async (t) => {
  const questions = questionsOf(6);
  const seen: string[] = [];
  await annotateToy(t, {
    questions,
    verifier: (given, { id, question, answer, tokenIds }) => {
      seen.push(id);
      t.is(given, toyDecode(tokenIds));
      t.false(tokenIds.some((token) => toyEndTokenIds.includes(token)));
      t.deepEqual(
        { id, question, answer },
        questions.find((one) => one.id === id),
      );
      return isRight(tokenIds);
    },
  });
  t.is(new Set(seen).size, 6);
});

test('a verifier that overwrites its tokens changes no record', async (t) => {
  const kept = await annotateToy(t);
  const overwritten = await annotateToy(t, {
    verifier: (_, { tokenIds }) => {
      const right = isRight(tokenIds);
      tokenIds.sort().fill(0, 1);
      return right;
    },
  });
  for (const name of ['responses.jsonl', 'annotations.jsonl'])
    t.is(text(overwritten.folder, name), text(kept.folder, name));
});

test('what a verifier extracted is kept', async (t) => {
  const { annotations, folder } = await annotateToy(t, {
    verifier: (given, { tokenIds }) => ({ correct: isRight(tokenIds), extracted: given.slice(0, 2) }),
  });
  const response = JSON.parse(text(folder, 'responses.jsonl').split('\n')[0]!);
  t.is(response.extracted, response.response.slice(0, 2));
  const alternative = annotations[0]!.alternatives.at(-1)!;
  t.is(alternative.extracted, annotations[0]!.response.slice(0, 2));
});

test('a verifier that throws or gives no verdict names the question and keeps earlier work', async (t) => {
  const folder = temporaryFolder(t);
  const { annotations } = await annotateToy(t);
  // The shortest response starts last, so that others are done when its verifier fails.
  const { id, response } = [...annotations].sort(
    (a, b) => a.response_token_ids.length - b.response_token_ids.length,
  )[0]!;
  let kept = 0;
  for (const bad of [
    () => {
      throw new Error('boom');
    },
    () => undefined as unknown as boolean,
  ]) {
    await t.throwsAsync(
      annotateToy(t, {
        folder,
        verifier: (given, context) =>
          // Trunks pass; a rollout of that response fails.
          context.id === id && given !== response ? bad() : isRight(context.tokenIds),
      }),
      {
        code: 'ERR_CFT_VERIFIER',
        message: new RegExp(`question ${id}: (boom|expected true or false, found undefined)`),
      },
    );
    t.false(existsSync(join(folder, 'annotations.jsonl')));
    const journal = text(folder, 'annotations.journal.jsonl').trimEnd().split('\n');
    kept = journal.filter((line) => line.startsWith('{"type":"annotation"')).length;
    t.true(kept > 0 && kept < annotations.length);
  }
  const resumed = await annotateToy(t, { folder });
  t.deepEqual(resumed.annotations, annotations);
  t.deepEqual(resumed.events[0]!, {
    type: 'start',
    output: join(folder, ''),
    questions: 24,
    resumed: { responses: 24, annotations: kept },
    maxBranches: 8,
  });
  t.is(resumed.events.filter(({ type }) => type === 'response').length, annotations.length - kept);
});

test('not one correct response is an error after the responses are written', async (t) => {
  const folder = temporaryFolder(t);
  await t.throwsAsync(annotateToy(t, { folder, verifier: () => false }), {
    code: 'ERR_CFT_NO_SIGNAL',
    message: /not one of 24 responses is correct.*responses\.jsonl/,
  });
  t.is(text(folder, 'responses.jsonl').trimEnd().split('\n').length, 24);
});

test('a response of no tokens keeps its place', async (t) => {
  const model = toyModel();
  // With every token an end token each response is empty.
  const { annotations, summary } = await annotateToy(t, {
    model: { ...model, createEngine: (options) => alwaysEnding(model.createEngine(options)) },
    verifier: () => true,
    questions: questionsOf(3),
  });
  t.deepEqual(
    annotations.map(({ response_token_ids, critical_mask, rollouts }) => [
      response_token_ids,
      critical_mask,
      rollouts,
    ]),
    [1, 2, 3].map(() => [[], [], 0]),
  );
  t.is(summary.criticalShare, 0);
});

function alwaysEnding(engine: ReturnType<ReturnType<typeof toyModel>['createEngine']>) {
  const step = engine.step.bind(engine);
  engine.step = async (maxSteps) => {
    const result = await step(maxSteps);
    for (const one of result.finished) Object.assign(one, { tokenIds: new Int32Array(0), endTokenId: 36 });
    return result;
  };
  return engine;
}

test('the budget is cut to the positions that the model has, and a prompt beyond them is refused', async (t) => {
  const question = { id: 'long', question: 'question', answer: '0' };
  const folder = temporaryFolder(t);
  await t.throwsAsync(
    annotateToy(t, {
      folder,
      model: toyModel({ maxPositions: 8 + 3 }),
      questions: [question],
      verifier: () => true,
    }),
    { code: 'ERR_CFT_NO_SIGNAL', message: /1 ran to the token limit/ },
  );
  t.is(JSON.parse(text(folder, 'responses.jsonl')).response_token_ids.length, 3);
  await t.throwsAsync(annotateToy(t, { model: toyModel({ maxPositions: 8 }), questions: [question] }), {
    code: 'ERR_CFT_BAD_DATA',
    message: /question long: expected a prompt of fewer than 8 tokens.*found 8/,
  });
});

test('log-probabilities that are not finite are an error, not a label', async (t) => {
  const model = toyModel();
  await t.throwsAsync(
    annotateToy(t, {
      model: {
        ...model,
        createEngine(options) {
          const engine = model.createEngine(options);
          const addTrunk = engine.addTrunk.bind(engine);
          engine.addTrunk = async (spec) => {
            const trunk = await addTrunk(spec);
            trunk.logProbs.fill(Number.NaN);
            return trunk;
          };
          return engine;
        },
      },
    }),
    { code: 'ERR_CFT_BAD_WEIGHTS', message: /question q\d+: expected finite log-probabilities/ },
  );
});

test('events tell the stages, every trunk in order and every response when it is done', async (t) => {
  const { events, annotations } = await annotateToy(t);
  const types = events.map(({ type }) => type).filter((type) => type !== 'progress');
  t.deepEqual(types, [
    'start',
    'stage',
    ...questionsOf(24).map(() => 'trunk'),
    'stage',
    ...annotations.map(() => 'response'),
    'done',
  ]);
  const trunks = events.filter((event) => event.type === 'trunk');
  t.deepEqual(
    trunks.map(({ index }) => index),
    trunks.map((_, i) => i),
  );
  const responses = events.filter((event) => event.type === 'response').sort((a, b) => a.index - b.index);
  t.deepEqual(
    responses.map(({ id, tokens, rollouts, criticalShare }) => [id, tokens, rollouts, criticalShare]),
    annotations.map((record) => [
      record.id,
      record.response_token_ids.length,
      record.rollouts,
      record.critical_mask!.filter((critical) => critical === 1).length / record.response_token_ids.length,
    ]),
  );
});
