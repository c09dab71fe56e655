/**
 * What a rollout costs in JavaScript: annotation with an engine that decodes nothing, on real texts of the embedded
 * model's questions. Prints microseconds per rollout, of the clock and of the processor, which the
 * engine's speed must not be limited by.
 *   npx tsx bench/javascript.ts [--responses 100] [--stop]
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { RolloutModel } from '../lib/counterfactual/rollout-model.js';
import { defaultSettings } from '../lib/counterfactual/settings.js';
import { runAnnotationStage } from '../lib/counterfactual/stage.js';
import { readQuestions } from '../lib/data/questions.js';
import { Tokenizer } from '../lib/model/tokenizer.js';
import type { NativeBranch, NativeRolloutEngine, NativeStepResult } from '../lib/native/binding.js';
import { embeddedFolder } from '../lib/preset.js';
import { completionOf, createVerifier } from '../lib/verify/verifier.js';

const { values } = parseArgs({
  options: { responses: { type: 'string', default: '100' }, stop: { type: 'boolean', default: false } },
});

const tokenizer = Tokenizer.load(embeddedFolder, 1 << 20);
const questions = await readQuestions(join(embeddedFolder, 'questions', 'train.jsonl'), {
  questionField: 'question',
  answerField: 'answer',
  limit: Number(values.responses),
});
/** A response of a hundred tokens or so, with the right answer near its end. */
const responses = await tokenizer.encodeBatch(
  questions.map(
    ({ question, answer }) => `${question} So we count step by step. The answer is ${answer}. That is all.`,
  ),
);

/** Sixteen branches finish per step, each with the rest of its trunk, and every token is streamed. */
class InstantEngine implements NativeRolloutEngine {
  readonly #trunks: Int32Array[] = [];
  readonly #waiting: { branch: NativeBranch; tokenIds: Int32Array }[] = [];
  decoded = 0;

  async addTrunk({ tokenIds, scoreFrom, alternatives }: Parameters<NativeRolloutEngine['addTrunk']>[0]) {
    const scored = tokenIds.length - scoreFrom;
    return {
      trunk: this.#trunks.push(tokenIds) - 1,
      logProbs: new Float32Array(scored).fill(-1),
      alternativeIds: Int32Array.from({ length: scored * alternatives }, (_, i) => 20 + (i % 50)),
      alternativeLogProbs: new Float32Array(scored * alternatives).fill(-2),
    };
  }

  submit(branches: NativeBranch[]): void {
    for (const branch of branches) {
      const trunk = this.#trunks[branch.trunk]!;
      // A trunk's own response is the one of its question; its prompt is that question's number.
      const tokenIds =
        trunk.length === 1 ? responses[trunk[0]!]! : trunk.slice(branch.length + branch.forcedTokens.length);
      this.#waiting.push({ branch, tokenIds });
    }
  }

  async step(): Promise<NativeStepResult> {
    const taken = this.#waiting.splice(0, 16);
    const decodedTokens = taken.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const tokens = { branchIds: new Float64Array(decodedTokens), tokenIds: new Int32Array(decodedTokens) };
    let at = 0;
    for (const { branch, tokenIds } of taken) {
      tokens.branchIds.fill(branch.id, at, at + tokenIds.length);
      tokens.tokenIds.set(tokenIds, at);
      at += tokenIds.length;
    }
    this.decoded += decodedTokens;
    const finished = taken.map(({ branch, tokenIds }) => ({ id: branch.id, tokenIds, endTokenId: 0 }));
    return { finished, tokens, active: 0, waiting: this.#waiting.length, decodedTokens };
  }

  cancel(): void {}
  releaseTrunk(trunk: number): void {
    this.#trunks[trunk] = new Int32Array(0);
  }
  interrupt(): void {}
  dispose(): void {}
}

const model: RolloutModel = {
  config: { maxPositions: 4096 },
  tokenizer,
  endTokenIds: Int32Array.of(0),
  createEngine: () => new InstantEngine(),
  promptFor: () => Int32Array.of(0),
};
const verifier = await createVerifier('builtin');
const folder = mkdtempSync(join(tmpdir(), 'cft-javascript-'));
const start = performance.now();
const cpuBefore = process.cpuUsage();
const { summary } = await runAnnotationStage(
  {
    model,
    questions,
    prompts: questions.map((_, i) => ({ tokenIds: Int32Array.of(i), budget: 4000 })),
    verifier,
    settings: { ...defaultSettings, maxNewTokens: 4000 },
    maxBranches: 64,
    completed: completionOf(verifier, { stopAtAnswer: values.stop, verifier: 'builtin' }),
    file: (name) => join(folder, name),
    origin: {
      model: { name: 'none', weightsSha256: '', tokenizerSha256: '' },
      options: {},
      libtorch: '',
      device: 'cpu',
    },
  },
  () => {},
);
const milliseconds = performance.now() - start;
const cpu = process.cpuUsage(cpuBefore);
rmSync(folder, { recursive: true });
const row = {
  case: 'javascript',
  stop_at_answer: values.stop,
  responses: summary.correct,
  rollouts: summary.rollouts,
  tokens: summary.decodedTokens,
  cpu_microseconds_per_rollout: Math.round((10 * (cpu.user + cpu.system)) / summary.rollouts) / 10,
  microseconds_per_rollout: Math.round((1e4 * milliseconds) / summary.rollouts) / 10,
  rollouts_per_second: Math.round((1000 * summary.rollouts) / milliseconds),
  tokens_per_second: Math.round((1000 * summary.decodedTokens) / milliseconds),
};
console.log(JSON.stringify(row));
tokenizer.dispose();
