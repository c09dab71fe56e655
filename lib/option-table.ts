/**
 * The one table of options. Types, defaults, checks, command-line flags and help all come from here: an option is
 * named in camelCase in the Node API and configuration files and in kebab-case on the command line.
 */
import { annotation } from './option-table/annotation.js';
import { common, decoding, questions } from './option-table/common.js';
import { evaluation, report } from './option-table/evaluation.js';
import { benchmark, setup } from './option-table/measuring.js';
import { training } from './option-table/training.js';

export { type Command, commands, type OptionSpec } from './option-table/spec.js';

export const optionTable = {
  ...common,
  ...questions,
  ...decoding,
  ...annotation,
  ...training,
  ...evaluation,
  ...report,
  ...benchmark,
  ...setup,
};

export type OptionName = keyof typeof optionTable;

/** Headings of the help text. */
export const optionGroups: Readonly<Record<string, readonly string[]>> = {
  'Model and run': Object.keys(common),
  Questions: Object.keys(questions),
  Decoding: Object.keys(decoding),
  Annotation: Object.keys(annotation),
  Training: Object.keys(training),
  Evaluation: Object.keys(evaluation),
  Report: Object.keys(report),
  Measuring: Object.keys(benchmark),
  Building: Object.keys(setup),
};
