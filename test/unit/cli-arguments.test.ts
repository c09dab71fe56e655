import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { findCommand, parseArguments } from '../../lib/cli/arguments.js';
import { readConfigFile } from '../../lib/cli/config-file.js';
import { describeFailure, exitStatusOf, failureEvent, InterruptedError } from '../../lib/cli/failure.js';
import { commandHelp, programHelp } from '../../lib/cli/help.js';
import { CftError } from '../../lib/errors.js';
import { commands } from '../../lib/option-table.js';
import { flagOf, optionNames } from '../../lib/options.js';
import { temporaryFolder } from '../helpers/fixtures.js';

const given = (...argv: string[]): Record<string, unknown> =>
  parseArguments('train', ['train', ...argv]).given;

test('flags may be typed in kebab-case, camelCase, with underscores, or as an alias', (t) => {
  const expected = { learningRate: 1e-4, epochs: 2 };
  t.deepEqual(given('--learning-rate', '1e-4', '--epochs', '2'), expected);
  t.deepEqual(given('--learningRate=1e-4', '--num-train-epochs=2'), expected);
  t.deepEqual(given('--learning_rate', '1e-4', '--num_train_epochs', '2'), expected);
  t.deepEqual(given('--k', '4'), { k: 4 });
  t.deepEqual(given('-k', '4'), { k: 4 });
});

test('numbers are read strictly; what is no number stays text for the check to name', (t) => {
  t.deepEqual(given('--limit', '20', '--warmup', '.1'), { limit: 20, warmup: 0.1 });
  t.deepEqual(given('--learning-rate', '-1'), { learningRate: -1 });
  for (const text of ['abc', '1x', '0x10', '', '1e', '1,000', 'Infinity'])
    t.deepEqual(given(`--limit=${text}`), { limit: text });
  t.deepEqual(given('--model', '7'), { model: '7' });
});

test('switches', (t) => {
  t.deepEqual(given('--no-waves', '--complete'), { waves: false, complete: true });
  t.deepEqual(given('--waves=false', '--complete', 'true'), { waves: false, complete: true });
});

test('an empty text is a value', (t) => {
  t.deepEqual(given('--system', ''), { system: '' });
  t.deepEqual(given('--system='), { system: '' });
});

test('generate takes its prompt without a flag', (t) => {
  const line = parseArguments('generate', ['generate', 'What is 1 + 1?', '--json']);
  t.deepEqual(line.given, { prompt: 'What is 1 + 1?' });
  t.true(line.json);
});

const refused: [argv: string[], message: RegExp][] = [
  [['--limt', '5'], /^unknown flag --limt for train; did you mean --limit\?$/],
  [['--samples', '5'], /^unknown flag --samples for train/],
  [['--no-limit'], /^unknown flag --no-limit for train/],
  [['-x'], /^unknown flag -x for train/],
  [['-limit', '5'], /^unknown flag -limit for train; did you mean --limit\?$/],
  [['--limit'], /^--limit: expected a value, found nothing/],
  [['--limit', '--resume'], /^--limit: expected a value, found the flag --resume/],
  [['--limit', '5', '--limit', '6'], /^--limit: given more than once/],
  [['--epochs', '5', '--num-train-epochs', '6'], /^--num-train-epochs: given more than once \(--epochs\)/],
  [['--waves', '--no-waves'], /^--no-waves: given more than once \(--waves\)/],
  [['--waves=maybe'], /^--waves: expected true or false, found "maybe"/],
  [['--no-waves=1'], /^--no-waves: expected no value, found "1"/],
  [['questions.jsonl'], /^unexpected argument "questions.jsonl" for train/],
];
for (const [argv, message] of refused) {
  test(`refused: train ${argv.join(' ')}`, (t) => {
    t.throws(() => given(...argv), { code: 'ERR_CFT_BAD_OPTION', message });
  });
}

test('an unknown command is refused with the nearest', (t) => {
  t.is(findCommand(['--json', 'train', 'x']), 'train');
  t.is(findCommand(['--help']), undefined);
  t.throws(() => findCommand(['trian']), { message: 'unknown command "trian"; did you mean train?' });
  t.throws(() => findCommand(['frobnicate']), { message: /expected one of train, annotate/ });
});

test('help names every flag of every command and gives two examples, bench three', async (t) => {
  for (const command of commands) {
    const help = await commandHelp(command);
    for (const name of optionNames(command))
      t.regex(help, new RegExp(`(^|\\s)-{1,2}${flagOf(name).slice(2)}\\b`), name);
    t.is(help.split('npx cft-native').length - 1, command === 'bench' ? 3 : 2, command);
    t.regex(await programHelp(), new RegExp(`cft-native ${command} `));
  }
});

test('a configuration file holds the same names in camelCase', async (t) => {
  const folder = temporaryFolder(t);
  const file = (name: string, content: string): string => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  const expected = { learningRate: 5e-6, waves: false, model: 'm' };
  t.deepEqual(await readConfigFile(file('a.json', JSON.stringify(expected)), 'train'), expected);
  t.deepEqual(
    await readConfigFile(file('a.yaml', 'learningRate: 5e-6\nwaves: false\nmodel: m\n'), 'train'),
    expected,
  );
  const bad: [name: string, content: string, message: RegExp][] = [
    ['b.json', '{"learningRte": 1}', /unknown option "learningRte" in the configuration file .*b\.json/],
    ['c.yaml', 'limit: many', /limit \(--limit\) in the configuration file .*c\.yaml: expected an integer/],
    ['d.json', '{', /d\.json: expected JSON, found/],
    ['e.yaml', '- 1', /e\.yaml: expected names and values/],
    ['g.yaml', 'a: [1\nb: {', /g\.yaml: expected YAML, found [^\n]+$/],
    ['f.toml', '', /f\.toml: expected a name that ends in \.json, \.yaml or \.yml/],
  ];
  for (const [name, content, message] of bad)
    await t.throwsAsync(readConfigFile(file(name, content), 'train'), {
      code: 'ERR_CFT_BAD_OPTION',
      message,
    });
  await t.throwsAsync(readConfigFile(join(folder, 'none.json'), 'train'), { message: /cannot be read/ });
});

test('exit statuses', (t) => {
  const bad = new CftError('ERR_CFT_BAD_DATA', 'bad');
  t.is(exitStatusOf(bad, false), 2);
  t.is(exitStatusOf(bad, true), 1);
  t.is(exitStatusOf(new CftError('ERR_CFT_NO_SIGNAL', 'none'), false), 1);
  t.is(exitStatusOf(new CftError('ERR_CFT_NO_SIGNAL', 'none', { exitStatus: 2 }), false), 2);
  t.is(exitStatusOf(new InterruptedError(), true), 130);
  t.is(exitStatusOf(new TypeError('bug'), false), 1);
});

test('messages have no stack trace; a bug says how to report it', (t) => {
  t.is(describeFailure(new CftError('ERR_CFT_BAD_DATA', 'line 3: bad')), 'line 3: bad');
  const bug = describeFailure(new TypeError('x is not a function'));
  t.regex(bug, /^TypeError: x is not a function \(unexpected; run again with CFT_DEBUG=1/);
  t.notRegex(bug, /\n/);
});

test('after -- a text may start with a dash', (t) => {
  const prompt = (...argv: string[]) => parseArguments('generate', ['generate', ...argv]).given;
  t.deepEqual(prompt('--seed', '1', '--', '-5 + 3 ='), { seed: 1, prompt: '-5 + 3 =' });
  t.deepEqual(prompt('--', '--'), { prompt: '--' });
  t.deepEqual(prompt('--prompt=-5'), { prompt: '-5' });
  t.throws(() => prompt('-5 + 3 ='), { message: /goes after -- or into --prompt=\.\.\.$/ });
});

test('what --json says of a failure', (t) => {
  const type = 'error';
  const bad = new CftError('ERR_CFT_BAD_DATA', 'x');
  t.deepEqual(failureEvent(bad), { type, code: 'ERR_CFT_BAD_DATA', message: 'x' });
  t.deepEqual(failureEvent(new InterruptedError()), { type, code: 'INTERRUPTED', message: 'interrupted' });
  t.deepEqual(failureEvent(new TypeError('y')), { type, code: 'ERR_CFT_INTERNAL', message: 'y' });
});

test('control characters of a user’s text do not reach the terminal', (t) => {
  const text = describeFailure(new CftError('ERR_CFT_BAD_DATA', 'found \x1b[2Jé\n\tx\x9b'));
  t.is(text, 'found \\x1b[2Jé\n\tx\\x9b');
});
