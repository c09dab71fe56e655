/** What is measured on held-out responses, forward only: the strategy's loss and accuracy, and the dense probe. */
import { CftError } from '../errors.js';
import type { NativeBatchScores, NativeTrainer } from '../native/binding.js';
import type { ResolvedOptions } from '../options.js';
import { cft } from '../strategies/cft.js';
import { type StrategyName, strategies } from '../strategies/index.js';
import type { AnnotationRecord } from '../types.js';
import { type BatchLimits, packScoring } from './batches.js';
import { type TrainingExample, toExample } from './examples.js';

/** Responses of the probe: enough for a steady mean, few enough to be asked often. */
const mostProbed = 32;

/** Dense examples: every response token is a term; its weight says which kind it is, 1 critical, 0 other. */
export interface Probe {
  examples: TrainingExample[];
}

/**
 * The probe of a run: the first held-out responses, whatever the strategy, so that runs can be compared. Undefined
 * where they have no tokens.
 */
export function makeProbe(records: readonly AnnotationRecord[]): Probe | undefined {
  const examples = records
    .filter(({ response_token_ids }) => response_token_ids.length > 0)
    .slice(0, mostProbed)
    .map((record): TrainingExample => {
      const { prompt_token_ids: prompt, response_token_ids: response } = record;
      const critical = cft.weights(record);
      return {
        tokenIds: Int32Array.from([...prompt, ...response.slice(0, -1)]),
        tokens: prompt.length + response.length,
        responseTokens: response.length,
        selected: Int32Array.from(response, (_, t) => prompt.length + t - 1),
        targets: Int32Array.from(response),
        weights: Float64Array.from(response, (_, t) => (critical[t] ? 1 : 0)),
      };
    });
  return examples.length > 0 ? { examples } : undefined;
}

/**
 * Examples of held-out records; undefined where none has a token of the strategy.
 * @throws CftError ERR_CFT_BAD_DATA for a sequence that the model cannot take, ERR_CFT_NO_SIGNAL where the model to keep
 *   or the time to stop is to be found by a validation loss that does not exist.
 */
export function makeValidation(
  records: readonly AnnotationRecord[],
  strategy: StrategyName,
  maxPositions: number,
  source: string,
  { saveBest, earlyStoppingPatience }: ResolvedOptions<'train'>,
): TrainingExample[] | undefined {
  const examples = records.map((record) => toExample(record, strategies[strategy], maxPositions, source));
  if (examples.some((example) => example.selected.length > 0)) return examples;
  if (saveBest || earlyStoppingPatience > 0) {
    throw new CftError(
      'ERR_CFT_NO_SIGNAL',
      `${source}: not one of ${records.length} held-out responses has a token of ${strategy}, so there is no ` +
        'validation loss for --save-best or --early-stopping-patience; hold out more (--validation), or train without',
    );
  }
  return undefined;
}

export interface ValidationResult {
  validationLoss: number;
  validationAccuracy: number;
  validationTokens: number;
}

export interface ProbeResult {
  criticalLoss: number;
  otherLoss: number;
  criticalEntropy: number;
  otherEntropy: number;
  criticalTokens: number;
  otherTokens: number;
}

/** Scores of all terms of the examples in their order, and the weight of each. */
async function* scores(
  trainer: NativeTrainer,
  examples: readonly TrainingExample[],
  limits: BatchLimits,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ scores: NativeBatchScores; weights: number[] }> {
  for (const { batch, weights } of packScoring(examples, limits)) {
    signal?.throwIfAborted();
    yield { scores: await trainer.score(batch), weights };
  }
}

/**
 * Loss and accuracy of the strategy's own tokens.
 * @param examples with at least one selected token among them.
 */
export async function validate(
  trainer: NativeTrainer,
  examples: readonly TrainingExample[],
  limits: BatchLimits,
  signal?: AbortSignal,
): Promise<ValidationResult> {
  let [loss, correct, tokens] = [0, 0, 0];
  for await (const { scores: found, weights } of scores(trainer, examples, limits, signal)) {
    for (let i = 0; i < weights.length; i++) {
      loss += weights[i]! * found.nll[i]!;
      correct += found.correct[i]!;
      tokens++;
    }
  }
  return {
    // N counts tokens, as the training loss does.
    validationLoss: loss / tokens,
    validationAccuracy: correct / tokens,
    validationTokens: tokens,
  };
}

/** Means over the critical and over the other tokens; NaN for a kind without tokens. */
export async function measureProbe(
  trainer: NativeTrainer,
  { examples }: Probe,
  limits: BatchLimits,
  signal?: AbortSignal,
): Promise<ProbeResult> {
  const other = { loss: 0, entropy: 0, tokens: 0 };
  const critical = { loss: 0, entropy: 0, tokens: 0 };
  for await (const { scores: found, weights } of scores(trainer, examples, limits, signal)) {
    for (let i = 0; i < weights.length; i++) {
      const sum = weights[i] === 1 ? critical : other;
      sum.loss += found.nll[i]!;
      sum.entropy += found.entropies[i]!;
      sum.tokens++;
    }
  }
  return {
    criticalLoss: critical.loss / critical.tokens,
    otherLoss: other.loss / other.tokens,
    criticalEntropy: critical.entropy / critical.tokens,
    otherEntropy: other.entropy / other.tokens,
    criticalTokens: critical.tokens,
    otherTokens: other.tokens,
  };
}
