/**
 * Whether the engine's rollouts are those of the model, in two reports; prints one JSON object per line:
 *
 * - `re-decoding`, float32: every counterfactual rollout against the plain forward pass over its whole text, without a
 *   cache. A token that is not the pass's most probable one is a difference; one where the pass's top-2 gap is below 1e-4
 *   is a near tie, at which rounding decides. After the first difference a rollout is not looked at any more.
 * - `bfloat16`: the same responses and alternatives decoded in float32 and in bfloat16: which positions are critical, and
 *   how many of those labels flip between 7, 64 and the default number of branches at once.
 *
 *   npx tsx bench/exactness.ts [--responses 100] [--embedded 120] [--model FOLDER --questions 12] [--output FILE]
 *
 * The tiny models of the test fixtures (three families, a bias to end, verdicts from a hash of the tokens) get
 * --responses each, the embedded model (real verdicts) --embedded; --model adds the bfloat16 report of another model on
 * the first SVAMP questions. CFT_BF16_TILES=reference computes as a CPU with bf16 units does, slowly.
 */
import { availableParallelism, cpus } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { type CaseRollout, type JudgedRollout, Referee } from '../lib/bench/agreement.js';
import { benchCase, rolloutsOf } from '../lib/bench/cases.js';
import type { CaseResponse } from '../lib/bench/protocol.js';
import { correctResponses } from '../lib/bench/responses.js';
import type { DetailedVerifier } from '../lib/counterfactual/judge.js';
import { appendLines } from '../lib/files.js';
import { loadModel } from '../lib/model/load.js';
import { branchesFor, type Model } from '../lib/model/model.js';
import { packageRoot } from '../lib/native/addon.mjs';
import type { Question } from '../lib/types.js';
import { createVerifier } from '../lib/verify/verifier.js';

const nearTie = 1e-4;

const { values } = parseArgs({
  options: {
    responses: { type: 'string', default: '100' },
    embedded: { type: 'string', default: '120' },
    model: { type: 'string' },
    questions: { type: 'string', default: '12' },
    output: { type: 'string' },
  },
});

interface Case {
  model: string;
  verifier: DetailedVerifier;
  verdicts: string;
  prompting: { system: string; userTemplate: string };
  trunkTokens: number;
  rolloutTokens: number | 'shared';
  questions: Question[];
  /** Responses wanted; questions beyond them are not looked at. */
  wanted: number;
}

function print(row: object): void {
  const machine = {
    device_name: cpus()[0]?.model.trim(),
    cores: availableParallelism(),
    node: process.version,
  };
  const line = JSON.stringify({ bench: 'exactness', ...row, ...machine, date: new Date().toISOString() });
  console.log(line);
  if (values.output) appendLines(values.output, [line]);
}

/** FNV-1a over the ids, as in the labels of the test fixtures; about half of all texts are right. */
const hashVerdict: DetailedVerifier = (_, { tokenIds }) => {
  let state = 0x811c9dc5;
  for (const id of tokenIds) state = Math.imul(state ^ id, 0x01000193) >>> 0;
  return (state >>> 7) % 2 === 0;
};

const tinyCase = (family: string, wanted: number): Case => ({
  model: join(packageRoot, 'test/fixtures/annotation', family),
  verifier: hashVerdict,
  verdicts: 'a hash of the tokens',
  prompting: { system: '', userTemplate: '{question}' },
  trunkTokens: 48,
  rolloutTokens: 'shared',
  questions: Array.from({ length: 8 * wanted }, (_, i) => ({
    id: String(i),
    question: `how much is ${i * 7 + 2}-${i % 13}?`,
    answer: '',
  })),
  wanted,
});

async function realCase(
  name: 'embedded' | 'smollm2-throughput',
  model: string,
  questions: number,
): Promise<Case> {
  const given = benchCase(name);
  if (given.kind !== 'real') throw new TypeError(name);
  return {
    model,
    verifier: await createVerifier('builtin'),
    verdicts: 'the built-in verifier',
    prompting: given.prompting,
    trunkTokens: given.trunkTokens,
    rolloutTokens: given.rolloutTokens,
    questions: await given.questions(questions),
    wanted: questions,
  };
}

/** Of a model's correct responses the wanted ones, with all their counterfactuals. */
async function prepare(
  model: Model,
  given: Case,
): Promise<{ responses: CaseResponse[]; rollouts: CaseRollout[] }> {
  const { questions, verifier, prompting, trunkTokens: maxNewTokens, wanted } = given;
  const maxBranches = branchesFor(model);
  const found = await correctResponses(model, { questions, verifier, prompting, maxNewTokens, maxBranches });
  const responses = found.slice(0, wanted);
  const shape = { kind: 'real', trunkTokens: maxNewTokens, rolloutTokens: given.rolloutTokens } as const;
  const { rollouts } = rolloutsOf(shape, responses, [...model.endTokenIds]);
  return { responses, rollouts };
}

interface Decoded {
  tokenIds: Int32Array;
  endTokenId: number;
}

/** Response by response, so that memory stays flat. */
async function decode(
  model: Model,
  responses: readonly CaseResponse[],
  rollouts: readonly CaseRollout[],
  maxBranches = branchesFor(model),
): Promise<Decoded[]> {
  const requests = responses.map(({ tokenIds, promptTokens }, i) => ({
    tokenIds,
    branches: rollouts
      .filter(({ response }) => response === i)
      .map(({ position, tokenId, maxNewTokens }) => ({
        length: promptTokens + position,
        forcedTokens: [tokenId],
        maxNewTokens,
      })),
  }));
  return (await model.rollouts(requests, { maxBranches })).flat();
}

/** The first token that the plain pass over the whole text would not have taken, and its gap there. */
async function firstDifference(
  model: Model,
  prefix: readonly number[],
  { tokenIds, endTokenId }: Decoded,
): Promise<{ at: number; gap: number } | undefined> {
  const decoded = endTokenId >= 0 ? [...tokenIds, endTokenId] : [...tokenIds];
  const whole = [...prefix, ...decoded];
  const { data, shape } = await model.logits(whole.slice(0, -1));
  for (const [i, token] of decoded.entries()) {
    const row = data.subarray((prefix.length + i - 1) * shape[1], (prefix.length + i) * shape[1]);
    let best = 0;
    for (let other = 1; other < row.length; other++) if (row[other]! > row[best]!) best = other;
    if (best !== token) {
      let second = -Infinity;
      for (let other = 0; other < row.length; other++)
        if (other !== best) second = Math.max(second, row[other]!);
      return { at: i, gap: row[best]! - second };
    }
  }
  return undefined;
}

async function reDecoding(name: string, given: Case): Promise<void> {
  await using model = await loadModel(given.model, { device: 'cpu', dtype: 'float32' });
  const { responses, rollouts } = await prepare(model, given);
  const decoded = await decode(model, responses, rollouts);
  let [differences, nearTies, tokens] = [0, 0, 0];
  for (const [i, rollout] of rollouts.entries()) {
    const response = responses[rollout.response]!;
    const kept = response.tokenIds.slice(0, response.promptTokens + rollout.position);
    tokens += decoded[i]!.tokenIds.length;
    const found = await firstDifference(model, [...kept, rollout.tokenId], decoded[i]!);
    if (found === undefined) continue;
    if (found.gap < nearTie) nearTies++;
    else {
      differences++;
      console.error(
        `${name}: response ${response.id}, position ${rollout.position}: token ${found.at} differs`,
        found,
      );
    }
  }
  const { libtorch, cpuCapability } = model.addon.info();
  const counts = {
    responses: responses.length,
    rollouts: rollouts.length,
    tokens,
    differences,
    near_ties: nearTies,
  };
  print({
    report: 're-decoding',
    model: name,
    verdicts: given.verdicts,
    ...counts,
    near_tie_share: nearTies / rollouts.length,
    dtype: 'float32',
    libtorch,
    cpu_capability: cpuCapability,
  });
  if (differences > 0 || nearTies > rollouts.length / 1000) process.exitCode = 1;
}

/** Which positions are critical: all alternatives judged, none correct. */
function criticalOf(
  rollouts: readonly CaseRollout[],
  judged: readonly JudgedRollout[],
): Map<string, boolean> {
  const labels = new Map<string, boolean>();
  rollouts.forEach(({ response, position }, i) => {
    const key = `${response}:${position}`;
    labels.set(key, (labels.get(key) ?? true) && judged[i]!.verdict !== 'correct');
  });
  return labels;
}

async function bfloat16(name: string, given: Case): Promise<void> {
  const judgeAll = async (
    model: Model,
    responses: CaseResponse[],
    rollouts: CaseRollout[],
    branches?: number,
  ) => {
    const referee = new Referee(model.tokenizer, responses, given.verifier);
    const decoded = await decode(model, responses, rollouts, branches);
    return Promise.all(
      rollouts.map((rollout, i) => {
        const { tokenIds, endTokenId } = decoded[i]!;
        return referee.judge(rollout, [[...tokenIds], endTokenId]);
      }),
    );
  };
  let prepared: { responses: CaseResponse[]; rollouts: CaseRollout[] };
  let exact: JudgedRollout[];
  {
    await using model = await loadModel(given.model, { device: 'cpu', dtype: 'float32' });
    prepared = await prepare(model, given);
    exact = await judgeAll(model, prepared.responses, prepared.rollouts);
  }
  const { responses, rollouts } = prepared;
  await using model = await loadModel(given.model, { device: 'cpu', dtype: 'bfloat16' });
  const runs = new Map<string, JudgedRollout[]>();
  for (const branches of [7, 64, branchesFor(model)])
    runs.set(String(branches), await judgeAll(model, responses, rollouts, branches));
  const expected = criticalOf(rollouts, exact);
  const labels = [...runs.values()].map((judged) => criticalOf(rollouts, judged));
  const found = labels.at(-1)!;
  let [both, only, missed, flips] = [0, 0, 0, 0];
  for (const [key, critical] of expected) {
    const here = found.get(key)!;
    if (critical && here) both++;
    if (!critical && here) only++;
    if (critical && !here) missed++;
    if (new Set(labels.map((of) => of.get(key))).size > 1) flips++;
  }
  const same = runs
    .get(String(branchesFor(model)))!
    .filter(({ tokenIds }, i) => tokenIds.join() === exact[i]!.tokenIds.join()).length;
  const { libtorch, cpuCapability, fastBfloat16 } = model.addon.info();
  print({
    report: 'bfloat16',
    model: name,
    verdicts: given.verdicts,
    responses: responses.length,
    rollouts: rollouts.length,
    positions: expected.size,
    critical_float32: both + missed,
    critical_bfloat16: both + only,
    critical_both: both,
    precision: both / (both + only),
    recall: both / (both + missed),
    jaccard: both / (both + only + missed),
    same_tokens: same / rollouts.length,
    branches: [...runs.keys()].map(Number),
    labels_that_flip: flips / expected.size,
    arithmetic: process.env.CFT_BF16_TILES ?? (fastBfloat16 ? 'bf16 units' : 'float32 on bfloat16 weights'),
    libtorch,
    cpu_capability: cpuCapability,
  });
}

for (const family of ['llama', 'qwen2', 'olmo2']) {
  const given = tinyCase(family, Number(values.responses));
  await reDecoding(`tiny ${family}`, given);
  await bfloat16(`tiny ${family}`, given);
}
const embedded = await realCase('embedded', 'embedded', Number(values.embedded));
await reDecoding('embedded', embedded);
await bfloat16('embedded', embedded);
if (values.model)
  await bfloat16(
    basename(values.model),
    await realCase('smollm2-throughput', values.model, Number(values.questions)),
  );
