/**
 * Whatever is decoded together, in whatever order it finishes and however long verdicts take: the records are those of
 * the simple annotator, which does one thing after the other.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { AnnotateEvent } from '../../lib/counterfactual/events.js';
import type { DetailedVerifier } from '../../lib/counterfactual/judge.js';
import { promptsOf } from '../../lib/counterfactual/rollout-model.js';
import { ResponseAnnotation } from '../../lib/counterfactual/rollouts.js';
import { type AnnotationStageOptions, runAnnotationStage } from '../../lib/counterfactual/stage.js';
import type { RolloutDriver } from '../../lib/model/rollout-driver.js';
import { Random } from '../../lib/random.js';
import type { Question } from '../../lib/types.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { annotateSequentially } from '../helpers/sequential-annotator.js';
import { hashTokens, type ToyOptions, toyModel } from '../helpers/toy-model.js';

type Settings = AnnotationStageOptions['settings'];

/** About half of all texts are right; which, differs from case to case. */
const isRight = (tokenIds: Iterable<number>, seed: number): boolean =>
  (hashTokens([seed, ...tokenIds]) >>> 7) % 2 === 0;

/** An answer is complete after a digit and one more character; digits stand in about half of the toy's texts. */
const completed = (text: string): boolean => /[0-9][a-z0-9]/.test(text);

interface Case {
  seed: number;
  questions: Question[];
  settings: Settings;
  toy: ToyOptions;
  completed: ((text: string) => boolean) | undefined;
}

/** A case at random: lengths from none to dozens of tokens, prompts from one token, tight and loose budgets. */
function randomCase(seed: number): Case {
  const random = new Random('schedule', seed);
  const pick = <T>(...values: T[]): T => values[random.integer(values.length)]!;
  const letters = 'abcdefghijklmnopqrstuvwxyz0123456789';
  const word = (): string =>
    Array.from({ length: 1 + random.integer(12) }, () => letters[random.integer(36)]).join('');
  const questions = Array.from({ length: 6 + random.integer(10) }, (_, i) => ({
    id: `q${i}`,
    question: word(),
    answer: '0',
  }));
  const complete = pick(true, false, false);
  return {
    seed,
    questions,
    settings: {
      maxNewTokens: pick(1, 2, 7, 16, 40),
      k: pick(2, 3, 3, 5),
      complete,
      rule: complete ? pick('all', 'any', 'graded') : 'all',
      includeEos: pick(true, false),
      truncated: pick('incorrect', 'skip'),
      minAlternativeProb: pick(0, 0, 0.05),
      waves: pick(true, true, true, false),
      keepRollouts: pick(true, false),
    },
    toy: { endBias: pick(-3, -1, 1, 3), maxPositions: pick(14, 40, 1000) },
    completed: pick(undefined, undefined, completed),
  };
}

interface Schedule {
  maxBranches: number;
  speculate: boolean;
  /** Share of the steps in which a slot rests, so that branches finish in any order. */
  rest: number;
  /** Most milliseconds that a verdict takes; 0 = at once, not even a promise. */
  delay: number;
}

const schedules: Schedule[] = [
  { maxBranches: 1, speculate: false, rest: 0, delay: 0 },
  { maxBranches: 7, speculate: true, rest: 0.5, delay: 0 },
  { maxBranches: 64, speculate: true, rest: 0, delay: 0 },
  { maxBranches: 64, speculate: true, rest: 0.3, delay: 3 },
  { maxBranches: 7, speculate: false, rest: 0.5, delay: 2 },
  { maxBranches: 2, speculate: true, rest: 0.2, delay: 1 },
];

const origin = {
  model: { name: 'toy', weightsSha256: 'aa', tokenizerSha256: 'bb' },
  options: {},
  libtorch: '0',
  device: 'cpu',
};

async function annotate(t: ExecutionContext, given: Case, schedule: Schedule) {
  const { questions, settings, toy } = given;
  const random = new Random('pace', given.seed);
  const uniform = (): number => random.integer(1 << 20) / (1 << 20);
  const model = toyModel({ ...toy, random: uniform, rest: schedule.rest });
  const verifier: DetailedVerifier = (_, { tokenIds }) => {
    if (schedule.delay === 0) return isRight(tokenIds, given.seed);
    return new Promise((resolve) =>
      setTimeout(() => resolve(isRight(tokenIds, given.seed)), uniform() * schedule.delay),
    );
  };
  const folder = temporaryFolder(t);
  const events: AnnotateEvent[] = [];
  const result = await runAnnotationStage(
    {
      model,
      questions,
      prompts: promptsOf(model, questions, { ...settings, system: '', userTemplate: '{question}' }),
      verifier,
      settings,
      maxBranches: schedule.maxBranches,
      speculate: schedule.speculate,
      completed: given.completed,
      file: (name) => join(folder, name),
      origin,
    },
    (event) => events.push(event),
  );
  const lines = (name: string): string => readFileSync(join(folder, name), 'utf8');
  return { ...result, events, model, folder, lines };
}

const jsonLines = (records: readonly object[]): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join('');

test('any schedule gives the records of the simple annotator', async (t) => {
  t.timeout(300_000);
  const seen = { cases: 0, stopped: 0, wasted: 0, cancelled: 0, empty: 0, noDecoding: 0, truncated: 0 };
  for (let seed = 0; seed < 64; seed++) {
    const given = randomCase(seed);
    const { questions, settings, toy } = given;
    const model = toyModel(toy);
    const { responses, annotated } = await annotateSequentially({
      model,
      questions,
      prompts: promptsOf(model, questions, { ...settings, system: '', userTemplate: '{question}' }),
      verifier: (_, { tokenIds }) => isRight(tokenIds, seed),
      settings,
      completed: given.completed,
      maxBranches: 8,
    });
    if (annotated.length === 0) continue;
    seen.cases++;
    const sum = (of: (one: (typeof annotated)[number]) => number): number =>
      annotated.reduce((total, one) => total + of(one), 0);
    for (const schedule of schedules) {
      const what = `case ${seed}, ${JSON.stringify(schedule)}`;
      const run = await annotate(t, given, schedule);
      t.is(run.lines('responses.jsonl'), jsonLines(responses), what);
      t.is(run.lines('annotations.jsonl'), jsonLines(annotated.map(({ record }) => record)), what);
      const { summary } = run;
      t.is(
        summary.rolloutsSaved,
        sum((one) => one.rolloutsSaved),
        what,
      );
      t.is(
        summary.stoppedRollouts,
        sum((one) => one.stoppedRollouts),
        what,
      );
      t.is(
        summary.unjudged,
        sum((one) => one.unjudged),
        what,
      );
      const inTrunks = responses.reduce((total, one) => total + one.response_token_ids.length, 0);
      t.is(summary.decodedTokens, inTrunks + sum((one) => one.decodedTokens), what);
      for (const engine of run.model.engines) {
        t.is(engine.openTrunks, 0, what);
        t.true(engine.disposed, what);
      }
      seen.wasted += summary.wastedTokens;
      seen.cancelled += run.model.engines.at(-1)!.cancelled;
      if (!schedule.speculate) t.is(summary.wastedTokens, 0, what);
    }
    seen.stopped += sum((one) => one.stoppedRollouts);
    seen.empty += annotated.filter(({ record }) => record.response_token_ids.length === 0).length;
    for (const { record } of annotated) {
      seen.truncated += record.alternatives.filter(({ verdict }) => verdict === 'truncated').length;
      seen.noDecoding += record.alternatives.filter(({ token_id }) => token_id >= 36).length;
    }
  }
  t.log(seen);
  // The cases have what they are about.
  t.true(seen.cases >= 30);
  for (const [name, count] of Object.entries(seen)) t.true(count > 0, name);
});

test('speculation starts next ranks only into slots that would idle, and counts what it wasted', async (t) => {
  const given = { ...randomCase(3), completed: undefined };
  given.settings = { ...given.settings, waves: true, complete: false, rule: 'all', k: 3, maxNewTokens: 40 };
  given.toy = { endBias: -3 };
  const wide = { maxBranches: 1024, rest: 0, delay: 0 };
  const without = await annotate(t, given, { ...wide, speculate: false });
  const speculating = await annotate(t, given, { ...wide, speculate: true });
  t.is(speculating.lines('annotations.jsonl'), without.lines('annotations.jsonl'));
  t.is(without.summary.wastedTokens, 0);
  t.true(speculating.summary.wastedTokens > 0);
  t.is(speculating.summary.decodedTokens, without.summary.decodedTokens);
  const [plain, ahead] = [without, speculating].map(({ model }) => model.engines[1]!);
  t.true(ahead!.batches.length < plain!.batches.length, 'fewer steps');
  t.true(ahead!.cancelled > 0);
  const meta = readJson<Record<string, number>>(join(speculating.folder, 'annotations.meta.json'));
  t.is(meta.wasted_tokens, speculating.summary.wastedTokens);
  t.is(meta.decoded_tokens, without.summary.decodedTokens);
});

test('few trunks are open at once, even where every verdict is slow', async (t) => {
  const questions = Array.from({ length: 60 }, (_, i) => ({ id: `q${i}`, question: `q ${i}`, answer: '0' }));
  const given = { ...randomCase(0), questions, completed: undefined, toy: { endBias: 0 } };
  given.settings = { ...given.settings, waves: true, complete: false, rule: 'all', maxNewTokens: 40 };
  const { model } = await annotate(t, given, { maxBranches: 4, speculate: false, rest: 0, delay: 30 });
  t.true(model.engines[1]!.mostTrunks <= 8, `${model.engines[1]!.mostTrunks} trunks`);
});

test('speculation that has nothing left to start looks at no position again', async (t) => {
  const length = 20_000;
  const none = { logProbs: new Float32Array(length), alternativeLogProbs: new Float32Array(2 * length) };
  let submitted = 0;
  const driver = {
    addTrunk: async () => ({ trunk: 1, ...none, alternativeIds: new Int32Array(2 * length) }),
    submit: (branches: readonly unknown[]) => branches.map(() => submitted++),
  } as unknown as RolloutDriver;
  const { settings } = randomCase(0);
  const annotation = new ResponseAnnotation(
    {
      driver,
      model: toyModel(),
      verifier: () => true,
      settings: { ...settings, k: 3, rule: 'all', waves: true, complete: false, minAlternativeProb: 0 },
      draft: false,
    },
    {
      question: { id: 'q', question: 'q', answer: '0' },
      prompt: { tokenIds: Int32Array.of(1), budget: 2 * length },
      response: { tokenIds: new Int32Array(length), endTokenId: 36 },
      priority: 0,
      onVerdict: () => {},
      onDone: () => {},
    },
  );
  await annotation.open();
  t.is(annotation.speculate(7), 7);
  t.is(annotation.speculate(10 * length), length - 7);
  const start = performance.now();
  let started = 0;
  for (let i = 0; i < 5000; i++) started += annotation.speculate(100);
  t.is(started, 0);
  // Over all positions each time it takes several seconds.
  t.true(performance.now() - start < 1500);
});
