/** eval and overlap on benchmarks, as a user runs them, with small files in the place of the benchmarks. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { runCli } from '../helpers/cli.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';

const questions = (count: number, from = 0): string[] =>
  Array.from(
    { length: count },
    (_, i) => `Sam has ${20 + from + i} cups. Sam finds ${i + 3} more. How many cups does Sam have?`,
  );

function dataFolder(t: Parameters<typeof temporaryFolder>[0]): string {
  const folder = temporaryFolder(t);
  const put = (name: string, rows: object[]) => {
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, 'test.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  };
  put(
    'gsm8k',
    questions(3).map((question, i) => ({ question, answer: `So.\n#### ${23 + 2 * i}` })),
  );
  put(
    'mawps',
    [...questions(2, 40), questions(1)[0]!, questions(1)[0]!].map((input) => ({ input, target: 23 })),
  );
  return folder;
}

test('several benchmarks, their average, a paired comparison, warnings, resuming', async (t) => {
  const env = { CFT_DATA_DIR: dataFolder(t) };
  const folder = temporaryFolder(t);
  const trained = join(folder, 'train.jsonl');
  writeFileSync(trained, `${JSON.stringify({ question: questions(1)[0]!.toUpperCase() })}\n`);
  const short = ['--max-new-tokens', '60'];
  const first = await runCli(
    ['eval', '--benchmark', 'gsm8k,MAWPS', '--output', join(folder, 'a'), '--train-data', trained, ...short],
    { env },
  );
  t.is(first.status, 0, first.stderr);
  t.regex(first.stderr, /warning: mawps: 1 of 4 questions are asked more than once/);
  t.regex(first.stderr, /warning: mawps: 2 of 4 questions are in .*train\.jsonl/);
  t.regex(
    first.stdout,
    /gsm8k: 3 questions[\s\S]*mawps: 4 questions[\s\S]*average of 2 benchmarks\naccuracy/,
  );
  const summary = readJson<Record<string, Record<string, unknown>>>(join(folder, 'a', 'summary.json'));
  t.deepEqual(Object.keys(summary), ['gsm8k', 'mawps', 'average']);
  t.is(
    summary.average!.accuracy,
    ((summary.gsm8k!.accuracy as number) + (summary.mawps!.accuracy as number)) / 2,
  );
  const lines = readFileSync(join(folder, 'a', 'mawps', 'predictions.jsonl'), 'utf8')
    .trim()
    .split('\n');
  t.deepEqual(
    lines.map((line) => (JSON.parse(line) as { id: string }).id),
    ['0', '1', '2', '3'],
  );

  const trunks = join(folder, 'trunks.jsonl');
  writeFileSync(trunks, `${JSON.stringify({ prompt_token_ids: [5, 6, 7], response_token_ids: [8, 9] })}\n`);
  const args = ['eval', '--benchmark', 'gsm8k,mawps', '--output', join(folder, 'b'), ...short];
  const extras = ['--against', join(folder, 'a'), '--trunks', trunks];
  const second = await runCli([...args, ...extras], { env });
  t.is(second.status, 0, second.stderr);
  t.regex(
    second.stdout,
    /two checkpoints on the same questions\ngsm8k: 0\.0 points .*McNemar's exact test\)/,
  );
  t.regex(second.stdout, /average: 0\.0 points .*paired bootstrap\): no difference detected/);
  t.regex(second.stdout, /fixed trunks \d\.\d{3} nats per token \(1 response, 2 tokens\)/);
  t.true(existsSync(join(folder, 'b', 'comparison.json')) && existsSync(join(folder, 'b', 'trunks.json')));

  const again = await runCli([...args, '--resume'], { env });
  t.is(again.status, 0, again.stderr);
  t.deepEqual(readJson(join(folder, 'b', 'summary.json')), readJson(join(folder, 'a', 'summary.json')));
  const other = await runCli(
    ['eval', '--benchmark', 'gsm8k', '--limit', '1', '--output', join(folder, 'c'), '--against', trunks],
    { env },
  );
  t.is(other.status, 2, other.stderr);
  t.regex(other.stderr, /against \(--against\): expected the folder of an evaluation of gsm8k/);
  t.false(existsSync(join(folder, 'c')), 'found before any work');
});

test('overlap counts what is asked twice', async (t) => {
  const env = { CFT_DATA_DIR: dataFolder(t) };
  const training = join(temporaryFolder(t), 'train.jsonl');
  writeFileSync(training, `${JSON.stringify({ question: questions(1)[0]!.toUpperCase() })}\n`);
  const result = await runCli(['overlap', '--benchmark', 'gsm8k,mawps', '--data', training], { env });
  t.is(result.status, 0, result.stderr);
  t.regex(result.stdout, /mawps: 4 questions, 1 of them repeated \(3 = 2\)\n/);
  t.regex(result.stdout, /gsm8k: 1 of 3 questions are in train\.jsonl/);
  t.regex(result.stdout, /mawps: 2 of 4 questions are in gsm8k/);
  const json = await runCli(['overlap', '--benchmark', 'mawps', '--json'], { env });
  t.is((JSON.parse(json.stdout) as { duplicates: { repeated: number }[] }).duplicates[0]!.repeated, 1);
  const none = await runCli(['overlap'], { env });
  t.is(none.status, 2);
});
