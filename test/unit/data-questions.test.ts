import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type ReadQuestionsOptions, readQuestions } from '../../lib/data/questions.js';
import { CftError } from '../../lib/errors.js';
import { needsData } from '../helpers/data.js';
import { fixturePath, temporaryFolder } from '../helpers/fixtures.js';

function fileWith(t: ExecutionContext, name: string, content: string | Uint8Array): string {
  const path = join(temporaryFolder(t), name);
  writeFileSync(path, content);
  return path;
}

/** Expects ERR_CFT_BAD_DATA (exit status 2) whose message holds every part. */
async function refused(
  t: ExecutionContext,
  source: Parameters<typeof readQuestions>[0],
  parts: string[],
  options: ReadQuestionsOptions = {},
): Promise<void> {
  const error = await t.throwsAsync(readQuestions(source, options), { instanceOf: CftError });
  t.is(error?.code, 'ERR_CFT_BAD_DATA');
  t.is(error?.exitStatus, 2);
  for (const part of parts)
    t.true(error?.message.includes(part), `"${error?.message}" should hold "${part}"`);
}

const three = [
  { id: '1', question: 'Q1', answer: '1' },
  { id: '2', question: 'Q2', answer: '2.5' },
  { id: '3', question: 'Q3', answer: 'x' },
];
const lines = [
  '{"question":"Q1","answer":1}',
  '{"question":"Q2","answer":2.50}',
  '{"question":"Q3","answer":"x"}',
];

test('JSON Lines: ids are line numbers, numbers become text', async (t) => {
  t.deepEqual(await readQuestions(fileWith(t, 'q.jsonl', `${lines.join('\n')}\n`)), three);
});

test('JSON Lines: byte order mark, CRLF, blank lines and a missing last newline are tolerated', async (t) => {
  const path = fileWith(t, 'q.jsonl', `\uFEFF${lines[0]}\r\n\r\n${lines[1]}\r\n${lines[2]}`);
  t.deepEqual(
    (await readQuestions(path)).map(({ id, question }) => [id, question]),
    [
      ['1', 'Q1'],
      ['3', 'Q2'],
      ['4', 'Q3'],
    ],
  );
});

test('ids are kept, numbers among them as text', async (t) => {
  const questions = await readQuestions([
    { id: 7, question: 'a', answer: 1 },
    { id: 'seven', question: 'b', answer: 2 },
    { question: 'c', answer: 3 },
  ]);
  t.deepEqual(
    questions.map(({ id }) => id),
    ['7', 'seven', '3'],
  );
});

test('a JSON array, {data: [...]}, a CSV file, an array, an iterable and an async iterable say the same', async (t) => {
  const items = [
    { question: 'Q1', answer: '1' },
    { question: 'Q2', answer: '2.5' },
    { question: 'Q3', answer: 'x' },
  ];
  async function* later() {
    yield* items;
  }
  const sources = [
    fileWith(t, 'q.json', JSON.stringify(items)),
    fileWith(t, 'd.json', `\uFEFF${JSON.stringify({ data: items })}`),
    fileWith(t, 'q.csv', 'answer,question\r\n1,Q1\r\n2.5,Q2\r\n"x","Q3"\r\n'),
    items,
    new Set(items),
    later(),
  ];
  for (const source of sources) t.deepEqual(await readQuestions(source), three);
});

test('CSV: quoted line breaks, commas and quotes', async (t) => {
  const path = fileWith(t, 'q.csv', '\uFEFFid,question,answer\n a1,"Two\nlines, ""quoted""",4\n');
  t.deepEqual(await readQuestions(path), [{ id: ' a1', question: 'Two\nlines, "quoted"', answer: '4' }]);
});

for (const codec of ['snappy', 'gzip', 'none']) {
  test(`Parquet with ${codec} compression, three row groups`, async (t) => {
    const questions = await readQuestions(fixturePath(`data/questions.${codec}.parquet`));
    t.deepEqual(questions, [
      { id: '10', question: 'How many?', answer: '#### 3' },
      { id: '11', question: '1 + 1 = ?', answer: '2' },
      { id: '12', question: 'π rounded?', answer: '3.14' },
      { id: '13', question: 'A half?', answer: '\\boxed{\\frac12}' },
      { id: '14', question: 'The last?', answer: '5' },
    ]);
  });
}

test('Parquet: other columns by name, a compression that cannot be read, NULL, bytes that are not UTF-8', async (t) => {
  const renamed = { questionField: 'problem', answerField: 'target' };
  t.deepEqual(await readQuestions(fixturePath('data/renamed.parquet'), renamed), [
    { id: '1', question: 'One?', answer: '0.5' },
  ]);
  await refused(t, fixturePath('data/renamed.parquet'), [
    'row 1',
    '"question" is missing',
    '--question-field problem',
  ]);
  await refused(t, fixturePath('data/questions.zstd.parquet'), ['ZSTD', 'snappy, gzip']);
  await refused(t, fixturePath('data/null.parquet'), ['row 2', '"question"', 'found null']);
  await refused(t, fixturePath('data/not-utf8.parquet'), ['not-utf8.parquet', 'not valid']);
  await refused(t, fileWith(t, 'cut.parquet', 'PAR1 nothing else'), ['cut.parquet', 'broken Parquet']);
});

test('limit takes the first ones and reads no further', async (t) => {
  const path = fileWith(t, 'q.jsonl', `${lines[0]}\n${lines[1]}\n{broken\n`);
  t.deepEqual(await readQuestions(path, { limit: 2 }), three.slice(0, 2));
  let given = 0;
  const endless = {
    *[Symbol.iterator]() {
      for (;;) yield { question: `Q${++given}`, answer: 1 };
    },
  };
  t.is((await readQuestions(endless, { limit: 5 })).length, 5);
  t.is(given, 5);
  t.is((await readQuestions(fixturePath('data/questions.snappy.parquet'), { limit: 3 })).length, 3);
});

test('an aborted signal ends reading with its reason', async (t) => {
  const reason = new Error('enough');
  await t.throwsAsync(
    readQuestions(fileWith(t, 'q.jsonl', lines.join('\n')), { signal: AbortSignal.abort(reason) }),
    {
      is: reason,
    },
  );
  const controller = new AbortController();
  async function* slow() {
    yield { question: 'a', answer: 1 };
    controller.abort(reason);
    yield { question: 'b', answer: 1 };
  }
  await t.throwsAsync(readQuestions(slow(), { signal: controller.signal }), { is: reason });
});

test('a missing field names the flag that is probably meant', async (t) => {
  const svamp = fileWith(t, 's.jsonl', '{"Question":"Q","Answer":1,"Body":"B"}\n');
  await refused(t, svamp, [
    's.jsonl:1',
    '"question" is missing',
    'Question, Answer, Body',
    '--question-field Question',
  ]);
  await refused(t, svamp, ['--answer-field Answer'], { questionField: 'Question' });
  const mawps = fileWith(t, 'm.jsonl', '{"input":"Q","target":1}\n');
  await refused(t, mawps, ['--question-field input']);
  await refused(t, mawps, ['--answer-field target'], { questionField: 'input' });
  await refused(t, fileWith(t, 'n.jsonl', '{"a":"Q","b":1}\n'), ['found the fields a, b']);
  await refused(t, fileWith(t, 'e.csv', 'problem,answer\nQ,1\n'), ['line 2', '--question-field problem']);
});

test('each broken file gets one clear message', async (t) => {
  const good = lines[0] as string;
  await refused(t, fileWith(t, 'a.jsonl', `${good}\n{"question": "Q2", \n${good}\n`), [
    'a.jsonl:2',
    'broken line',
  ]);
  await refused(t, fileWith(t, 'b.jsonl', `${good}\n{"question":"Q2","ans`), ['b.jsonl:2', 'cut off']);
  await refused(t, fileWith(t, 'c.jsonl', ''), ['c.jsonl', 'at least one question']);
  await refused(t, fileWith(t, 'd.jsonl', '\n\n'), ['d.jsonl', 'at least one question']);
  await refused(t, fileWith(t, 'e.jsonl', '{"question":"Q","answer":""}\n'), [
    'e.jsonl:1',
    '"answer"',
    'empty text',
  ]);
  await refused(t, fileWith(t, 'f.jsonl', '{"question":" ","answer":1}\n'), [
    'f.jsonl:1',
    '"question"',
    'white space',
  ]);
  await refused(t, fileWith(t, 'g.jsonl', '{"question":5,"answer":1}\n'), [
    '"question"',
    'expected text',
    '5 (number)',
  ]);
  await refused(t, fileWith(t, 'h.jsonl', '{"question":"Q","answer":["1"]}\n'), ['"answer"', 'a list of 1']);
  await refused(t, fileWith(t, 'i.jsonl', '{"question":"Q","answer":null}\n'), ['"answer"', 'found null']);
  await refused(t, fileWith(t, 'j.jsonl', '[1,2]\n'), [
    'j.jsonl:1',
    'expected one JSON object',
    'a list of 2',
  ]);
  await refused(t, fileWith(t, 'k.jsonl', '{"id":true,"question":"Q","answer":1}\n'), [
    '"id"',
    'true (boolean)',
  ]);
  await refused(t, fileWith(t, 'l.json', '{"rows":[]}'), ['l.json', '{"data": [...]}', 'keys rows']);
  await refused(t, fileWith(t, 'm.json', `${good}\n${good}\n`), ['m.json', 'rename it to .jsonl']);
  await refused(t, fileWith(t, 'n.json', '[{"question":"Q","answer":1}, 5]'), ['item 2', '5 (number)']);
  await refused(t, fileWith(t, 'o.csv', 'question,answer\n"Q,1\n'), ['o.csv:', 'broken CSV']);
  await refused(t, fileWith(t, 'p.csv', 'question,answer\nQ,1,2\n'), ['p.csv:2', 'broken CSV']);
  await refused(t, fileWith(t, 'q.csv', 'question,question\nQ,1\n'), ['q.csv:1', '"question" twice']);
  await refused(t, fileWith(t, 'r.txt', good), ['r.txt', '.jsonl, .json, .csv or .parquet']);
  await refused(t, join(temporaryFolder(t), 'absent.jsonl'), ['absent.jsonl', 'no such file']);
  await refused(t, join(temporaryFolder(t), 'absent.parquet'), ['absent.parquet', 'no such file']);
  await refused(t, fixturePath('data').replace(/data$/, 'data/'), ['.jsonl, .json, .csv or .parquet']);
  await refused(t, [], ['at least one question']);
  await refused(t, ['text'], ['item 1', '"text"']);
});

test('a folder where a file is expected', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'folder.jsonl');
  const { mkdirSync } = await import('node:fs');
  mkdirSync(path);
  await refused(t, path, ['folder.jsonl', 'found a folder']);
});

test('invalid UTF-8 names its line in each text format', async (t) => {
  const bad = (text: string) => Buffer.concat([Buffer.from(text), Buffer.from([0xff, 0x22, 0x7d, 0x0a])]);
  await refused(t, fileWith(t, 'a.jsonl', bad(`${lines[0]}\n{"question":"`)), ['a.jsonl:2', 'UTF-8']);
  await refused(t, fileWith(t, 'a.json', bad('[\n\n{"question":"')), ['a.json:3', 'UTF-8']);
  await refused(t, fileWith(t, 'a.csv', bad('question,answer\nQ,1\nQ2,')), ['a.csv:3', 'UTF-8']);
});

test('ids must be distinct, line numbers among them', async (t) => {
  const path = fileWith(
    t,
    'q.jsonl',
    '{"id":"x","question":"Q","answer":1}\n{"id":"x","question":"R","answer":1}\n',
  );
  await refused(t, path, ['q.jsonl:2', '"x" again', 'q.jsonl:1']);
  await refused(
    t,
    [
      { id: 2, question: 'Q', answer: 1 },
      { question: 'Q', answer: 1 },
    ],
    ['item 2', '"2" again'],
  );
});

test('characters that cross a read boundary stay whole, long files stay in order', async (t) => {
  const count = 30_000;
  const text = Array.from({ length: count }, (_, i) =>
    JSON.stringify({ question: `${'é€𝜋'.repeat(9)}${i}`, answer: i }),
  );
  const path = fileWith(t, 'big.jsonl', text.join('\n'));
  const questions = await readQuestions(path);
  t.is(questions.length, count);
  t.true(
    questions.every(({ question, answer, id }, i) => {
      return question === `${'é€𝜋'.repeat(9)}${i}` && answer === String(i) && id === String(i + 1);
    }),
  );
});

test('real data sets are read whole', async (t) => {
  const gsm8k = needsData(t, 'gsm8k/test.jsonl');
  const svamp = needsData(t, 'svamp/test.jsonl');
  if (gsm8k === undefined || svamp === undefined) return;
  const questions = await readQuestions(gsm8k);
  t.is(questions.length, 1319);
  t.true(questions[0]?.answer.endsWith('#### 18'));
  const renamed = await readQuestions(svamp, { questionField: 'Question', answerField: 'Answer' });
  t.is(renamed.length, 1000);
  t.is(renamed[0]?.answer, '145');
});

test('an empty Parquet file is called that', async (t) => {
  const path = join(temporaryFolder(t), 'q.parquet');
  writeFileSync(path, '');
  await t.throwsAsync(readQuestions(path), {
    message: /q\.parquet: expected a Parquet file, found an empty file$/,
  });
});
