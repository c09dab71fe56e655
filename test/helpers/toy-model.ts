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

/** Logits after `tokenIds`: noise in [0, 4) for each token; the end tokens rise with the length. */
export function toyLogits(tokenIds: ArrayLike<number>): number[] {
  const length = tokenIds.length;
  const recent = Array.from({ length: 4 }, (_, i) => tokenIds[length - 1 - i] ?? 99);
  return Array.from({ length: vocabularySize }, (_, token) => {
    let state = hashTokens([...recent, token]);
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) >>> 0;
    const noise = ((state >>> 8) / 0x1000000) * 4;
    return toyEndTokenIds.includes(token) ? noise - 3 + length * 0.12 : noise;
  });
}

/** Log-probabilities in single precision, as an engine gives them. */
export function toyLogProbs(tokenIds: ArrayLike<number>): number[] {
  const logits = toyLogits(tokenIds);
  const sum = Math.log(logits.reduce((total, logit) => total + Math.exp(logit), 0));
  return logits.map((logit) => Math.fround(logit - sum));
}

const rankings = new Map<string, number[]>();

/** Tokens from the most to the least probable. */
export function toyRanking(tokenIds: ArrayLike<number>): number[] {
  const { length } = tokenIds;
  const key = `${length} ${tokenIds[length - 4]} ${tokenIds[length - 3]} ${tokenIds[length - 2]} ${tokenIds[length - 1]}`;
  let ranking = rankings.get(key);
  if (ranking === undefined) {
    const logits = toyLogits(tokenIds);
    ranking = logits.map((_, token) => token).sort((a, b) => logits[b]! - logits[a]!);
    rankings.set(key, ranking);
  }
  return ranking;
}

interface Slot extends NativeBranch {
  tokens: number[];
  decoded: number[];
}

export class ToyEngine implements NativeRolloutEngine {
  /** Ids of the branches of every step so far, to see what was decoded together. */
  readonly batches: string[] = [];
  disposed = false;
  readonly #maxBranches: number;
  readonly #trunks = new Map<number, Int32Array>();
  #active: Slot[] = [];
  #waiting: Slot[] = [];
  #nextTrunk = 0;
  #interrupted = false;

  constructor(maxBranches: number) {
    this.#maxBranches = maxBranches;
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
    const logProbs: number[] = [];
    const ids: number[] = [];
    const values: number[] = [];
    for (let i = scoreFrom; i < tokenIds.length; i++) {
      const prefix = tokenIds.subarray(0, i);
      const all = toyLogProbs(prefix);
      logProbs.push(all[tokenIds[i]!]!);
      const others = toyRanking(prefix).filter((token) => token !== tokenIds[i]);
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
      this.#waiting.push({ ...branch, tokens, decoded: [] });
    }
  }

  async step(maxSteps: number): Promise<NativeStepResult> {
    await new Promise(setImmediate);
    const finished: NativeBranchResult[] = [];
    let decodedTokens = 0;
    for (let step = 0; step < maxSteps && finished.length === 0 && !this.#interrupted; step++) {
      while (this.#active.length < this.#maxBranches && this.#waiting.length > 0) {
        this.#active.push(this.#waiting.shift()!);
      }
      if (this.#active.length === 0) break;
      this.batches.push(this.#active.map(({ id }) => id).join(' '));
      for (const slot of this.#active) {
        const end = slot.decoded.length >= slot.maxNewTokens;
        const token = end ? -1 : toyRanking(slot.tokens)[0]!;
        if (end || toyEndTokenIds.includes(token)) {
          finished.push({ id: slot.id, tokenIds: Int32Array.from(slot.decoded), endTokenId: token });
          continue;
        }
        slot.tokens.push(token);
        slot.decoded.push(token);
        decodedTokens++;
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
      tokens: { branchIds: new Float64Array(0), tokenIds: new Int32Array(0) },
      active: this.#active.length,
      waiting: this.#waiting.length,
      decodedTokens,
    };
  }

  cancel(branchIds: number[]): void {
    this.#active = this.#active.filter(({ id }) => !branchIds.includes(id));
    this.#waiting = this.#waiting.filter(({ id }) => !branchIds.includes(id));
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
export function toyModel({ maxPositions = 1000 } = {}): RolloutModel & { engines: ToyEngine[] } {
  const engines: ToyEngine[] = [];
  return {
    engines,
    config: { maxPositions },
    tokenizer: { decode: toyDecode },
    endTokenIds: toyEndTokenIds,
    createEngine({ maxBranches }) {
      const engine = new ToyEngine(maxBranches);
      engines.push(engine);
      return engine;
    },
    promptFor: (question) => toyEncode(question),
  };
}
