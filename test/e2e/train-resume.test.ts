/** Training that is killed or interrupted at any moment and resumed ends with the weights of an undisturbed run. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { makeAnnotations, writeAnnotations } from '../helpers/annotation-file.js';
import { jsonEvents, runCli } from '../helpers/cli.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

/** 20 responses in batches of 4: five steps an epoch, fifteen in all; checkpoints every second step. */
function trainArgs(folder: string, name: string, ...more: string[]): string[] {
  const annotations = join(folder, 'annotations.jsonl');
  if (!existsSync(annotations)) writeAnnotations(annotations, makeAnnotations(20));
  return [
    ...['train', '--model', fixturePath('models/qwen2'), '--annotations', annotations],
    ...[
      '--output',
      join(folder, name),
      '--batch-size',
      '4',
      '--checkpoint-every',
      '2',
      '--learning-rate',
      '1e-3',
    ],
    ...['--threads', '1', '--json', ...more],
  ];
}

const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

const metricsOf = (folder: string): object[] =>
  jsonEvents(readFileSync(join(folder, 'metrics.jsonl'), 'utf8')).map(
    // Speed and memory are what time made of them.
    ({ tokens_per_second: _, peak_memory_bytes: __, ...rest }) => rest,
  );

async function undisturbed(
  t: ExecutionContext,
  folder: string,
  weights: string,
  ...more: string[]
): Promise<{ hash: string; metrics: object[] }> {
  const result = await runCli(trainArgs(folder, 'undisturbed', ...more));
  t.is(result.status, 0, result.stderr);
  return {
    hash: hashOf(join(folder, 'undisturbed/model', weights)),
    metrics: metricsOf(join(folder, 'undisturbed')),
  };
}

for (const [name, weights, ...flags] of [
  ['full', 'model.safetensors'],
  ['LoRA with dropout', 'adapter_model.safetensors', '--lora-rank', '2', '--lora-dropout', '0.1'],
] as const) {
  test(`${name}: killed with -9 again and again, resumed, the same bytes`, async (t) => {
    t.timeout(600_000);
    const folder = temporaryFolder(t);
    const expected = await undisturbed(t, folder, weights, ...flags);
    t.is(expected.metrics.length, 15);
    let kills = 0;
    // Each attempt dies two to five steps after it began (as long as there are so many), at a moment of its own.
    for (let attempt = 0; ; attempt++) {
      t.true(attempt < 12, 'no progress');
      const steps = 2 + ((attempt * 7) % 4);
      const result = await runCli(trainArgs(folder, 'killed', ...flags, '--resume'), {
        onOutput: (stdout, child) => {
          if (stdout.split('"type":"step"').length - 1 >= steps)
            setTimeout(() => child.kill('SIGKILL'), (attempt * 13) % 40);
        },
      });
      if (result.signal === 'SIGKILL') kills++;
      else {
        t.is(result.status, 0, result.stderr);
        if (readJson<{ status: string }>(join(folder, 'killed/run.json')).status === 'done') break;
      }
    }
    t.log(`${kills} kills`);
    t.true(kills >= 2);
    t.is(hashOf(join(folder, 'killed/model', weights)), expected.hash);
    t.deepEqual(metricsOf(join(folder, 'killed')), expected.metrics);
  });
}

test('Ctrl-C saves a checkpoint, says how to go on and exits with 130; resumed, the same bytes', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const expected = await undisturbed(t, folder, 'model.safetensors');
  let sent = false;
  const args = trainArgs(folder, 'stopped');
  const result = await runCli(args, {
    onOutput: (stdout, child) => {
      if (!sent && stdout.includes('"type":"step"')) child.kill('SIGINT');
      sent ||= stdout.includes('"type":"step"');
    },
  });
  t.is(result.status, 130, result.stderr);
  t.regex(result.stderr, /npx cft-native train .*--output .*stopped --resume/);
  t.is(readJson<{ status: string }>(join(folder, 'stopped/run.json')).status, 'interrupted');
  const saved = jsonEvents(result.stdout).filter(({ type }) => type === 'checkpoint' || type === 'step');
  t.is(saved.at(-1)!.type, 'checkpoint', 'the last thing is a checkpoint');
  t.is(saved.at(-1)!.step, saved.at(-2)!.step, 'of the last step');
  t.true((saved.at(-1)!.step as number) < 15);

  const again = await runCli([...args, '--resume']);
  t.is(again.status, 0, again.stderr);
  t.is(hashOf(join(folder, 'stopped/model/model.safetensors')), expected.hash);
});

test('a finished run is left as it is; other options are refused by name', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  await undisturbed(t, folder, 'model.safetensors');
  const files = ['run.json', 'metrics.jsonl', 'result.json', 'report.html', 'model/model.safetensors'].map(
    (name) => join(folder, 'undisturbed', name),
  );
  const before = files.map(hashOf);
  const again = await runCli(trainArgs(folder, 'undisturbed', '--resume'));
  t.is(again.status, 0, again.stderr);
  t.is(jsonEvents(again.stdout).at(-1)!.type, 'result');
  t.deepEqual(files.map(hashOf), before);
  const other = await runCli(trainArgs(folder, 'undisturbed', '--resume', '--epochs', '5'));
  t.is(other.status, 2);
  t.regex(other.stderr, /epochs \(--epochs\) was 3, is 5/);
  t.deepEqual(files.map(hashOf), before);
});

test('a damaged checkpoint is passed over with a word, and the end is the same', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const expected = await undisturbed(t, folder, 'model.safetensors');
  await runCli(trainArgs(folder, 'damaged'), {
    onOutput: (stdout, child) => {
      if (/"type":"step"[^\n]*"step":7,/.test(stdout)) child.kill('SIGKILL');
    },
  });
  const steps = [2, 4, 6, 8, 10, 12, 14].filter((step) =>
    existsSync(join(folder, `damaged/checkpoints/step-${step}`)),
  );
  t.is(steps.length, 2);
  const newest = join(folder, `damaged/checkpoints/step-${steps[1]}/trainer.safetensors`);
  const bytes = readFileSync(newest);
  bytes[bytes.length - 9]! ^= 64;
  writeFileSync(newest, bytes);
  const result = await runCli(trainArgs(folder, 'damaged', '--resume'));
  t.is(result.status, 0, result.stderr);
  const events = jsonEvents(result.stdout);
  t.regex(String(events.find(({ type }) => type === 'warning')!.message), /step-\d+ is not used: .*damaged/);
  t.is(events.find(({ type }) => type === 'resumed')!.step, steps[0]);
  t.is(hashOf(join(folder, 'damaged/model/model.safetensors')), expected.hash);
});
