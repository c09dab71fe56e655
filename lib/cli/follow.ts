/** Watches a run: events as JSON on standard output, or told on standard error; says how to resume after Ctrl-C. */
import type { Run } from '../index.js';
import { setResumeCommand } from '../run-folder.js';
import { InterruptedError } from './failure.js';
import { shellQuoted, shortPath } from './format.js';
import { type AnyEvent, Narrator } from './narrate.js';
import type { CommandContext } from './program.js';
import { View } from './view.js';

/** Events after which something is on disk that a user would not want to lose. */
const work = new Set(['trunk', 'response', 'prediction', 'step']);

const printJson = (value: unknown): boolean => process.stdout.write(`${JSON.stringify(value)}\n`);

/** Records and predictions are on disk, and too long for a line; looking at the records would even read them. */
export function withoutRecords(result: object): Record<string, unknown> {
  const names = Object.keys(result).filter((name) => name !== 'annotations' && name !== 'predictions');
  return Object.fromEntries(
    names.map((name) => {
      const value = (result as Record<string, unknown>)[name];
      return [name, name === 'sets' && Array.isArray(value) ? value.map(withoutRecords) : value];
    }),
  );
}

/**
 * The command that goes on where this one stopped, with the folder as it was typed.
 * @param output the run folder, for where none was typed.
 */
export function resumeCommand(argv: readonly string[], output: string): string {
  const words: string[] = [];
  let typed: string | undefined;
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!;
    const flag = word.split('=')[0]!;
    if (/^--(output|output-dir|outputDir|output_dir|resume)$/.test(flag)) {
      const isInline = word.includes('=');
      const hasValue = flag !== '--resume' || /^(?:true|false)$/.test(argv[i + 1] ?? '');
      if (flag !== '--resume') typed = isInline ? word.slice(flag.length + 1) : argv[i + 1];
      if (!isInline && hasValue) i++;
      continue;
    }
    words.push(word);
  }
  return `npx cft-native ${shellQuoted([...words, '--output', typed ?? shortPath(output), '--resume'])}`;
}

/**
 * @param onEvent called with each event beside that.
 * @returns the run's result.
 * @throws what the run rejects with.
 */
export async function follow<Event extends AnyEvent, Result>(
  run: Run<Event, Result>,
  context: CommandContext,
  onEvent: (event: Event) => void = () => {},
): Promise<Result> {
  const view = new View();
  const narrator = new Narrator(view);
  let output: string | undefined;
  setResumeCommand((folder) => resumeCommand(context.argv, folder));
  try {
    for await (const event of run) {
      if (event.type === 'start') output = event.output;
      onEvent(event);
      if (work.has(event.type)) context.worked();
      if (context.json) printJson(event);
      else narrator.tell(event);
    }
    const result = await run;
    if (context.json) {
      printJson({ type: 'result', ...withoutRecords(result as object) });
    }
    return result;
  } catch (error) {
    view.end();
    if (error instanceof InterruptedError && output !== undefined)
      process.stderr.write(`interrupted; continue with:\n  ${resumeCommand(context.argv, output)}\n`);
    throw error;
  } finally {
    view.end();
  }
}
