/**
 * Checkpoints of a training run: `checkpoints/step-N/` holds the trainer's state and a state.json with checksums. A
 * checkpoint appears whole (written aside, synced, renamed) or not at all, and a damaged one is never used.
 * `checkpoints/best-N/` is the model with the lowest validation loss so far, in the form of the final `model/`.
 */
import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { CftError, isSystemError } from '../errors.js';
import { makeFolder, syncFolder, writeFileAtomic } from '../files.js';
import { forFile, fromFile, type Json } from '../json-names.js';

const format = 'cft-checkpoint/3';
/** Without a checksum of state.json itself. */
const olderFormat = 'cft-checkpoint/2';
const tensorFile = 'trainer.safetensors';
const stateFile = 'state.json';

/** The model with the lowest validation loss so far. */
export interface BestModel {
  step: number;
  /** Of all its files. */
  sha256: string;
}

/** What the loop needs beside the trainer's own state. */
export interface LoopState {
  /** Optimizer steps done, applied or skipped. */
  step: number;
  /** Steps whose gradient was not finite. */
  skippedSteps: number;
  /** Of those, how many came last without an applied one between. */
  skippedInARow: number;
  /** Mean loss per token in the first step that had one. */
  firstTokenLoss?: number;
  /** Steps in a row up to this one whose loss was absurd. */
  absurdInARow: number;
  /** Steps after which validation and probe were last taken; -1 for never. */
  validated: number;
  probed: number;
  /** Lowest validation loss after a step. */
  lowest?: { step: number; loss: number };
  /** The model that had it, where it is kept. */
  best?: BestModel;
  /** Validations since the best one. */
  validationsSinceBest: number;
}

export const freshState = (): LoopState => ({
  step: 0,
  skippedSteps: 0,
  skippedInARow: 0,
  absurdInARow: 0,
  validated: -1,
  probed: -1,
  validationsSinceBest: 0,
});

export type Facts = Readonly<Record<string, string | number | boolean | null>>;

/** What the weights after a step depend on beside the step. */
export interface CheckpointOrigin {
  /** Model, data and settings: a checkpoint of another configuration is refused. */
  configuration: Facts;
  /** Machine and libraries that decide the last bits: another one needs a word of consent. */
  environment: Facts;
  /** Tokens per micro-batch: a resumed run must pack alike, whatever would be planned now. */
  microBatchTokens: number;
}

interface StateFile {
  format: string;
  configuration: Facts;
  environment: Facts;
  micro_batch_tokens: number;
  /** A LoopState under the names that files have. */
  state: Json;
  bytes: number;
  sha256: string;
  /** Of all the above as JSON without spaces. */
  content_sha256?: string;
}

const sha256OfContent = (content: StateFile): string =>
  createHash('sha256').update(JSON.stringify(content)).digest('hex');

export interface Checkpoint {
  path: string;
  state: LoopState;
  environment: Facts;
  microBatchTokens: number;
  /** The safetensors file with the trainer's state. */
  tensors: string;
}

async function addFile(hash: ReturnType<typeof createHash>, path: string): Promise<number> {
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
  }
  return bytes;
}

async function sha256OfFile(path: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  const bytes = await addFile(hash, path);
  return { sha256: hash.digest('hex'), bytes };
}

async function sha256OfFolder(folder: string): Promise<string> {
  const hash = createHash('sha256');
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()) {
    const path = join(folder, name);
    if (!statSync(path).isFile()) continue;
    hash.update(`${name}\0`);
    await addFile(hash, path);
  }
  return hash.digest('hex');
}

const stepOf = (name: string, kind: 'step' | 'best'): number =>
  name.startsWith(`${kind}-`) && /-\d+$/.test(name) ? Number(name.slice(kind.length + 1)) : Number.NaN;

/** Steps of the folders of a kind, newest first. */
function listSteps(folder: string, kind: 'step' | 'best' = 'step'): number[] {
  if (!existsSync(folder)) return [];
  const steps = readdirSync(folder).map((name) => stepOf(name, kind));
  return steps.filter(Number.isInteger).sort((a, b) => b - a);
}

/** Path of the newest checkpoint, whether good or not. */
export function newestCheckpoint(folder: string): string | undefined {
  const [step] = listSteps(folder);
  return step === undefined ? undefined : join(folder, `step-${step}`);
}

export const bestFolder = (folder: string, step: number): string => join(folder, `best-${step}`);

function removeTemporary(folder: string): void {
  for (const name of readdirSync(folder)) {
    // Left by a process that was killed in here; one process works in a run folder at a time.
    if (name.endsWith('.tmp')) rmSync(join(folder, name), { recursive: true, force: true });
  }
}

/** Writing failed: says what of, and what is left to go on from. */
export function writeFailure(error: unknown, what: string, folder: string): unknown {
  const known = error instanceof CftError && error.code === 'ERR_CFT_IO';
  if (!known && !isSystemError(error)) return error;
  const newest = newestCheckpoint(folder);
  const kept =
    newest === undefined
      ? 'there is no earlier checkpoint, but what the stages before training wrote is kept'
      : `the last good checkpoint, ${newest}, is kept`;
  return new CftError('ERR_CFT_IO', `${what}: ${error.message}; ${kept}; go on with --resume`, {
    cause: error,
  });
}

/**
 * Writes a checkpoint and removes all but the last `keep`, and every best model but the one it speaks of.
 * @param folder the `checkpoints` folder.
 * @param saveTensors writes the trainer's state to the given path.
 * @returns the checkpoint's path.
 * @throws CftError ERR_CFT_IO naming the file and the checkpoint that is left; nothing else has changed then.
 */
export async function saveCheckpoint(
  folder: string,
  state: LoopState,
  origin: CheckpointOrigin,
  keep: number,
  saveTensors: (path: string) => Promise<void>,
): Promise<string> {
  const final = join(folder, `step-${state.step}`);
  const temporary = join(folder, `.step-${state.step}.tmp`);
  try {
    makeFolder(folder);
    removeTemporary(folder);
    mkdirSync(temporary);
    await saveTensors(join(temporary, tensorFile));
    const sum = await sha256OfFile(join(temporary, tensorFile));
    const { configuration, environment, microBatchTokens } = origin;
    const content: StateFile = {
      format,
      configuration,
      environment,
      micro_batch_tokens: microBatchTokens,
      state: forFile(state),
      ...sum,
    };
    const whole = { ...content, content_sha256: sha256OfContent(content) };
    writeFileAtomic(join(temporary, stateFile), `${JSON.stringify(whole, null, 2)}\n`);
    rmSync(final, { recursive: true, force: true });
    renameSync(temporary, final);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw writeFailure(error, `writing the checkpoint of step ${state.step} failed`, folder);
  }
  syncFolder(folder);
  pruneCheckpoints(folder, state, keep);
  return final;
}

/** Step of the best model that a checkpoint speaks of; undefined for none, or where it cannot be read. */
function bestOf(folder: string, step: number): number | undefined {
  try {
    const text = readFileSync(join(folder, `step-${step}`, stateFile), 'utf8');
    return (fromFile((JSON.parse(text) as StateFile).state ?? null) as LoopState | null)?.best?.step;
  } catch {
    return undefined;
  }
}

/**
 * Removes all but the last `keep` checkpoints, and every best model but those that they speak of and the one that
 * `state`, once saved, does.
 */
export function pruneCheckpoints(folder: string, state: LoopState, keep: number): void {
  const steps = listSteps(folder);
  // Later ones were refused as damaged, else the run would have gone on from them.
  const later = steps.filter((step) => step > state.step);
  const good = steps.filter((step) => step <= state.step);
  const older = good.slice(keep);
  const spokenOf = new Set([state.best?.step, ...good.slice(0, keep).map((step) => bestOf(folder, step))]);
  const best = listSteps(folder, 'best').filter((step) => !spokenOf.has(step));
  for (const step of [...later, ...older])
    rmSync(join(folder, `step-${step}`), { recursive: true, force: true });
  for (const step of best) rmSync(join(folder, `best-${step}`), { recursive: true, force: true });
}

/** Once the best model is delivered: those of older checkpoints are of no use any more. */
export function removeBestModels(folder: string): void {
  for (const step of listSteps(folder, 'best'))
    rmSync(join(folder, `best-${step}`), { recursive: true, force: true });
}

/**
 * Keeps the model as it is after `step` steps; the one before stays until a checkpoint speaks of this one.
 * @param saveModel writes the model as a folder that must not exist yet.
 */
export async function saveBest(
  folder: string,
  step: number,
  saveModel: (path: string) => Promise<void>,
): Promise<BestModel> {
  const path = bestFolder(folder, step);
  try {
    makeFolder(folder);
    removeTemporary(folder);
    rmSync(path, { recursive: true, force: true });
    await saveModel(path);
    return { step, sha256: await sha256OfFolder(path) };
  } catch (error) {
    throw writeFailure(error, `writing the best model so far, of step ${step}, failed`, folder);
  }
}

/** Where two sets of facts differ, in words; undefined where they do not. */
function difference(expected: Facts, found: Facts | undefined): string | undefined {
  for (const name of new Set([...Object.keys(expected), ...Object.keys(found ?? {})])) {
    const [here, there] = [expected[name], found?.[name]];
    if (here !== there)
      return `${name}: expected ${JSON.stringify(here) ?? 'none'}, found ${JSON.stringify(there) ?? 'none'}`;
  }
  return undefined;
}

function isState(state: LoopState | null): state is LoopState {
  if (typeof state !== 'object' || state === null) return false;
  const { step, skippedSteps, skippedInARow, absurdInARow, validated, probed, validationsSinceBest } = state;
  const counts = [step, skippedSteps, skippedInARow, absurdInARow, validated, probed, validationsSinceBest];
  return counts.every(Number.isInteger) && (state.best === undefined || Number.isInteger(state.best.step));
}

/** Why a checkpoint cannot be used, or the checkpoint. */
async function readCheckpoint(
  folder: string,
  step: number,
  configuration: Facts,
): Promise<Checkpoint | string> {
  const path = join(folder, `step-${step}`);
  let content: StateFile;
  let ownSum: string | undefined;
  try {
    const whole = JSON.parse(readFileSync(join(path, stateFile), 'utf8')) as StateFile;
    ({ content_sha256: ownSum, ...content } = whole);
  } catch (error) {
    return `${stateFile} cannot be read (${(error as Error).message})`;
  }
  if (content.format !== format && content.format !== olderFormat)
    return `${stateFile}: expected format "${format}", found "${content.format}"`;
  if (content.format === format && ownSum !== sha256OfContent(content))
    return `${stateFile} is damaged (its SHA-256 differs)`;
  const { environment, micro_batch_tokens: microBatchTokens } = content;
  const state = fromFile(content.state ?? null) as LoopState | null;
  if (!isState(state) || state.step !== step || !Number.isInteger(microBatchTokens))
    return `${stateFile} holds impossible counts`;
  // Only what is whole can be of another configuration.
  const tensors = join(path, tensorFile);
  if (!existsSync(tensors)) return `${tensorFile} is missing`;
  const found = await sha256OfFile(tensors);
  if (found.bytes !== content.bytes)
    return `${tensorFile} has ${found.bytes} bytes, expected ${content.bytes}`;
  if (found.sha256 !== content.sha256) return `${tensorFile} is damaged (its SHA-256 differs)`;
  const other = difference(configuration, content.configuration);
  if (other !== undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OUTPUT',
      `${join(path, stateFile)}: the checkpoint is of another configuration: ${other}; resume with what it was ` +
        'made with, or choose another --output',
    );
  }
  if (state.best !== undefined) {
    const best = bestFolder(folder, state.best.step);
    if (!existsSync(best)) return `the best model that it speaks of, ${best}, is missing`;
    if ((await sha256OfFolder(best)) !== state.best.sha256)
      return `the best model that it speaks of, ${best}, is damaged (its SHA-256 differs)`;
  }
  return { path, state, environment, microBatchTokens, tensors };
}

/**
 * The newest good checkpoint, or undefined where there is none at all.
 * @param refused told each damaged checkpoint that was passed over, and why.
 * @throws CftError ERR_CFT_BAD_OUTPUT where every checkpoint is damaged, or the newest whole one is of another
 *   configuration (naming file, field, expected and found).
 */
export async function findCheckpoint(
  folder: string,
  configuration: Facts,
  refused: (path: string, reason: string) => void,
): Promise<Checkpoint | undefined> {
  const reasons: string[] = [];
  for (const step of listSteps(folder)) {
    const result = await readCheckpoint(folder, step, configuration);
    if (typeof result !== 'string') return result;
    reasons.push(`step-${step}: ${result}`);
    refused(join(folder, `step-${step}`), result);
  }
  if (reasons.length === 0) return undefined;
  throw new CftError(
    'ERR_CFT_BAD_OUTPUT',
    `${folder}: expected a checkpoint to go on from, found only damaged ones (${reasons.join('; ')}); delete this ` +
      'folder to train again from the first step',
  );
}

/**
 * Bits are promised for one machine: says so where this one differs from that of the checkpoint.
 * @returns a warning where `force` says to go on all the same.
 * @throws CftError ERR_CFT_BAD_OUTPUT without.
 */
export function checkEnvironment(
  { path, environment }: Checkpoint,
  here: Facts,
  force: boolean,
): string | undefined {
  const differing = Object.keys(here).filter((name) => here[name] !== environment?.[name]);
  if (differing.length === 0) return undefined;
  const list = differing.map(
    (name) =>
      `${name} was ${JSON.stringify(environment?.[name]) ?? 'unknown'}, is ${JSON.stringify(here[name])}`,
  );
  const message =
    `${join(path, stateFile)}: the checkpoint was made in other surroundings: ${list.join('; ')}; the weights ` +
    'would not be those of an undisturbed run to the bit';
  if (force) return message;
  const threads = environment?.threads;
  const remedy = differing.every((name) => name === 'threads')
    ? `resume with --threads ${threads}`
    : undefined;
  throw new CftError(
    'ERR_CFT_BAD_OUTPUT',
    `${message}; ${remedy ?? 'resume where it was made'}, or say --force to go on all the same`,
  );
}
