/** The help text, made by yargs from the option table. */
import yargs, { type Argv } from 'yargs';
import { type Command, commands, type OptionSpec, optionGroups, optionTable } from '../option-table.js';
import { flagOf, optionNames } from '../options.js';
import { commandLineFlags } from './arguments.js';

const about: Record<Command, { describe: string; examples: readonly [string, string][] }> = {
  train: {
    describe: 'Find the critical tokens, train on them, evaluate before and after, report',
    examples: [
      ['$0 train', 'The whole method on the embedded model and questions'],
      [
        '$0 train --model Qwen/Qwen2.5-0.5B-Instruct --data train.jsonl --eval-data test.jsonl --lora-rank 16',
        'Your own model and questions',
      ],
    ],
  },
  annotate: {
    describe: 'Responses, verdicts and critical tokens into annotations.jsonl',
    examples: [
      ['$0 annotate --limit 20', 'Twenty questions of the embedded set'],
      [
        '$0 annotate --model ./my-model --data train.jsonl --output runs/annotations',
        'Into a folder of your choice',
      ],
    ],
  },
  eval: {
    describe: 'Accuracy, pass@k, diversity and entropy of a model on benchmarks or a file of questions',
    examples: [
      ['$0 eval --data test.jsonl --samples 8 --temperature 1', 'Eight samples per question'],
      [
        '$0 eval --model runs/b/model --benchmark paper-11 --against runs/a-eval',
        'The eleven benchmarks, beside another checkpoint',
      ],
    ],
  },
  generate: {
    describe: 'Continue a prompt (or standard input), greedy or sampled, streaming',
    examples: [
      [
        '$0 generate "Sam has 25 cups. Sam finds 24 more and sells 34. How many cups does Sam have?"',
        'With the chat template',
      ],
      [
        'echo "Once upon a time" | $0 generate --raw --temperature 0.8 --max-new-tokens 50',
        'A plain continuation',
      ],
    ],
  },
  verify: {
    describe: 'Read JSONL {prediction, answer}, write each line with its verdict added',
    examples: [
      [
        `echo '{"prediction": "so it is \\\\boxed{1/2}", "answer": "0.5"}' | $0 verify`,
        'From standard input',
      ],
      ['$0 verify --data predictions.jsonl --answer-field gold', 'From a file'],
    ],
  },
  report: {
    describe: 'One self-contained page about a run: critical tokens, curves, costs, evaluation',
    examples: [
      ['$0 report runs/my-run', 'Writes report.html into the run folder'],
      ['$0 report runs/my-run --watch', 'Serves it on this machine while the run goes on'],
    ],
  },
  overlap: {
    describe:
      'Questions that training data and benchmarks have in common, and those that a benchmark repeats',
    examples: [
      ['$0 overlap --data train.jsonl --benchmark gsm8k,math', 'A training file beside two benchmarks'],
      ['$0 overlap --benchmark paper-11', 'The benchmarks among themselves'],
    ],
  },
  bench: {
    describe:
      'Measure counterfactual rollouts or training, beside other programs on request, into a file of rows',
    examples: [
      ['$0 bench rollouts', 'The embedded model, our side alone'],
      [
        '$0 bench rollouts --case smollm2-latency --model ./smollm2 --peer hf-generate --python .venv/bin/python',
        'A single response of SmolLM2-135M-Instruct beside Hugging Face generate',
      ],
      [
        '$0 bench train --peer trl --python .venv/bin/python',
        "The trainer beside TRL's, on the same sequences",
      ],
    ],
  },
  doctor: {
    describe: 'What was found on this machine, each problem with its remedy',
    examples: [
      ['$0 doctor', 'Node, libtorch, GPU, memory, caches'],
      ['$0 doctor --json', 'The same for programs'],
    ],
  },
  setup: {
    describe: 'Find or fetch libtorch and build the addon; safe to repeat',
    examples: [
      ['$0 setup', 'What npm ci does in a checkout'],
      ['CFT_TORCH_ROOT=/opt/libtorch $0 setup', 'With a libtorch of your own'],
    ],
  },
};

function describe(spec: OptionSpec, command: Command): string {
  const values = spec.values ? ` (${spec.values.join(', ')})` : '';
  const fallback =
    spec.default === undefined || spec.kind === 'boolean'
      ? ''
      : ` [default: ${JSON.stringify(spec.default)}]`;
  return `${spec.describeOn?.[command] ?? spec.describe}${values}${fallback}`;
}

function addOptions(parser: Argv, command: Command): Argv {
  const names = optionNames(command);
  for (const name of names) {
    const spec: OptionSpec = optionTable[name];
    parser.option(flagOf(name).slice(2), {
      describe: describe(spec, command),
      type:
        spec.kind === 'boolean'
          ? 'boolean'
          : spec.kind === 'string' || spec.kind === 'list'
            ? 'string'
            : 'number',
      ...(spec.aliases ? { alias: [...spec.aliases] } : {}),
    });
  }
  for (const [title, members] of Object.entries(optionGroups)) {
    const flags = members.filter((name) => (names as string[]).includes(name));
    if (flags.length > 0)
      parser.group(
        flags.map((name) => flagOf(name).slice(2)),
        `${title}:`,
      );
  }
  for (const [name, { describe: text, kind }] of Object.entries(commandLineFlags))
    if (name !== 'config' || names.length > 0) parser.option(name, { describe: text, type: kind });
  return parser;
}

function examples(command: Command): string {
  const lines = about[command].examples.map(
    ([line, text]) => `  ${line.replace('$0', 'npx cft-native')}\n      ${text}`,
  );
  return `Examples:\n${lines.join('\n')}`;
}

function makeParser(): Argv {
  return yargs([])
    .scriptName('cft-native')
    .locale('en')
    .exitProcess(false)
    .version(false)
    .parserConfiguration({ 'camel-case-expansion': false })
    .option('help', { describe: 'Show this help', type: 'boolean' })
    .wrap(Math.min(110, process.stdout.columns ?? 110));
}

/** Help of one command. */
export function commandHelp(command: Command): Promise<string> {
  const positional = { generate: ' [prompt]', bench: ' rollouts', report: ' [run]' }[command as string] ?? '';
  return addOptions(makeParser(), command)
    .usage(`$0 ${command}${positional} [options]\n\n${about[command].describe}`)
    .epilogue(examples(command))
    .getHelp();
}

/** Help of the program. */
export function programHelp(): Promise<string> {
  const parser = makeParser().usage('$0 <command> [options]\n\nCritical Token Fine-tuning on libtorch');
  for (const command of commands) parser.command(command, about[command].describe);
  return parser
    .option('version', { describe: 'Show the version', type: 'boolean' })
    .example('$0 train', 'Watch the whole method on the embedded model')
    .example('$0 train --help', 'Every option of a command')
    .epilogue('Exit status: 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted.')
    .getHelp();
}
