import { optionTable } from '../option-table.js';
import type { Rule, TruncatedRule } from './rules.js';

/** The options that decide what is decoded and how it counts. */
export interface AnnotationSettings {
  maxNewTokens: number;
  k: number;
  complete: boolean;
  rule: Rule;
  includeEos: boolean;
  truncated: TruncatedRule;
  minAlternativeProb: number;
  waves: boolean;
  keepRollouts: boolean;
}

const names = [
  'maxNewTokens',
  'k',
  'complete',
  'rule',
  'includeEos',
  'truncated',
  'minAlternativeProb',
  'waves',
  'keepRollouts',
] as const;

/** Of resolved options, whose values are checked. */
export const settingsOf = (
  options: Readonly<Record<(typeof names)[number], string | number | boolean>>,
): AnnotationSettings =>
  Object.fromEntries(names.map((name) => [name, options[name]])) as unknown as AnnotationSettings;

export const defaultSettings: Readonly<AnnotationSettings> = Object.fromEntries(
  names.map((name) => [name, optionTable[name].default]),
) as unknown as AnnotationSettings;
