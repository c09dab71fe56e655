/** The whole method on the embedded model, as in `npx cft-native train` but with fewer questions. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type TrainResult, verify } from '../../lib/index.js';
import { jsonEvents, runCli } from '../helpers/cli.js';
import { projectRoot } from '../helpers/data.js';
import { readJson, temporaryFolder } from '../helpers/fixtures.js';
import { dataIn } from '../helpers/report-run.js';

/** Training questions and evaluation questions. */
function demoArgs(folder: string, name: string, ...more: string[]): string[] {
  const questions = join(folder, 'test.jsonl');
  if (!existsSync(questions)) {
    const all = readFileSync(join(projectRoot, 'models/embedded/questions/test.jsonl'), 'utf8').split('\n');
    writeFileSync(questions, `${all.slice(0, 24).join('\n')}\n`);
  }
  return ['train', '--limit', '12', '--eval-data', questions, '--output', join(folder, name), ...more];
}

test('without a model or data it runs every stage and ends with a table', async (t) => {
  t.timeout(600_000);
  const folder = temporaryFolder(t);
  const result = await runCli(demoArgs(folder, 'run'));
  t.is(result.status, 0, result.stderr);
  const stages = [
    'greedy responses: \\d+ of 12 correct',
    'counterfactual rollouts: \\d+ responses, [\\d,]+ of [\\d,]+ tokens critical',
    'evaluation before: [\\d.]+ % \\([\\d.]+ % to [\\d.]+ %\\) of 24 questions',
    'evaluation before, sampled: ',
    'training: \\d+ steps',
    'evaluation after: ',
    'evaluation after, sampled: ',
    'training the baseline: \\d+ steps',
    'evaluation of the baseline: ',
    'evaluation of it, sampled: ',
  ];
  t.regex(result.stderr, new RegExp(stages.join('[^]*\\n')));
  t.regex(result.stdout, /accuracy on 24 questions +greedy +95 % interval +sampled x 2 +95 % interval\n/);
  for (const name of ['before', 'after cft', 'after sft'])
    t.regex(
      result.stdout,
      new RegExp(`\\n${name} +[\\d.]+ % +[\\d.]+ to [\\d.]+ +[\\d.]+ % +[\\d.]+ to [\\d.]+`),
    );
  t.regex(
    result.stdout,
    /cft against before +greedy +[+-]?[\d.]+ points .*: (no difference detected|better|worse)\n/,
  );
  t.regex(result.stdout, /cft against sft +greedy /);
  t.regex(result.stdout, /annotation +\d+ of 12 responses correct, [\d.]+ % of [\d,]+ tokens critical/);
  for (const file of [
    ...['run.json', 'responses.jsonl', 'annotations.jsonl', 'annotations.meta.json', 'metrics.jsonl'],
    ...['model/model.safetensors', 'model/config.json', 'model/tokenizer.json', 'report.html', 'result.json'],
    ...['eval/before/summary.json', 'eval/after/predictions.jsonl', 'baseline-sft/model/model.safetensors'],
  ])
    t.true(existsSync(join(folder, 'run', file)), file);
  t.is(readJson<{ status: string }>(join(folder, 'run/run.json')).status, 'done');
  // The question to try is one that the trained model answers rightly, and the line runs as it is printed.
  const { example } = readJson<{ example: { question: string; answer: string; after: boolean } }>(
    join(folder, 'run/result.json'),
  );
  const line = /next +npx cft-native (generate .*)\n/.exec(result.stdout)![1]!;
  t.true(line.includes(`'${example.question}'`), line);
  const words = [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
  const answered = await runCli(words);
  t.is(answered.status, 0, answered.stderr);
  t.is(verify(answered.stdout, example.answer).correct, example.after);
  const page = readFileSync(join(folder, 'run/report.html'), 'utf8');
  const { sites, responses, status } = dataIn(page);
  t.is(status, 'done');
  t.true(sites!.critical > 10);
  t.is(responses.length, sites!.responses);
  t.true(existsSync(join(folder, 'run/model/README.md')));

  // annotate, asked for the same questions, gives the same file.
  const annotated = await runCli(['annotate', '--limit', '12', '--output', join(folder, 'annotated')]);
  t.is(annotated.status, 0, annotated.stderr);
  t.regex(annotated.stdout, /next +npx cft-native train --annotations .*annotated\/annotations\.jsonl/);
  const [first, second] = ['run', 'annotated'].map((name) =>
    readFileSync(join(folder, name, 'annotations.jsonl'), 'utf8'),
  );
  t.is(second, first);

  // A run that is finished says the same once more.
  const again = ['annotate', '--limit', '12', '--output', join(folder, 'annotated'), '--resume'];
  const resumed = await runCli([...again, '--max-concurrency', '3']);
  t.is(resumed.status, 0, resumed.stderr);
  t.regex(resumed.stdout, /next +npx cft-native train --annotations .*annotated\/annotations\.jsonl/);
});

test('killed with -9 in each stage and resumed: the same annotations and weights', async (t) => {
  t.timeout(900_000);
  const folder = temporaryFolder(t);
  const more = ['--json', '--threads', '1', '--eval-samples', '0', '--checkpoint-every', '1'];
  const undisturbed = await runCli(demoArgs(folder, 'undisturbed', ...more));
  t.is(undisturbed.status, 0, undisturbed.stderr);
  // What was seen when the kill came, stage by stage.
  const moments = [
    '"type":"trunk","index":3,',
    '"type":"response",',
    '"type":"prediction","stage":"eval-before"',
    '"type":"checkpoint","step":1,',
    '"type":"prediction","stage":"eval-after"',
    '"type":"checkpoint","step":2,"path":"[^"]*","strategy":"sft"',
    '"type":"prediction","stage":"eval-baseline"',
  ];
  for (const moment of moments) {
    const result = await runCli(demoArgs(folder, 'killed', ...more, '--resume'), {
      signalAt: { signal: 'SIGKILL', pattern: new RegExp(moment) },
    });
    t.is(result.signal, 'SIGKILL', `${moment} was not seen: ${result.stderr}`);
  }
  const last = await runCli(demoArgs(folder, 'killed', ...more, '--resume'));
  t.is(last.status, 0, last.stderr);
  for (const file of [
    ...['responses.jsonl', 'annotations.jsonl', 'model/model.safetensors'],
    'baseline-sft/model/model.safetensors',
  ]) {
    const [expected, found] = ['undisturbed', 'killed'].map((name) => readFileSync(join(folder, name, file)));
    t.true(expected!.equals(found!), file);
  }
  // Responses of an interrupted evaluation were decoded in other batches, so a near tie may fall the other way.
  const accuracies = (stdout: string): number[] => {
    const { before, trained, baseline } = jsonEvents(stdout).at(-1) as unknown as TrainResult;
    return [before!, trained.evaluation!, baseline!.evaluation!].map(({ greedy }) => greedy.accuracy);
  };
  const expected = accuracies(undisturbed.stdout);
  for (const [i, found] of accuracies(last.stdout).entries())
    t.true(Math.abs(found - expected[i]!) < 1.5 / 24, `${found} ${expected[i]}`);
});
