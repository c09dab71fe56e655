/** What the commands tell people to type next. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { resumeCommand, withoutRecords } from '../../lib/cli/follow.js';
import { nextAfterAnnotate, nextAfterTrain } from '../../lib/cli/next.js';
import type { TrainResult } from '../../lib/index.js';
import { optionTable } from '../../lib/option-table.js';
import { embeddedPreset } from '../../lib/preset.js';
import { temporaryFolder } from '../helpers/fixtures.js';

function runFolder(t: ExecutionContext, options: Record<string, unknown>): string {
  const folder = join(temporaryFolder(t), 'my run');
  mkdirSync(folder);
  writeFileSync(join(folder, 'run.json'), JSON.stringify({ options }));
  return folder;
}
const byDefault = { system: optionTable.system.default, user_template: optionTable.userTemplate.default };

test('after annotate: the model, its revision and what was asked otherwise, quoted for a shell', (t) => {
  const folder = runFolder(t, { ...byDefault, system: "it's $5" });
  t.is(
    nextAfterAnnotate(folder, 'org/name', 'v2'),
    `npx cft-native train --annotations '${folder}/annotations.jsonl' --model org/name --revision v2 ` +
      "--system 'it'\\''s $5'",
  );
  const plain = runFolder(t, byDefault);
  t.regex(nextAfterAnnotate(plain, './my model', undefined), /annotations\.jsonl' --model '\.\/my model'$/);
  const { system, userTemplate } = embeddedPreset('annotate');
  const embedded = runFolder(t, { system, user_template: userTemplate });
  t.regex(
    nextAfterAnnotate(embedded, 'embedded', undefined),
    /annotations\.jsonl'$/,
    'its preset says the rest',
  );
});

test('after train: the question of the run, and the prompt as it was trained on', (t) => {
  const next = (options: Record<string, unknown>, question?: string) => {
    const output = runFolder(t, options);
    const example = question === undefined ? undefined : { question, answer: '1' };
    const trained = { model: `${output}/model` };
    return nextAfterTrain({ model: 'mine', output, trained, example } as unknown as TrainResult)[0]!;
  };
  t.regex(next(byDefault, 'What is 1 + 1?'), /generate --model '.*\/model' 'What is 1 \+ 1\?'$/);
  t.regex(
    next({ system: '', user_template: '{question}' }, 'x'),
    /--system '' --user-template '\{question\}' x$/,
    'the trained folder has no preset',
  );
  t.regex(next(byDefault, '-5 + 3 ='), / '--prompt=-5 \+ 3 ='$/);
  t.regex(next(byDefault, 'x'.repeat(1000)), / \.\.\.$/);
  t.regex(next(byDefault), / \.\.\.$/);
});

test('a result on one line has no predictions, of all sets together or of each', (t) => {
  const result = { name: 'a', predictions: [[1]], sets: [{ name: 'a', summary: 1, predictions: [[1]] }] };
  t.deepEqual(withoutRecords({ ...result, annotations: [], average: 2 }), {
    name: 'a',
    sets: [{ name: 'a', summary: 1 }],
    average: 2,
  });
});

test('the command that goes on has one --resume and one --output, as it was typed', (t) => {
  const command = (...words: string[]): string => resumeCommand(['eval', ...words], resolve('runs/b'));
  const expected = 'npx cft-native eval --seed 1 --output runs/a --resume';
  t.is(command('--output', 'runs/a', '--resume', 'true', '--seed', '1'), expected);
  t.is(command('--output=runs/a', '--resume', '--seed', '1'), expected);
  t.is(command('--seed', '1'), expected.replace('runs/a', 'runs/b'));
  t.is(command('--output-dir', '../a b'), "npx cft-native eval --output '../a b' --resume");
});
