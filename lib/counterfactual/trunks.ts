/**
 * Trunks: the model's own greedy responses and their verdicts, into responses.jsonl in the order of the questions.
 * They are decoded continuously over all questions; what is finished is written as far as no earlier one is missing.
 */
import { LinesFile } from '../files.js';
import type { AnswerStop } from '../model/answer-stop.js';
import { type Rollout, RolloutDriver } from '../model/rollout-driver.js';
import type { NativeRolloutEngine } from '../native/binding.js';
import type { Question, ResponseRecord } from '../types.js';
import { type DetailedVerifier, type Judgement, judge } from './judge.js';
import { type Prompt, type RolloutModel, textOf } from './rollout-model.js';
import { WriteTimer } from './write-timer.js';

/** responses.jsonl, with what must be known of each response at all times. */
export class Responses {
  readonly #file: LinesFile<ResponseRecord>;
  readonly #onResponse: (record: ResponseRecord) => void;
  /** Tokens of each correct response by the question's index. */
  readonly correct = new Map<number, number>();
  truncated = 0;

  /** @param onResponse gets each response, those of an earlier run first. */
  constructor(path: string, onResponse: (record: ResponseRecord) => void) {
    this.#onResponse = onResponse;
    this.#file = new LinesFile(path, (record, index) => this.#remember(record, index));
  }

  #remember(record: ResponseRecord, index: number): void {
    if (record.verdict === 'correct') this.correct.set(index, record.response_token_ids.length);
    if (record.verdict === 'truncated') this.truncated++;
    this.#onResponse(record);
  }

  get count(): number {
    return this.#file.count;
  }

  /** Appends those that come next. */
  append(records: readonly ResponseRecord[]): void {
    const first = this.#file.count;
    this.#file.append(records);
    for (const [i, record] of records.entries()) this.#remember(record, first + i);
  }

  read(index: number): ResponseRecord {
    return this.#file.read(index);
  }
}

const writeEvery = 500; // ms

export interface TrunkOptions {
  engine: NativeRolloutEngine;
  maxBranches: number;
  model: RolloutModel;
  questions: readonly Question[];
  prompts: readonly Prompt[];
  verifier: DetailedVerifier;
  responses: Responses;
  stop?: AnswerStop | undefined;
  /** Let the engine verify what the prompt or the response said before as a draft; default true. */
  draft?: boolean | undefined;
  signal?: AbortSignal | undefined;
  onTokens: (count: number) => void;
  /** A response is decoded; it may still wait for its verdict. */
  onDecoded: () => void;
  /** Responses are on disk, from this index on. */
  onWritten: (first: number, records: readonly ResponseRecord[]) => void;
}

/** Decodes, judges and writes the responses that `responses` does not hold yet. */
export async function decodeTrunks(options: TrunkOptions): Promise<void> {
  const {
    engine,
    maxBranches,
    model,
    questions,
    prompts,
    verifier,
    responses,
    stop,
    draft = true,
    signal,
  } = options;
  const driver = new RolloutDriver(engine, { maxBranches, signal, onStep: options.onTokens });
  /** Finished ones that are not written. */
  const finished = new Map<number, ResponseRecord>();

  const write = (): void => {
    const first = responses.count;
    const records: ResponseRecord[] = [];
    for (let i = first; finished.has(i); i++) {
      records.push(finished.get(i)!);
      finished.delete(i);
    }
    if (records.length === 0) return;
    responses.append(records);
    options.onWritten(first, records);
  };
  const writing = new WriteTimer(writeEvery, write, (error) => driver.fail(error));

  const judged = (index: number, { tokenIds, endTokenId }: Rollout, text: string, judgement: Judgement) => {
    const { id, question, answer } = questions[index]!;
    finished.set(index, {
      id,
      question,
      answer,
      response: text,
      prompt_token_ids: [...prompts[index]!.tokenIds],
      response_token_ids: [...tokenIds],
      end_token_id: endTokenId,
      ...judgement,
    });
    writing.soon();
  };

  const open = async (index: number): Promise<void> => {
    const { tokenIds, budget } = prompts[index]!;
    const { trunk } = await driver.addTrunk({ tokenIds, scoreFrom: tokenIds.length, alternatives: 0 });
    driver.submit([
      {
        trunk,
        length: tokenIds.length,
        forcedTokens: new Int32Array(0),
        maxNewTokens: budget,
        temperature: 0,
        topP: 1,
        seed: 0,
        draft,
        priority: index,
        stopAt: stop?.whole(),
        onFinished: (rollout) => {
          driver.releaseTrunk(trunk);
          options.onDecoded();
          const text = textOf(model, rollout.tokenIds);
          const ended = rollout.endTokenId >= 0 || rollout.stopped === true;
          driver.track<Judgement>(
            () =>
              ended ? judge(verifier, text, questions[index]!, rollout.tokenIds) : { verdict: 'truncated' },
            (judgement) => judged(index, rollout, text, judgement),
          );
        },
      },
    ]);
  };

  let next = responses.count;
  try {
    await driver.run(() => (next < questions.length ? open(next++) : undefined));
  } finally {
    writing.now();
  }
}
