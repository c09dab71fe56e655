/** Tells a run's events on a view. The commands' events share their shapes, so one narrator serves them all. */
import type { AnnotateEvent, EvaluateEvent, TrainEvent } from '../index.js';
import { count, counted, duration, percent, savingsText, shortPath } from './format.js';
import type { View } from './view.js';

export type AnyEvent = AnnotateEvent | EvaluateEvent | TrainEvent;

/** What each stage is called, and whether its total counts questions, responses or steps. */
const stages: Record<string, string> = {
  trunks: 'greedy responses',
  rollouts: 'counterfactual rollouts',
  eval: 'evaluation',
  'eval-before': 'evaluation before',
  'eval-before-sampled': 'evaluation before, sampled',
  train: 'training',
  'eval-after': 'evaluation after',
  'eval-after-sampled': 'evaluation after, sampled',
  'train-baseline': 'training the baseline',
  'eval-baseline': 'evaluation of the baseline',
  'eval-baseline-sampled': 'evaluation of it, sampled',
  report: 'report',
};

/** What a progress line says beside its figures. */
function noteOf(event: Extract<AnyEvent, { type: 'progress' }>): string | undefined {
  if ('savings' in event && event.savings) return savingsText(event.savings);
  return 'loss' in event && event.loss !== undefined ? `loss ${event.loss.toFixed(3)}` : undefined;
}

export class Narrator {
  readonly #view: View;
  #stage: { name: string; start: number } | undefined;
  #trunks = { done: 0, correct: 0 };
  #steps = 0;

  constructor(view: View) {
    this.#view = view;
  }

  #finishStage(text: string): void {
    if (this.#stage === undefined) return;
    const seconds = (performance.now() - this.#stage.start) / 1000;
    this.#view.line(`${stages[this.#stage.name]}: ${text} (${duration(seconds)})`);
    this.#stage = undefined;
  }

  #trunksDone(): void {
    const { done, correct } = this.#trunks;
    this.#finishStage(done === 0 ? 'done before' : `${count(correct)} of ${count(done)} correct`);
  }

  tell(event: AnyEvent): void {
    switch (event.type) {
      case 'start':
        if ('model' in event) {
          const { model, parameters, device, dtype } = event;
          this.#view.line(`${model}: ${count(parameters)} parameters, ${dtype} on ${device}`);
        }
        this.#view.line(`run folder: ${shortPath(event.output)}`);
        break;
      case 'stage':
        if (this.#stage?.name === 'trunks') this.#trunksDone();
        this.#stage = { name: event.stage, start: performance.now() };
        this.#steps = 0;
        if (event.stage !== 'report') this.#view.start(stages[event.stage] ?? event.stage);
        break;
      case 'progress':
        this.#view.progress({ ...event, note: noteOf(event) });
        break;
      case 'trunk':
        this.#trunks.done++;
        if (event.verdict === 'correct') this.#trunks.correct++;
        break;
      case 'step':
        this.#steps++;
        break;
      case 'resumed':
        this.#view.line(`continuing at step ${event.step} of ${event.steps}`);
        break;
      case 'warning':
        this.#view.line(`warning: ${event.message}`);
        break;
      case 'validated':
        this.#view.line(
          `${event.step === 0 ? 'before training' : `step ${event.step}`}: validation loss ` +
            `${event.validationLoss.toFixed(4)}, ${percent(event.validationAccuracy)} of ` +
            `${counted(event.validationTokens, 'token')} right${event.best ? ', the best so far' : ''}`,
        );
        break;
      case 'probe': {
        const { step, criticalLoss, otherLoss, criticalEntropy, otherEntropy } = event;
        const pair = (critical: number, other: number) => `${critical.toFixed(3)} and ${other.toFixed(3)}`;
        this.#view.line(
          `step ${step}: probe of critical and other tokens: loss ${pair(criticalLoss, otherLoss)}, entropy ` +
            pair(criticalEntropy, otherEntropy),
        );
        break;
      }
      case 'stopped-early':
        this.#view.line(
          `stopped early at step ${event.step} of ${event.steps}: the validation loss was lowest at step ${event.bestStep}`,
        );
        break;
      case 'annotated':
      case 'done':
        if ('summary' in event) {
          const { correct, criticalTokens, tokens, criticalShare, rollouts, tokensPerSecond } = event.summary;
          this.#finishStage(
            `${counted(correct, 'response')}, ${count(criticalTokens)} of ${count(tokens)} tokens critical ` +
              `(${percent(criticalShare)}), ${counted(rollouts, 'rollout')}, ${count(tokensPerSecond)} tokens/s`,
          );
        }
        break;
      case 'saved':
        this.#finishStage(this.#steps === 0 ? 'done before' : counted(this.#steps, 'step'));
        break;
      case 'evaluated': {
        const { accuracy, accuracyCi95, n } = event.summary;
        const [low, high] = accuracyCi95;
        this.#finishStage(
          `${percent(accuracy)} (${percent(low)} to ${percent(high)}) of ${counted(n, 'question')}`,
        );
        break;
      }
      case 'response':
      case 'prediction':
      case 'checkpoint':
        break;
    }
  }
}
