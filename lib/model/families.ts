/**
 * The model families that the decoder knows: one row of structural facts per `model_type`. Numbers come from
 * config.json; what a family has without saying so in any field stands here, as in the modelling files of
 * transformers 5.18. docs/adding-a-family.md says how to add a row.
 */
export interface Family {
  /** Where the bias of q, k and v comes from: a config field, always there, or never. */
  qkvBias: 'attention_bias' | 'always' | 'never';
  /** Bias of the attention's output projection. */
  outputBias: 'attention_bias' | 'never';
  /** Bias of gate, up and down. */
  mlpBias: 'mlp_bias' | 'never';
  qkNorm: 'none' | 'head' | 'projection';
  normPlacement: 'pre' | 'post';
  /**
   * Which layers have a sliding window: none; all where `sliding_window` is set; by `use_sliding_window`,
   * `max_window_layers` or `layer_types`; by `layer_types` or every layer but each fourth.
   */
  window: 'none' | 'all' | 'upper-layers' | 'three-of-four';
  /** Sliding layers keep the unscaled rotary embedding, whatever `rope_scaling` says. */
  unscaledSlidingRope: boolean;
  /** What transformers assumes where config.json is silent. */
  defaults: {
    rmsNormEps: number;
    ropeTheta: number;
    maxPositions: number;
    /** Absent: as many as query heads. */
    kvHeads?: number;
    /** Absent: hidden size / heads. */
    headDim?: number;
    slidingWindow?: number;
  };
}

const llama: Family = {
  qkvBias: 'attention_bias',
  outputBias: 'attention_bias',
  mlpBias: 'mlp_bias',
  qkNorm: 'none',
  normPlacement: 'pre',
  window: 'none',
  unscaledSlidingRope: false,
  defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, maxPositions: 2048 },
};

const qwen2: Family = {
  ...llama,
  qkvBias: 'always',
  outputBias: 'never',
  mlpBias: 'never',
  window: 'upper-layers',
  defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, maxPositions: 32_768, kvHeads: 32, slidingWindow: 4096 },
};

const olmo2: Family = {
  ...llama,
  mlpBias: 'never',
  qkNorm: 'projection',
  normPlacement: 'post',
  defaults: { rmsNormEps: 1e-5, ropeTheta: 10_000, maxPositions: 2048 },
};

export const families: Readonly<Record<string, Family>> = {
  /** Llama 2 and 3.x, SmolLM2. */
  llama,
  /** Qwen2, Qwen2.5. */
  qwen2,
  qwen3: {
    ...qwen2,
    qkvBias: 'attention_bias',
    outputBias: 'attention_bias',
    qkNorm: 'head',
    defaults: { ...qwen2.defaults, headDim: 128 },
  },
  olmo2,
  olmo3: {
    ...olmo2,
    window: 'three-of-four',
    unscaledSlidingRope: true,
    defaults: { rmsNormEps: 1e-5, ropeTheta: 500_000, maxPositions: 2048, slidingWindow: 4096 },
  },
  mistral: {
    ...llama,
    qkvBias: 'never',
    outputBias: 'never',
    mlpBias: 'never',
    window: 'all',
    defaults: { rmsNormEps: 1e-6, ropeTheta: 10_000, maxPositions: 131_072, kvHeads: 8, slidingWindow: 4096 },
  },
};

export const familyNames = Object.keys(families);
