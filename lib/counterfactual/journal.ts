/**
 * annotations.journal.jsonl: work in progress, appended as whole lines, so that a run that is killed at any moment
 * loses at most the response it was working on. The final file is written from it; then it is removed.
 */
import { rmSync } from 'node:fs';
import { CftError } from '../errors.js';
import { appendLines, recoverJsonLines } from '../files.js';
import type { AnnotationRecord } from '../types.js';

export interface JournalAnnotation {
  type: 'annotation';
  /** Which question, from 0. */
  index: number;
  record: AnnotationRecord;
  unjudged: number;
  rollouts_saved: number;
  decoded_tokens: number;
  /** Wall time since the line before, or since the run was started or resumed. */
  seconds: number;
}

/** Time that was spent on trunks, or on a response that was not finished when the run was stopped. */
interface JournalTime {
  type: 'trunks' | 'stopped';
  seconds: number;
}

export class Journal {
  readonly #path: string;
  readonly annotations: JournalAnnotation[] = [];
  /** Seconds of all lines. */
  seconds = 0;
  #last = performance.now();

  /** Reads what an earlier run left at `path`; a torn last line is dropped. */
  constructor(path: string) {
    this.#path = path;
    for (const line of recoverJsonLines<JournalAnnotation | JournalTime>(path)) {
      this.seconds += line.seconds;
      if (line.type === 'annotation') this.annotations.push(line);
    }
  }

  #append(line: JournalAnnotation | JournalTime): void {
    appendLines(this.#path, [JSON.stringify(line)]);
    this.seconds += line.seconds;
  }

  /** Seconds since the last call. */
  #lap(): number {
    const now = performance.now();
    const seconds = (now - this.#last) / 1000;
    this.#last = now;
    return seconds;
  }

  addTime(type: JournalTime['type']): void {
    this.#append({ type, seconds: this.#lap() });
  }

  addAnnotation(annotation: Omit<JournalAnnotation, 'type' | 'seconds'>): JournalAnnotation {
    const line: JournalAnnotation = { type: 'annotation', ...annotation, seconds: this.#lap() };
    this.#append(line);
    this.annotations.push(line);
    return line;
  }

  /** @throws CftError ERR_CFT_BAD_DATA unless the journal's responses are the first of `indices`, in that order. */
  check(indices: readonly number[]): void {
    this.annotations.forEach(({ index }, i) => {
      if (index === indices[i]) return;
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `${this.#path}: expected the annotation of question ${indices[i] ?? 'none'} (from 0) in place ${i}, found ` +
          `that of question ${index}: responses.jsonl was changed since; delete the run folder and start again`,
      );
    });
  }

  remove(): void {
    rmSync(this.#path, { force: true });
  }
}
