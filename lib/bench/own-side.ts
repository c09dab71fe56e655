/** Our side of a measurement, in a process of its own: `node own-side.js job.json`, see protocol.ts. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { annotate } from '../counterfactual/annotate.js';
import { branchesFor, type Model } from '../model/model.js';
import { type Rollout, type RolloutRequest, runRollouts } from '../model/rollouts.js';
import { createVerifier } from '../verify/verifier.js';
import type {
  AnnotateReply,
  AnnotateRequest,
  GemmReply,
  GemmRequest,
  Job,
  LimitsReply,
  PreparedCase,
  PrepareRequest,
  RolloutResult,
  RunReply,
  RunRequest,
} from './protocol.js';
import { correctResponses } from './responses.js';
import { stepCosts } from './roofline.js';
import { serveSide } from './serve-side.js';

/** Rollouts by trunk, with the place of each in the job. */
function requestsOf(job: Job, count: number): { requests: RolloutRequest[]; places: number[][] } {
  const requests = new Map<number, { branches: RolloutRequest['branches'][number][]; places: number[] }>();
  job.rollouts.slice(0, count).forEach((rollout, place) => {
    const request = requests.get(rollout.trunk) ?? { branches: [], places: [] };
    requests.set(rollout.trunk, request);
    request.places.push(place);
    request.branches.push({
      length: rollout.length,
      forcedTokens: Int32Array.of(rollout.forced_token),
      maxNewTokens: rollout.max_new_tokens,
    });
  });
  return {
    requests: [...requests].map(([trunk, { branches }]) => ({
      tokenIds: Int32Array.from(job.trunks[trunk]!),
      branches,
    })),
    places: [...requests.values()].map(({ places }) => places),
  };
}

/** The engine alone: every rollout of the job, nothing left out and nothing drafted. */
async function run(model: Model, job: Job, { count, results }: RunRequest): Promise<RunReply> {
  const { requests, places } = requestsOf(job, count);
  const start = performance.now();
  const maxBranches = branchesOf(model, job);
  const engine = model.createEngine({ maxBranches, endTokenIds: Int32Array.from(job.end_token_ids) });
  let rollouts: Rollout[][];
  try {
    rollouts = await runRollouts(engine, requests, { maxBranches });
  } finally {
    engine.dispose();
  }
  const seconds = (performance.now() - start) / 1000;
  const inOrder: RolloutResult[] = [];
  rollouts.forEach((ofTrunk, i) => {
    ofTrunk.forEach(({ tokenIds, endTokenId }, j) => {
      inOrder[places[i]![j]!] = [[...tokenIds], endTokenId];
    });
  });
  writeFileSync(results, JSON.stringify(inOrder));
  return { type: 'result', seconds };
}

const branchesOf = (model: Model, job: Job): number => branchesFor(model, job.max_concurrency);

/** Greedy responses to the questions; those that are correct, with the two best alternatives at each position. */
async function prepare(model: Model, job: Job, request: PrepareRequest): Promise<{ type: 'prepared' }> {
  const { questions, system, userTemplate, trunkTokens } = request;
  const responses = await correctResponses(model, {
    questions,
    verifier: await createVerifier('builtin'),
    prompting: { system, userTemplate },
    maxNewTokens: trunkTokens,
    maxBranches: branchesOf(model, job),
  });
  const prepared: PreparedCase = { responses, endTokenIds: [...model.endTokenIds] };
  writeFileSync(request.results, JSON.stringify(prepared));
  return { type: 'prepared' };
}

/** Everything on, as a user calls it. */
async function annotateAll(model: Model, job: Job, request: AnnotateRequest): Promise<AnnotateReply> {
  const folder = mkdtempSync(join(tmpdir(), 'cft-bench-'));
  try {
    const { type: _, questions, ...options } = request;
    const { summary } = await annotate({
      ...options,
      model,
      data: questions,
      maxConcurrency: job.max_concurrency,
      output: join(folder, 'run'),
    });
    const { seconds, correct, decodedTokens, rolloutsSaved, p2 } = summary;
    return { type: 'annotated', seconds, responses: correct, decodedTokens, rolloutsSaved, p2 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function gemm(model: Model, { rows }: GemmRequest): Promise<GemmReply> {
  const { tokensPerSecond, kernel } = await model.native.gemmLimit(rows);
  return { type: 'gemm', tokensPerSecond, kernel };
}

async function limits(model: Model): Promise<LimitsReply> {
  const costs = stepCosts(model.config, model.parameterCount, model.dtype);
  return { type: 'limits', ...(await model.native.deviceLimits()), costs };
}

async function answer(model: Model, job: Job, request: { type: string }): Promise<object> {
  switch (request.type) {
    case 'run':
      return run(model, job, request as RunRequest);
    case 'prepare':
      return prepare(model, job, request as PrepareRequest);
    case 'annotate':
      return annotateAll(model, job, request as AnnotateRequest);
    case 'gemm':
      return gemm(model, request as GemmRequest);
    case 'limits':
      return limits(model);
    default:
      return { type: 'error', message: `unknown request "${request.type}"` };
  }
}

const job = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as Job;
await serveSide(
  job,
  (model) => ({ setting: `${branchesOf(model, job)} branches`, rows: branchesOf(model, job) }),
  (model, request) => answer(model, job, request),
);
