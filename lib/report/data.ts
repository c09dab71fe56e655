/**
 * What the report shows, as plain data: made from a run folder (collect.ts), put into the page (page.ts) or served
 * while a run goes on (serve.ts), and drawn by the viewer in the browser. Whatever a run does not have is absent.
 */
import type { Verdict } from '../types.js';

/** Low and high end of a 95 % interval. */
export type Interval = readonly [number, number];

export interface Accuracy {
  value: number;
  interval: Interval;
}

/** One model's accuracies; `samples` of `sampled` is in Gains. */
export interface GainRow {
  /** `before`, `after cft`, ... */
  name: string;
  greedy?: Accuracy;
  sampled?: Accuracy;
}

export interface GainComparison {
  name: string;
  kind: 'greedy' | 'sampled';
  /** In words: difference, interval, p-value and verdict. */
  text: string;
  verdict: string;
}

/** What was gained; for an evaluation alone its rows. */
export interface Gains {
  evaluatedOn: string;
  questions: number;
  samples?: number;
  rows: GainRow[];
  comparisons: GainComparison[];
}

/** `null` breaks the line. */
export type Point = readonly [x: number, y: number | null];

export interface Series {
  name: string;
  points: Point[];
}

/** A line chart over optimizer steps. */
export interface Curve {
  id: string;
  title: string;
  /** With its unit. */
  yLabel: string;
  series: Series[];
  note?: string;
}

export interface StageTime {
  name: string;
  seconds: number;
  /** Of all stages, 0 to 1. */
  share: number;
}

export interface Costs {
  /** Name and value in words. */
  rows: (readonly [string, string])[];
  /** What each technique saved, in words. */
  saved: (readonly [string, string])[];
  stages: StageTime[];
}

export const kinds = ['digit', 'operator', 'word', 'other'] as const;
export type Kind = (typeof kinds)[number];

/** Tokens of a group and the critical ones among them. */
export interface Share {
  name: string;
  tokens: number;
  critical: number;
}

export interface Frequent {
  /** Text of the token. */
  text: string;
  kind: Kind;
  /** How often it is critical, and how often it occurs. */
  critical: number;
  tokens: number;
}

/** Where critical tokens sit, over all annotated responses. */
export interface Sites {
  responses: number;
  tokens: number;
  critical: number;
  /** By tenths of the response. */
  byPosition: Share[];
  byKind: Share[];
  frequent: Frequent[];
}

/** Places of the verdicts in `ShownAlternative`. */
export const verdicts: readonly Verdict[] = ['correct', 'incorrect', 'truncated'];

/** One alternative as a row, to keep the page small. */
export type ShownAlternative = readonly [
  position: number,
  rank: number,
  text: string,
  logprob: number,
  verdict: number,
  extracted: string | null,
  /** What followed, where rollouts were kept. */
  continuation?: string,
];

export interface ShownResponse {
  id: string;
  question: string;
  answer: string;
  /** Text of each token; empty where a character is only complete with a later token. */
  pieces: string[];
  /** Of the tokens; empty where another tool left them out. */
  logprobs: number[];
  /** Critical mask or weights. */
  weights: number[];
  alternatives: ShownAlternative[];
}

export interface ReportData {
  format: 'cft-report/1';
  /** Name and version of the program. */
  generator: string;
  /** The head line: what was gained. */
  title: string;
  /** Under it: model, data, seed. */
  subtitle: string;
  status: string;
  /** Why the run stopped, where it did not end well. */
  error?: string;
  /** What is under way, and how far. */
  progress: (readonly [string, string])[];
  /** By name of the questions. */
  gains: Gains[];
  curves: Curve[];
  costs: Costs;
  sites?: Sites;
  responses: ShownResponse[];
  /** How many there are beside those that are shown. */
  responsesLeft: number;
  /** What the reader should know of the responses, e.g. that continuations were left out. */
  notes: string[];
  /** Flag and value. */
  options: (readonly [string, string])[];
}
