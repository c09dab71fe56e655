/**
 * Annotation against labels made without any of our code: transformers, a full forward pass per token, no KV cache
 * (test/fixtures/annotation/make_labels.py). The labels hold no near tie (top-2 gap below 1e-4), so everything must
 * agree. And against a brute force of our own: each counterfactual decoded from scratch by the plain forward pass.
 */

import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { DetailedVerifier } from '../../lib/counterfactual/judge.js';
import { promptsOf, textOf } from '../../lib/counterfactual/rollout-model.js';
import { defaultSettings } from '../../lib/counterfactual/settings.js';
import {
  type AnnotateResult,
  type AnnotationStageOptions,
  runAnnotationStage,
} from '../../lib/counterfactual/stage.js';
import { loadModel } from '../../lib/model/load.js';
import type { Model } from '../../lib/model/model.js';
import type { Question } from '../../lib/types.js';
import { checkRecord, questionsOf, readLabels } from '../helpers/annotation-labels.js';
import { fixturePath, temporaryFolder } from '../helpers/fixtures.js';
import { hashTokens } from '../helpers/toy-model.js';

const families = ['llama', 'qwen2', 'olmo2'];

/** As `hash_verdict` in make_labels.py. */
const isRight = (tokenIds: Iterable<number>): boolean => (hashTokens(tokenIds) >>> 7) % 2 === 0;
const verifier: DetailedVerifier = (_, { tokenIds }) => isRight(tokenIds);

/** One thread: for so small a model a second one only waits, for long where the machine is busy. */
const loadTiny = (family: string): Promise<Model> =>
  loadModel(fixturePath(`annotation/${family}`), { device: 'cpu', dtype: 'float32', threads: 1 });

async function annotateWith(
  t: ExecutionContext,
  model: Model,
  questions: readonly Question[],
  settings: Partial<AnnotationStageOptions['settings']> = {},
  maxBranches = 32,
): Promise<AnnotateResult> {
  const folder = temporaryFolder(t);
  const maxNewTokens = settings.maxNewTokens ?? 48;
  return runAnnotationStage(
    {
      model,
      questions,
      prompts: promptsOf(model, questions, { maxNewTokens, system: '', userTemplate: '{question}' }),
      verifier,
      settings: { ...defaultSettings, maxNewTokens, ...settings },
      maxBranches,
      file: (name) => join(folder, name),
      origin: {
        model: { name: 'tiny', weightsSha256: '', tokenizerSha256: '' },
        options: {},
        libtorch: '',
        device: 'cpu',
      },
    },
    () => {},
  );
}

for (const family of families) {
  const labels = readLabels(fixturePath(`annotation/${family}/labels.json`));
  const correct = labels.labels.filter(({ verdict }) => verdict === 'correct');

  test(`${family}: trunks, alternatives, verdicts and masks are those of transformers without a cache`, async (t) => {
    await using model = await loadTiny(family);
    t.is(await model.weightsSha256(), labels.header.weights_sha256, 'labels of these weights');
    t.true(correct.length >= 8);
    const cases = [
      {},
      { includeEos: true },
      { complete: true, keepRollouts: true },
      { complete: true, includeEos: true, truncated: 'skip' as const },
    ];
    for (const settings of cases) {
      const { annotations, summary } = await annotateWith(t, model, questionsOf(labels), settings);
      t.is(annotations.length, correct.length);
      t.is(summary.truncatedResponses, labels.labels.filter(({ verdict }) => verdict === 'truncated').length);
      annotations.forEach((record, i) => {
        checkRecord(t, record, correct[i]!, {
          ...settings,
          skip: settings.truncated === 'skip',
          ...(settings.keepRollouts ? { textOf: (ids) => textOf(model, ids) } : {}),
        });
      });
    }
  });

  test(`${family}: a brute force over the plain forward pass gives the same rollouts`, async (t) => {
    await using model = await loadTiny(family);
    // Questions that the labels do not have.
    const questions = Array.from({ length: 24 }, (_, i) => ({
      id: `fresh-${i}`,
      question: `how many are ${i * 17 + 3}*${i % 7}?`,
      answer: '0',
    }));
    const budget = 24;
    const { annotations } = await annotateWith(t, model, questions, { maxNewTokens: budget, complete: true });
    t.true(annotations.length >= 7);
    let rollouts = 0;
    let nearTies = 0;
    for (const record of annotations) {
      const prompt = record.prompt_token_ids;
      for (const { position, token_id, verdict } of record.alternatives) {
        const kept = record.response_token_ids.slice(0, position);
        const forced = await bruteForce(model, prompt, kept, token_id, budget);
        const expected = forced.ended ? (isRight(forced.tokens) ? 'correct' : 'incorrect') : 'truncated';
        rollouts++;
        if (verdict !== expected && forced.smallestGap < 1e-4) nearTies++;
        else t.is(verdict, expected, `${record.id}, position ${position}, token ${token_id}`);
      }
      await checkAlternatives(
        t,
        model,
        record.prompt_token_ids,
        record.response_token_ids,
        record.alternatives,
      );
    }
    t.log(`${annotations.length} responses, ${rollouts} rollouts, ${nearTies} differ at a near tie`);
    t.true(nearTies <= rollouts / 1000);
  });
}

/** Decodes one counterfactual from scratch: the whole text through `model.logits` for each token. */
async function bruteForce(
  model: Model,
  prompt: readonly number[],
  kept: readonly number[],
  alternative: number,
  budget: number,
): Promise<{ tokens: number[]; ended: boolean; smallestGap: number }> {
  const isEnd = (token: number) => model.endTokenIds.includes(token);
  if (isEnd(alternative)) return { tokens: [...kept], ended: true, smallestGap: Infinity };
  const tokens = [...kept, alternative];
  let smallestGap = Infinity;
  while (tokens.length < budget) {
    const { data, shape } = await model.logits([...prompt, ...tokens]);
    const last = data.subarray((shape[0] - 1) * shape[1]);
    let best = 0;
    for (let token = 1; token < last.length; token++) if (last[token]! > last[best]!) best = token;
    for (let token = 0; token < last.length; token++) {
      if (token !== best) smallestGap = Math.min(smallestGap, last[best]! - last[token]!);
    }
    if (isEnd(best)) return { tokens, ended: true, smallestGap };
    tokens.push(best);
  }
  return { tokens, ended: false, smallestGap };
}

/** Alternatives are the most probable tokens other than the response's own, best first. */
async function checkAlternatives(
  t: ExecutionContext,
  model: Model,
  prompt: readonly number[],
  response: readonly number[],
  alternatives: readonly { position: number; rank: number; token_id: number }[],
): Promise<void> {
  const { data, shape } = await model.logits([...prompt, ...response]);
  for (const { position, rank, token_id } of alternatives) {
    const at = (prompt.length + position - 1) * shape[1];
    const row = data.subarray(at, at + shape[1]);
    const better = row.filter(
      (logit, token) => token !== response[position] && logit > row[token_id]!,
    ).length;
    t.not(token_id, response[position]);
    t.is(better, rank - 2, `position ${position}, rank ${rank}`);
  }
}
