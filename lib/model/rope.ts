/**
 * Rotary embeddings: from the parameters in config.json to inverse frequencies, as transformers 5.18's
 * modeling_rope_utils.py computes them. Each step is rounded to float32 where torch rounds, so that the frequencies
 * agree to the last digits and long positions do not drift apart.
 */
import { CftError } from '../errors.js';
import type { NativeRope } from '../native/binding.js';
import type { Fields } from './json-file.js';

const ropeTypes = ['default', 'linear', 'llama3', 'yarn'] as const;
type RopeType = (typeof ropeTypes)[number];

const { fround } = Math;

/** base ** (2 i / dim) for i in [0, dim / 2), float32. */
function powers(theta: number, dim: number): number[] {
  return Array.from({ length: dim / 2 }, (_, i) => fround(theta ** fround((2 * i) / dim)));
}

/** Llama 3.1: long waves are stretched by `factor`, short ones kept, those between interpolated. */
function llama3(parameters: Fields, inverse: number[], originalLength: number): number[] {
  const factor = parameters.number('factor', {});
  const low = parameters.number('low_freq_factor', {});
  const high = parameters.number('high_freq_factor', {});
  if (high <= low) parameters.fail('high_freq_factor', `a number above low_freq_factor (${low})`);
  return inverse.map((frequency) => {
    const waveLength = fround((2 * Math.PI) / frequency);
    if (waveLength > originalLength / low) return frequency / factor;
    if (waveLength < originalLength / high) return frequency;
    const smooth = (originalLength / waveLength - low) / (high - low);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

/** YaRN (arXiv 2309.00071): ramp between interpolated and original frequencies, and an attention factor. */
function yarn(
  parameters: Fields,
  theta: number,
  dim: number,
  { originalLength, maxPositions, nested }: RopeContext,
): { inverse: number[]; scale: number } {
  if (!('factor' in parameters.values)) parameters.fail('factor', 'a number');
  const factor = parameters.number('factor', { absent: maxPositions / originalLength });
  const mscale = (scale: number, weight = 1) => (scale <= 1 ? 1 : 0.1 * weight * Math.log(scale) + 1);
  // A zero counts as absent there (Python's truth), so it does here.
  const optional = (name: string) =>
    parameters.values[name] === 0 || !parameters.has(name) ? undefined : parameters.number(name, {});
  const weight = optional('mscale');
  const weightAllDim = optional('mscale_all_dim');
  const inferred =
    weight !== undefined && weightAllDim !== undefined
      ? mscale(factor, weight) / mscale(factor, weightAllDim)
      : mscale(factor);
  const scale = parameters.number('attention_factor', { absent: inferred });
  const betaFast = optional('beta_fast') ?? 32;
  const betaSlow = optional('beta_slow') ?? 1;

  const correction = (rotations: number) =>
    (dim * Math.log(originalLength / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = correction(betaFast);
  let high = correction(betaSlow);
  // transformers looks `truncate` up beside the layer types, where a nested dictionary never has it.
  if (nested || parameters.boolean('truncate', true)) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  if (low === high) high += 0.001;
  const inverse = powers(theta, dim).map((power, i) => {
    const ramp = fround(Math.min(Math.max((i - low) / (high - low), 0), 1));
    const extrapolated = fround(1 / power);
    const interpolated = fround(1 / fround(factor * power));
    return interpolated * ramp + extrapolated * fround(1 - ramp);
  });
  return { inverse, scale };
}

export interface RopeContext {
  headDim: number;
  theta: number;
  maxPositions: number;
  /** Context length of the pre-training, for llama3 and yarn. */
  originalLength: number;
  /** The parameters stood under a layer type. */
  nested: boolean;
}

/**
 * @param parameters the dictionary `rope_parameters` or `rope_scaling`.
 * @throws CftError ERR_CFT_UNSUPPORTED_MODEL for a type that the decoder lacks, ERR_CFT_BAD_MODEL for bad numbers.
 */
export function ropeOf(parameters: Fields, context: RopeContext): NativeRope {
  const name = parameters.has('rope_type') ? 'rope_type' : 'type';
  const type = (parameters.string(name) ?? 'default') as RopeType;
  if (!ropeTypes.includes(type)) {
    throw new CftError(
      'ERR_CFT_UNSUPPORTED_MODEL',
      `${parameters.place}: ${name}: "${type}" is not supported; supported are ${ropeTypes.join(', ')}`,
    );
  }
  const theta = parameters.number('rope_theta', { above: 1, absent: context.theta });
  const inverse = powers(theta, context.headDim).map((power) => fround(1 / power));
  switch (type) {
    case 'default':
      return { inverseFrequencies: Float32Array.from(inverse), scale: 1 };
    case 'linear': {
      const factor = parameters.number('factor', {});
      return { inverseFrequencies: Float32Array.from(inverse, (frequency) => frequency / factor), scale: 1 };
    }
    case 'llama3':
      return {
        inverseFrequencies: Float32Array.from(llama3(parameters, inverse, context.originalLength)),
        scale: 1,
      };
    case 'yarn': {
      const scaled = yarn(parameters, theta, context.headDim, context);
      return { inverseFrequencies: Float32Array.from(scaled.inverse), scale: scaled.scale };
    }
  }
}
