/** Turns what a person gave (flags, a configuration file, API options) into checked options with defaults. */
import { CftError } from './errors.js';
import { type Command, type OptionName, type OptionSpec, optionTable } from './option-table.js';

type Table = typeof optionTable;
type Words<S> = S extends { words: readonly (infer W)[] } ? W : never;
type Value<S extends OptionSpec> = S extends { values: readonly (infer V)[] }
  ? V
  : S['kind'] extends 'integer' | 'number'
    ? number | Words<S>
    : S['kind'] extends 'boolean'
      ? boolean
      : S['kind'] extends 'list'
        ? string[]
        : string;

/** Names of the options that a command takes. */
export type OptionsOf<C extends Command> = {
  [N in OptionName]: C extends Table[N]['on'][number] ? N : never;
}[OptionName];

/** What a caller may give: every option of the command, all optional. */
export type GivenOptions<C extends Command> = { [N in OptionsOf<C>]?: Value<Table[N]> | undefined };

/** Options after defaults: those with a default are always there, the others may be undefined. */
export type ResolvedOptions<C extends Command> = {
  [N in OptionsOf<C>]: 'default' extends keyof Table[N] ? Value<Table[N]> : Value<Table[N]> | undefined;
};

export const flagOf = (name: string): string => `--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

const specs: Record<string, OptionSpec> = optionTable;

/** Names of the options of a command, in the table's order. */
export function optionNames(command: Command): OptionName[] {
  return (Object.keys(optionTable) as OptionName[]).filter((name) =>
    (specs[name] as OptionSpec).on.includes(command),
  );
}

function show(value: unknown): string {
  return typeof value === 'string' ? `"${value}"` : String(JSON.stringify(value) ?? value);
}

function checkNumber(spec: OptionSpec, value: unknown): string | undefined {
  if (typeof value === 'string' && spec.words?.includes(value)) return undefined;
  const what = spec.kind === 'integer' ? 'an integer' : 'a number';
  const words = spec.words ? ` or ${spec.words.join(', ')}` : '';
  const range =
    spec.above !== undefined
      ? ` above ${spec.above}`
      : spec.min !== undefined
        ? ` of at least ${spec.min}`
        : '';
  const ceiling = spec.max !== undefined ? ` and at most ${spec.max}` : '';
  const expected = `${what}${range}${ceiling}${words}`;
  if (typeof value !== 'number' || !Number.isFinite(value)) return expected;
  if (spec.kind === 'integer' && !Number.isInteger(value)) return expected;
  if (spec.min !== undefined && value < spec.min) return expected;
  if (spec.above !== undefined && value <= spec.above) return expected;
  if (spec.max !== undefined && value > spec.max) return expected;
  return undefined;
}

/** What was expected, or undefined where the value is good. */
function expectation(spec: OptionSpec, value: unknown): string | undefined {
  switch (spec.kind) {
    case 'integer':
    case 'number':
      return checkNumber(spec, value);
    case 'boolean':
      return typeof value === 'boolean' ? undefined : 'true or false';
    case 'list':
      return Array.isArray(value) && value.length > 0 && value.every((v) => typeof v === 'string' && v !== '')
        ? undefined
        : 'a list of names';
    case 'string':
      if (typeof value !== 'string') return 'a text';
      if (spec.values && !spec.values.includes(value)) return `one of ${spec.values.join(', ')}`;
      return spec.pattern?.matches.test(value) === false ? spec.pattern.expected : undefined;
  }
}

/** The nearest known name, for "did you mean". Levenshtein distance of at most 3. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = 4;
  for (const candidate of known) {
    let row = Array.from({ length: candidate.length + 1 }, (_, i) => i);
    for (let i = 1; i <= name.length; i++) {
      const next = [i];
      for (let j = 1; j <= candidate.length; j++) {
        const substitution = (row[j - 1] as number) + (name[i - 1] === candidate[j - 1] ? 0 : 1);
        next.push(Math.min(substitution, (row[j] as number) + 1, (next[j - 1] as number) + 1));
      }
      row = next;
    }
    const distance = row[candidate.length] as number;
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

/**
 * Checks `given` and fills in defaults.
 * @param defaults replace the table's own (a model's preset); they are checked like given values.
 * @param where what to call the source in messages, e.g. `the configuration file run.yaml`.
 * @throws CftError ERR_CFT_BAD_OPTION naming the option, what was expected and what was found.
 */
export function resolveOptions<C extends Command>(
  command: C,
  given: Record<string, unknown>,
  { defaults = {}, where = '' }: { defaults?: Record<string, unknown>; where?: string } = {},
): ResolvedOptions<C> {
  const names = optionNames(command);
  const place = where ? ` in ${where}` : '';
  for (const name of Object.keys(given)) {
    if (names.includes(name as OptionName) || given[name] === undefined) continue;
    const near = nearest(
      name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase()),
      names,
    );
    const owners = Object.hasOwn(specs, name) ? (specs[name] as OptionSpec).on : [];
    if (owners.length > 0) {
      throw new CftError(
        'ERR_CFT_BAD_OPTION',
        `unknown option "${name}"${place} for ${command}: it belongs to ${owners.join(', ')}`,
      );
    }
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `unknown option "${name}"${place} for ${command}${near ? `; did you mean "${near}"?` : ''}`,
    );
  }
  const resolved: Record<string, unknown> = {};
  for (const name of names) {
    const spec = specs[name] as OptionSpec;
    let value = given[name] ?? defaults[name] ?? spec.default;
    if (spec.kind === 'list' && typeof value === 'string')
      value = value.split(',').map((part) => part.trim());
    if (value !== undefined) {
      const expected = expectation(spec, value);
      if (expected !== undefined) {
        throw new CftError(
          'ERR_CFT_BAD_OPTION',
          `${name} (${flagOf(name)})${place}: expected ${expected}, found ${show(value)}`,
        );
      }
    }
    resolved[name] = value;
  }
  return resolved as ResolvedOptions<C>;
}
