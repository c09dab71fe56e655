import { WriteStream } from 'node:tty';
import { stripVTControlCharacters } from 'node:util';
import test from 'ava';
import { painterOf } from '../../lib/cli/color.js';
import { count, duration, shellQuoted, textTable } from '../../lib/cli/format.js';
import { Narrator } from '../../lib/cli/narrate.js';
import { View } from '../../lib/cli/view.js';

function makeView(isTTY: boolean): { view: View; text: () => string; wait: (ms: number) => void } {
  let written = '';
  let now = 0;
  const stream = { write: (text: string) => (written += text), isTTY, columns: 60 };
  return {
    view: new View(stream, () => now),
    text: () => written,
    wait: (ms) => {
      now += ms;
    },
  };
}

const half = { done: 50, total: 100, share: 0.5, tokensPerSecond: 1234, secondsLeft: 65 };

test('a terminal gets a bar that is redrawn, cut to its width and removed before the next line', (t) => {
  const { view, text } = makeView(true);
  view.start('work');
  view.progress(half);
  view.progress({ ...half, done: 60, share: 0.6 });
  view.line('done');
  const [first, second, last] = text().split('\r\u001b[2K');
  t.regex(first!, /^work +█{5}░{5}/);
  t.is(first!.length, 59);
  t.regex(second!, /^work +█{6}░{4}/);
  t.is(last, 'done\n');
});

test('without a terminal there is a line at the start and one every five seconds', (t) => {
  const { view, text, wait } = makeView(false);
  view.start('work');
  for (let i = 0; i < 12; i++) {
    view.progress(half);
    wait(1000);
  }
  view.end();
  t.is(
    text(),
    'work ...\n' +
      'work: 50 %, 50/100, 1,234 tokens/s, 1 min 05 s left\n' +
      'work: 50 %, 50/100, 1,234 tokens/s, 1 min 05 s left\n',
  );
});

test('progress says what each technique saved', (t) => {
  const { view, text, wait } = makeView(false);
  const narrator = new Narrator(view);
  const savings = {
    rolloutsSaved: 1200,
    savedTokens: 60_000,
    acceptedTokens: 0,
    stoppedRollouts: 3,
    wastedTokens: 40,
  };
  narrator.tell({ type: 'stage', stage: 'rollouts', total: 100 });
  wait(6000);
  narrator.tell({ type: 'progress', stage: 'rollouts', ...half, savings });
  t.regex(
    text(),
    /1 min 05 s left, 1,200 rollouts \(about 60,000 tokens\) saved by waves, 3 rollouts stopped at their answer, 40 tokens of speculation wasted\n$/,
  );
});

test('numbers, durations, tables and command lines for people', (t) => {
  t.is(count(1234567.8), '1,234,568');
  t.deepEqual([0.04, 9.96, 59, 61, 3600, 4800].map(duration), [
    '0.0 s',
    '10.0 s',
    '59 s',
    '1 min 01 s',
    '1 h 00 min',
    '1 h 20 min',
  ]);
  t.is(
    textTable([
      ['a', 'bb'],
      ['ccc', 'd'],
    ]),
    'a     bb\nccc    d',
  );
  t.is(shellQuoted(['train', '--system', '', "it's", 'a/b=1']), "train --system '' 'it'\\''s' a/b=1");
});

test('the narrator ends each stage with what came of it', (t) => {
  const { view, text } = makeView(false);
  const narrator = new Narrator(view);
  narrator.tell({ type: 'stage', stage: 'trunks', total: 3 });
  for (const verdict of ['correct', 'incorrect', 'correct'] as const)
    narrator.tell({ type: 'trunk', index: 0, id: '1', verdict, tokens: 4 });
  narrator.tell({ type: 'stage', stage: 'rollouts', total: 2 });
  narrator.tell({ type: 'stage', stage: 'train', total: 2 });
  const step = {
    type: 'step',
    strategy: 'cft',
    steps: 2,
    epoch: 1,
    learningRate: 1,
    gradNorm: 1,
    tokens: 9,
    tokensPerSecond: 9,
    peakMemoryBytes: 9,
    skipped: false,
  } as const;
  narrator.tell({ ...step, step: 1, loss: 2, selectedTokens: 3 });
  narrator.tell({ ...step, step: 2, loss: 0, selectedTokens: 0 });
  narrator.tell({ ...step, step: 3, loss: 1, selectedTokens: 3 });
  narrator.tell({ type: 'warning', message: 'look out' });
  narrator.tell({ type: 'saved', strategy: 'cft', path: 'x' });
  const lines = text()
    .replaceAll(/\(\d\.\d s\)/g, '(t)')
    .trimEnd()
    .split('\n');
  t.deepEqual(lines, [
    'greedy responses ...',
    'greedy responses: 2 of 3 correct (t)',
    'counterfactual rollouts ...',
    'training ...',
    'warning: look out',
    'training: 3 steps (t)',
  ]);
});

test('colours are for terminals that have them; the bar keeps its width', (t) => {
  let written = '';
  const stream = { write: (text: string) => (written += text), isTTY: true, columns: 60 };
  const view = new View({ ...stream, hasColors: () => true });
  view.start('work');
  view.progress(half);
  t.true(written.includes('\u001b[36m█████\u001b[39m'));
  t.is(stripVTControlCharacters(written).length, 59);
  for (const plain of [{ isTTY: true }, { isTTY: true, hasColors: () => false }, { hasColors: () => true }])
    t.is(painterOf(plain)('red', 'x'), 'x');
});

test('a terminal that does not know its width is taken for one of 80 columns', (t) => {
  let written = '';
  const view = new View({ write: (text) => (written += text), isTTY: true, columns: 0 });
  view.start('work');
  view.progress(half);
  t.is(written.length, 79);
});

test('a terminal with NO_COLOR has no colours, by the word of Node', (t) => {
  const depth = (env: Record<string, string>): number => WriteStream.prototype.getColorDepth(env);
  t.true(depth({ TERM: 'xterm-256color' }) > 1);
  t.is(depth({ TERM: 'xterm-256color', NO_COLOR: '1' }), 1);
  t.is(depth({ TERM: 'dumb' }), 1);
});

test('a download is told by its bytes, notes by their text', (t) => {
  const { view, text } = makeView(true);
  const narrator = new Narrator(view);
  const event = { type: 'download', model: 'org/m', file: 'model.safetensors', totalBytes: 4e9 } as const;
  narrator.tell({ ...event, receivedBytes: 1e9 });
  narrator.tell({ ...event, receivedBytes: 2e9 });
  narrator.tell({ type: 'note', message: 'from the cache' });
  const [first, second, note] = text().split('\r\u001b[2K');
  t.regex(first!, /^download of org\/m +█{3}░{7} +25 % +1,000\/4,000/);
  t.regex(second!, /50 % +2,000\/4,000/);
  t.is(note, 'from the cache\n');
});

test('training tells loss, rate and time left, what was held out, and where it stops', (t) => {
  const { view, text, wait } = makeView(false);
  const narrator = new Narrator(view);
  narrator.tell({ type: 'stage', stage: 'train', total: 100 });
  wait(6000);
  narrator.tell({ type: 'progress', stage: 'train', ...half, loss: 0.12345 });
  const of = { strategy: 'cft', step: 50, epoch: 1, seconds: 1 } as const;
  const measured = { validationLoss: 0.5, validationAccuracy: 0.75, validationTokens: 40 };
  narrator.tell({ type: 'validated', ...of, ...measured, best: true });
  narrator.tell({ type: 'validated', ...of, ...measured, step: 0, best: false });
  narrator.tell({
    type: 'probe',
    ...of,
    ...{ criticalLoss: 1, otherLoss: 0.25, criticalEntropy: 2, otherEntropy: 0.5 },
    ...{ criticalTokens: 3, otherTokens: 9 },
  });
  narrator.tell({ type: 'stopped-early', strategy: 'cft', step: 60, steps: 100, bestStep: 50 });
  t.deepEqual(text().trimEnd().split('\n').slice(1), [
    'training: 50 %, 50/100, 1,234 tokens/s, 1 min 05 s left, loss 0.123',
    'step 50: validation loss 0.5000, 75.0 % of 40 tokens right, the best so far',
    'before training: validation loss 0.5000, 75.0 % of 40 tokens right',
    'step 50: probe of critical and other tokens: loss 1.000 and 0.250, entropy 2.000 and 0.500',
    'stopped early at step 60 of 100: the validation loss was lowest at step 50',
  ]);
});
