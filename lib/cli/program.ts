/** The command line: reads the arguments, runs one command, returns the exit status. */
import { CftError } from '../errors.js';
import type { Command } from '../option-table.js';
import { type CommandLine, findCommand, parseArguments } from './arguments.js';
import {
  describeFailure,
  exitStatusOf,
  failureEvent,
  InterruptedError,
  interruptedStatus,
} from './failure.js';

/** What a command gets beside its options. */
export interface CommandContext {
  /** Aborted by Ctrl-C with an InterruptedError. */
  signal: AbortSignal;
  /** One JSON object per event on standard output instead of text. */
  json: boolean;
  /** Call when something was done that the user keeps: what fails later is a failure, no refusal. */
  worked: () => void;
  /** As typed, for messages on how to resume. */
  argv: readonly string[];
}

/** Runs one command; `given` is what the user gave, not yet resolved. Resolves with the exit status where not 0. */
export type CommandFunction = (
  given: Record<string, unknown>,
  context: CommandContext,
) => Promise<number | undefined>;

/** Loaded when needed: `--help` must not load the tokenizer or the addon. */
const load: Record<Command, () => Promise<CommandFunction>> = {
  train: async () => (await import('./commands/train.js')).trainCommand,
  annotate: async () => (await import('./commands/annotate.js')).annotateCommand,
  eval: async () => (await import('./commands/eval.js')).evalCommand,
  generate: async () => (await import('./commands/generate.js')).generateCommand,
  verify: async () => (await import('./commands/verify.js')).verifyCommand,
  report: async () => (await import('./commands/report.js')).reportCommand,
  overlap: async () => (await import('./commands/overlap.js')).overlapCommand,
  bench: async () => (await import('./commands/bench.js')).benchCommand,
  doctor: async () => (await import('./commands/doctor.js')).doctorCommand,
  setup: async () => (await import('./commands/setup.js')).setupCommand,
};

/** Whether a flag is there, before a `--` that ends them. */
function says(argv: readonly string[], ...flags: string[]): boolean {
  const end = argv.indexOf('--');
  return argv.slice(0, end < 0 ? argv.length : end).some((token) => flags.includes(token));
}

/** Help or version, where one was asked for; otherwise the command line. */
async function interpret(argv: readonly string[]): Promise<CommandLine | string> {
  if (says(argv, '--version', '-v')) return (await import('../run-folder.js')).packageVersion;
  const asked = argv[0] === 'help';
  const command = findCommand(asked ? argv.slice(1) : argv);
  if (asked || says(argv, '--help', '-h')) {
    const help = await import('./help.js');
    return command === undefined ? help.programHelp() : help.commandHelp(command);
  }
  if (command === undefined) {
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      'expected a command, found none; try: cft-native train, or cft-native --help',
    );
  }
  return parseArguments(command, argv);
}

/** Commands that keep what they have done where they are stopped. */
const keeping: readonly (Command | undefined)[] = ['train', 'annotate', 'eval'];

/** Turns Ctrl-C into an abort: the first stops cleanly, the second at once. */
function listenForInterrupt(controller: AbortController, command: () => Command | undefined): () => void {
  let ended = false;
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(interruptedStatus);
    controller.abort(new InterruptedError());
    // What comes while the finished work is only being put away is heard, so that nothing dies of it, and changes nothing.
    if (ended) return;
    const saving = keeping.includes(command()) ? ': saving what is done' : '';
    process.stderr.write(`\nstopping${saving} (Ctrl-C again to quit at once)\n`);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return () => {
    ended = true;
  };
}

/**
 * @param argv the arguments after the program's name.
 * @returns the exit status: 0 done, 1 failed, 2 bad usage or bad input before any work, 130 interrupted.
 */
export async function runProgram(argv: readonly string[]): Promise<number> {
  let worked = false;
  const controller = new AbortController();
  let command: Command | undefined;
  const ended = listenForInterrupt(controller, () => command);
  let name = 'cft-native';
  try {
    const line = await interpret(argv);
    if (typeof line === 'string') {
      process.stdout.write(`${line}\n`);
      return 0;
    }
    command = line.command;
    name = `cft-native ${command}`;
    const fromFile =
      line.config === undefined
        ? {}
        : await (await import('./config-file.js')).readConfigFile(line.config, line.command);
    const run = await load[line.command]();
    const status = await run(
      { ...fromFile, ...line.given },
      {
        signal: controller.signal,
        json: line.json,
        argv,
        worked: () => {
          worked = true;
        },
      },
    );
    return status ?? 0;
  } catch (error) {
    if (!(error instanceof InterruptedError)) process.stderr.write(`${name}: ${describeFailure(error)}\n`);
    if (says(argv, '--json')) process.stdout.write(`${JSON.stringify(failureEvent(error))}\n`);
    return exitStatusOf(error, worked);
  } finally {
    ended();
  }
}
