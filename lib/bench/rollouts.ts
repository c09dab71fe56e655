/**
 * `bench rollouts`: the same counterfactual rollouts, decoded by our engine and by each peer in turn, repeat by repeat.
 * Our engine is measured twice: alone (every rollout decoded, to compare tokens per second) and through `annotate` with
 * everything on (to compare seconds per annotated response).
 */
import { CftError } from '../errors.js';
import { Tokenizer } from '../model/tokenizer.js';
import { createVerifier } from '../verify/verifier.js';
import { agreementOf, type CaseRollout, type JudgedRollout, Referee } from './agreement.js';
import { CaseFiles } from './case-files.js';
import { type BenchCase, randomResponses, rolloutsOf } from './cases.js';
import { Contestant, counted, isVoid, type Repeat, shareOf } from './contestant.js';
import type { BenchRow, EmitBench } from './events.js';
import type { CaseName } from './names.js';
import type { Peer } from './peers.js';
import type {
  AnnotateReply,
  CaseResponse,
  GemmReply,
  Job,
  LimitsReply,
  PreparedCase,
  PrepareRequest,
} from './protocol.js';
import { watchOthers } from './quiet.js';
import { writeRandomModel } from './random-model.js';
import { rooflineOf } from './roofline.js';
import { rowFacts } from './row-facts.js';
import type { OwnGreeting } from './serve-side.js';
import { ownSide, Side } from './side.js';
import { type Spread, spreadOf } from './statistics.js';

export interface RolloutsBench {
  name: CaseName;
  case: BenchCase;
  /** Folder or name for our side and folder for the peers; ignored for random weights. */
  model: { name: string; folder: string };
  gguf: string | undefined;
  device: string;
  dtype: Job['dtype'];
  peerDtype: Job['dtype'];
  threads: number;
  limit: number;
  repeats: number;
  maxConcurrency: number | 'auto';
  peers: readonly Peer[];
  peerEvery: number | 'auto';
  command: string;
  run: string;
  signal: AbortSignal | undefined;
  emit: EmitBench;
}

/** `rows` of a step: the branches that are decoded together. */
type RolloutsGreeting = OwnGreeting & { rows: number };

/** Rows at which matrix products are timed beside the batch's own: on a CPU, and with a GPU's batches. */
const gemmRows = { cpu: [64, 128, 256], cuda: [64, 256, 1024, 4096] };

interface AnnotateRepeat extends AnnotateReply {
  round: number;
  void: boolean;
}

class RolloutsRace {
  readonly #given: RolloutsBench;
  readonly #files: CaseFiles;
  readonly #modelFolder: string;
  #responses: CaseResponse[] = [];
  #rollouts: CaseRollout[] = [];
  #job!: Job;
  #own!: Contestant;
  #peers: Contestant[] = [];
  readonly #absent: { side: string; reason: string }[] = [];
  readonly #annotations: AnnotateRepeat[] = [];
  readonly #gemm = new Map<number, number[]>();
  #gemmKernel = '';
  readonly #roofline: LimitsReply[] = [];

  constructor(given: RolloutsBench, files: CaseFiles) {
    this.#given = given;
    this.#files = files;
    this.#modelFolder = given.case.kind === 'random' ? files.path('.') : given.model.folder;
  }

  async run(): Promise<{ rows: BenchRow[]; absent: { side: string; reason: string }[] }> {
    const { name, case: given, emit } = this.#given;
    emit({ type: 'case', case: name, what: given.what });
    if (given.kind === 'random') {
      writeRandomModel(this.#files.folder, given.shape);
      this.#take({ responses: randomResponses(given, this.#given.limit), endTokenIds: [] });
    } else {
      this.#take(await this.#prepare());
    }
    try {
      await this.#start();
      for (let round = 1; this.#needsMore(round); round++) await this.#round(round);
      const rows = await this.#rows();
      for (const row of rows) emit({ type: 'row', row });
      return { rows, absent: this.#absent };
    } finally {
      await Promise.all([this.#own, ...this.#peers].map((contestant) => contestant?.side.end()));
    }
  }

  /** Responses and alternatives, made by a process that ends before anything is measured. */
  async #prepare(): Promise<PreparedCase> {
    const { case: given, name, limit, emit, signal, threads } = this.#given;
    if (given.kind !== 'real') throw new CftError('ERR_CFT_INTERNAL', 'random cases are not prepared');
    const questions = await given.questions(limit);
    const job = this.#files.write('job-prepare.json', this.#jobWith({ endTokenIds: [], responses: [] }, []));
    const started = await Side.start(ownSide(), job, { threads, signal });
    if ('absent' in started) throw new CftError('ERR_CFT_INTERNAL', started.absent);
    try {
      const request: PrepareRequest = {
        type: 'prepare',
        questions: questions.map(({ id, question, answer }) => ({ id, question, answer })),
        ...given.prompting,
        trunkTokens: given.trunkTokens,
        results: this.#files.path('prepared.json'),
      };
      await started.side.ask(request);
    } finally {
      await started.side.end();
    }
    const prepared = this.#files.read<PreparedCase>('prepared.json');
    if (prepared.responses.length === 0) {
      throw new CftError(
        'ERR_CFT_NO_SIGNAL',
        `${name}: expected a correct response to at least one of ${questions.length} questions, found none within ` +
          `${given.trunkTokens} tokens; a higher --limit takes more of them, and is ${this.#given.model.name} the ` +
          'model of this case?',
      );
    }
    emit({
      type: 'prepared',
      case: name,
      questions: questions.length,
      responses: prepared.responses.length,
      rollouts: rolloutsOf(given, prepared.responses, prepared.endTokenIds).rollouts.length,
    });
    return prepared;
  }

  #take(prepared: PreparedCase): void {
    this.#responses = prepared.responses;
    this.#rollouts = rolloutsOf(this.#given.case, prepared.responses, prepared.endTokenIds).rollouts;
    this.#job = this.#jobWith(prepared, this.#rollouts);
  }

  #jobWith({ responses, endTokenIds }: PreparedCase, rollouts: readonly CaseRollout[]): Job {
    const { model, gguf, device, dtype, threads, maxConcurrency } = this.#given;
    return {
      model: this.#given.case.kind === 'random' ? this.#modelFolder : model.name,
      gguf,
      device,
      dtype,
      threads,
      end_token_ids: endTokenIds,
      trunks: responses.map(({ tokenIds }) => tokenIds),
      rollouts: rollouts.map(({ response, position, tokenId, maxNewTokens }) => ({
        trunk: response,
        length: responses[response]!.promptTokens + position,
        forced_token: tokenId,
        max_new_tokens: maxNewTokens,
      })),
      max_concurrency: maxConcurrency,
    };
  }

  async #start(): Promise<void> {
    const { signal, peers } = this.#given;
    const common = { files: this.#files, rollouts: this.#rollouts, signal };
    const own = await Contestant.start(ownSide(), {
      ...common,
      job: this.#job,
      share: shareOf(this.#rollouts, 1),
    });
    if ('absent' in own) throw new CftError('ERR_CFT_INTERNAL', own.absent);
    this.#own = own;
    this.#tellSide(own);
    for (const peer of peers) {
      const found = await this.#startPeer(peer);
      if ('absent' in found) {
        this.#absent.push({ side: peer.name, reason: found.absent });
        const { install } = peer;
        this.#given.emit({ type: 'absent', side: peer.name, reason: found.absent, install });
      } else {
        this.#peers.push(found);
        this.#tellSide(found);
      }
    }
  }

  #tellSide({ command, ready, share }: Contestant): void {
    this.#given.emit({
      type: 'side',
      side: command.name,
      dtype: ready.dtype,
      setting: ready.setting,
      loadSeconds: ready.load_seconds,
      rollouts: share.places.length,
    });
  }

  /** In the dtype that was asked for, or on a CPU in the one that is faster: the best of two, in turn. */
  async #startPeer(peer: Peer): Promise<Contestant | { absent: string }> {
    const { peerDtype, peerEvery, signal } = this.#given;
    const every = peerEvery === 'auto' ? peer.every : peerEvery;
    const start = (dtype: Job['dtype']) =>
      Contestant.start(peer, {
        job: {
          ...this.#job,
          model: this.#modelFolder,
          device: (this.#own.ready as RolloutsGreeting).device,
          dtype,
        },
        share: shareOf(this.#rollouts, every),
        files: this.#files,
        rollouts: this.#rollouts,
        signal,
      });
    const onCpu = (this.#own.ready as RolloutsGreeting).device === 'cpu';
    if (peerDtype !== 'auto' || !peer.choosesDtype) return start(peerDtype);
    if (!onCpu) return start('bfloat16');
    const exact = await start('float32');
    if ('absent' in exact) return exact;
    const half = await start('bfloat16');
    if ('absent' in half) return exact;
    const seconds = { exact: Number.POSITIVE_INFINITY, half: Number.POSITIVE_INFINITY };
    for (let i = 0; i < 2; i++) {
      seconds.exact = Math.min(seconds.exact, await exact.again());
      seconds.half = Math.min(seconds.half, await half.again());
    }
    const [faster, slower] = seconds.half < seconds.exact ? [half, exact] : [exact, half];
    await slower.side.end();
    return faster;
  }

  /** Until each side has its undisturbed repeats, but no more than twice as many in all. */
  #needsMore(round: number): boolean {
    const { repeats } = this.#given;
    if (round <= repeats) return true;
    if (round > 2 * repeats) return false;
    const quiet = (list: readonly { void: boolean }[]) => list.filter((repeat) => !repeat.void).length;
    const lists = [this.#own, ...this.#peers].map((contestant): { void: boolean }[] => contestant.repeats);
    if (this.#given.case.kind === 'real') lists.push(this.#annotations);
    return lists.some((list) => quiet(list) < repeats);
  }

  async #round(round: number): Promise<void> {
    const sides = [this.#own, ...this.#peers];
    const pids = [process.pid, ...sides.map(({ side }) => side.pid)];
    for (const contestant of sides) {
      const repeat =
        contestant === this.#own
          ? await contestant.repeat(round, pids)
          : await this.#repeatOfPeer(contestant, round, pids);
      if (repeat === undefined) continue;
      this.#tellRepeat(contestant.command.name, 'rollouts', repeat);
      if (contestant !== this.#own) continue;
      if (this.#given.case.kind === 'real') await this.#annotate(round, pids);
      await this.#timeGemm();
    }
  }

  /** A peer that fails in mid-measurement leaves it, and is told; what the others took hours for is not lost. */
  async #repeatOfPeer(peer: Contestant, round: number, pids: readonly number[]): Promise<Repeat | undefined> {
    try {
      return await peer.repeat(round, pids);
    } catch (error) {
      this.#given.signal?.throwIfAborted();
      if (!(error instanceof CftError)) throw error;
      peer.side.kill();
      this.#peers = this.#peers.filter((other) => other !== peer);
      const side = peer.command.name;
      this.#absent.push({ side, reason: error.message });
      this.#given.emit({ type: 'absent', side, reason: error.message, install: undefined });
      return undefined;
    }
  }

  #tellRepeat(side: string, what: 'rollouts' | 'annotate', repeat: Repeat): void {
    const { round, seconds, tokens, otherCpu } = repeat;
    const tokensPerSecond = tokens / seconds;
    this.#given.emit({
      type: 'repeat',
      side,
      what,
      round,
      seconds,
      tokensPerSecond,
      otherCpu,
      void: repeat.void,
    });
  }

  async #annotate(round: number, pids: readonly number[]): Promise<void> {
    const given = this.#given.case;
    if (given.kind !== 'real') return;
    const longest = Math.max(
      ...this.#responses.map(({ tokenIds, promptTokens }) => tokenIds.length - promptTokens),
    );
    const watched = watchOthers(pids);
    const reply = await this.#own.side.ask<AnnotateReply>({
      type: 'annotate',
      questions: this.#responses.map(({ id, question, answer }) => ({ id, question, answer })),
      ...given.prompting,
      // A trunk's budget is shared by its rollouts; this gives each at least what the rollouts above have.
      maxNewTokens: given.rolloutTokens === 'shared' ? given.trunkTokens : longest + 1 + given.rolloutTokens,
    });
    const quiet = watched();
    if (reply.responses !== this.#responses.length) {
      throw new CftError(
        'ERR_CFT_INTERNAL',
        `annotate: expected ${this.#responses.length} correct responses as before, found ${reply.responses}`,
      );
    }
    const repeat = { ...reply, round, void: isVoid(quiet) };
    this.#annotations.push(repeat);
    const { seconds, decodedTokens: tokens } = reply;
    this.#tellRepeat('cft-native', 'annotate', {
      round,
      seconds,
      tokens,
      otherCpu: quiet.otherCpu,
      void: repeat.void,
    });
  }

  async #timeGemm(): Promise<void> {
    const { rows, device } = this.#own.ready as RolloutsGreeting;
    for (const count of new Set([rows, ...(device === 'cpu' ? gemmRows.cpu : gemmRows.cuda)])) {
      const { tokensPerSecond, kernel } = await this.#own.side.ask<GemmReply>({ type: 'gemm', rows: count });
      // The limit that the share is of.
      if (count === rows) this.#gemmKernel = kernel;
      this.#gemm.set(count, [...(this.#gemm.get(count) ?? []), tokensPerSecond]);
    }
    // A CPU's limit is its products' in the batch at hand; a GPU's is also told apart into rate and bandwidth.
    if (device !== 'cpu') this.#roofline.push(await this.#own.side.ask<LimitsReply>({ type: 'limits' }));
  }

  async #rows(): Promise<BenchRow[]> {
    const rows = [this.#row(this.#own), ...this.#peers.map((peer) => this.#row(peer))];
    this.#addOwn(rows[0]!);
    const referee =
      this.#given.case.kind === 'real'
        ? new Referee(
            Tokenizer.load(this.#modelFolder, 2 ** 31 - 1),
            this.#responses,
            await createVerifier('builtin'),
          )
        : undefined;
    const ours: (JudgedRollout | undefined)[] = referee ? await this.#own.judged(referee) : [];
    for (const [i, peer] of this.#peers.entries()) {
      const row = rows[i + 1]!;
      row.ratio = this.#ratioTo(peer);
      if (referee) row.agreement = agreementOf(this.#rollouts, ours, await peer.judged(referee));
    }
    return rows;
  }

  #row(contestant: Contestant): BenchRow {
    const { case: given, name, run, command, model, threads, repeats } = this.#given;
    const { ready, share, side } = contestant;
    const own = this.#own.ready as RolloutsGreeting;
    const taken = counted(contestant.repeats, repeats);
    const voids = contestant.repeats.filter((repeat) => repeat.void).length;
    const others = taken.flatMap(({ otherCpu }) => (otherCpu === undefined ? [] : [otherCpu]));
    const shown = given.kind === 'random' ? `random ${given.shape}` : model.name;
    return {
      bench: 'rollouts',
      ...rowFacts(
        { case: name, what: given.what, side: contestant.command.name, run, command, model: shown, threads },
        own,
        ready,
      ),
      responses: this.#responses.length,
      rollouts: share.places.length,
      allRollouts: this.#rollouts.length,
      every: share.every,
      tokens: taken.at(-1)!.tokens,
      tokensPerSecond: spreadOf(taken.map(({ tokens, seconds }) => tokens / seconds)),
      secondsPerResponse: spreadOf(taken.map((repeat) => this.#secondsPerResponse(contestant, repeat))),
      repeats: taken.length,
      voidRepeats: voids,
      quiet: contestant.repeats.length - voids >= repeats,
      otherCpu: others.length > 0 ? Math.round(100 * Math.max(...others)) / 100 : null,
      cold: {
        loadSeconds: ready.load_seconds,
        firstRollouts: contestant.firstCount,
        firstSeconds: contestant.firstSeconds,
      },
      peakMemoryBytes: side.peakMemory() ?? null,
    };
  }

  #secondsPerResponse({ share }: Contestant, { seconds }: { seconds: number }): number {
    return (seconds * this.#rollouts.length) / share.places.length / this.#responses.length;
  }

  /** What only our side has: the annotation as a whole, and the limit of matrix products. */
  #addOwn(row: BenchRow): void {
    const { repeats } = this.#given;
    const taken = counted(this.#annotations, repeats);
    const last = taken.at(-1);
    if (last !== undefined) {
      const { decodedTokens, rolloutsSaved, p2 } = last;
      const secondsPerResponse = spreadOf(taken.map(({ seconds, responses }) => seconds / responses));
      row.annotate = { secondsPerResponse, decodedTokens, rolloutsSaved, p2 };
    }
    const { rows: batchRows } = this.#own.ready as RolloutsGreeting;
    const median = (count: number): number => spreadOf(this.#gemm.get(count) ?? []).p50;
    const counts = [...this.#gemm.keys()].sort((a, b) => a - b);
    row.gemmLimit = {
      kernel: this.#gemmKernel,
      rows: Object.fromEntries(counts.map((count) => [String(count), median(count)])),
      batchRows,
      share: Math.round((1000 * row.tokensPerSecond.p50) / median(batchRows)) / 1000,
    };
    if (this.#roofline.length === 0) return;
    const { costs } = this.#roofline[0]!;
    const measured = (key: 'flopsPerSecond' | 'bytesPerSecond'): number =>
      spreadOf(this.#roofline.map((limits) => limits[key])).p50;
    const rates = {
      flopsPerSecond: measured('flopsPerSecond'),
      bytesPerSecond: measured('bytesPerSecond'),
    };
    const decoded = this.#own.steps.map((steps, i) => ({
      ...this.#job.rollouts[this.#own.share.places[i]!]!,
      steps,
    }));
    const tokensPerSecond = Math.round(rooflineOf(costs, rates, decoded, batchRows));
    const share = Math.round((1000 * row.tokensPerSecond.p50) / tokensPerSecond) / 1000;
    row.roofline = { ...rates, tokensPerSecond, share };
  }

  /** Round by round, so that what changes on the machine changes both sides. */
  #ratioTo(peer: Contestant): NonNullable<BenchRow['ratio']> {
    const rate = ({ tokens, seconds }: Repeat): number => tokens / seconds;
    const pairs = <R extends { round: number; void: boolean }>(
      list: readonly R[],
      of: (ours: R, theirs: Repeat) => number,
    ) => {
      const both = list.flatMap((ours) => {
        const theirs = peer.repeats.find(({ round }) => round === ours.round);
        return theirs === undefined ? [] : [{ void: ours.void || theirs.void, ratio: of(ours, theirs) }];
      });
      return counted(both, this.#given.repeats).map(({ ratio }) => ratio);
    };
    const tokensPerSecond: Spread = spreadOf(
      pairs(this.#own.repeats, (ours, theirs) => rate(ours) / rate(theirs)),
    );
    if (this.#annotations.length === 0) return { tokensPerSecond };
    const seconds = pairs(
      this.#annotations,
      (ours, theirs) => this.#secondsPerResponse(peer, theirs) / (ours.seconds / ours.responses),
    );
    return { tokensPerSecond, secondsPerResponse: spreadOf(seconds) };
  }
}

/** Measures one case. @throws CftError; the signal's reason when aborted. */
export async function benchRollouts(
  given: RolloutsBench,
): Promise<{ rows: BenchRow[]; absent: { side: string; reason: string }[] }> {
  using files = new CaseFiles();
  return await new RolloutsRace(given, files).run();
}
