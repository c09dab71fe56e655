/**
 * The public types, checked by the compiler alone (npm run types): what callers may write, what they get, and what
 * must not compile.
 */
import {
  type AnnotationRecord,
  annotate,
  CftError,
  type CftErrorCode,
  type EvalSummary,
  evaluate,
  type FinishedRollout,
  loadModel,
  type Model,
  type Rollout,
  type Run,
  report,
  type TrainEvent,
  type TrainResult,
  train,
  type Verification,
  type Verifier,
  verify,
} from '../../lib/index.js';

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Equal<A, B>): void => {};

export async function readme(): Promise<void> {
  await using model = await loadModel('path/or/hub-id', { device: 'auto', dtype: 'float32' });
  same<typeof model, Model>(true);
  const ids = model.tokenizer.encode('text');
  same<typeof ids, Int32Array>(true);
  const text = model.tokenizer.decode(ids);
  same<typeof text, string>(true);
  model.tokenizer.applyChatTemplate([{ role: 'user', content: 'q' }], { addGenerationPrompt: true });
  const { data, shape } = await model.logits(ids);
  same<typeof data, Float32Array>(true);
  same<typeof shape, [number, number]>(true);
  const { logProbs, entropies } = await model.scores(ids);
  same<typeof logProbs, typeof entropies>(true);
  const [responses] = await model.generate([ids], {
    maxNewTokens: 5,
    temperature: 0,
    topP: 1,
    n: 1,
    seed: 0,
  });
  same<NonNullable<typeof responses>[number]['finishReason'], 'stop' | 'length'>(true);
  await model.save('folder');

  const { signal } = new AbortController();
  const run = annotate({ model, data: [{ question: 'q', answer: 1 }], output: 'runs/a', signal });
  for await (const event of run) {
    if (event.type === 'response') same<typeof event.criticalShare, number>(true);
    // @ts-expect-error only a response has a critical share
    event.criticalShare;
  }
  const { annotations, summary } = await run;
  same<typeof annotations, AnnotationRecord[]>(true);
  same<typeof summary.criticalShare, number>(true);

  const training = train({ model, annotations, strategy: 'cft', output: 'runs/t' });
  same<typeof training, Run<TrainEvent, TrainResult>>(true);
  for await (const event of training) if (event.type === 'step') same<typeof event.loss, number>(true);
  const result = await train({ model: 'embedded', microBatchTokens: 'auto', loraTargets: ['q_proj'] });
  same<typeof result.trained.model, string>(true);

  const studied = model.rollouts(
    [
      {
        tokenIds: ids,
        branches: [
          { length: 3, forcedTokens: [7], maxNewTokens: 64 },
          { length: 3, maxNewTokens: 64, n: 8, temperature: 1, topP: 0.9, seed: 1 },
        ],
      },
    ],
    { signal },
  );
  same<typeof studied, Run<FinishedRollout, Rollout[][]>>(true);
  for await (const { request, branch, sample, tokenIds, endTokenId } of studied) {
    same<typeof tokenIds, Int32Array>(true);
    same<typeof request | typeof branch | typeof sample | typeof endTokenId, number>(true);
  }

  const stopping: Verifier = (response, { answer }) => response.includes(answer);
  stopping.completed = (response) => response.includes('.');
  annotate({ verifier: stopping, stopAtAnswer: true, draft: false, maxConcurrency: 'auto' });
  await evaluate({ model, data: 'test.jsonl', stopAtAnswer: true });

  const evaluation = await evaluate({ model, data: 'test.jsonl', samples: 8, temperature: 1 });
  same<typeof evaluation.summary, EvalSummary>(true);

  const verification = verify('… so it is \\boxed{1/2}', '0.5');
  same<typeof verification, Verification>(true);
  annotate({
    verifier: (response, { answer, tokenIds }) => response.includes(answer) && tokenIds.length > 0,
  });
}

export function errors(error: unknown): CftErrorCode | undefined {
  return error instanceof CftError ? error.code : undefined;
}

export async function reports(signal: AbortSignal): Promise<void> {
  const { path, charts } = await report({ run: 'runs/a', charts: true, limit: 10 });
  same<typeof path, string>(true);
  same<typeof charts, string[]>(true);
  await report({ watch: true, port: 8080, signal, onListening: (url) => url.length });
  // @ts-expect-error an option of another command
  await report({ epochs: 1 });
}

export function refused(): void {
  // @ts-expect-error unknown strategy
  train({ strategy: 'cfd' });
  // @ts-expect-error a number is no learning rate as text
  train({ learningRate: '1e-5' });
  // @ts-expect-error an option of another command
  annotate({ learningRate: 1e-5 });
  // @ts-expect-error only annotation and training draft
  evaluate({ draft: true });
  // @ts-expect-error only 'auto' beside numbers
  train({ microBatchTokens: 'big' });
  // @ts-expect-error an unknown device is caught when run, an unknown dtype when compiled
  void loadModel('x', { dtype: 'float16' });
}
