/** The commands through the real command line: what they print where, and how they end. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { makeAnnotations, writeAnnotations } from '../helpers/annotation-file.js';
import { jsonEvents, runCli } from '../helpers/cli.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const tinyModel = fixturePath('models/qwen2');
/** Where there is none: whoever loads the addon fails. */
const noAddon = { CFT_ADDON: '/nonexistent.node' };

test('version, help and verify need no addon', async (t) => {
  t.timeout(120_000);
  const version = await runCli(['--version'], { env: noAddon });
  t.is(version.stdout, `${readJson<{ version: string }>('package.json').version}\n`);
  const help = await runCli(['train', '--help'], { env: noAddon });
  t.is(help.status, 0);
  t.is(help.stderr, '');
  t.regex(help.stdout, /--learning-rate/);
  const verify = await runCli(['verify'], { env: noAddon, input: '{"prediction": "4", "answer": "4"}\n' });
  t.is(verify.status, 0, verify.stderr);
});

test('without the addon a command says how to get it, in one line or two', async (t) => {
  t.timeout(120_000);
  const result = await runCli(['generate', 'x', '--model', tinyModel], { env: noAddon });
  t.is(result.status, 2);
  t.regex(result.stderr, /^cft-native generate: CFT_ADDON names \/nonexistent\.node/);
});

test('verify adds correct and extracted to each line, in order; a wrong answer is a result', async (t) => {
  t.timeout(120_000);
  const lines = [
    { id: 'a', prediction: 'so it is \\boxed{1/2}', answer: '0.5' },
    { id: 'b', prediction: 'The answer is 3.', answer: 'x #### 4' },
    { id: 'c', prediction: 'no idea', answer: '5' },
  ];
  const input = lines.map((line) => `${JSON.stringify(line)}\n`).join('');
  const result = await runCli(['verify'], { input });
  t.is(result.status, 0, result.stderr);
  t.deepEqual(jsonEvents(result.stdout), [
    { ...lines[0], correct: true, extracted: '1/2' },
    { ...lines[1], correct: false, extracted: '3' },
    { ...lines[2], correct: false, extracted: null },
  ]);
  const folder = temporaryFolder(t);
  const path = join(folder, 'p.jsonl');
  writeFileSync(path, '{"prediction": "7", "gold": 7}\n{"prediction": "7"}\n');
  const fromFile = await runCli(['verify', '--data', path, '--answer-field', 'gold']);
  t.is(fromFile.status, 1, 'the second line is bad, the first was written');
  t.regex(fromFile.stderr, /p\.jsonl:2: field "gold": expected text or a number/);
  t.is(jsonEvents(fromFile.stdout).length, 1);
});

test('generate streams to standard output, and nothing else goes there', async (t) => {
  t.timeout(120_000);
  const args = ['generate', '--model', tinyModel, '--raw', '--max-new-tokens', '8'];
  const fromFlag = await runCli([...args, '--prompt', 'ab']);
  t.is(fromFlag.status, 0, fromFlag.stderr);
  t.true(fromFlag.stdout.length > 1 && fromFlag.stdout.endsWith('\n'));
  const fromInput = await runCli(args, { input: 'ab\n' });
  t.is(fromInput.stdout, fromFlag.stdout);
  const events = jsonEvents((await runCli([...args, 'ab', '--json'])).stdout);
  const text = events.filter(({ type }) => type === 'token').map((event) => event.text);
  t.is(`${text.join('')}\n`, fromFlag.stdout);
  t.like(events.at(-1), { type: 'response', sample: 0, text: text.join('') });
});

test('sampled generation repeats with its seed and differs with another', async (t) => {
  t.timeout(120_000);
  const args = [
    'generate',
    'ab',
    '--model',
    tinyModel,
    '--raw',
    '--max-new-tokens',
    '8',
    '--temperature',
    '1',
  ];
  const [first, again, other] = await Promise.all(
    ['1', '1', '2'].map(async (seed) => (await runCli([...args, '--samples', '3', '--seed', seed])).stdout),
  );
  t.regex(first!, /^--- 1\n[\s\S]*\n\n--- 2\n[\s\S]*\n\n--- 3\n/);
  t.is(again, first);
  t.not(other, first);
});

test('eval writes its folder and a short account', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const data = join(folder, 'sums.jsonl');
  writeFileSync(
    data,
    [1, 2, 3].map((n) => `${JSON.stringify({ question: `${n}+1`, answer: n + 1 })}\n`).join(''),
  );
  const output = join(folder, 'run');
  const args = ['eval', '--model', tinyModel, '--data', data, '--output', output, '--max-new-tokens', '4'];
  const result = await runCli([...args, '--limit', '2', '--user-template', '{question}', '--system', '']);
  t.is(result.status, 0, result.stderr);
  t.regex(
    result.stdout,
    /sums: 2 questions, 1 response each, temperature 0\naccuracy +0\.0 % \(95 % interval/,
  );
  t.is(readJson<Record<string, { n: number }>>(join(output, 'summary.json')).sums!.n, 2);
  t.is(readFileSync(join(output, 'predictions.jsonl'), 'utf8').trimEnd().split('\n').length, 2);
});

test('train: flags beat the configuration file, which beats the defaults; the account names what to type next', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(8));
  const config = join(folder, 'run.yaml');
  writeFileSync(
    config,
    `model: ${tinyModel}\nannotations: ${annotations}\nepochs: 2\nbatchSize: 4\nseed: 7\n`,
  );
  const output = join(folder, 'run');
  const result = await runCli(['train', '--config', config, '--output', output, '--epochs', '1']);
  t.is(result.status, 0, result.stderr);
  t.like(readJson<{ options: Record<string, unknown> }>(join(output, 'run.json')).options, {
    epochs: 1,
    batch_size: 4,
    seed: 7,
    schedule: 'cosine',
  });
  t.regex(result.stdout, /training +2 steps, learning rate 0\.000005, loss \d/);
  t.regex(result.stdout, /next +npx cft-native generate --model /);
  t.regex(result.stdout, /no evaluation: give --eval-data/);
  t.regex(result.stderr, /training: 2 steps \(/);
  t.true(existsSync(join(output, 'report.html')));
});

test('--json prints events and the result as lines, and nothing for people', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(8));
  const args = ['train', '--model', tinyModel, '--annotations', annotations, '--output', join(folder, 'run')];
  const result = await runCli([...args, '--epochs', '1', '--json']);
  t.is(result.status, 0, result.stderr);
  t.is(result.stderr, '');
  const types = jsonEvents(result.stdout).map(({ type }) => type);
  t.is(types[0], 'start');
  t.is(types.at(-1), 'result');
  for (const type of ['stage', 'step', 'progress', 'checkpoint', 'saved', 'done'])
    t.true(types.includes(type), type);
});

test('doctor reports as text and as JSON, and exits 0 where the addon loads', async (t) => {
  t.timeout(120_000);
  const result = await runCli(['doctor', '--json']);
  const report = JSON.parse(result.stdout) as { ok: boolean; checks: { name: string; status: string }[] };
  t.is(result.status, report.ok ? 0 : 1);
  t.true(report.checks.some(({ name }) => name === 'Node'));
  t.regex((await runCli(['doctor'])).stdout, /The CPU path/);
});

test('a failure with --json is the last line of standard output, and a text on standard error', async (t) => {
  t.timeout(120_000);
  const result = await runCli(['eval', '--samples', '4', '--json']);
  t.is(result.status, 2);
  const [event, ...more] = jsonEvents(result.stdout);
  t.like(event, { type: 'error', code: 'ERR_CFT_BAD_OPTION' });
  t.regex(String(event!.message), /^samples \(--samples\): expected 1/);
  t.deepEqual(more, []);
  t.regex(result.stderr, /^cft-native eval: samples/);
  const help = await runCli(['help', 'train'], { env: noAddon });
  t.is(help.status, 0);
  t.regex(help.stdout, /--learning-rate/);
  const output = await runCli(['train', '--output', ''], { env: noAddon });
  t.regex(output.stderr, /^cft-native train: output \(--output\): expected a path, found ""/);
});

test('a question that does not fit is named by its line, and no folder is left', async (t) => {
  t.timeout(180_000);
  const folder = temporaryFolder(t);
  const data = join(folder, 'q.jsonl');
  const long = { question: 'a b '.repeat(500), answer: 1 };
  writeFileSync(data, `${JSON.stringify({ question: 'a', answer: 1 })}\n${JSON.stringify(long)}\n`);
  for (const command of ['annotate', 'eval', 'train']) {
    const output = join(folder, command);
    const result = await runCli([command, '--model', tinyModel, '--data', data, '--output', output]);
    t.is(result.status, 2, result.stderr);
    t.regex(result.stderr, /q\.jsonl:2: expected a prompt of fewer than 128 tokens/);
    t.false(existsSync(output), command);
  }
});

test('evaluation questions that are trained on are counted, and Ctrl-C in the last stage kills nothing', async (t) => {
  t.timeout(180_000);
  const folder = temporaryFolder(t);
  const records = makeAnnotations(4);
  const annotations = writeAnnotations(join(folder, 'a.jsonl'), records);
  const data = join(folder, 'q.jsonl');
  const questions = [
    { question: records[1]!.question, answer: 1 },
    { question: 'new', answer: 1 },
  ];
  writeFileSync(data, questions.map((one) => `${JSON.stringify(one)}\n`).join(''));
  const output = join(folder, 'run');
  const args = [
    'train',
    '--model',
    tinyModel,
    '--annotations',
    annotations,
    '--output',
    output,
    '--epochs',
    '1',
  ];
  const result = await runCli([...args, '--eval-data', data, '--max-new-tokens', '2', '--json'], {
    signalAt: { signal: 'SIGINT', pattern: /"stage":"report"/ },
  });
  const warning = jsonEvents(result.stdout).find(({ type }) => type === 'warning');
  t.regex(String(warning?.message), /^1 of 2 evaluation questions are trained on as well/);
  t.is(result.signal, null, result.stderr);
  t.true(result.status === 0 || result.status === 130, String(result.status));
});

test('Ctrl-C while a finished command unloads does not make it look killed', async (t) => {
  t.timeout(120_000);
  // Nothing tells from outside when the event loop is empty: a few moments after the last output all lie around it.
  for (const milliseconds of [0, 10, 25, 40, 60]) {
    let sent = false;
    const result = await runCli(['generate', 'x', '--model', tinyModel, '--raw', '--max-new-tokens', '2'], {
      onOutput: (_, child) => {
        if (!sent) setTimeout(() => child.kill('SIGINT'), milliseconds);
        sent = true;
      },
    });
    t.is(result.signal, null, `${milliseconds} ms: ${result.stderr}`);
    t.true(result.status === 0 || result.status === 130, String(result.status));
  }
});
