/**
 * Reads the command line strictly: every flag is known, given once, and has a value where it takes one. Flags may be
 * typed as `--learning-rate`, `--learningRate` or `--learning_rate`, and under the names of other tools (aliases).
 */
import { CftError } from '../errors.js';
import { type Command, commands, type OptionSpec, optionTable } from '../option-table.js';
import { flagOf, nearest, optionNames } from '../options.js';

/** Flags that only the command line has. */
export const commandLineFlags = {
  config: { kind: 'string', describe: 'Options from file.json or file.yaml, in camelCase; flags beat it' },
  json: { kind: 'boolean', describe: 'Print one JSON object per event on standard output' },
} as const;

export interface CommandLine {
  command: Command;
  /** Option values by camelCase name, numbers as numbers. */
  given: Record<string, unknown>;
  config: string | undefined;
  json: boolean;
}

/** Commands that take a text without a flag, and the option that it stands for. */
const positionals: Partial<Record<Command, string>> = { generate: 'prompt', bench: 'suite', report: 'run' };

const badUsage = (message: string): CftError => new CftError('ERR_CFT_BAD_OPTION', message);

const toKebab = (name: string): string =>
  name
    .replace(/([a-z0-9])([A-Z])/g, '$1-$2')
    .replaceAll('_', '-')
    .toLowerCase();

interface Flag {
  /** The camelCase name. */
  name: string;
  spec: Pick<OptionSpec, 'kind' | 'words'>;
}

/** Every spelling, in kebab-case without the dashes, to its option. */
export function flagsOf(command: Command): Map<string, Flag> {
  const flags = new Map<string, Flag>();
  for (const name of optionNames(command)) {
    const spec: OptionSpec = optionTable[name];
    for (const spelling of [flagOf(name).slice(2), ...(spec.aliases ?? [])])
      flags.set(spelling, { name, spec });
  }
  for (const [name, spec] of Object.entries(commandLineFlags)) flags.set(name, { name, spec });
  return flags;
}

/** A number where the text is one in full, else the text as it is (the check of the option will complain). */
function toNumber(text: string): number | string {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : text;
}

const isValue = (token: string | undefined): token is string =>
  token !== undefined && (!token.startsWith('-') || token === '-' || /^-[\d.]/.test(token));

function unknownFlag(written: string, spelling: string, command: Command, known: Iterable<string>): CftError {
  const near = nearest(spelling, [...known]);
  const name = positionals[command];
  const text =
    name === undefined ? '' : `; a text that starts with - goes after -- or into ${flagOf(name)}=...`;
  return badUsage(`unknown flag ${written} for ${command}${near ? `; did you mean --${near}?` : text}`);
}

/** The command: the first word that is not a flag. */
export function findCommand(argv: readonly string[]): Command | undefined {
  const word = argv.find((token) => !token.startsWith('-'));
  if (word === undefined) return undefined;
  if ((commands as readonly string[]).includes(word)) return word as Command;
  const near = nearest(word, commands);
  throw badUsage(
    `unknown command "${word}"${near ? `; did you mean ${near}?` : `; expected one of ${commands.join(', ')}`}`,
  );
}

/**
 * @param argv as typed, with the command.
 * @throws CftError ERR_CFT_BAD_OPTION naming the flag, what was expected and what was found.
 */
export function parseArguments(command: Command, argv: readonly string[]): CommandLine {
  const flags = flagsOf(command);
  const values = new Map<string, unknown>();
  const set = (name: string, value: unknown, written: string): void => {
    if (values.has(name)) throw badUsage(`${written}: given more than once (${flagOf(name)}); expected once`);
    values.set(name, value);
  };
  let seenCommand = false;
  let flagsEnded = false;
  for (let i = 0; i < argv.length; i++) {
    const token = argv[i]!;
    if (token === '--' && !flagsEnded) {
      flagsEnded = true;
      continue;
    }
    if (flagsEnded || !token.startsWith('-')) {
      const name = positionals[command];
      if (!seenCommand) seenCommand = true;
      else if (name !== undefined) set(name, token, `"${token}"`);
      else throw badUsage(`unexpected argument "${token}" for ${command}; expected only flags`);
      continue;
    }
    const equals = token.indexOf('=');
    const written = equals < 0 ? token : token.slice(0, equals);
    const spelling = toKebab(written.replace(/^--?/, ''));
    const positive = flags.get(spelling);
    const negative = spelling.startsWith('no-') ? flags.get(spelling.slice(3)) : undefined;
    const wellFormed = spelling.length === 1 || written.startsWith('--');
    if (!wellFormed || (positive === undefined && negative?.spec.kind !== 'boolean'))
      throw unknownFlag(written, spelling, command, flags.keys());
    if (positive === undefined) {
      if (equals >= 0) throw badUsage(`${written}: expected no value, found "${token.slice(equals + 1)}"`);
      set(negative!.name, false, written);
      continue;
    }
    const { name, spec } = positive;
    if (spec.kind === 'boolean') {
      let text = equals < 0 ? 'true' : token.slice(equals + 1);
      if (equals < 0 && (argv[i + 1] === 'true' || argv[i + 1] === 'false')) text = argv[++i]!;
      if (text !== 'true' && text !== 'false')
        throw badUsage(`${written}: expected true or false, found "${text}"`);
      set(name, text === 'true', written);
      continue;
    }
    let text: string;
    if (equals >= 0) text = token.slice(equals + 1);
    else if (isValue(argv[i + 1])) text = argv[++i]!;
    else {
      const found = argv[i + 1] === undefined ? 'nothing' : `the flag ${argv[i + 1]}`;
      throw badUsage(
        `${written}: expected a value, found ${found} (a text that starts with - needs ${written}=...)`,
      );
    }
    set(name, spec.kind === 'integer' || spec.kind === 'number' ? toNumber(text) : text, written);
  }
  const config = values.get('config') as string | undefined;
  const json = values.get('json') === true;
  values.delete('config');
  values.delete('json');
  return { command, given: Object.fromEntries(values), config, json };
}
