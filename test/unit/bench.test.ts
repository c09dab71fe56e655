/** The parts of the benchmark that need no model: shares, budgets, agreement, spreads, tables, random weights. */
import test from 'ava';
import {
  type Agreement,
  agreementOf,
  type CaseRollout,
  type JudgedRollout,
  withinBudget,
} from '../../lib/bench/agreement.js';
import { benchCase, randomResponses, rolloutsOf } from '../../lib/bench/cases.js';
import { counted, shareOf } from '../../lib/bench/contestant.js';
import type { BenchRow } from '../../lib/bench/events.js';
import { caseNames } from '../../lib/bench/names.js';
import type { CaseResponse } from '../../lib/bench/protocol.js';
import { peakMemoryOf, watchOthers } from '../../lib/bench/quiet.js';
import { shapes, writeRandomModel } from '../../lib/bench/random-model.js';
import { percentile, spreadOf } from '../../lib/bench/statistics.js';
import { renderTables } from '../../lib/bench/table.js';
import { forFile } from '../../lib/json-names.js';
import { readConfig } from '../../lib/model/config.js';
import { readWeights } from '../../lib/model/safetensors.js';
import { matchTensors } from '../../lib/model/tensors.js';
import { temporaryFolder } from '../helpers/fixtures.js';

test('percentiles lie between the sorted values', (t) => {
  t.is(percentile([4, 1, 3, 2, 5], 0.5), 3);
  t.is(percentile([10, 20], 0.2), 12);
  t.is(percentile([7], 0.8), 7);
  t.deepEqual(spreadOf([1, 2, 3, 4, 5, 6]), { p20: 2, p50: 3.5, p80: 5 });
});

const rollout = (response: number, position: number, rank: number): CaseRollout => ({
  response,
  position,
  rank,
  tokenId: 9,
  maxNewTokens: 4,
});
const judged = (verdict: JudgedRollout['verdict'], ...tokenIds: number[]): JudgedRollout => ({
  tokenIds,
  verdict,
});

test('a slow side gets both alternatives of every so many positions', (t) => {
  const rollouts = [0, 1, 2, 3, 4].flatMap((position) => [rollout(0, position, 2), rollout(0, position, 3)]);
  t.deepEqual(shareOf(rollouts, 1).places, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  t.deepEqual(shareOf(rollouts, 4).places, [0, 1, 8, 9]);
});

test('what a side decoded beyond a budget is cut and counts as truncated', (t) => {
  t.deepEqual(withinBudget([[1, 2, 3], 0], 4), [[1, 2, 3], 0]);
  t.deepEqual(withinBudget([[1, 2, 3, 4], 0], 4), [[1, 2, 3, 4], -1]);
  t.deepEqual(withinBudget([[1, 2, 3, 4, 5], 0], 4), [[1, 2, 3, 4], -1]);
  t.deepEqual(withinBudget([[1, 2, 3, 4], -1], 4), [[1, 2, 3, 4], -1]);
});

test('agreement counts rollouts, and the labels of the positions that both sides know', (t) => {
  const rollouts = [0, 1, 2].flatMap((position) => [rollout(0, position, 2), rollout(0, position, 3)]);
  const ours = [
    judged('correct', 1),
    judged('incorrect', 2),
    judged('incorrect', 3),
    judged('truncated', 4),
    judged('incorrect', 5),
    judged('incorrect', 6),
  ];
  const theirs = [
    judged('correct', 1),
    judged('correct', 2),
    judged('incorrect', 8),
    judged('correct', 4),
    undefined,
    undefined,
  ];
  t.deepEqual(agreementOf(rollouts, ours, theirs), {
    rollouts: 4,
    sameVerdict: 2,
    sameTokens: 1,
    positions: 2,
    critical: 1,
    criticalPeer: 0,
    criticalBoth: 0,
  } satisfies Agreement);
});

test('disturbed repeats count only where there are no others', (t) => {
  const repeats = [{ void: true }, { void: false }, { void: false }, { void: false }];
  t.is(counted(repeats, 2).length, 2);
  t.true(counted(repeats, 5).every((repeat) => !repeat.void));
  t.is(counted([{ void: true }, { void: true }], 2).length, 2);
});

test('an alternative that ends the response needs no decoding; budgets are each, shared or the length', (t) => {
  const response: CaseResponse = {
    id: '1',
    question: '',
    answer: '',
    promptTokens: 2,
    tokenIds: [5, 6, 7, 8],
    alternatives: [
      { position: 0, rank: 2, tokenId: 1 },
      { position: 1, rank: 2, tokenId: 30 },
    ],
  };
  const each = rolloutsOf(benchCase('smollm2-latency'), [response], [1]);
  t.deepEqual(
    each.rollouts.map(({ position, maxNewTokens }) => [position, maxNewTokens]),
    [[1, 200]],
  );
  t.deepEqual(
    each.fixed.map(({ position }) => position),
    [0],
  );
  const embedded = benchCase('embedded');
  t.true(embedded.kind === 'real' && embedded.rolloutTokens === 'shared');
  t.is(
    rolloutsOf(embedded, [response], []).rollouts[1]!.maxNewTokens,
    embedded.kind === 'real' ? embedded.trunkTokens - 2 : 0,
  );
  const random = benchCase('random-135m');
  if (random.kind !== 'random') return t.fail();
  const responses = randomResponses(random, 2);
  const { rollouts } = rolloutsOf(random, responses, []);
  t.is(rollouts.length, 2 * 2 * 108);
  t.is(rollouts[0]!.maxNewTokens, 108);
  t.is(rollouts.at(-1)!.maxNewTokens, 1);
  t.true(
    responses.every(({ tokenIds }) =>
      tokenIds.every((id) => id >= 0 && id < shapes['135m'].config.vocab_size),
    ),
  );
});

test('random weights make a folder that loads as its shape', (t) => {
  const folder = temporaryFolder(t);
  writeRandomModel(folder, '135m');
  const config = readConfig(folder);
  const { entries } = matchTensors(config, readWeights(folder), folder);
  const parameters = entries.reduce(
    (sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  );
  t.is(parameters, 134_515_008); // SmolLM2-135M's
});

test('others are watched: a process of nobody here makes a repeat void', async (t) => {
  if (peakMemoryOf(process.pid) === undefined) {
    t.log('skipped: /proc does not tell');
    return t.pass();
  }
  const own = watchOthers([process.pid]);
  const foreign = watchOthers([]);
  // By processor time: on a busy machine the wall clock says little.
  const start = process.cpuUsage();
  while (process.cpuUsage(start).user < 300_000);
  const { user, system } = process.cpuUsage(start);
  const [mine, theirs] = [own(), foreign()];
  const seconds = theirs.otherCpu! * theirs.wallSeconds - mine.otherCpu! * mine.wallSeconds;
  t.true(Math.abs(seconds - (user + system) / 1e6) < 0.15, `${seconds} s of ${user + system} µs`);
  t.true(peakMemoryOf(process.pid)! > 2 ** 24);
});

const row: BenchRow = {
  bench: 'rollouts',
  case: 'smollm2-latency',
  what: 'one response',
  side: 'cft-native',
  run: '2026-01-02T00:00:00Z',
  date: '2026-01-02T00:10:00Z',
  command: 'cft-native bench rollouts --peer fake',
  model: './smollm2',
  parameters: 1,
  device: 'cpu',
  deviceName: 'a CPU',
  cores: 2,
  memoryBytes: 2 ** 34,
  os: 'Linux 6',
  threads: 2,
  gompSpincount: '20000',
  ompWaitPolicy: null,
  dtype: 'float32',
  setting: '64 branches',
  versions: { cft_native: '0.1.0' },
  responses: 1,
  rollouts: 216,
  allRollouts: 216,
  every: 1,
  tokens: 12_208,
  tokensPerSecond: { p20: 2600, p50: 2675, p80: 2700 },
  secondsPerResponse: { p20: 4.5, p50: 4.56, p80: 4.7 },
  annotate: {
    secondsPerResponse: { p20: 3, p50: 3.2, p80: 3.3 },
    decodedTokens: 10_000,
    rolloutsSaved: 36,
    p2: 0.33,
  },
  repeats: 5,
  voidRepeats: 1,
  quiet: true,
  otherCpu: 0.02,
  cold: { loadSeconds: 0.5, firstRollouts: 16, firstSeconds: 0.7 },
  peakMemoryBytes: 2 ** 30,
  gemmLimit: { kernel: 'at::linear', rows: { 64: 5000 }, batchRows: 64, share: 0.535 },
};

test('the table shows the latest run of a case, with ratios, agreement and the machine', (t) => {
  const { annotate: _, gemmLimit: __, ...plain } = row;
  const peer: BenchRow = {
    ...plain,
    side: 'fake',
    every: 4,
    rollouts: 54,
    tokensPerSecond: { p20: 100, p50: 107, p80: 110 },
    ratio: {
      tokensPerSecond: { p20: 24, p50: 25, p80: 26 },
      secondsPerResponse: { p20: 34, p50: 35.4, p80: 36 },
    },
    agreement: {
      rollouts: 54,
      sameVerdict: 53,
      sameTokens: 50,
      positions: 27,
      critical: 14,
      criticalPeer: 13,
      criticalBoth: 13,
    },
  };
  const older = {
    ...row,
    run: '2025-01-01T00:00:00Z',
    tokensPerSecond: { p20: 1, p50: 1, p80: 1 },
    quiet: false,
  };
  const text = renderTables([row, peer, older, { bench: 'another' }].map((each) => forFile(each)));
  t.is(text.split('## smollm2-latency').length, 2);
  t.true(text.includes('2,675 (2,600 to 2,700), 53.5 % of the GEMM limit'));
  t.true(text.includes('25 (24 to 26)x'));
  t.true(text.includes('35.4 (34 to 36)x'));
  t.true(text.includes('98.1 % of 54'));
  t.true(text.includes('96.3 %')); // 26 of 27 labels
  t.true(text.includes('every 4th position'));
  t.true(text.includes('cft-native 0.1.0'));
  t.false(text.includes('busy'));
  t.true(renderTables([]).includes('There are no rows yet.'));
  t.true(renderTables([forFile({ ...row, quiet: false })]).includes('The machine was busy'));
});

test('every case is known by its name', (t) => {
  for (const name of caseNames) t.true(benchCase(name).what.length > 20, name);
});

test('tables of exactness and gains: the latest row of each kind, and what it found', (t) => {
  const common = { date: '2026-01-02T00:00:00Z', device_name: 'A CPU', model: 'tiny' };
  const plain = {
    ...common,
    bench: 'exactness',
    report: 're-decoding',
    verdicts: 'a hash',
    responses: 100,
    rollouts: 2000,
    tokens: 30000,
    differences: 0,
    near_ties: 1,
  };
  const half = {
    ...common,
    bench: 'exactness',
    report: 'bfloat16',
    responses: 100,
    positions: 1000,
    critical_float32: 50,
    critical_bfloat16: 40,
    precision: 0.875,
    recall: null,
    jaccard: 0.5,
    same_tokens: 0.9,
    branches: [7, 64, 32],
    labels_that_flip: 0.001,
    arithmetic: 'reference',
  };
  const gain = {
    ...common,
    bench: 'gains',
    case: 'embedded',
    variant: 'without waves',
    seconds_per_response: { p20: 0.1, p50: 0.2, p80: 0.3 },
    times_everything_on: { p20: 1.1, p50: 1.234, p80: 1.3 },
    rollouts: 10,
    decoded_tokens: 1000,
    same_labels: true,
    repeats: 7,
    disturbed_repeats: 1,
    dtype: 'float32',
  };
  const older = { ...plain, date: '2026-01-01T00:00:00Z', near_ties: 9, rollouts: 9 };
  const text = renderTables([plain, older, half, gain]);
  t.true(text.includes('| tiny | a hash | 100 | 2,000 | 30,000 | 0 | 1 |'));
  t.true(text.includes('1 of 2,000 rollouts'));
  t.false(text.includes('| 9 |'));
  t.true(text.includes('| 87.5 % | - | 50.0 % | 90.0 % | 0.1 % (7, 64, 32) |'));
  t.true(text.includes('| without waves | 0.2 (0.1 to 0.3) | 1.23 (1.1 to 1.3)x | 10 | 1,000 | yes |'));
  t.true(text.includes('disturbed by other processes'));
});
