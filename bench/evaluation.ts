/**
 * `cft-native eval` beside a plain transformers script (bench/peers/hf_eval.py) on the same questions of a benchmark, one
 * after the other on one machine, both in float32: predictions token by token, accuracy by either's own judgement, and
 * seconds of decoding. A response may differ only where the peer's two most probable tokens are a near tie. Prints one
 * JSON object per benchmark.
 *   npx tsx bench/evaluation.ts --model FOLDER --python .venv/bin/python [--benchmark svamp,gsm8k] [--limit 100]
 *     [--max-new-tokens 512] [--threads N] [--output FILE]
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { mostOtherCpu, watchOthers } from '../lib/bench/quiet.js';
import { judge } from '../lib/counterfactual/judge.js';
import { readBenchmark } from '../lib/eval/benchmarks.js';
import { evaluate } from '../lib/eval/evaluate.js';
import { appendLines } from '../lib/files.js';
import { loadModel } from '../lib/model/load.js';
import { packageRoot } from '../lib/native/addon.mjs';
import type { Question } from '../lib/types.js';
import { createVerifier } from '../lib/verify/verifier.js';

const nearTie = 1e-4;

const { values } = parseArgs({
  options: {
    model: { type: 'string' },
    python: { type: 'string', default: 'python3' },
    benchmark: { type: 'string', default: 'svamp,gsm8k' },
    limit: { type: 'string', default: '100' },
    'max-new-tokens': { type: 'string', default: '512' },
    threads: { type: 'string', default: String(availableParallelism()) },
    output: { type: 'string' },
  },
});
if (values.model === undefined) throw new TypeError('--model: expected a Hugging Face folder, found none');
const dataFolder = process.env.CFT_DATA_DIR ?? join(packageRoot, '..', 'shared', 'data');
process.env.CFT_DATA_DIR = dataFolder;
const [limit, maxNewTokens, threads] = [values.limit, values['max-new-tokens'], values.threads].map(
  Number,
) as [number, number, number];

interface Peer {
  versions: Record<string, string>;
  setting: string;
  load_seconds: number;
  seconds: number;
  tokens: number;
  correct: boolean[];
  texts: string[];
  differences: { question: number; at: number; top2_gap: number }[];
}

/** Ours: everything that the command does once the model is loaded, predictions on disk and figures included. */
async function own(benchmark: string, folder: string) {
  await using model = await loadModel(values.model as string, { dtype: 'float32', threads });
  const endWatch = watchOthers([process.pid]);
  const start = performance.now();
  const result = await evaluate({
    model,
    benchmark: [benchmark],
    limit,
    maxNewTokens,
    output: join(folder, 'ours'),
  });
  const seconds = (performance.now() - start) / 1000;
  return { predictions: result.predictions.flat(), seconds, otherCpu: endWatch().otherCpu };
}

for (const benchmark of values.benchmark.split(',')) {
  if (benchmark !== 'svamp' && benchmark !== 'gsm8k')
    throw new TypeError(`--benchmark: expected svamp or gsm8k, found "${benchmark}"`);
  const folder = mkdtempSync(join(tmpdir(), 'cft-evaluation-'));
  try {
    const ours = await own(benchmark, folder);
    const responses = join(folder, 'responses.jsonl');
    writeFileSync(
      responses,
      ours.predictions
        .map((p) => `${JSON.stringify({ response_token_ids: p.response_token_ids })}\n`)
        .join(''),
    );
    const questionFile = join(dataFolder, benchmark, 'test.jsonl');
    const peerArgs = [values.model, benchmark, questionFile, limit, maxNewTokens, threads, responses];
    const peer = JSON.parse(
      execFileSync(
        values.python,
        [join(packageRoot, 'bench', 'peers', 'hf_eval.py'), ...peerArgs.map(String)],
        {
          encoding: 'utf8',
          maxBuffer: 1 << 28,
          env: { ...process.env, GOMP_SPINCOUNT: process.env.GOMP_SPINCOUNT ?? '20000' },
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      ),
    ) as Peer;

    const verifier = await createVerifier('builtin');
    const { questions } = await readBenchmark(benchmark, { limit });
    const n = questions.length;
    const share = (correct: number): number => correct / n;
    const tokens = ours.predictions.reduce((sum, p) => sum + p.response_token_ids.length, 0);
    const theirs = await Promise.all(
      peer.texts.map((text, i) => judge(verifier, text, questions[i] as Question, new Int32Array())),
    );
    const sameText = ours.predictions.filter((p, i) => p.response === peer.texts[i]).length;
    const row = {
      bench: 'evaluation',
      case: benchmark,
      date: new Date().toISOString(),
      model: values.model,
      dtype: 'float32',
      threads,
      questions: n,
      max_new_tokens: maxNewTokens,
      same_tokens: n - peer.differences.length,
      same_text: sameText,
      near_ties: peer.differences.filter(({ top2_gap }) => top2_gap < nearTie).length,
      differences: peer.differences,
      accuracy: share(ours.predictions.filter(({ correct }) => correct).length),
      accuracy_of_peer_by_our_verifier: share(theirs.filter(({ verdict }) => verdict === 'correct').length),
      accuracy_of_peer_by_its_script: share(peer.correct.filter(Boolean).length),
      judged_otherwise: ours.predictions.flatMap((p, i) => (p.correct === peer.correct[i] ? [] : [p.id])),
      tokens,
      seconds: ours.seconds,
      peer_seconds: peer.seconds,
      peer_setting: peer.setting,
      ratio: peer.seconds / ours.seconds,
      quiet: (ours.otherCpu ?? 0) <= mostOtherCpu,
      versions: { ...peer.versions, node: process.version },
      device_name: cpus()[0]?.model.trim(),
    };
    console.log(JSON.stringify(row));
    if (values.output !== undefined) appendLines(values.output, [JSON.stringify(row)]);
    if (row.near_ties < peer.differences.length) {
      console.error(
        `${benchmark}: a prediction differs where the peer's two most probable tokens are no near tie`,
      );
      process.exitCode = 1;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
