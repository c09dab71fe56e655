/**
 * annotations.journal.jsonl: work in progress, appended as whole lines in the order in which responses finish, so that
 * a run that is killed at any moment loses at most the responses it was working on. The final file is written from
 * it; then it is removed. Records stay on disk until somebody asks for them.
 */
import { CftError } from '../errors.js';
import { LinesFile } from '../files.js';
import type { AnnotationRecord } from '../types.js';
import { addWork, noWork, type Work } from './summary.js';

/** What every line adds to the totals of the run. */
interface JournalTotals {
  /** Wall time since the line before, or since the run was started or resumed. */
  seconds: number;
  /** What the engine did in that time beside the decoding of recorded tokens. */
  work: Work;
}

export interface JournalAnnotation extends JournalTotals {
  type: 'annotation';
  /** Which question, from 0. */
  index: number;
  record: AnnotationRecord;
  unjudged: number;
  rollouts_saved: number;
  /** Recorded rollouts that were ended where their answer was complete. */
  stopped_rollouts: number;
  decoded_tokens: number;
}

/** What was spent on trunks, or on responses that were not finished when the run was stopped. */
interface JournalTime extends JournalTotals {
  type: 'trunks' | 'stopped';
}

type JournalLine = JournalAnnotation | JournalTime;

export type NewAnnotation = Omit<JournalAnnotation, 'type' | keyof JournalTotals>;

export class Journal {
  readonly #file: LinesFile<JournalLine>;
  readonly #onAnnotation: (annotation: JournalAnnotation) => void;
  /** Line of each annotated question. */
  readonly #lines = new Map<number, number>();
  /** Of all lines. */
  seconds = 0;
  readonly work: Work = noWork();
  #last = performance.now();
  #fresh: Work = noWork();

  /**
   * Reads what an earlier run left at `path`; a torn last line is dropped.
   * @param onAnnotation gets each annotation, those of the earlier run first.
   */
  constructor(path: string, onAnnotation: (annotation: JournalAnnotation) => void) {
    this.#onAnnotation = onAnnotation;
    this.#file = new LinesFile(path, (line, number) => this.#remember(line, number));
  }

  #remember(line: JournalLine, number: number): void {
    this.seconds += line.seconds;
    addWork(this.work, line.work);
    if (line.type !== 'annotation') return;
    this.#lines.set(line.index, number);
    this.#onAnnotation(line);
  }

  /** In one write; the time and work since the last one go to the first line. */
  #append<T extends JournalLine>(lines: readonly Omit<T, keyof JournalTotals>[]): T[] {
    const now = performance.now();
    const first = { seconds: (now - this.#last) / 1000, work: this.#fresh };
    const whole = lines.map(
      (line, i) => ({ ...line, ...(i === 0 ? first : { seconds: 0, work: noWork() }) }) as T,
    );
    const before = this.#file.count;
    this.#file.append(whole);
    this.#last = now;
    this.#fresh = noWork();
    for (const [i, line] of whole.entries()) this.#remember(line, before + i);
    return whole;
  }

  /** Questions that are annotated. */
  get annotated(): number {
    return this.#lines.size;
  }

  has(index: number): boolean {
    return this.#lines.has(index);
  }

  /** Goes into the next line. */
  addWork(work: Partial<Work>): void {
    addWork(this.#fresh, work);
  }

  addTime(type: JournalTime['type']): void {
    this.#append<JournalTime>([{ type }]);
  }

  addAnnotations(annotations: readonly NewAnnotation[]): JournalAnnotation[] {
    return this.#append<JournalAnnotation>(
      annotations.map((annotation) => ({ type: 'annotation', ...annotation })),
    );
  }

  /** The record of an annotated question. */
  record(index: number): AnnotationRecord {
    return (this.#file.read(this.#lines.get(index)!) as JournalAnnotation).record;
  }

  /** @throws CftError ERR_CFT_BAD_DATA unless the journal's responses are among `indices`. */
  check(indices: readonly number[]): void {
    const known = new Set(indices);
    for (const index of this.#lines.keys()) {
      if (known.has(index)) continue;
      throw new CftError(
        'ERR_CFT_BAD_DATA',
        `${this.#file.path}: expected annotations of correct responses, found one of question ${index} (from 0), ` +
          'whose response is not: responses.jsonl was changed since; delete the run folder and start again',
      );
    }
  }

  remove(): void {
    this.#file.remove();
  }
}
