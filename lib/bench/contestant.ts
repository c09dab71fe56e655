/** One side in the race: its share of the rollouts, its repeats, its figures. */
import type { CaseRollout, JudgedRollout, Referee } from './agreement.js';
import { withinBudget } from './agreement.js';
import type { CaseFiles } from './case-files.js';
import type { Greeting, Job, RolloutResult, RunReply } from './protocol.js';
import { mostOtherCpu, type Quiet, watchOthers } from './quiet.js';
import { Side, type SideCommand } from './side.js';

/** Rollouts that a side decodes once before it is measured. */
const firstRollouts = 16;

export interface Repeat {
  round: number;
  seconds: number;
  tokens: number;
  otherCpu: number | undefined;
  void: boolean;
}

/** What a side is asked to decode: the rollouts of every so many positions, with their places among all. */
export interface Share {
  every: number;
  places: number[];
}

/** Both alternatives of every so many positions, so that critical labels can be compared. */
export function shareOf(rollouts: readonly CaseRollout[], every: number): Share {
  const places = rollouts.flatMap(({ position }, i) => (position % every === 0 ? [i] : []));
  return { every, places };
}

export const isVoid = ({ otherCpu }: Quiet): boolean => otherCpu !== undefined && otherCpu > mostOtherCpu;

export class Contestant {
  readonly command: SideCommand;
  readonly side: Side;
  readonly ready: Greeting & { type: 'ready' };
  readonly share: Share;
  readonly repeats: Repeat[] = [];
  firstSeconds = 0;
  readonly #files: CaseFiles;
  readonly #rollouts: readonly CaseRollout[];
  #results: RolloutResult[] = [];

  private constructor(
    command: SideCommand,
    started: { side: Side; ready: Greeting & { type: 'ready' } },
    share: Share,
    files: CaseFiles,
    rollouts: readonly CaseRollout[],
  ) {
    this.command = command;
    this.side = started.side;
    this.ready = started.ready;
    this.share = share;
    this.#files = files;
    this.#rollouts = rollouts;
  }

  /** Starts a side, and has it decode its first rollouts. */
  static async start(
    command: SideCommand,
    {
      job,
      share,
      files,
      rollouts,
      signal,
    }: {
      job: Job;
      share: Share;
      files: CaseFiles;
      rollouts: readonly CaseRollout[];
      signal: AbortSignal | undefined;
    },
  ): Promise<Contestant | { absent: string }> {
    const own = { ...job, rollouts: share.places.map((place) => job.rollouts[place]!) };
    const jobFile = files.write(`job-${command.name}-${job.dtype}.json`, own);
    const started = await Side.start(command, jobFile, { threads: job.threads, signal });
    if ('absent' in started) return started;
    const contestant = new Contestant(command, started, share, files, rollouts);
    try {
      contestant.firstSeconds = (await contestant.#decode(contestant.firstCount)).seconds;
      return contestant;
    } catch (error) {
      contestant.side.kill(); // nobody else knows of it yet
      throw error;
    }
  }

  get firstCount(): number {
    return Math.min(firstRollouts, this.share.places.length);
  }

  /** Seconds for the first rollouts once more, to choose between ways of running a side. */
  async again(): Promise<number> {
    return (await this.#decode(this.firstCount)).seconds;
  }

  async #decode(count: number): Promise<RunReply> {
    const results = this.#files.path(`results-${this.command.name}.json`);
    return await this.side.ask<RunReply>({ type: 'run', count, results });
  }

  /** @param pids all processes of the measurement. */
  async repeat(round: number, pids: readonly number[]): Promise<Repeat> {
    const watched = watchOthers(pids);
    const { seconds } = await this.#decode(this.share.places.length);
    const quiet = watched();
    const found = this.#files.read<RolloutResult[]>(`results-${this.command.name}.json`);
    this.#results = this.share.places.map((place, i) =>
      withinBudget(found[i]!, this.#rollouts[place]!.maxNewTokens),
    );
    const tokens = this.#results.reduce((sum, [tokenIds]) => sum + tokenIds.length, 0);
    const repeat = { round, seconds, tokens, otherCpu: quiet.otherCpu, void: isVoid(quiet) };
    this.repeats.push(repeat);
    return repeat;
  }

  /** Steps that each rollout of this side's share took in the last repeat; an end token takes one, too. */
  get steps(): number[] {
    return this.#results.map(([tokenIds, end]) => tokenIds.length + (end < 0 ? 0 : 1));
  }

  /** Verdicts on what the last repeat decoded, at the places of all rollouts; undefined where not asked. */
  async judged(referee: Referee): Promise<(JudgedRollout | undefined)[]> {
    const all = new Array<JudgedRollout | undefined>(this.#rollouts.length).fill(undefined);
    for (const [i, place] of this.share.places.entries())
      all[place] = await referee.judge(this.#rollouts[place]!, this.#results[i]!);
    return all;
  }
}

/** The repeats that count: the undisturbed ones, or all where there is not one. */
export function counted<R extends { void: boolean }>(repeats: readonly R[], wanted: number): R[] {
  const quiet = repeats.filter((repeat) => !repeat.void);
  return quiet.length > 0 ? quiet.slice(0, Math.max(wanted, 1)) : [...repeats];
}
