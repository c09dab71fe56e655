/** A loaded model: weights on a device, tokenizer, end tokens, and what can be asked of them. */
import { CftError } from '../errors.js';
import type {
  NativeAddon,
  NativeLogits,
  NativeModel,
  NativeRolloutEngine,
  NativeTrainer,
  NativeTrainerOptions,
} from '../native/binding.js';
import { Run } from '../run.js';
import { checkOptionNames, checkSignal, checkTokenIds, expect } from './checks.js';
import type { ModelConfig } from './config.js';
import {
  checkGenerateOptions,
  checkMaxBranches,
  type GenerateOptions,
  type Generation,
  sampleSeed,
} from './generation.js';
import { sha256OfFiles } from './hash.js';
import {
  checkRequests,
  type FinishedRollout,
  type Rollout,
  type RolloutRequest,
  runRollouts,
} from './rollouts.js';
import { saveModel } from './save.js';
import type { PromptOptions, Tokenizer } from './tokenizer.js';
import { checkTrainerOptions } from './trainer-options.js';

/** What loadModel found; everything here is checked. */
export interface ModelParts {
  /** As the user called it. */
  name: string;
  addon: NativeAddon;
  native: NativeModel;
  config: ModelConfig;
  tokenizer: Tokenizer;
  endTokenIds: Int32Array;
  /** Folder of config.json, and of the tokenizer (an adapter folder may bring its own). */
  modelFolder: string;
  tokenizerFolder: string;
  /** Weight files, the adapter's last. */
  weightFiles: string[];
}

/** One step of a streamed generation. */
export interface StreamedToken {
  /** Absent where only held-back text remains. */
  tokenId?: number;
  /** Text that became certain; empty while a character is incomplete. */
  text: string;
}

/**
 * Most branches decoded together, from `maxConcurrency`; the engine takes fewer where memory is short. `auto`: on the
 * CPU a small model's keys and values should stay in the caches, a larger one's weights are read once for many rows.
 * On a GPU a step's products should fill the device: the narrowest of them is hiddenSize wide, and rows x hiddenSize of
 * 2^21 are 128 tiles of 128 x 128, about one for each of an H100's 132 multiprocessors. 512 rows, where reading weights
 * has long ceased to be the limit (an H100's ridge is near 300), at least; 4096 at most.
 */
export function branchesFor(
  {
    device,
    parameterCount,
    config,
  }: { device: string; parameterCount: number; config: { hiddenSize: number } },
  maxConcurrency: number | 'auto' = 'auto',
): number {
  if (maxConcurrency !== 'auto') return maxConcurrency;
  if (device !== 'cpu')
    return Math.min(4096, Math.max(512, 2 ** Math.floor(21 - Math.log2(config.hiddenSize))));
  return parameterCount <= 8_000_000 ? 32 : 128;
}

export interface RolloutsOptions {
  /** Most branches decoded together; only speed depends on it. */
  maxBranches?: number | undefined;
  signal?: AbortSignal | undefined;
}

export class Model implements AsyncDisposable {
  /** The path, hub id or name that it was loaded by. */
  readonly name: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** A response ends with one of these; ascending. */
  readonly endTokenIds: Int32Array;
  /** Without a tied output matrix. */
  readonly parameterCount: number;
  /** 'cpu' or 'cuda:N'. */
  readonly device: string;
  readonly dtype: 'float32' | 'bfloat16';
  readonly addon: NativeAddon;
  readonly native: NativeModel;
  readonly #parts: ModelParts;
  #weightsSha256: Promise<string> | undefined;

  constructor(parts: ModelParts) {
    this.#parts = parts;
    this.name = parts.name;
    this.config = parts.config;
    this.tokenizer = parts.tokenizer;
    this.endTokenIds = parts.endTokenIds;
    this.addon = parts.addon;
    this.native = parts.native;
    this.parameterCount = parts.native.parameterCount;
    this.device = parts.native.device;
    this.dtype = parts.native.dtype;
  }

  /** @throws CftError ERR_CFT_BAD_DATA for what is no sequence of this vocabulary. */
  #checked(tokenIds: unknown): Int32Array {
    const ids = checkTokenIds(tokenIds, 'tokenIds', this.config.vocabSize);
    expect('ERR_CFT_BAD_DATA', 'tokenIds', [], ids.length > 0, 'at least one token');
    return ids;
  }

  /** Logits of the next token at every position: fp32, [T, V]. */
  async logits(tokenIds: Int32Array | readonly number[]): Promise<NativeLogits> {
    return this.native.logits(this.#checked(tokenIds));
  }

  /** logProbs[i] of token i + 1 given those before it, and the entropy of that distribution in nats; T - 1 each. */
  async scores(
    tokenIds: Int32Array | readonly number[],
  ): Promise<{ logProbs: Float32Array; entropies: Float32Array }> {
    return this.native.scores(this.#checked(tokenIds));
  }

  /** Token ids of the prompt for a question, see Tokenizer.promptText. */
  promptFor(question: string, options?: PromptOptions): Int32Array {
    return this.tokenizer.encode(this.tokenizer.promptText(question, options));
  }

  /** @param endTokenIds instead of the model's own. The caller disposes the engine. */
  createEngine({
    maxBranches,
    endTokenIds = this.endTokenIds,
    memoryBytes = 0,
  }: {
    maxBranches: number;
    endTokenIds?: Int32Array;
    /** Budget for keys and values; 0: planned from what is free. */
    memoryBytes?: number;
  }): NativeRolloutEngine {
    return this.addon.createRolloutEngine(this.native, { maxBranches, endTokenIds, memoryBytes });
  }

  /**
   * The caller disposes the trainer.
   * @throws (rejects) CftError ERR_CFT_BAD_OPTION naming the option, expected and found.
   */
  async createTrainer(options: NativeTrainerOptions): Promise<NativeTrainer> {
    checkTrainerOptions(options);
    return this.addon.createTrainer(this.native, options);
  }

  /**
   * Continuations of prefixes, e.g. counterfactuals, as one batch. Iterate the run for rollouts as they finish, await
   * it for all: results[i] are those of request i, branch by branch and sample by sample.
   * @throws (as the run's rejection) CftError ERR_CFT_BAD_DATA, ERR_CFT_BAD_OPTION naming request and branch before
   *   any work; `signal.reason` when aborted.
   */
  rollouts(
    requests: readonly RolloutRequest[],
    options: RolloutsOptions = {},
  ): Run<FinishedRollout, Rollout[][]> {
    return new Run(async (emit) => {
      checkOptionNames(options, ['maxBranches', 'signal'], 'rollouts');
      const { maxBranches, signal } = options;
      checkSignal(signal);
      if (maxBranches !== undefined) checkMaxBranches(maxBranches);
      signal?.throwIfAborted();
      checkRequests(requests, this.config);
      return this.#run(requests, branchesFor(this, maxBranches), signal, (finished) => emit(finished));
    });
  }

  async #run(
    requests: readonly RolloutRequest[],
    maxBranches: number,
    signal: AbortSignal | undefined,
    onFinished?: (finished: FinishedRollout) => void,
  ): Promise<Rollout[][]> {
    const engine = this.createEngine({ maxBranches });
    try {
      return await runRollouts(engine, requests, {
        maxBranches,
        signal,
        onFinished: (request, _, rollout, place) =>
          onFinished?.({ type: 'rollout', request, ...place, ...rollout }),
      });
    } finally {
      engine.dispose();
    }
  }

  /**
   * A prompt and the budget of a response to it.
   * @throws CftError ERR_CFT_BAD_DATA for a prompt that is empty, too long or not of this vocabulary.
   */
  #prompt(given: unknown, index: number, maxNewTokens: number): { tokenIds: Int32Array; budget: number } {
    const { maxPositions, vocabSize } = this.config;
    const tokenIds = checkTokenIds(given, `prompt ${index}`, vocabSize);
    const fail = (expected: string, found: string): never => {
      throw new CftError('ERR_CFT_BAD_DATA', `prompt ${index}: expected ${expected}, found ${found}`);
    };
    if (tokenIds.length === 0) fail('at least one token', 'none');
    if (tokenIds.length >= maxPositions)
      fail(`fewer than ${maxPositions} tokens (max_position_embeddings)`, String(tokenIds.length));
    return { tokenIds, budget: Math.min(maxNewTokens, maxPositions - tokenIds.length) };
  }

  #generation({ tokenIds, endTokenId }: Rollout): Generation {
    return {
      tokenIds,
      text: this.tokenizer.decode(tokenIds, { skipSpecialTokens: true }),
      finishReason: endTokenId >= 0 ? 'stop' : 'length',
    };
  }

  /**
   * Responses to prompts, decoded as one batch: per prompt, `n` of them. The same seed gives the same responses
   * whatever else is in the batch.
   * @throws CftError ERR_CFT_BAD_OPTION, ERR_CFT_BAD_DATA; `signal.reason` when aborted.
   */
  async generate(
    prompts: readonly (Int32Array | readonly number[])[],
    options: GenerateOptions = {},
  ): Promise<Generation[][]> {
    const checked = checkGenerateOptions(options);
    expect('ERR_CFT_BAD_DATA', 'prompts', prompts, Array.isArray(prompts), 'a list of lists of token ids');
    const { maxNewTokens, temperature, topP, n, seed, signal } = checked;
    const requests = prompts.map((prompt, i): RolloutRequest => {
      const { tokenIds, budget } = this.#prompt(prompt, i, maxNewTokens);
      const branches = Array.from({ length: n }, (_, j) => ({
        maxNewTokens: budget,
        temperature,
        topP,
        seed: sampleSeed(seed, i, j),
      }));
      return { tokenIds, branches };
    });
    const most = checked.maxBranches ?? branchesFor(this);
    const maxBranches = Math.max(1, Math.min(most, prompts.length * n));
    const results = await this.#run(requests, maxBranches, signal);
    return results.map((rollouts) => rollouts.map((rollout) => this.#generation(rollout)));
  }

  /**
   * One response, token by token; sample 0 of prompt 0 of `generate` with the same options.
   * @returns the whole response at the end.
   */
  async *stream(
    prompt: Int32Array | readonly number[],
    options: Omit<GenerateOptions, 'n' | 'maxBranches'> = {},
  ): AsyncGenerator<StreamedToken, Generation, undefined> {
    const { maxNewTokens, temperature, topP, seed, signal } = checkGenerateOptions(options, 'stream');
    const { tokenIds, budget } = this.#prompt(prompt, 0, maxNewTokens);
    const decoder = this.tokenizer.stream({ skipSpecialTokens: true });
    const engine = this.createEngine({ maxBranches: 1 });
    try {
      signal?.throwIfAborted();
      const { trunk } = await engine.addTrunk({ tokenIds, scoreFrom: tokenIds.length, alternatives: 0 });
      const forcedTokens = new Int32Array(0);
      const sampling = { temperature, topP, seed: sampleSeed(seed, 0, 0) };
      const branch = {
        id: 0,
        trunk,
        length: tokenIds.length,
        forcedTokens,
        maxNewTokens: budget,
        ...sampling,
      };
      engine.submit([branch]);
      for (;;) {
        signal?.throwIfAborted();
        const { tokens, finished } = await engine.step(1);
        for (const tokenId of tokens.tokenIds) yield { tokenId, text: decoder.push(tokenId) };
        const [result] = finished;
        if (result === undefined) continue;
        const text = decoder.flush();
        if (text !== '') yield { text };
        return this.#generation(result);
      }
    } finally {
      engine.dispose();
    }
  }

  /**
   * Writes a Hugging Face folder with the weights as they are now.
   * @throws CftError ERR_CFT_BAD_OUTPUT where the folder is not empty or cannot be made, ERR_CFT_IO.
   */
  async save(folder: string): Promise<void> {
    const named = typeof folder === 'string' && folder !== '';
    expect('ERR_CFT_BAD_OUTPUT', 'folder', folder, named, 'a path to save into');
    const { native, config, modelFolder, tokenizerFolder } = this.#parts;
    return saveModel(folder, { native, configJson: config.json, modelFolder, tokenizerFolder });
  }

  /** SHA-256 of the files that the weights were loaded from, see sha256OfFiles; read once. */
  weightsSha256(): Promise<string> {
    this.#weightsSha256 ??= sha256OfFiles(this.#parts.weightFiles);
    return this.#weightsSha256;
  }

  /** SHA-256 of tokenizer.json. */
  tokenizerSha256(): string {
    return this.tokenizer.sha256();
  }

  /** Frees weights and tokenizer; engines and trainers must be disposed before. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.tokenizer.dispose();
    this.native.dispose();
  }
}
