/**
 * A model without tensors for tests of evaluation: prompts are the bytes of the question, and a script says what the
 * response is. Responses come out a token per step, in as many slots as asked for, like the real engine's.
 */
import type { EvalModel } from '../../lib/eval/stage.js';
import type {
  NativeBranch,
  NativeBranchResult,
  NativeRolloutEngine,
  NativeStepResult,
  NativeTrunk,
  NativeTrunkSpec,
} from '../../lib/native/binding.js';

export const endToken = 0;

export type Script = (question: string, seed: number) => string;

class ScriptedEngine implements NativeRolloutEngine {
  readonly #trunks = new Map<number, string>();
  readonly #waiting: NativeBranch[] = [];
  readonly #active: { branch: NativeBranch; text: Buffer; done: number }[] = [];
  readonly #script: Script;
  readonly #slots: number;
  readonly #tellsEntropies: boolean;
  #next = 0;
  /** Prefixes that were computed, and tokens decoded. */
  prefixes = 0;
  decodedTokens = 0;

  constructor(script: Script, slots: number, tellsEntropies: boolean) {
    this.#script = script;
    this.#slots = slots;
    this.#tellsEntropies = tellsEntropies;
  }

  get openTrunks(): number {
    return this.#trunks.size;
  }

  async addTrunk(spec: NativeTrunkSpec): Promise<NativeTrunk> {
    this.prefixes++;
    this.#trunks.set(this.#next, Buffer.from(spec.tokenIds).toString('latin1'));
    const empty = new Float32Array(0);
    return {
      trunk: this.#next++,
      logProbs: empty,
      alternativeIds: new Int32Array(0),
      alternativeLogProbs: empty,
    };
  }

  submit(branches: NativeBranch[]): void {
    this.#waiting.push(...branches);
  }

  async step(maxSteps: number): Promise<NativeStepResult> {
    const finished: NativeBranchResult[] = [];
    const branchIds: number[] = [];
    const decoded: number[] = [];
    const entropies: number[] = [];
    for (let i = 0; i < maxSteps && finished.length === 0; i++) {
      while (this.#active.length < this.#slots && this.#waiting.length > 0) {
        const branch = this.#waiting.shift()!;
        const question = this.#trunks.get(branch.trunk);
        if (question === undefined) throw new Error(`trunk ${branch.trunk} is not there`);
        const text = this.#script(question, branch.temperature > 0 ? branch.seed : 0);
        this.#active.push({ branch, text: Buffer.from(text, 'latin1'), done: 0 });
      }
      for (const slot of [...this.#active]) {
        const { branch, text } = slot;
        const ended = slot.done === text.length && slot.done < branch.maxNewTokens;
        if (!ended) {
          branchIds.push(branch.id);
          const before =
            slot.done === 0
              ? this.#trunks.get(branch.trunk)!.charCodeAt(branch.length - 1)
              : text[slot.done - 1]!;
          entropies.push(branch.entropy && this.#tellsEntropies ? before : Number.NaN);
          decoded.push(text[slot.done++]!);
        }
        if (!ended && slot.done < branch.maxNewTokens) continue;
        const tokenIds = Int32Array.from(text.subarray(0, slot.done));
        finished.push({ id: branch.id, tokenIds, endTokenId: ended ? endToken : -1 });
        this.#active.splice(this.#active.indexOf(slot), 1);
      }
    }
    const tokens = {
      branchIds: Float64Array.from(branchIds),
      tokenIds: Int32Array.from(decoded),
      entropies: Float32Array.from(entropies),
    };
    const [active, waiting, decodedTokens] = [this.#active.length, this.#waiting.length, decoded.length];
    this.decodedTokens += decodedTokens;
    return { finished, tokens, active, waiting, decodedTokens };
  }

  cancel(ids: number[]): void {
    const stays = ({ id }: NativeBranch): boolean => !ids.includes(id);
    this.#waiting.splice(0, Infinity, ...this.#waiting.filter(stays));
    this.#active.splice(0, Infinity, ...this.#active.filter(({ branch }) => stays(branch)));
  }
  releaseTrunk(trunk: number): void {
    this.#trunks.delete(trunk);
  }
  interrupt(): void {}
  dispose(): void {}
}

export class ScriptedModel implements EvalModel {
  readonly config = { maxPositions: 1000 };
  readonly endTokenIds = Int32Array.of(endToken);
  readonly tokenizer = {
    decode: (ids: Iterable<number>): string => Buffer.from([...ids]).toString('latin1'),
  };
  readonly engines: ScriptedEngine[] = [];
  /** Forward passes for entropies. */
  scored = 0;
  readonly #script: Script;
  readonly #tellsEntropies: boolean;

  constructor(script: Script, { tellsEntropies = false } = {}) {
    this.#script = script;
    this.#tellsEntropies = tellsEntropies;
  }

  createEngine({ maxBranches }: { maxBranches: number }): NativeRolloutEngine {
    const engine = new ScriptedEngine(this.#script, maxBranches, this.#tellsEntropies);
    this.engines.push(engine);
    return engine;
  }

  promptFor(question: string): Int32Array {
    return Int32Array.from(Buffer.from(question, 'latin1'));
  }

  /** Entropy at a position is the id of the token there. */
  async scores(tokenIds: Int32Array): Promise<{ entropies: Float32Array }> {
    this.scored++;
    return { entropies: Float32Array.from(tokenIds.subarray(0, -1)) };
  }
}
