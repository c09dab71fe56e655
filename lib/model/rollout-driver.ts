/**
 * The loop around a rollout engine: one continuous batch for the branches of many prefixes. Whoever has work opens it
 * a piece at a time (`open`), submits branches, and hears of each when it finishes; verdicts that take long are
 * tracked beside the batch, which never waits for them.
 *
 * While results are looked at here, the engine already takes its next step: with branches queued for every slot,
 * nothing that JavaScript does costs the batch time.
 */
import { CftError } from '../errors.js';
import type {
  NativeBranch,
  NativeRolloutEngine,
  NativeStepResult,
  NativeTrunk,
  NativeTrunkSpec,
} from '../native/binding.js';

export interface Rollout {
  /** Decoded after the forced tokens, without the end token. */
  tokenIds: Int32Array;
  /** -1 where the budget ran out, or where it was stopped. */
  endTokenId: number;
  /** It was ended where its answer was complete, and holds the tokens up to there. */
  stopped?: true;
  /**
   * Of the distribution that each token was taken from, before temperature, in nats; where the branch asked for them
   * (`entropy`) and the device tells (a CPU).
   */
  entropies?: Float32Array;
}

/**
 * Looks at all tokens of a branch so far.
 * @returns how many of them are enough, or undefined to go on. The answer must not depend on when it is asked.
 */
export type StopAt = (tokenIds: readonly number[]) => number | undefined;

export interface DriverBranch extends Omit<NativeBranch, 'id'> {
  stopAt?: StopAt | undefined;
  /** Each decoded token as it comes. */
  onToken?: ((tokenId: number) => void) | undefined;
  /** Count tokens as they come, so that `cancel` can say how many there were. */
  counted?: boolean | undefined;
  onFinished: (rollout: Rollout) => void;
}

/** What the engine did, summed over its steps. */
export interface EngineCounters {
  decodedTokens: number;
  draftedTokens: number;
  acceptedTokens: number;
}

interface LiveBranch {
  branch: DriverBranch;
  /** Decoded so far; only of branches that are watched. */
  tokens: number[];
  entropies: number[];
  /** Tokens that `stopAt` has seen. */
  seen: number;
}

/** A step of the engine that is under way. */
interface Step {
  result: Promise<NativeStepResult>;
  /** How often something had been given back when it began. */
  givenBack: number;
}

const isShortOfMemory = (error: unknown): boolean =>
  error instanceof CftError && error.code === 'ERR_CFT_OUT_OF_MEMORY';

/** Decode steps of a native call in which nothing finishes: the time between two looks at the signal. */
const stepsPerCall = 16;
/** `stopAt` looks at so many new tokens at once; what it decides does not depend on it. */
const tokensPerLook = 8;

const isPromise = <T>(value: T | Promise<T>): value is Promise<T> => value instanceof Promise;

export class RolloutDriver {
  readonly maxBranches: number;
  readonly counters: EngineCounters = { decodedTokens: 0, draftedTokens: 0, acceptedTokens: 0 };
  readonly #engine: NativeRolloutEngine;
  readonly #signal: AbortSignal | undefined;
  readonly #onStep: (decodedTokens: number) => void;
  readonly #live = new Map<number, LiveBranch>();
  readonly #trunks = new Set<number>();
  #nextId = 0;
  #watched = 0;
  #pending = 0;
  /** How often a trunk was released or a branch cancelled: the engine may have more memory since. */
  #givenBack = 0;
  #failure: { error: unknown } | undefined;
  /** `run` has ended; whoever made the engine may have disposed it. */
  #ended = false;
  /** The step under way; whoever takes it hands its result on. */
  #stepping: Step | undefined;
  #wake: () => void = () => {};

  constructor(
    engine: NativeRolloutEngine,
    {
      maxBranches,
      signal,
      onStep = () => {},
    }: {
      maxBranches: number;
      signal?: AbortSignal | undefined;
      onStep?: ((decodedTokens: number) => void) | undefined;
    },
  ) {
    this.#engine = engine;
    this.maxBranches = maxBranches;
    this.#signal = signal;
    this.#onStep = onStep;
  }

  /** Branches that are queued or being decoded. */
  get live(): number {
    return this.#live.size;
  }

  /**
   * Waits for memory where there is none and branches are under way: they give it back.
   * @throws CftError ERR_CFT_OUT_OF_MEMORY where the trunk does not fit although nothing else is there.
   */
  async addTrunk(spec: NativeTrunkSpec): Promise<NativeTrunk> {
    for (;;) {
      const before = this.#givenBack;
      try {
        const added = await this.#engine.addTrunk(spec);
        this.#trunks.add(added.trunk);
        return added;
      } catch (error) {
        const hope = this.#live.size > 0 || this.#pending > 0 || this.#givenBack !== before;
        if (!isShortOfMemory(error) || !hope) throw error;
      }
      this.#checkRunning();
      // Memory was given back after the engine had looked.
      if (this.#givenBack !== before) continue;
      // What is under way first: it may hold the last branches of a trunk. Verdicts give trunks back, too.
      if (this.#stepping === undefined && this.#live.size > 0) this.#step();
      if (this.#stepping === undefined) await this.#woken();
      else {
        const result = await this.#stepped();
        if (result !== undefined) this.#receive(result);
      }
      this.#checkRunning();
    }
  }

  releaseTrunk(trunk: number): void {
    if (!this.#trunks.delete(trunk)) return;
    this.#givenBack++;
    this.#engine.releaseTrunk(trunk);
  }

  /** @returns a number for each branch, to cancel it by. */
  submit(branches: readonly DriverBranch[]): number[] {
    const natives = branches.map((branch): NativeBranch => {
      const { stopAt: _, onToken: __, counted: ___, onFinished: ____, ...native } = branch;
      return { ...native, id: this.#nextId++ };
    });
    if (natives.length === 0) return [];
    this.#engine.submit(natives);
    natives.forEach(({ id }, i) => {
      const branch = branches[i]!;
      this.#live.set(id, { branch, tokens: [], entropies: [], seen: 0 });
      if (isWatched(branch)) this.#watched++;
    });
    return natives.map(({ id }) => id);
  }

  /** Forgets a branch. @returns the tokens that were decoded for it, where it is watched or counted. */
  cancel(id: number): number {
    const live = this.#take(id);
    if (live === undefined) return 0;
    this.#givenBack++;
    this.#engine.cancel([id]);
    return live.tokens.length;
  }

  /**
   * Waits for `work` beside the batch and hands its result over; at once where it is none to wait for. `run` ends when
   * all that is tracked has ended, and fails when `work` or `then` does. What ends after a `run` that failed is dropped:
   * engine and run folder are no longer its own.
   */
  track<T>(work: () => T | Promise<T>, then: (value: T) => void): void {
    const attempt = (step: () => void): void => {
      try {
        step();
      } catch (error) {
        this.fail(error);
      }
    };
    attempt(() => {
      const value = work();
      if (!isPromise(value)) return then(value);
      this.#pending++;
      const done = (step: () => void): void => {
        this.#pending--;
        if (this.#ended) return;
        attempt(step);
        this.#wake();
      };
      value.then(
        (result) => done(() => then(result)),
        (error: unknown) => done(() => this.fail(error)),
      );
    });
  }

  /** Ends `run` with this error, unless it has ended. */
  fail(error: unknown): void {
    if (this.#ended) return;
    this.#failure ??= { error };
    this.#engine.interrupt();
    this.#wake();
  }

  /**
   * Works until nothing is left: neither branches nor tracked work, and `open` has no more.
   * @param open called while fewer than twice the slots are queued: opens one more piece of work and resolves, or
   *   returns undefined where there is none (for now). Each piece holds memory, so no more are opened than needed.
   * @param idle called before a step that leaves slots empty, with their number.
   * @throws what failed; the signal's reason once it is aborted. The engine is then left without branches and trunks.
   */
  async run(open: () => Promise<void> | undefined, idle: (slots: number) => void = () => {}): Promise<void> {
    const interrupt = (): void => {
      this.#engine.interrupt();
      this.#wake();
    };
    this.#signal?.addEventListener('abort', interrupt);
    try {
      for (;;) {
        this.#checkRunning();
        if (this.#live.size < 2 * this.maxBranches) {
          const opening = open();
          if (opening !== undefined) {
            await opening;
            continue;
          }
          if (this.#live.size < this.maxBranches) idle(this.maxBranches - this.#live.size);
        }
        if (this.#stepping === undefined) {
          if (this.#live.size > 0) this.#step();
          else if (this.#pending === 0) return;
          else await this.#woken();
          continue;
        }
        const result = await this.#stepped();
        if (result === undefined) continue;
        if (result.active + result.waiting > 0 && this.#failure === undefined && !this.#signal?.aborted)
          this.#step();
        this.#receive(result);
      }
    } finally {
      this.#signal?.removeEventListener('abort', interrupt);
      this.#ended = true;
      const stepping = this.#stepping;
      this.#stepping = undefined;
      await this.#clear(stepping?.result);
    }
  }

  /** @throws the signal's reason, or what failed. */
  #checkRunning(): void {
    this.#signal?.throwIfAborted();
    if (this.#failure) throw this.#failure.error;
  }

  #step(): void {
    const result = this.#engine.step(stepsPerCall);
    result.catch(() => {}); // awaited later, perhaps after another error
    this.#stepping = { result, givenBack: this.#givenBack };
  }

  /**
   * Takes the step under way.
   * @returns undefined where not even one branch had room beside trunks whose verdicts are awaited, once some of that
   *   may have been given back.
   */
  async #stepped(): Promise<NativeStepResult | undefined> {
    const { result, givenBack } = this.#stepping!;
    this.#stepping = undefined;
    try {
      return await result;
    } catch (error) {
      const hope = this.#pending > 0 || this.#givenBack !== givenBack;
      if (!isShortOfMemory(error) || !hope) throw error;
    }
    if (this.#givenBack === givenBack) await this.#woken();
    return undefined;
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = () => {};
        resolve();
      };
    });
  }

  #take(id: number): LiveBranch | undefined {
    const live = this.#live.get(id);
    if (live === undefined) return undefined;
    this.#live.delete(id);
    if (isWatched(live.branch)) this.#watched--;
    return live;
  }

  #receive({ finished, tokens, ...counts }: NativeStepResult): void {
    this.counters.decodedTokens += counts.decodedTokens;
    this.counters.draftedTokens += counts.draftedTokens ?? 0;
    this.counters.acceptedTokens += counts.acceptedTokens ?? 0;
    if (this.#watched > 0) this.#watch(tokens);
    for (const { id, tokenIds, endTokenId } of finished) {
      // Cancelled branches may still finish in the step that was under way.
      const live = this.#take(id);
      if (live === undefined) continue;
      const enough = live.branch.stopAt?.(Array.from(tokenIds));
      this.#hand(live, enough === undefined ? { tokenIds, endTokenId } : stoppedAt(tokenIds, enough));
    }
    this.#onStep(counts.decodedTokens);
  }

  #hand({ branch, entropies }: LiveBranch, rollout: Rollout): void {
    // NaN where the device does not tell.
    const known = branch.entropy === true && !Number.isNaN(entropies[0] ?? 0);
    if (known) rollout.entropies = Float32Array.from(entropies.slice(0, rollout.tokenIds.length));
    try {
      branch.onFinished(rollout);
    } catch (error) {
      this.fail(error);
    }
  }

  #watch({ branchIds, tokenIds, entropies }: NativeStepResult['tokens']): void {
    const touched = new Map<number, LiveBranch>();
    for (let i = 0; i < branchIds.length; i++) {
      const id = branchIds[i]!;
      const live = this.#live.get(id);
      if (live === undefined || !isWatched(live.branch)) continue;
      live.tokens.push(tokenIds[i]!);
      if (live.branch.entropy) live.entropies.push(entropies?.[i] ?? Number.NaN);
      live.branch.onToken?.(tokenIds[i]!);
      if (live.branch.stopAt !== undefined && live.tokens.length - live.seen >= tokensPerLook)
        touched.set(id, live);
    }
    for (const [id, live] of touched) {
      // What the one before brought about may have cancelled it.
      if (this.#live.get(id) !== live) continue;
      live.seen = live.tokens.length;
      const enough = live.branch.stopAt?.(live.tokens);
      if (enough === undefined) continue;
      this.cancel(id);
      this.#hand(live, stoppedAt(Int32Array.from(live.tokens), enough));
    }
  }

  /** Waits for the step that is under way and leaves the engine empty. */
  async #clear(stepping: Promise<unknown> | undefined): Promise<void> {
    if (stepping !== undefined) {
      if (this.#failure === undefined && !this.#signal?.aborted) this.#engine.interrupt();
      await stepping.catch(() => {});
    }
    if (this.#live.size > 0) this.#engine.cancel([...this.#live.keys()]);
    this.#live.clear();
    this.#watched = 0;
    for (const trunk of this.#trunks) this.#engine.releaseTrunk(trunk);
    this.#trunks.clear();
  }
}

const isWatched = ({ stopAt, onToken, counted, entropy }: DriverBranch): boolean =>
  stopAt !== undefined || onToken !== undefined || counted === true || entropy === true;

const stoppedAt = (tokenIds: Int32Array, enough: number): Rollout => ({
  tokenIds: tokenIds.slice(0, enough),
  endTokenId: -1,
  stopped: true,
});
