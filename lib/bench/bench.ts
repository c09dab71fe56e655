/** `bench`: measures cases, appends their rows to a file. */
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, resolve } from 'node:path';
import { CftError } from '../errors.js';
import { appendLines } from '../files.js';
import { forFile } from '../json-names.js';
import { isFile, isFolder } from '../model/json-file.js';
import { flagOf, type GivenOptions, nearest, type ResolvedOptions, resolveOptions } from '../options.js';
import { embeddedFolder } from '../preset.js';
import { Run } from '../run.js';
import { type BenchCase, benchCase } from './cases.js';
import type { BenchEvent, BenchResult, EmitBench } from './events.js';
import {
  type CaseName,
  caseNames,
  type PeerName,
  peerNames,
  type TrainCaseName,
  type TrainPeerName,
  trainCaseNames,
  trainPeerNames,
} from './names.js';
import { type Peer, peerOf, trainPeerOf } from './peers.js';
import { benchRollouts } from './rollouts.js';
import { benchTrain } from './train.js';
import { trainCase } from './train-cases.js';

export interface BenchOptions extends GivenOptions<'bench'> {
  /** As it will be recorded; default `cft-native bench rollouts`. */
  command?: string | undefined;
  /** Instead of those that `peer` names. */
  peers?: readonly Peer[] | undefined;
  signal?: AbortSignal | undefined;
}

const badOption = (message: string): CftError => new CftError('ERR_CFT_BAD_OPTION', message);

function checkNames<N extends string>(option: string, given: readonly string[], known: readonly N[]): N[] {
  for (const name of given) {
    if ((known as readonly string[]).includes(name)) continue;
    const near = nearest(name, known);
    throw badOption(
      `${option} (${flagOf(option)}): expected ${known.join(', ')}, found "${name}"${near ? `; did you mean "${near}"?` : ''}`,
    );
  }
  return [...new Set(given)] as N[];
}

/** What the user gave for --model, for a case: a folder that our side and the peers load alike. */
function modelOf(
  name: string,
  bench: BenchCase,
  given: string | undefined,
): { name: string; folder: string } {
  if (bench.kind === 'random') return { name: 'random', folder: '' };
  const model = given ?? bench.model;
  if (model === undefined)
    throw badOption(`case ${name}: expected the model's folder (--model), found none. It is ${bench.howTo}`);
  if (model === 'embedded') return { name: model, folder: embeddedFolder };
  const folder = resolve(model);
  if (!isFolder(folder)) {
    throw new CftError(
      'ERR_CFT_BAD_MODEL',
      `${model}: expected a model folder, found none. For ${name}: ${bench.howTo}`,
    );
  }
  return { name: model, folder };
}

function resolvePeers(options: ResolvedOptions<'bench'>): Peer[] {
  const names = checkNames<PeerName>('peer', options.peer ?? [], peerNames);
  if (options.gguf !== undefined && !isFile(options.gguf))
    throw badOption(`gguf (--gguf): expected a GGUF file, found none at ${options.gguf}`);
  return names.map((name) => peerOf(name, options.python));
}

/** Rows of `bench train` go to a file of their own where none is named. */
const trainResults = 'bench/results/train.jsonl';

async function workTrain({
  options,
  rest,
  command,
  signal,
  emit,
}: {
  options: ResolvedOptions<'bench'>;
  rest: GivenOptions<'bench'>;
  command: string;
  signal: AbortSignal | undefined;
  emit: EmitBench;
}): Promise<BenchResult> {
  const names = checkNames<TrainCaseName>('case', options.case, trainCaseNames);
  const peers = checkNames<TrainPeerName>('peer', options.peer ?? [], trainPeerNames).map((name) =>
    trainPeerOf(name, options.python),
  );
  const given = names.map((name) => {
    const bench = trainCase(name);
    return {
      name,
      bench,
      model: bench.real ? modelOf(name, bench.real, rest.model) : { name: 'random', folder: '' },
    };
  });
  const run = new Date().toISOString();
  const result: BenchResult = { rows: [], trainRows: [], absent: [] };
  for (const { name, bench, model } of given) {
    const { rows, absent } = await benchTrain({
      name,
      case: bench,
      model,
      device: options.device === 'auto' ? 'cpu' : options.device,
      dtype: options.dtype === 'bfloat16' ? 'bfloat16' : 'float32',
      threads: options.threads ?? availableParallelism(),
      limit: options.limit ?? bench.sequences,
      repeats: options.repeats,
      peers,
      command,
      run,
      signal,
      emit,
    });
    const file = resolve(rest.results ?? trainResults);
    mkdirSync(dirname(file), { recursive: true });
    appendLines(
      file,
      rows.map((row) => JSON.stringify(forFile(row))),
    );
    emit({ type: 'written', file, rows: rows.length });
    result.trainRows.push(...rows);
    result.absent.push(...absent);
  }
  return result;
}

async function work(given: BenchOptions, emit: EmitBench): Promise<BenchResult> {
  const { command = 'cft-native bench rollouts', peers: ownPeers, signal, ...rest } = given;
  signal?.throwIfAborted();
  const options = resolveOptions('bench', rest);
  if (options.suite === undefined)
    throw badOption('bench: expected what to measure, found nothing; try: cft-native bench rollouts');
  if (options.suite === 'train' && rest.peerEvery !== undefined)
    throw badOption('peerEvery (--peer-every): expected none with train, whose peers get every sequence');
  if (options.suite === 'train') return await workTrain({ options, rest, command, signal, emit });
  const names = checkNames<CaseName>('case', options.case, caseNames);
  const peers = ownPeers ?? resolvePeers(options);
  const models = names.map((name) => modelOf(name, benchCase(name), rest.model));
  const { device, dtype, peerDtype, repeats, maxConcurrency, peerEvery } = options;
  const run = new Date().toISOString();
  const result: BenchResult = { rows: [], trainRows: [], absent: [] };
  for (const [i, name] of names.entries()) {
    const bench = benchCase(name);
    const { rows, absent } = await benchRollouts({
      name,
      case: bench,
      model: models[i]!,
      gguf: options.gguf === undefined ? undefined : resolve(options.gguf),
      device,
      dtype: dtype as 'auto' | 'float32' | 'bfloat16',
      peerDtype: peerDtype as 'auto' | 'float32' | 'bfloat16',
      threads: options.threads ?? availableParallelism(),
      limit: options.limit ?? bench.limit,
      repeats,
      maxConcurrency: maxConcurrency as number | 'auto',
      peers,
      peerEvery: peerEvery as number | 'auto',
      command,
      run,
      signal,
      emit,
    });
    const file = resolve(options.results);
    mkdirSync(dirname(file), { recursive: true });
    appendLines(
      file,
      rows.map((row) => JSON.stringify(forFile(row))),
    );
    emit({ type: 'written', file, rows: rows.length });
    result.rows.push(...rows);
    result.absent.push(...absent);
  }
  return result;
}

/**
 * Measures counterfactual rollouts, beside peers where some are named; see docs/benchmarks.md.
 * @throws (as the run's rejection) CftError; the signal's reason when it is aborted. Rows of finished cases are kept.
 */
export function bench(options: BenchOptions = {}): Run<BenchEvent, BenchResult> {
  return new Run((emit) => work(options, emit));
}
