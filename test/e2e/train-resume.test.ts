/** Training that is killed or interrupted at any moment and resumed ends with the weights of an undisturbed run. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { loadAddon } from '../../lib/native/loader.js';
import { Random } from '../../lib/random.js';
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
    ...(more.includes('--threads') ? [] : ['--threads', '1']),
    ...['--json', ...more],
  ];
}

const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

const metricsOf = (folder: string): object[] =>
  jsonEvents(readFileSync(join(folder, 'metrics.jsonl'), 'utf8')).map(
    // Speed and memory are what time made of them.
    ({ tokens_per_second: _, peak_memory_bytes: __, seconds: ___, ...rest }) => rest,
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
        signalAt: {
          signal: 'SIGKILL',
          pattern: /"type":"step"/,
          times: steps,
          delays: [(attempt * 13) % 40],
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

/**
 * CFT_KILLS: how many; four are quick, fifty are what the trainer was accepted with. Kills between two writes: see
 * test/unit/train-crash.test.ts.
 */
test('killed with -9 at random moments, resumed, the same bytes', async (t) => {
  t.timeout(3_600_000);
  const wanted = Number(process.env.CFT_KILLS ?? 4);
  const folder = temporaryFolder(t);
  const flags = ['--validation', '0.2', '--save-best', '--probe-every', '3', '--max-new-tokens', '2'];
  const expected = await undisturbed(t, folder, 'model.safetensors', ...flags);
  const random = new Random('moments', wanted);
  let kills = 0;
  for (let run = 0; kills < wanted; run++) {
    t.true(run <= wanted, 'the moments are too late');
    const name = `killed-${run}`;
    // Until a run comes to its end: at some line that it prints, and up to 30 ms later.
    for (let ended = false; !ended; ) {
      const line = kills < wanted ? 1 + random.integer(16) : 1e6;
      const delay = 30 * random.uniform();
      const result = await runCli(trainArgs(folder, name, ...flags, '--resume'), {
        signalAt: { signal: 'SIGKILL', pattern: /\n/, times: line, delays: [delay] },
      });
      if (result.signal === 'SIGKILL') kills++;
      else {
        t.is(result.status, 0, result.stderr);
        ended = true;
      }
    }
    t.is(hashOf(join(folder, name, 'model/model.safetensors')), expected.hash);
    t.deepEqual(metricsOf(join(folder, name)), expected.metrics);
  }
  t.log(`${kills} kills`);
});

test('a checkpoint that cannot be written ends the run by name; the one before is kept and gone on from', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const expected = await undisturbed(t, folder, 'model.safetensors');
  await runCli(trainArgs(folder, 'full'), {
    signalAt: { signal: 'SIGKILL', pattern: /"type":"checkpoint"[^\n]*"step":4,/ },
  });
  const sizeOf = (step: number) =>
    statSync(join(folder, `full/checkpoints/step-${step}/trainer.safetensors`)).size;
  // The kill may come some steps late.
  const last = [14, 12, 10, 8, 6, 4].find((step) =>
    existsSync(join(folder, `full/checkpoints/step-${step}`)),
  );
  const failed = await runCli(trainArgs(folder, 'full', '--resume'), { mostFileBytes: sizeOf(last!) / 2 });
  t.is(failed.status, 1, failed.stderr);
  t.regex(
    failed.stderr,
    new RegExp(
      `writing the checkpoint of step ${Math.min(last! + 2, 15)} failed: .*trainer\\.safetensors.*File too large.*` +
        `the last good checkpoint, .*step-${last}, is kept; go on with --resume`,
    ),
  );
  const resumed = await runCli(trainArgs(folder, 'full', '--resume'));
  t.is(resumed.status, 0, resumed.stderr);
  t.is(hashOf(join(folder, 'full/model/model.safetensors')), expected.hash);
});

test('with other threads a run goes on only where that is asked for', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  await runCli(trainArgs(folder, 'run'), {
    signalAt: { signal: 'SIGKILL', pattern: /"type":"checkpoint"/ },
  });
  const other = ['--resume', '--threads', '2'];
  const refused = await runCli(trainArgs(folder, 'run', ...other));
  t.is(refused.status, 2, refused.stderr);
  t.regex(
    refused.stderr,
    /step-\d+\/state\.json: .*threads was 1, is 2; .*resume with --threads 1, or say --force/,
  );
  const forced = await runCli(trainArgs(folder, 'run', ...other, '--force'));
  t.is(forced.status, 0, forced.stderr);
  const warning = jsonEvents(forced.stdout).find(({ type }) => type === 'warning');
  t.regex(String(warning?.message), /threads was 1, is 2/);
});

test('Ctrl-C saves a checkpoint, says how to go on and exits with 130; resumed, the same bytes', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const expected = await undisturbed(t, folder, 'model.safetensors');
  const args = trainArgs(folder, 'stopped');
  const result = await runCli(args, { signalAt: { signal: 'SIGINT', pattern: /"type":"step"/ } });
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
    signalAt: { signal: 'SIGKILL', pattern: /"type":"step"[^\n]*"step":7,/ },
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

test('annotations may lie elsewhere when a run goes on: their content counts, to the last field', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const expected = await undisturbed(t, folder, 'model.safetensors');
  const stopped = await runCli(trainArgs(folder, 'run'), {
    signalAt: { signal: 'SIGKILL', pattern: /"type":"checkpoint"/ },
  });
  t.is(stopped.signal, 'SIGKILL');
  const resumeWith = (annotations: string) => {
    const args = trainArgs(folder, 'run', '--resume');
    args[args.indexOf('--annotations') + 1] = annotations;
    return runCli(args);
  };
  const other = makeAnnotations(20);
  other[4]!.critical_mask![1] = 1;
  const refused = await resumeWith(writeAnnotations(join(folder, 'other.jsonl'), other));
  t.is(refused.status, 2, refused.stderr);
  t.regex(refused.stderr, /started differently: data\.sha256 was/);
  const moved = join(folder, 'moved.jsonl');
  renameSync(join(folder, 'annotations.jsonl'), moved);
  const resumed = await resumeWith(moved);
  t.is(resumed.status, 0, resumed.stderr);
  t.is(hashOf(join(folder, 'run/model/model.safetensors')), expected.hash);
  t.is(readJson<{ data: { name: string } }>(join(folder, 'run/run.json')).data.name, moved);
  // A finished run, too.
  const again = await resumeWith(join(folder, 'other.jsonl'));
  t.is(again.status, 2, again.stderr);
});

test('with other kernels a run goes on only where that is asked for', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const env = { CFT_CPU_KERNELS: 'generic' };
  await runCli(trainArgs(folder, 'run'), {
    env,
    signalAt: { signal: 'SIGKILL', pattern: /"type":"checkpoint"/ },
  });
  const own = await runCli(trainArgs(folder, 'run', '--resume'));
  const { cpuKernels } = loadAddon().info();
  if (cpuKernels === 'generic') {
    t.is(own.status, 0, own.stderr);
    return;
  }
  t.is(own.status, 2, own.stderr);
  t.true(own.stderr.includes(`cpu_kernels was "generic", is "${cpuKernels}"`), own.stderr);
  const same = await runCli(trainArgs(folder, 'run', '--resume'), { env });
  t.is(same.status, 0, same.stderr);
});
