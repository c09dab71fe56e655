import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { checkAgainst } from '../../lib/eval/against.js';
import { comparePredictions } from '../../lib/eval/comparison.js';
import type { EvalStageEvent } from '../../lib/eval/events.js';
import type { Prediction } from '../../lib/eval/predictions.js';
import { type EvalStageOptions, type EvalStageResult, runEvaluationStage } from '../../lib/eval/stage.js';
import { summarizePredictions } from '../../lib/eval/summary.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { type Script, ScriptedModel } from '../helpers/scripted-model.js';

/** The right answer is the number of the question; every third greedy response is wrong. */
const script: Script = (question, seed) => {
  const number = Number(question.slice(1));
  if (seed !== 0) return `maybe ${number + (seed % 2)}`;
  return number % 3 === 0 ? 'I do not know' : `it is ${'so '.repeat(number)}${number}`;
};

function makeOptions(folder: string, more: Partial<EvalStageOptions<'eval'>> = {}): EvalStageOptions<'eval'> {
  return {
    stage: 'eval',
    model: new ScriptedModel(script),
    name: 'test',
    questions: Array.from({ length: 12 }, (_, i) => ({ id: `q${i}`, question: `q${i}`, answer: String(i) })),
    verifier: (text, { answer }) => {
      const extracted = /\d+$/.exec(text)?.[0];
      return { correct: extracted === answer, ...(extracted === undefined ? {} : { extracted }) };
    },
    settings: {
      samples: 1,
      temperature: 0,
      topP: 1,
      maxNewTokens: 30,
      system: '',
      userTemplate: '{question}',
      seed: 1,
    },
    maxBranches: 4,
    folder,
    ...more,
  };
}

async function run(
  options: EvalStageOptions<'eval'>,
): Promise<EvalStageResult & { events: EvalStageEvent[] }> {
  const events: EvalStageEvent[] = [];
  return { ...(await runEvaluationStage(options, (event) => events.push(event))), events };
}

test('a greedy evaluation: accuracy, interval, truncation, files in the order of the questions', async (t) => {
  const folder = temporaryFolder(t);
  const model = new ScriptedModel(script);
  const { summary, predictions, events } = await run(makeOptions(folder, { model }));
  // 0, 3, 6, 9 are wrong; 8, 10 and 11 say "so" too often and are cut before their number.
  t.is(summary.n, 12);
  t.is(summary.accuracy, 5 / 12);
  t.is(summary.truncated, 3);
  t.deepEqual(
    predictions.map(([p]) => p!.id),
    Array.from({ length: 12 }, (_, i) => `q${i}`),
  );
  t.is(predictions[8]![0]!.finish_reason, 'length');
  t.is(predictions[8]![0]!.response_token_ids.length, 30);
  t.is(predictions[2]![0]!.extracted, '2');
  t.is(events.filter((event) => event.type === 'prediction').length, 12);
  const file = readJson<Record<string, Record<string, unknown>>>(join(folder, 'summary.json'));
  t.deepEqual(Object.keys(file), ['test']);
  t.deepEqual(Object.keys(file.test!), [
    'n',
    'samples',
    'temperature',
    'accuracy',
    'accuracy_ci95',
    'accuracy_stderr',
    'maj_at_k',
    'pass_at_k',
    'pass_at_k_ci95',
    'pass_at_k_reliable_to',
    'distinct_share',
    'mean_response_tokens',
    'response_token_quantiles',
    'diversity',
    'truncated',
    'mean_entropy',
    'entropy_responses',
  ]);
  t.is(file.test!.accuracy, 5 / 12, 'in full precision, or a resumed run would tell something else');
  t.deepEqual(file.test!.pass_at_k, { 1: 5 / 12 });
  const lines = readFileSync(join(folder, 'predictions.jsonl'), 'utf8').trimEnd().split('\n');
  t.deepEqual(JSON.parse(lines[2]!), predictions[2]![0]);
});

test('trunks are released when their last response is done', async (t) => {
  const model = new ScriptedModel(script);
  const options = makeOptions(temporaryFolder(t), { model });
  await run({ ...options, settings: { ...options.settings, samples: 3, temperature: 1 } });
  t.deepEqual(
    model.engines.map((engine) => engine.openTrunks),
    [0],
  );
});

test('samples of a question share one prefix', async (t) => {
  const model = new ScriptedModel(script);
  const options = makeOptions(temporaryFolder(t), { model });
  await run({ ...options, settings: { ...options.settings, samples: 5, temperature: 1 } });
  t.is(model.engines[0]!.prefixes, 12);
});

test('stopping at the answer ends responses there, counts them as ended, and saves their rest', async (t) => {
  const talk: Script = (question) => `${question.slice(1)}! ${'and so on '.repeat(20)}`;
  const settings = { ...makeOptions('').settings, maxNewTokens: 150 };
  const verifier = (text: string, { answer }: { answer: string }) => text.startsWith(`${answer}!`);
  const evaluate = async (completed: ((text: string) => boolean) | undefined) => {
    const model = new ScriptedModel(talk);
    const given = makeOptions(temporaryFolder(t), { model, verifier, settings, completed });
    return { ...(await run(given)), model };
  };
  const whole = await evaluate(undefined);
  const stopped = await evaluate((text) => text.includes('!'));
  t.is(whole.summary.truncated, 12);
  t.is(stopped.summary.truncated, 0);
  t.deepEqual([whole.summary.accuracy, stopped.summary.accuracy], [1, 1]);
  t.deepEqual(
    stopped.predictions.map(([one]) => [one!.response, one!.finish_reason]),
    stopped.predictions.map((_, i) => [`${i}!`, 'stop']),
  );
  t.true(stopped.model.engines[0]!.decodedTokens < whole.model.engines[0]!.decodedTokens / 4);
});

test('a slow verifier holds up no other response', async (t) => {
  let done = 0;
  const { predictions } = await run(
    makeOptions(temporaryFolder(t), {
      verifier: async (_, { id }) => {
        while (id === 'q0' && done < 11) await new Promise((resolve) => setTimeout(resolve, 2));
        done++;
        return true;
      },
    }),
  );
  t.is(predictions.length, 12);
});

test('samples depend on the seed and the place of the question alone: not on slots or later questions', async (t) => {
  const sampled = async (more: Partial<EvalStageOptions<'eval'>>, seed = 1): Promise<Prediction[][]> => {
    const options = makeOptions(temporaryFolder(t), more);
    const settings = { ...options.settings, samples: 4, temperature: 1, seed };
    return (await run({ ...options, settings })).predictions;
  };
  const all = await sampled({});
  t.deepEqual(await sampled({ maxBranches: 1 }), all);
  const { questions } = makeOptions('');
  t.deepEqual(await sampled({ questions: questions.slice(0, 7) }), all.slice(0, 7));
  t.notDeepEqual(await sampled({}, 2), all);
});

test('an interrupted evaluation goes on where it was', async (t) => {
  const whole = await run(makeOptions(temporaryFolder(t)));
  const folder = temporaryFolder(t);
  const controller = new AbortController();
  let seen = 0;
  const stopped = runEvaluationStage(makeOptions(folder, { signal: controller.signal }), (event) => {
    if (event.type === 'prediction' && ++seen === 5) controller.abort(new Error('stop'));
  });
  await t.throwsAsync(stopped, { message: 'stop' });
  const onDisk = readFileSync(join(folder, 'predictions.jsonl'), 'utf8').trimEnd().split('\n').length;
  t.true(onDisk >= 5 && onDisk < 12);
  appendFileSync(join(folder, 'predictions.jsonl'), '{"id": "q9", "samp'); // torn by a kill
  const { summary, predictions, events } = await run(makeOptions(folder));
  t.is(events.filter((event) => event.type === 'prediction').length, 12 - onDisk);
  t.deepEqual(summary, whole.summary);
  t.deepEqual(predictions, whole.predictions);
});

test('a finished evaluation is read and left as it is', async (t) => {
  const folder = temporaryFolder(t);
  const first = await run(makeOptions(folder));
  const files = ['summary.json', 'predictions.jsonl'].map((name) => join(folder, name));
  const before = files.map((file) => [readFileSync(file, 'utf8'), statSync(file).mtimeMs]);
  const model = new ScriptedModel(() => {
    throw new Error('nothing is to be decoded');
  });
  const again = await run(makeOptions(folder, { model }));
  t.deepEqual(again.predictions, first.predictions);
  t.true(Math.abs(again.summary.accuracy - first.summary.accuracy) < 1e-6);
  t.deepEqual(Object.keys(again.summary), Object.keys(first.summary));
  t.deepEqual(
    files.map((file) => [readFileSync(file, 'utf8'), statSync(file).mtimeMs]),
    before,
  );
});

test('a verifier that throws stops the evaluation and is named with the question', async (t) => {
  const verifier = (_: string, { id }: { id: string }): boolean => {
    if (id === 'q4') throw new Error('oops');
    return true;
  };
  await t.throwsAsync(run(makeOptions(temporaryFolder(t), { verifier })), {
    code: 'ERR_CFT_VERIFIER',
    message: /question q4: oops/,
  });
});

test('entropy is the mean over the positions that predict the response', async (t) => {
  const model = new ScriptedModel(() => 'b');
  const { summary } = await run(makeOptions(temporaryFolder(t), { model }));
  // The scripted entropy is the id of the token before: the last of the prompt, "0" to "9", "0" and "1".
  const expected = ([...'012345678901'].map((c) => c.charCodeAt(0)).reduce((a, b) => a + b, 0) * 1) / 12;
  t.true(Math.abs(summary.meanEntropy! - expected) < 1e-9);
  t.is(summary.entropyResponses, 12);
});

test('entropy comes from decoding where that tells it, to the end of each response, also after an interruption', async (t) => {
  const plain = await run(makeOptions(temporaryFolder(t)));
  const model = new ScriptedModel(script, { tellsEntropies: true });
  const folder = temporaryFolder(t);
  const { summary, predictions } = await run(makeOptions(folder, { model }));
  t.true(Math.abs(summary.meanEntropy! - plain.summary.meanEntropy!) < 1e-4);
  t.is(summary.entropyResponses, 12);
  t.is(model.scored, 0);
  // "q4" and "it is so so so so 4" without its last character.
  const codes = [...'4it is so so so so '].map((c) => c.charCodeAt(0));
  t.is(predictions[4]![0]!.mean_entropy, codes.reduce((a, b) => a + b, 0) / codes.length);

  const lines = readFileSync(join(folder, 'predictions.jsonl'), 'utf8').split('\n');
  writeFileSync(join(folder, 'predictions.jsonl'), `${lines.slice(0, 5).join('\n')}\n`);
  const again = await run(makeOptions(folder, { model }));
  t.deepEqual(again.summary, summary);
  t.is(model.scored, 0);
});

test('a prompt that fills the positions is refused by its id', async (t) => {
  const questions = [{ id: 'long', question: 'x'.repeat(1000), answer: '1' }];
  await t.throwsAsync(run(makeOptions(temporaryFolder(t), { questions })), {
    code: 'ERR_CFT_BAD_DATA',
    message: /question long: expected a prompt of fewer than 1000 tokens .* found 1000/,
  });
});

test('a damaged prediction file is named', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'predictions.jsonl'), 'nonsense\n{"id":"q1","sample":0}\n');
  await t.throwsAsync(run(makeOptions(folder)), { code: 'ERR_CFT_BAD_DATA', message: /predictions\.jsonl/ });
});

function responses(marks: string, id: string): Prediction[] {
  return [...marks].map((mark, sample) => ({
    id,
    sample,
    answer: '1',
    response: `response ${mark}`,
    response_token_ids: [1, 2],
    finish_reason: 'stop',
    correct: mark === '1',
    ...(mark === '-' ? {} : { extracted: mark }),
  }));
}

const settings = { samples: 4, temperature: 1, seed: 0 };
const noEntropy = { mean: null, responses: 0 };

test('majority: the most frequent answer counts, ties by their share, silence does not vote', (t) => {
  const maj = (marks: string): number | null =>
    summarizePredictions([responses(marks, 'a')], settings, noEntropy).majAtK;
  t.is(maj('1122'), 0.5);
  t.is(maj('1123'), 1);
  t.is(maj('1222'), 0);
  t.is(maj('1---'), 1);
  t.is(maj('----'), null);
  t.is(maj('123-'), 1 / 3);
});

test('majority: correct answers are one, however they are spelled', (t) => {
  const of = (answers: string[]): Prediction[] =>
    responses('1'.repeat(answers.length), 'a').map((one, i) => ({
      ...one,
      extracted: answers[i]!,
      correct: /18/.test(answers[i]!),
    }));
  const eight = { ...settings, samples: 7 };
  const summary = summarizePredictions(
    [of(['18', '\\$18', '18.00', '17', ' 17', '1', '2'])],
    eight,
    noEntropy,
  );
  t.is(summary.majAtK, 1);
  t.is(summary.diversity!.all.distinctAnswerShare, 4 / 7);
  t.is(summary.diversity!.correct.distinctAnswerShare, null, 'they are one answer');
});

test('what is to be compared is looked through before any work', (t) => {
  const folder = temporaryFolder(t);
  const write = (lines: readonly Prediction[]): void =>
    writeFileSync(
      join(folder, 'predictions.jsonl'),
      lines.map((line) => `${JSON.stringify(line)}\n`).join(''),
    );
  const sets = [{ name: 'test', questions: ['a', 'b'].map((id) => ({ id, question: id, answer: '1' })) }];
  const check = (): void => checkAgainst(folder, sets);
  t.throws(check, { code: 'ERR_CFT_BAD_OPTION', message: /of test \(with predictions\.jsonl\)/ });
  write([...responses('11', 'a'), ...responses('12', 'b'), ...responses('12', 'more')]);
  t.notThrows(check);
  write(responses('11', 'a'));
  t.throws(check, { code: 'ERR_CFT_BAD_DATA', message: /a response to question b of test, found none/ });
  write([...responses('11', 'a'), ...responses('1', 'b')]);
  t.throws(check, { message: /question b: expected 2 responses.*found 1; the evaluation is not finished/ });
  write([...responses('11', 'a'), ...responses('12', 'b').map((one) => ({ ...one, answer: '2' }))]);
  t.throws(check, { message: /question b: expected the gold answer "1", found "2"/ });
});

test('sampled summaries: pass@k, distinct share, mean over questions', (t) => {
  const summary = summarizePredictions([responses('1111', 'a'), responses('1234', 'b')], settings, noEntropy);
  t.is(summary.accuracy, (1 + 0.25) / 2);
  t.deepEqual(summary.passAtK, { 1: 0.625, 2: 0.75, 4: 1 });
  t.is(summary.distinctShare, (0.25 + 1) / 2);
});

test('a difference is only claimed where the pairs show it', (t) => {
  const make = (marks: string): Prediction[][] => [...marks].map((mark, i) => responses(mark, String(i)));
  const same = comparePredictions(make('1010101010'), make('1010101010'), 0);
  t.like(same, { difference: 0, pValue: 1, verdict: 'no difference detected', method: 'mcnemar-exact' });
  const slightly = comparePredictions(make('1010101010'), make('1110101011'), 0);
  t.is(slightly.verdict, 'no difference detected');
  t.true(slightly.difference > 0.19 && slightly.differenceCi95[0] <= 0);
  const better = comparePredictions(make('00000000001111'), make('11111111111111'), 0);
  t.like(better, { verdict: 'better', pValue: 2 / 1024 });
  t.is(comparePredictions(make('11111111111111'), make('00000000001111'), 0).verdict, 'worse');
});

test('sampled pairs are compared by resampling questions', (t) => {
  const make = (rate: (i: number) => number): Prediction[][] =>
    Array.from({ length: 60 }, (_, i) =>
      responses(Array.from({ length: 4 }, (_, s) => (s < rate(i) ? '1' : '2')).join(''), String(i)),
    );
  const before = make((i) => i % 3);
  const same = comparePredictions(before, before, 0);
  t.like(same, { method: 'paired-bootstrap', difference: 0, verdict: 'no difference detected' });
  const better = comparePredictions(
    before,
    make((i) => (i % 3) + (i % 2)),
    0,
  );
  t.is(better.verdict, 'better');
  t.true(better.pValue < 0.001 && better.differenceCi95[0] > 0.05 && better.differenceCi95[1] < 0.2);
});
