/**
 * A language model of a few lines, for tests of everything that drives one: its logits are a hash of the last tokens,
 * and the longer the text the likelier its end. The engine keeps the contract of NativeRolloutEngine: branches enter
 * in order as slots become free, a step ends early when branches finish.
 */
import type { RolloutModel } from '../../lib/counterfactual/rollout-model.js';
import type {
  NativeBranch,
  NativeBranchResult,
  NativeRolloutEngine,
  NativeStepResult,
  NativeTrunk,
  NativeTrunkSpec,
} from '../../lib/native/binding.js';

const vocabulary = 'abcdefghijklmnopqrstuvwxyz0123456789';
export const toyEndTokenIds = Int32Array.of(36, 37);
const vocabularySize = 38;

/** FNV-1a over token ids, 32 bit. */
export function hashTokens(tokenIds: Iterable<number>): number {
  let state = 0x811c9dc5;
  for (const id of tokenIds) state = Math.imul(state ^ id, 0x01000193) >>> 0;
  return state;
}

/** Logits after `tokenIds`: noise in [0, 4) for each token; the end tokens rise with the length, from `endBias` on. */
export function toyLogits(tokenIds: ArrayLike<number>, endBias = -3): number[] {
  const length = tokenIds.length;
  const recent = Array.from({ length: 4 }, (_, i) => tokenIds[length - 1 - i] ?? 99);
  return Array.from({ length: vocabularySize }, (_, token) => {
    let state = hashTokens([...recent, token]);
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) >>> 0;
    const noise = ((state >>> 8) / 0x1000000) * 4;
    return toyEndTokenIds.includes(token) ? noise + endBias + length * 0.12 : noise;
  });
}

/** Log-probabilities in single precision, as an engine gives them. */
export function toyLogProbs(tokenIds: ArrayLike<number>, endBias?: number): number[] {
  const logits = toyLogits(tokenIds, endBias);
  const sum = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0));
  return logits.map((logit) => Math.fround(logit - sum));
}

const rankings = new Map<string, number[]>();

/** Tokens from the most to the least probable. */
export function toyRanking(tokenIds: ArrayLike<number>, endBias?: number): number[] {
  const { length } = tokenIds;
  const key = `${endBias} ${length} ${tokenIds[length - 4]} ${tokenIds[length - 3]} ${tokenIds[length - 2]} ${tokenIds[length - 1]}`;
  let ranking = rankings.get(key);
  if (ranking === undefined) {
    const logits = toyLogits(tokenIds, endBias);
    ranking = logits.map((_, token) => token).sort((a, b) => logits[b]! - logits[a]!);
    rankings.set(key, ranking);
  }
  return ranking;
}

interface Slot extends NativeBranch {
  tokens: number[];
  decoded: number[];
}

export interface ToyOptions {
  maxPositions?: number;
  /** Logit of the end tokens at the start: 0 and more ends many responses at once. */
  endBias?: number;
  /** Uniform in [0, 1): a slot rests for a step where it is below `rest`, so that branches finish in any order. */
  random?: () => number;
  rest?: number;
}

export class ToyEngine implements NativeRolloutEngine {
  /** Ids of the branches of every step so far, to see what was decoded together. */
  readonly batches: string[] = [];
  disposed = false;
  /** Most trunks that were open at once. */
  mostTrunks = 0;
  /** Branches that were submitted, and those that were cancelled while they ran or waited. */
  submitted = 0;
  cancelled = 0;
  readonly #maxBranches: number;
  readonly #options: ToyOptions;
  readonly #trunks = new Map<number, Int32Array>();
  #active: Slot[] = [];
  #waiting: Slot[] = [];
  #nextTrunk = 0;
  #interrupted = false;

  constructor(maxBranches: number, options: ToyOptions = {}) {
    this.#maxBranches = maxBranches;
    this.#options = options;
  }

  /** Trunks that were not released. */
  get openTrunks(): number {
    return this.#trunks.size;
  }

  async addTrunk({ tokenIds, scoreFrom, alternatives }: NativeTrunkSpec): Promise<NativeTrunk> {
    await new Promise(setImmediate);
    if (tokenIds.length === 0 || scoreFrom < 1) throw new Error('a trunk has at least one token');
    const trunk = this.#nextTrunk++;
    this.#trunks.set(trunk, tokenIds);
    this.mostTrunks = Math.max(this.mostTrunks, this.#trunks.size);
    const { endBias } = this.#options;
    const logProbs: number[] = [];
    const ids: number[] = [];
    const values: number[] = [];
    for (let i = scoreFrom; i < tokenIds.length; i++) {
      const prefix = tokenIds.subarray(0, i);
      const all = toyLogProbs(prefix, endBias);
      logProbs.push(all[tokenIds[i]!]!);
      const others = toyRanking(prefix, endBias).filter((token) => token !== tokenIds[i]);
      for (const token of others.slice(0, alternatives)) {
        ids.push(token);
        values.push(all[token]!);
      }
    }
    return {
      trunk,
      logProbs: Float32Array.from(logProbs),
      alternativeIds: Int32Array.from(ids),
      alternativeLogProbs: Float32Array.from(values),
    };
  }

  submit(branches: NativeBranch[]): void {
    for (const branch of branches) {
      const trunk = this.#trunks.get(branch.trunk);
      if (trunk === undefined || branch.length < 1 || branch.length > trunk.length)
        throw new Error('bad branch');
      if ([...this.#active, ...this.#waiting].some(({ id }) => id === branch.id))
        throw new Error('id in use');
      const tokens = [...trunk.subarray(0, branch.length), ...branch.forcedTokens];
      this.submitted++;
      this.#waiting.push({ ...branch, tokens, decoded: [] });
    }
    // Stable: equal priorities stay in the order of submission.
    this.#waiting.sort((a, b) => (a.priority ?? 0) - (b.priority ?? 0));
  }

  async step(maxSteps: number): Promise<NativeStepResult> {
    await new Promise(setImmediate);
    const finished: NativeBranchResult[] = [];
    const branchIds: number[] = [];
    const decoded: number[] = [];
    const { endBias, random, rest = 0 } = this.#options;
    for (let step = 0; step < maxSteps && finished.length === 0 && !this.#interrupted; step++) {
      while (this.#active.length < this.#maxBranches && this.#waiting.length > 0) {
        this.#active.push(this.#waiting.shift()!);
      }
      if (this.#active.length === 0) break;
      this.batches.push(this.#active.map(({ id }) => id).join(' '));
      for (const slot of this.#active) {
        if (random !== undefined && random() < rest) continue;
        const end = slot.decoded.length >= slot.maxNewTokens;
        const token = end ? -1 : toyRanking(slot.tokens, endBias)[0]!;
        if (end || toyEndTokenIds.includes(token)) {
          finished.push({ id: slot.id, tokenIds: Int32Array.from(slot.decoded), endTokenId: token });
          continue;
        }
        slot.tokens.push(token);
        slot.decoded.push(token);
        branchIds.push(slot.id);
        decoded.push(token);
        if (slot.decoded.length === slot.maxNewTokens) {
          finished.push({ id: slot.id, tokenIds: Int32Array.from(slot.decoded), endTokenId: -1 });
        }
      }
      const gone = new Set(finished.map(({ id }) => id));
      this.#active = this.#active.filter(({ id }) => !gone.has(id));
    }
    this.#interrupted = false;
    return {
      finished,
      tokens: { branchIds: Float64Array.from(branchIds), tokenIds: Int32Array.from(decoded) },
      active: this.#active.length,
      waiting: this.#waiting.length,
      decodedTokens: decoded.length,
    };
  }

  cancel(branchIds: number[]): void {
    const before = this.#active.length + this.#waiting.length;
    this.#active = this.#active.filter(({ id }) => !branchIds.includes(id));
    this.#waiting = this.#waiting.filter(({ id }) => !branchIds.includes(id));
    this.cancelled += before - this.#active.length - this.#waiting.length;
  }

  releaseTrunk(trunk: number): void {
    if (!this.#trunks.delete(trunk)) throw new Error('no such trunk');
  }

  interrupt(): void {
    this.#interrupted = true;
  }

  dispose(): void {
    this.disposed = true;
  }
}

const isSpecial = (token: number): boolean => token >= vocabulary.length;

/** Text of tokens; special ones show as themselves unless they are skipped. */
export const toyDecode = (tokenIds: Iterable<number>, { skipSpecialTokens = true } = {}): string =>
  Array.from(tokenIds, (token) =>
    isSpecial(token) ? (skipSpecialTokens ? '' : `<${token}>`) : vocabulary[token]!,
  ).join('');

export function toyEncode(text: string): Int32Array {
  return Int32Array.from(text.toLowerCase().replaceAll(/[^a-z0-9]/g, ''), (c) => vocabulary.indexOf(c));
}

/** The model, with every engine that it made. */
export function toyModel(options: ToyOptions = {}): RolloutModel & { engines: ToyEngine[] } {
  const { maxPositions = 1000 } = options;
  const engines: ToyEngine[] = [];
  return {
    engines,
    config: { maxPositions },
    tokenizer: { decode: toyDecode },
    endTokenIds: toyEndTokenIds,
    createEngine({ maxBranches }) {
      const engine = new ToyEngine(maxBranches, options);
      engines.push(engine);
      return engine;
    },
    promptFor: (question) => toyEncode(question),
  };
}
