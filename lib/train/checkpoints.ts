/**
 * Checkpoints of a training run: `checkpoints/step-N/` holds the trainer's state and a state.json with checksums. A
 * checkpoint appears whole (written aside, synced, renamed) or not at all, and a damaged one is never used.
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
} from 'node:fs';
import { join } from 'node:path';
import { makeFolder, syncFolder, writeFileAtomic } from '../files.js';

const format = 'cft-checkpoint/1';
const tensorFile = 'trainer.safetensors';
const kept = 2;

/** What the loop needs beside the trainer's own state. */
export interface LoopState {
  /** Optimizer steps done, applied or skipped. */
  step: number;
  /** Steps whose gradient was not finite. */
  skippedSteps: number;
  /** Of those, how many came last without an applied one between. */
  skippedInARow: number;
}

interface StateFile extends LoopState {
  format: string;
  /** Says which run, options and examples the state belongs to. */
  fingerprint: string;
  bytes: number;
  sha256: string;
}

export interface Checkpoint extends LoopState {
  /** The safetensors file with the trainer's state. */
  tensors: string;
}

async function sha256OfFile(path: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    hash.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
  }
  return { sha256: hash.digest('hex'), bytes };
}

const stepOf = (name: string): number => Number(/^step-(\d+)$/.exec(name)?.[1] ?? Number.NaN);

function listSteps(folder: string): number[] {
  if (!existsSync(folder)) return [];
  const steps = readdirSync(folder).map(stepOf);
  return steps.filter(Number.isInteger).sort((a, b) => b - a);
}

/**
 * Writes a checkpoint and removes all but the last two.
 * @param folder the `checkpoints` folder.
 * @param saveTensors writes the trainer's state to the given path.
 * @returns the checkpoint's path.
 */
export async function saveCheckpoint(
  folder: string,
  state: LoopState,
  fingerprint: string,
  saveTensors: (path: string) => Promise<void>,
): Promise<string> {
  const final = join(folder, `step-${state.step}`);
  const temporary = join(folder, `.step-${state.step}.tmp`);
  makeFolder(folder);
  for (const name of readdirSync(folder)) {
    // Left by a process that was killed in here; one process works in a run folder at a time.
    if (name.endsWith('.tmp')) rmSync(join(folder, name), { recursive: true, force: true });
  }
  mkdirSync(temporary);
  try {
    await saveTensors(join(temporary, tensorFile));
    const sum = await sha256OfFile(join(temporary, tensorFile));
    const content: StateFile = { format, fingerprint, ...state, ...sum };
    writeFileAtomic(join(temporary, 'state.json'), `${JSON.stringify(content, null, 2)}\n`);
    rmSync(final, { recursive: true, force: true });
    renameSync(temporary, final);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
  syncFolder(folder);
  for (const step of listSteps(folder).slice(kept)) rmSync(join(folder, `step-${step}`), { recursive: true });
  return final;
}

/** Why a checkpoint cannot be used, or the checkpoint. */
async function readCheckpoint(path: string, fingerprint: string): Promise<Checkpoint | string> {
  let state: StateFile;
  try {
    state = JSON.parse(readFileSync(join(path, 'state.json'), 'utf8')) as StateFile;
  } catch (error) {
    return `state.json cannot be read (${(error as Error).message})`;
  }
  if (state.format !== format) return `state.json: expected format "${format}", found "${state.format}"`;
  if (state.fingerprint !== fingerprint) return 'it belongs to other options or annotations';
  const counts = [state.step, state.skippedSteps, state.skippedInARow];
  if (!counts.every(Number.isInteger) || state.step !== stepOf(path.slice(path.lastIndexOf('step-'))))
    return 'state.json holds impossible counts';
  const tensors = join(path, tensorFile);
  if (!existsSync(tensors)) return `${tensorFile} is missing`;
  const found = await sha256OfFile(tensors);
  if (found.bytes !== state.bytes) return `${tensorFile} has ${found.bytes} bytes, expected ${state.bytes}`;
  if (found.sha256 !== state.sha256) return `${tensorFile} is damaged (its SHA-256 differs)`;
  return { step: state.step, skippedSteps: state.skippedSteps, skippedInARow: state.skippedInARow, tensors };
}

/**
 * The newest good checkpoint, or undefined where there is none.
 * @param refused told each checkpoint that was passed over, and why.
 */
export async function findCheckpoint(
  folder: string,
  fingerprint: string,
  refused: (path: string, reason: string) => void,
): Promise<Checkpoint | undefined> {
  for (const step of listSteps(folder)) {
    const path = join(folder, `step-${step}`);
    const result = await readCheckpoint(path, fingerprint);
    if (typeof result !== 'string') return result;
    refused(path, result);
  }
  return undefined;
}
