/** Options of evaluation and report. */
import { type OptionSpec, train } from './spec.js';

export const evaluation = {
  evalData: { kind: 'string', on: train, describe: 'Questions for the evaluation before and after' },
  validation: {
    kind: 'number',
    on: train,
    default: 0,
    min: 0,
    max: 0.9,
    describe: 'Share of the questions kept out of training, for validation and evaluation',
  },
  validationAnnotations: {
    kind: 'string',
    on: train,
    describe: 'Annotations for validation, instead of a share',
  },
  trainData: {
    kind: 'string',
    on: ['eval'],
    describe: 'Questions that the model was trained on, to warn of those that are asked again',
  },
  against: {
    kind: 'string',
    on: ['eval'],
    describe: 'Folder of a finished eval of another checkpoint on the same questions: a paired comparison',
  },
  trunks: {
    kind: 'string',
    on: ['eval'],
    describe: 'annotations.jsonl or responses.jsonl: also the entropy along these fixed responses',
  },
  evalSamples: {
    kind: 'integer',
    on: train,
    default: 0,
    min: 0,
    max: 4096,
    describe: 'Also sample so many responses per evaluation question, at temperature 1',
  },
} as const satisfies Record<string, OptionSpec>;

export const report = {
  run: {
    kind: 'string',
    on: ['report'],
    pattern: { matches: /./, expected: 'a path' },
    describe: 'Run folder; the word after the command (default: the newest in runs/)',
  },
  watch: {
    kind: 'boolean',
    on: ['report'],
    default: false,
    describe: 'Serve the page on this machine and keep it up to date while the run goes on',
  },
  port: {
    kind: 'integer',
    on: ['report'],
    default: 0,
    min: 0,
    max: 65535,
    describe: 'Port of --watch on 127.0.0.1; 0: a free one',
  },
  charts: {
    kind: 'boolean',
    on: ['report'],
    default: false,
    describe: 'Also write the charts as PNG and SVG files into charts/ in the run folder',
  },
} as const satisfies Record<string, OptionSpec>;
