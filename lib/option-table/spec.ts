/** What an option is, the commands, and groups of commands that take the same options. */
export const commands = [
  'train',
  'annotate',
  'eval',
  'generate',
  'verify',
  'report',
  'overlap',
  'bench',
  'doctor',
  'setup',
] as const;
export type Command = (typeof commands)[number];

export interface OptionSpec {
  kind: 'string' | 'integer' | 'number' | 'boolean' | 'list';
  /** Commands that take it. */
  on: readonly Command[];
  describe: string;
  /** What else it is for one command. */
  describeOn?: Readonly<Partial<Record<Command, string>>>;
  default?: string | number | boolean;
  /** Allowed values of a string. */
  values?: readonly string[];
  min?: number;
  /** The value itself is refused, only what lies above it is good. */
  above?: number;
  max?: number;
  /** The words that a numeric option takes beside numbers, e.g. `auto`. */
  words?: readonly string[];
  /** What a string must match, and how to say that. */
  pattern?: { matches: RegExp; expected: string };
  /** Names that people coming from transformers, PEFT or lm-eval type; command line only. */
  aliases?: readonly string[];
}

export const all = ['train', 'annotate', 'eval', 'generate'] as const;
export const loading = [...all, 'bench'] as const;
export const data = ['train', 'annotate', 'eval'] as const;
export const batched = [...data, 'bench'] as const;
export const rollouts = ['train', 'annotate'] as const;
export const train = ['train'] as const;
