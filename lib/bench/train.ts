/**
 * `bench train`: the same sequences, masks, batches, learning rate and clipping, trained by us and by each peer in turn.
 * Each turn is a fresh process from the same weights, so that losses compare step by step and memory can be told; its
 * first step, which makes what later ones find ready, is not timed.
 */
import { CftError } from '../errors.js';
import { CaseFiles } from './case-files.js';
import type { EmitBench } from './events.js';
import type { TrainCaseName } from './names.js';
import type { Greeting } from './protocol.js';
import { mostOtherCpu, watchOthers } from './quiet.js';
import { writeRandomModel } from './random-model.js';
import { type RowFacts, rowFacts } from './row-facts.js';
import type { OwnGreeting } from './serve-side.js';
import { ownSide, Side, type SideCommand } from './side.js';
import { type Spread, spreadOf } from './statistics.js';
import { randomTraining, sequencesOf, type TrainCase } from './train-cases.js';
import type {
  PreparedResponse,
  TrainJob,
  TrainPrepareRequest,
  TrainReply,
  TrainSequence,
} from './train-protocol.js';

export interface TrainBench {
  name: TrainCaseName;
  case: TrainCase;
  model: { name: string; folder: string };
  device: string;
  dtype: 'float32' | 'bfloat16';
  threads: number;
  /** Sequences. */
  limit: number;
  repeats: number;
  peers: readonly SideCommand[];
  command: string;
  run: string;
  signal: AbortSignal | undefined;
  emit: EmitBench;
}

/** One line of bench/results/train.jsonl: one side of one case in one run. */
export interface TrainRow extends RowFacts {
  bench: 'train';
  sequences: number;
  batchSize: number;
  learningRate: number;
  /** Of the timed steps: prompt and response, no padding; and those that are trained. */
  tokens: number;
  selectedTokens: number;
  steps: number;
  tokensPerSecond: Spread;
  repeats: number;
  /** Repeats in which others took the processor; all repeats count, for a training takes long. */
  voidRepeats: number;
  quiet: boolean;
  otherCpu: number | null;
  loadSeconds: number;
  /** Of every step, the first one that is not timed included; of the last repeat. */
  losses: number[];
  peakMemoryBytes: number | null;
  /** On a GPU: the most of its memory that the process has held. */
  peakDeviceBytes?: number;
  /** Ours: predicted before the start. */
  plannedMemoryBytes?: number;
  /** Ours: what matrix products alone would allow without shared prefixes, and our share of it. */
  gemmLimit?: { tokensPerSecond: number; rows: number; kernel: string; share: number };
  /** Ours divided by this side, repeat by repeat; memory: this side's divided by ours. */
  ratio?: { tokensPerSecond: Spread; memory: number | null; deviceMemory?: number };
  /** A peer's losses against ours: largest relative difference; absent where its batches are other ones. */
  agreement?: { steps: number; largestDifference: number };
}

const batchSize = 8;
const learningRate = 1e-5;
const maxGradNorm = 1;
const gemmRows = 1024;

interface Turn {
  ready: Greeting & { type: 'ready' };
  reply: TrainReply;
  seconds: number;
  tokens: number;
  peak: number | undefined;
  otherCpu: number | undefined;
  void: boolean;
}

class TrainRace {
  readonly #given: TrainBench;
  readonly #files: CaseFiles;
  readonly #turns = new Map<string, Turn[]>();
  readonly #absent: { side: string; reason: string }[] = [];
  readonly #gemm: { tokensPerSecond: number; kernel: string }[] = [];
  #job!: TrainJob;

  constructor(given: TrainBench, files: CaseFiles) {
    this.#given = given;
    this.#files = files;
  }

  async run(): Promise<{ rows: TrainRow[]; absent: { side: string; reason: string }[] }> {
    const { name, case: given, emit, repeats } = this.#given;
    emit({ type: 'case', case: name, what: given.what });
    this.#job = this.#jobOf(sequencesOf(given, await this.#responses()));
    let sides = [ownSide('train-side'), ...this.#given.peers];
    for (let round = 1; round <= repeats; round++) {
      for (const side of sides) {
        const turn = await this.#turn(side, round);
        if (turn === undefined) sides = sides.filter((other) => other !== side);
      }
    }
    const rows = sides.map((side) => this.#row(side));
    for (const row of rows) emit({ type: 'train-row', row });
    return { rows, absent: this.#absent };
  }

  async #responses(): Promise<PreparedResponse[]> {
    const { case: given, limit, emit, name } = this.#given;
    if (given.shape !== undefined) {
      writeRandomModel(this.#files.folder, given.shape);
      return randomTraining(given.shape, limit);
    }
    const source = given.real!;
    const questions = await source.questions(given.annotate ? limit : 2 * limit);
    const job = this.#files.write('prepare.json', this.#jobOf([]));
    const started = await Side.start(ownSide('train-side'), job, this.#processOptions);
    if ('absent' in started) throw new CftError('ERR_CFT_INTERNAL', started.absent);
    try {
      const request: TrainPrepareRequest = {
        type: 'prepare',
        questions: questions.map(({ id, question, answer }) => ({ id, question, answer })),
        ...source.prompting,
        maxNewTokens: source.trunkTokens,
        annotate: given.annotate,
        results: this.#files.path('responses.json'),
      };
      await started.side.ask(request);
    } finally {
      await started.side.end();
    }
    const found = this.#files.read<PreparedResponse[]>('responses.json');
    const responses = found.filter(({ critical }) => critical?.length !== 0).slice(0, limit);
    if (responses.length === 0) {
      throw new CftError(
        'ERR_CFT_NO_SIGNAL',
        `${name}: expected a response to train on, found none in ${questions.length} questions`,
      );
    }
    emit({
      type: 'prepared',
      case: name,
      questions: questions.length,
      responses: responses.length,
      rollouts: 0,
    });
    return responses;
  }

  get #processOptions(): { threads: number; signal: AbortSignal | undefined } {
    return { threads: this.#given.threads, signal: this.#given.signal };
  }

  /** Steps over all sequences in order; the first batch comes once more at the start, untimed. */
  #jobOf(sequences: TrainSequence[]): TrainJob {
    const { case: given, model, device, dtype, threads } = this.#given;
    const folder = given.shape === undefined ? model.folder : this.#files.folder;
    const steps: number[][] = [];
    for (let first = 0; first < sequences.length; first += batchSize) {
      const members = Array.from(
        { length: Math.min(batchSize, sequences.length - first) },
        (_, i) => first + i,
      );
      // A short last batch would be another step for those who batch by themselves.
      if (members.length === batchSize || first === 0) steps.push(members);
    }
    return {
      model: folder,
      tokenizer: folder,
      device,
      dtype,
      threads,
      // Peers cut the flat list of all steps by it: a single short batch must not be filled up with its own repeat.
      batch_size: steps[0]?.length ?? batchSize,
      learning_rate: learningRate,
      max_grad_norm: maxGradNorm,
      sequences,
      steps: steps.length === 0 ? [] : [steps[0]!, ...steps],
    };
  }

  #tokensOf(steps: readonly number[][], of: (sequence: TrainSequence) => number): number {
    return steps.flat().reduce((sum, index) => sum + of(this.#job.sequences[index]!), 0);
  }

  async #turn(command: SideCommand, round: number): Promise<Turn | undefined> {
    const { emit } = this.#given;
    const own = command.name === 'cft-native';
    const path = this.#files.write(`job-${command.name}.json`, this.#job);
    const started = await Side.start(command, path, this.#processOptions);
    if ('absent' in started) {
      this.#absent.push({ side: command.name, reason: started.absent });
      emit({ type: 'absent', side: command.name, reason: started.absent, install: command.install });
      return undefined;
    }
    const { side, ready } = started;
    try {
      const watched = watchOthers([process.pid, side.pid]);
      const reply = await side.ask<TrainReply>({ type: 'run' });
      const { otherCpu } = watched();
      const peak = side.peakMemory();
      // Packing makes other batches: fewer or more steps for the same tokens.
      const share = reply.step_seconds.length / this.#job.steps.length;
      const timed = reply.step_seconds.slice(1);
      const seconds = timed.reduce((sum, value) => sum + value, 0);
      const all = this.#tokensOf(this.#job.steps, ({ token_ids: ids }) => ids.length);
      const tokens =
        share === 1
          ? this.#tokensOf(this.#job.steps.slice(1), ({ token_ids: ids }) => ids.length)
          : (all * timed.length) / reply.step_seconds.length;
      if (own)
        this.#gemm.push(
          await side.ask<{ type: string; tokensPerSecond: number; kernel: string }>({
            type: 'gemm',
            rows: gemmRows,
            headRows: this.#headRows,
          }),
        );
      const disturbed = otherCpu !== undefined && otherCpu > mostOtherCpu;
      const turn: Turn = { ready, reply, seconds, tokens, peak, otherCpu, void: disturbed };
      this.#turns.set(command.name, [...(this.#turns.get(command.name) ?? []), turn]);
      emit({
        type: 'repeat',
        side: command.name,
        round,
        what: 'train',
        seconds,
        tokensPerSecond: tokens / seconds,
        otherCpu,
        void: disturbed,
      });
      return turn;
    } finally {
      await side.end();
    }
  }

  get #headRows(): number {
    const share =
      this.#tokensOf(this.#job.steps, ({ selected }) => selected.length) /
      this.#tokensOf(this.#job.steps, ({ token_ids: ids }) => ids.length);
    return Math.max(1, Math.round(gemmRows * share));
  }

  #row({ name: side }: SideCommand): TrainRow {
    const { case: given, name, run, command, model, threads } = this.#given;
    const turns = this.#turns.get(side)!;
    const ours = this.#turns.get('cft-native')!;
    const last = turns.at(-1)!;
    const own = ours.at(-1)!.ready as OwnGreeting;
    const rate = ({ tokens, seconds }: Turn): number => tokens / seconds;
    const timed = this.#job.steps.slice(1);
    const peaks = turns.flatMap(({ peak }) => (peak === undefined ? [] : [peak]));
    const peak = peaks.length > 0 ? Math.max(...peaks) : null;
    const others = turns.flatMap(({ otherCpu }) => (otherCpu === undefined ? [] : [otherCpu]));
    const shown = given.shape === undefined ? model.name : `random ${given.shape}`;
    const row: TrainRow = {
      bench: 'train',
      ...rowFacts(
        { case: name, what: given.what, side, run, command, model: shown, threads },
        own,
        last.ready,
      ),
      sequences: new Set(timed.flat()).size,
      batchSize: this.#job.batch_size,
      learningRate,
      tokens: this.#tokensOf(timed, ({ token_ids: ids }) => ids.length),
      selectedTokens: this.#tokensOf(timed, ({ selected }) => selected.length),
      steps: last.reply.step_seconds.length - 1,
      tokensPerSecond: spreadOf(turns.map(rate)),
      repeats: turns.length,
      voidRepeats: turns.filter((turn) => turn.void).length,
      quiet: turns.every((turn) => !turn.void),
      otherCpu: others.length > 0 ? Math.round(100 * Math.max(...others)) / 100 : null,
      loadSeconds: last.ready.load_seconds,
      losses: last.reply.losses,
      peakMemoryBytes: peak,
    };
    const deviceBytes = Math.max(0, ...turns.map(({ reply }) => reply.device_bytes ?? 0));
    if (deviceBytes > 0) row.peakDeviceBytes = deviceBytes;
    if (side === 'cft-native') {
      const limit = spreadOf(this.#gemm.map(({ tokensPerSecond }) => tokensPerSecond)).p50;
      const { kernel } = this.#gemm[0]!;
      const share = Math.round((1000 * row.tokensPerSecond.p50) / limit) / 1000;
      row.gemmLimit = { tokensPerSecond: limit, rows: gemmRows, kernel, share };
      if (last.reply.planned_bytes !== undefined) row.plannedMemoryBytes = last.reply.planned_bytes;
      return row;
    }
    const ourPeaks = ours.flatMap((turn) => (turn.peak === undefined ? [] : [turn.peak]));
    row.ratio = {
      tokensPerSecond: spreadOf(turns.map((turn, i) => rate(ours[i]!) / rate(turn))),
      memory:
        peak === null || ourPeaks.length === 0 ? null : Number((peak / Math.max(...ourPeaks)).toFixed(3)),
    };
    const ourDeviceBytes = Math.max(0, ...ours.map(({ reply }) => reply.device_bytes ?? 0));
    if (deviceBytes > 0 && ourDeviceBytes > 0)
      row.ratio.deviceMemory = Number((deviceBytes / ourDeviceBytes).toFixed(3));
    const reference = ours.at(-1)!.reply.losses;
    if (last.reply.losses.length === reference.length && !last.ready.setting.startsWith('packing')) {
      const differences = reference.map((loss, i) => Math.abs(last.reply.losses[i]! - loss) / Math.abs(loss));
      row.agreement = {
        steps: reference.length,
        largestDifference: Number(Math.max(...differences).toPrecision(3)),
      };
    }
    return row;
  }
}

/** Measures one case. @throws CftError; the signal's reason when aborted. */
export async function benchTrain(
  given: TrainBench,
): Promise<{ rows: TrainRow[]; absent: { side: string; reason: string }[] }> {
  using files = new CaseFiles();
  return await new TrainRace(given, files).run();
}
