/** What LoRA trains, and the PEFT adapter folder that it becomes. */
import { renameSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { CftError } from '../errors.js';
import { makeFolder, syncFolder, writeFileAtomic } from '../files.js';
import type { ModelConfig } from '../model/config.js';
import type { NativeLoraOptions, NativeTrainer } from '../native/binding.js';
import type { ResolvedOptions } from '../options.js';

type LoraShape = Pick<
  ModelConfig,
  'vocabSize' | 'hiddenSize' | 'intermediateSize' | 'heads' | 'kvHeads' | 'headDim' | 'layers'
>;

/** Every linear layer of the decoder but the output matrix, as PEFT's "all-linear" has it. */
const linearModules = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

/** The output matrix, by name only, and only where it is not the embedding. */
const head = 'lm_head';

/**
 * LoRA as the options ask for it, undefined for full fine-tuning.
 * @throws CftError ERR_CFT_BAD_OPTION for a module that the decoder does not have.
 */
export function loraOptions(options: ResolvedOptions<'train'>): NativeLoraOptions | undefined {
  const { loraRank: rank, loraTargets } = options;
  if (rank === 0) return undefined;
  const targets = new Set(
    loraTargets.flatMap((target) => (target === 'all-linear' ? linearModules : [target])),
  );
  for (const target of targets) {
    if (target === head || linearModules.includes(target)) continue;
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `loraTargets (--lora-targets): expected all-linear or some of ${linearModules.join(', ')}, ${head}, ` +
        `found "${target}"`,
    );
  }
  return {
    rank,
    alpha: options.loraAlpha ?? 2 * rank,
    dropout: options.loraDropout,
    targets: [...targets],
    rankStabilized: options.loraRankStabilized,
  };
}

/**
 * What only the model tells.
 * @throws CftError ERR_CFT_BAD_OPTION for an adapter on an output matrix that is the embedding.
 */
export function checkLoraTargets(
  options: ResolvedOptions<'train'>,
  { tieWordEmbeddings }: Pick<ModelConfig, 'tieWordEmbeddings'>,
): void {
  if (!tieWordEmbeddings || !loraOptions(options)?.targets.includes(head)) return;
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `loraTargets (--lora-targets): expected all-linear or some of ${linearModules.join(', ')}, found "${head}", ` +
      'which is the embedding in this model (tie_word_embeddings)',
  );
}

/** How many parameters an adapter has. */
export function loraParameters(config: LoraShape, { rank, targets }: NativeLoraOptions): number {
  const { vocabSize, hiddenSize: hidden, intermediateSize: inner, heads, kvHeads, headDim, layers } = config;
  const sizes: Record<string, number> = {
    q_proj: hidden + heads * headDim,
    k_proj: hidden + kvHeads * headDim,
    v_proj: hidden + kvHeads * headDim,
    o_proj: heads * headDim + hidden,
    gate_proj: hidden + inner,
    up_proj: hidden + inner,
    down_proj: inner + hidden,
  };
  const ofHead = targets.includes(head) ? rank * (hidden + vocabSize) : 0;
  return targets.reduce((sum, target) => sum + layers * rank * (sizes[target] ?? 0), ofHead);
}

/** adapter_config.json as PEFT writes it for a plain LoRA. */
function adapterConfig(
  lora: NativeLoraOptions,
  base: { name: string; revision: string | undefined },
): unknown {
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: base.name,
    revision: base.revision ?? null,
    r: lora.rank,
    lora_alpha: lora.alpha,
    lora_dropout: lora.dropout,
    target_modules: lora.targets,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    modules_to_save: null,
    use_rslora: lora.rankStabilized,
  };
}

/** Writes a PEFT adapter folder; it appears as a whole or not at all. */
export async function saveAdapter(
  folder: string,
  trainer: NativeTrainer,
  lora: NativeLoraOptions,
  base: { name: string; revision: string | undefined },
): Promise<void> {
  const temporary = join(dirname(folder), `.${basename(folder)}.tmp`);
  rmSync(temporary, { recursive: true, force: true });
  makeFolder(temporary);
  try {
    await trainer.saveAdapter(join(temporary, 'adapter_model.safetensors'));
    const config = `${JSON.stringify(adapterConfig(lora, base), null, 2)}\n`;
    writeFileAtomic(join(temporary, 'adapter_config.json'), config);
    renameSync(temporary, folder);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
  syncFolder(dirname(folder));
}
