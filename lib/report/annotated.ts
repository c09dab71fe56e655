/** The annotated responses of a run as the report needs them: counts over all, the first of them in full. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readAnnotations } from '../data/annotations.js';
import type { AnnotationRecord } from '../types.js';
import type { ShownResponse, Sites } from './data.js';
import { GrowingLines, stampOf, textIn } from './run-files.js';
import { SiteCounter } from './sites.js';
import { piecesOf, type ReportTokenizer, shownResponse } from './tokens.js';

const finalName = 'annotations.jsonl';
const journalName = 'annotations.journal.jsonl';

export interface Annotated {
  shown: ShownResponse[];
  total: number;
  sites?: Sites;
}

/** A line of the journal: its `record`, which this program wrote itself. */
const recordIn = (line: Record<string, unknown>): AnnotationRecord | undefined => {
  const record = line.record as AnnotationRecord | undefined;
  return line.type === 'annotation' && Array.isArray(record?.response_token_ids) ? record : undefined;
};

export class AnnotatedResponses {
  readonly #folder: string;
  readonly #limit: number;
  readonly #tokenizer: ReportTokenizer;
  readonly #journal: GrowingLines;
  #counter = new SiteCounter();
  #shown: ShownResponse[] = [];
  #total = 0;
  /** What the counts are of. */
  #source = '';

  /** @param limit how many are kept in full. */
  constructor(folder: string, limit: number, tokenizer: ReportTokenizer) {
    this.#folder = folder;
    this.#limit = limit;
    this.#tokenizer = tokenizer;
    this.#journal = new GrowingLines(join(folder, journalName));
  }

  #reset(source: string): void {
    this.#counter = new SiteCounter();
    this.#shown = [];
    this.#total = 0;
    this.#source = source;
  }

  #add(record: AnnotationRecord): void {
    const pieces = piecesOf(this.#tokenizer, record.response_token_ids);
    this.#counter.add(record, pieces);
    if (this.#total++ < this.#limit) this.#shown.push(shownResponse(record, pieces, this.#tokenizer));
  }

  /** @throws CftError ERR_CFT_BAD_DATA naming file, line and field. */
  async #readFile(path: string, stamp: string): Promise<void> {
    if (this.#source === stamp) return;
    this.#reset(stamp);
    for (const record of await readAnnotations(path)) this.#add(record);
  }

  #readJournal(): void {
    const { fresh, values } = this.#journal.read();
    if (fresh || this.#source !== journalName) this.#reset(journalName);
    for (const line of values) {
      const record = recordIn(line);
      if (record !== undefined) this.#add(record);
    }
  }

  /** Records that are in memory already. */
  use(records: readonly AnnotationRecord[]): Annotated {
    this.#reset('memory');
    for (const record of records) this.#add(record);
    return this.#result();
  }

  /** @param elsewhere the annotations that the run was given, where it made none. */
  async read(elsewhere?: string): Promise<Annotated> {
    const own = join(this.#folder, finalName);
    if (existsSync(join(this.#folder, journalName))) this.#readJournal();
    else if (existsSync(own)) await this.#readFile(own, stampOf(this.#folder, [finalName]));
    else if (elsewhere !== undefined && existsSync(elsewhere))
      await this.#readFile(elsewhere, stampOf(elsewhere, ['']));
    else this.#reset('');
    return this.#result();
  }

  #result(): Annotated {
    const { sites } = this.#counter;
    return { shown: this.#shown, total: this.#total, ...(sites && { sites }) };
  }
}

export const annotationsOption = (options: Record<string, unknown>): string | undefined =>
  textIn(options, 'annotations');
