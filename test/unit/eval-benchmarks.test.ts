/** Benchmarks by name: rows to questions, groups, the hub, and questions that occur twice. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { benchmarkNames, readBenchmark, resolveBenchmarks } from '../../lib/eval/benchmarks.js';
import { evaluate } from '../../lib/eval/evaluate.js';
import { contentOf, findDuplicates, findOverlap, overlapReport } from '../../lib/eval/overlap.js';
import { findOverlaps } from '../../lib/eval/overlaps.js';
import { verify } from '../../lib/verify/index.js';
import { dataFolder, needsData } from '../helpers/data.js';
import { startFakeHub } from '../helpers/fake-hub.js';
import { temporaryFolder } from '../helpers/fixtures.js';

function useDataFolder(t: { teardown: (undo: () => void) => void }, folder: string | undefined): void {
  const before = process.env.CFT_DATA_DIR;
  if (folder === undefined) delete process.env.CFT_DATA_DIR;
  else process.env.CFT_DATA_DIR = folder;
  t.teardown(() => {
    if (before === undefined) delete process.env.CFT_DATA_DIR;
    else process.env.CFT_DATA_DIR = before;
  });
}

test('names: groups are spelled out, other spellings are understood, unknown ones are told', (t) => {
  t.is(resolveBenchmarks(['paper-11']).length, 11);
  t.false(resolveBenchmarks(['paper-11']).some((name) => /500|aime|amc/.test(name)));
  t.deepEqual(resolveBenchmarks(['MATH-500', 'Minerva-Math', 'math500']), ['math500', 'minerva_math']);
  t.is(benchmarkNames.length, 15);
  t.throws(() => resolveBenchmarks(['gsm8']), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /benchmark \(--benchmark\): expected gsm8k, .*found "gsm8"; did you mean "gsm8k"\?/,
  });
});

test.serial('every benchmark is read in full, and its gold answers agree with themselves', async (t) => {
  if (needsData(t, 'gsm8k/test.jsonl') === undefined) return;
  useDataFolder(t, dataFolder);
  const sizes: Record<string, number> = {};
  for (const name of benchmarkNames) {
    const { questions, withoutAnswer, found, expected } = await readBenchmark(name);
    t.true(found >= expected && found - expected <= 1, name);
    sizes[name] = questions.length;
    t.is(withoutAnswer, name === 'gaokao2023en' ? 2 : 0, name);
    const wrong = questions.filter(({ answer }) => answer !== '' && !verify(answer, answer).correct);
    t.deepEqual(wrong, [], name);
  }
  t.deepEqual(sizes, {
    gsm8k: 1319,
    math: 5000,
    svamp: 1000,
    asdiv: 2215,
    mawps: 2065,
    carp_en: 976,
    tabmwp: 1000,
    minerva_math: 272,
    gaokao2023en: 385,
    olympiadbench: 675,
    college_math: 2818,
    math500: 500,
    aime24: 30,
    aime25: 30,
    amc23: 40,
  });
});

test.serial('questions are put together as the evaluation of Qwen2.5-Math does', async (t) => {
  const folder = temporaryFolder(t);
  useDataFolder(t, folder);
  const put = (name: string, rows: object) => {
    mkdirSync(join(folder, name.split('/')[0]!), { recursive: true });
    const lines = Array.isArray(rows)
      ? rows.map((row) => JSON.stringify(row)).join('\n')
      : JSON.stringify(rows);
    writeFileSync(join(folder, name), lines);
  };
  put('svamp/test.jsonl', [{ Body: 'Ann has 2 pens', Question: 'How many?', Answer: 2.0 }]);
  put('asdiv/test.jsonl', [{ body: 'Two pens.', question: 'How many? ', answer: '2 (pens)' }]);
  put('olympiadbench/test.jsonl', [{ question: 'Q', final_answer: ['$\\frac12$'] }]);
  put('tabmwp/problems_test1k.json', {
    7: { question: 'Which?', table: 'a | b', table_title: 'T', choices: ['x', "y's"], answer: 'x' },
    9: { question: 'How many?', table: 'a | b', table_title: null, choices: null, answer: '1,234' },
  });
  const read = async (name: string) =>
    (await readBenchmark(name)).questions.map(({ id, question, answer }) => [id, question, answer]);
  t.deepEqual(await read('svamp'), [['0', 'Ann has 2 pens. How many?', '2']]);
  t.deepEqual(await read('asdiv'), [['0', 'Two pens. How many?', '2']]);
  t.deepEqual(await read('olympiadbench'), [['0', 'Q', '\\frac12']]);
  t.deepEqual(await read('tabmwp'), [
    [
      '0',
      'Read the following table regarding "T" and answer a question:\na | b\nWhich? Please select from the following ' +
        `options: ['x', "y's"]`,
      'x',
    ],
    ['1', 'Read the following table and answer a question:\na | b\nHow many?', '1,234'],
  ]);
  const limited = await readBenchmark('tabmwp', { limit: 1 });
  t.like(limited, { found: 2, expected: 1000 });
  t.is(limited.questions.length, 1);
  put('mawps/test.jsonl', [
    { input: 'Is it so?', target: 'Yes' },
    { input: 'Is it right?', target: 'false' },
    { input: 'Who?', target: 'Noel' },
  ]);
  t.deepEqual(await read('mawps'), [
    ['0', 'Is it so? (Yes or No)', 'Yes'],
    ['1', 'Is it right? (True or False)', 'false'],
    ['2', 'Who?', 'Noel'],
  ]);
  put('gsm8k/test.jsonl', [{ prompt: 'Q', answer: '1' }]);
  await t.throwsAsync(readBenchmark('gsm8k'), {
    code: 'ERR_CFT_BAD_DATA',
    message: /test\.jsonl \(row 1\): expected question or problem, found prompt, answer/,
  });
  await t.throwsAsync(readBenchmark('carp_en'), {
    message: /carp_en: expected .*carp_en.test\.jsonl, found none/,
  });
});

test.serial('what CFT_DATA_DIR lacks comes from the hub, once', async (t) => {
  useDataFolder(t, undefined);
  const [repository, cache] = [temporaryFolder(t), temporaryFolder(t)];
  writeFileSync(join(repository, 'test.jsonl'), '{"problem": "1 + 1", "answer": "2"}\n');
  writeFileSync(join(repository, 'README.md'), 'no data');
  const hub = await startFakeHub(t, { 'HuggingFaceH4/MATH-500': repository }, cache);
  const read = async () => (await readBenchmark('math500')).questions;
  t.deepEqual(await read(), [{ id: '0', question: '1 + 1', answer: '2' }]);
  const downloads = () => hub.requests.filter((request) => request.includes('/resolve/')).length;
  t.is(downloads(), 1);
  t.is((await read()).length, 1);
  t.is(downloads(), 1, 'the second time it is in the cache');
  hub.status = 503;
  t.is((await read()).length, 1, 'a hub that is away does not matter then');
  process.env.HF_HUB_OFFLINE = '1';
  t.is((await read()).length, 1);
  await t.throwsAsync(readBenchmark('aime24'), {
    message: /HF_HUB_OFFLINE forbids downloading; CFT_DATA_DIR/,
  });
  delete process.env.HF_HUB_OFFLINE;
  await t.throwsAsync(readBenchmark('aime24'), { code: 'ERR_CFT_DOWNLOAD' });
});

test('questions are compared by letters and digits', (t) => {
  t.is(contentOf('What is $x + 1$ ?'), contentOf('what is \\( x+1 \\)'));
  t.not(contentOf('x + 1'), contentOf('x + 2'));
  const ask = (...questions: string[]) =>
    questions.map((question, i) => ({ id: String(i), question, answer: '1' }));
  const a = { name: 'a', questions: ask('One?', 'Two?', 'ONE', '') };
  const b = { name: 'b', questions: ask('two', 'Three', '!') };
  t.deepEqual(findDuplicates(a), { name: 'a', questions: 4, repeated: 1, examples: [['2', '0']] });
  t.deepEqual(findOverlap(a, b), { name: 'a', questions: 4, with: 'b', shared: 1, examples: [['1', '0']] });
  t.deepEqual(overlapReport([b]).training, []);
});

test.serial('the known overlaps: MATH with its training set, MAWPS with itself and ASDiv', async (t) => {
  const training = needsData(t, 'math/train.jsonl');
  if (training === undefined) return;
  useDataFolder(t, dataFolder);
  const report = await findOverlaps({
    data: training,
    questionField: 'problem',
    benchmark: ['math', 'mawps', 'asdiv'],
  });
  t.deepEqual(
    report.training.map(({ name, shared }) => [name, shared]),
    [
      ['math', 11],
      ['mawps', 0],
      ['asdiv', 0],
    ],
  );
  t.is(report.duplicates.find(({ name }) => name === 'mawps')?.repeated, 215);
  t.is(report.between.find(({ name, with: other }) => name === 'asdiv' && other === 'mawps')?.shared, 243);
});

test('fields beside a benchmark are refused, for it knows its own', async (t) => {
  const fields = (more: object) => evaluate({ benchmark: ['gsm8k'], model: '/nowhere', ...more });
  await t.throwsAsync(async () => fields({ answerField: 'gold' }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /answerField \(--answer-field\): expected none beside benchmark .* found "gold"/,
  });
  await t.throwsAsync(async () => fields({ questionField: 'q' }), { message: /questionField/ });
  // It names the questions of the training file then.
  const train = { questionField: 'q', trainData: '/nowhere.jsonl', output: join(temporaryFolder(t), 'run') };
  const error = await t.throwsAsync(async () => fields(train));
  t.notRegex(error!.message, /beside benchmark/);
});
