/**
 * model/README.md: the card of a trained model, with the metadata that the Hugging Face hub reads. Only what is known
 * is said: a base or data set that is a path on this machine is not named there, and a licence is that of the base.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { parse, stringify } from 'yaml';
import { writeFileAtomic } from '../files.js';
import { parseHubId } from '../model/hub.js';
import { isFolder } from '../model/json-file.js';
import { optionsOf, readRunRecord } from './collect.js';
import type { Gains, ReportData } from './data.js';
import { count, interval, percent } from './describe.js';
import { type Fields, numberIn, textIn } from './run-files.js';

/** The line by which a card of this program's own making can be told from one that a person wrote or changed. */
const markPattern = /^<!-- written by cft-native ([0-9a-f]{16}) -->$/m;
const unmarked = '<!-- written by cft-native -->';

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16);

/** Puts the hash of the rest into the mark, so that a change by hand shows. */
const marked = (text: string): string =>
  text.replace(unmarked, () => unmarked.replace(' -->', ` ${hashOf(text)} -->`));

/** As it was written, by nobody's hand since. */
function isOwn(card: string): boolean {
  const hash = markPattern.exec(card)?.[1];
  return hash !== undefined && hashOf(card.replace(markPattern, unmarked)) === hash;
}

/** A hub id as the hub writes it; undefined for a local folder. */
function hubName(name: string | undefined): string | undefined {
  if (name === undefined || isAbsolute(name) || isFolder(name)) return undefined;
  return parseHubId(name)?.name;
}

/** The licence in the base model's own card, where its folder has one. */
function licenceOf(base: string | undefined): Fields {
  if (base === undefined) return {};
  const path = join(resolve(base), 'README.md');
  if (!existsSync(path)) return {};
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(readFileSync(path, 'utf8'))?.[1];
  if (front === undefined) return {};
  try {
    const fields = parse(front) as Fields | null;
    const known = ['license', 'license_name', 'license_link', 'language'] as const;
    return Object.fromEntries(
      known.flatMap((name) => (fields?.[name] === undefined ? [] : [[name, fields[name]]])),
    );
  } catch {
    return {};
  }
}

/** `model-index` of the hub: one result per set of questions. */
function modelIndex(name: string, strategy: string, gains: readonly Gains[]): Fields {
  const results = gains.flatMap(({ evaluatedOn, rows }) => {
    const greedy = rows.find((row) => row.name === `after ${strategy}`)?.greedy;
    if (greedy === undefined) return [];
    return [
      {
        task: { type: 'text-generation' },
        dataset: { name: evaluatedOn, type: evaluatedOn },
        metrics: [{ type: 'accuracy', name: 'greedy accuracy', value: Number(greedy.value.toFixed(4)) }],
      },
    ];
  });
  return results.length > 0 ? { 'model-index': [{ name, results }] } : {};
}

/** Without those on a share of given annotations, whose questions were chosen because their responses are right. */
const gainsWorthSaying = (options: Fields, gains: readonly Gains[]): readonly Gains[] =>
  textIn(options, 'annotations') === undefined || textIn(options, 'eval_data') !== undefined ? gains : [];

function metadata(record: Fields, data: ReportData, adapter: boolean): Fields {
  const options = optionsOf(record);
  const base = hubName(textIn(options, 'model'));
  const strategy = textIn(options, 'strategy') ?? 'cft';
  return {
    library_name: adapter ? 'peft' : 'transformers',
    pipeline_tag: 'text-generation',
    ...(base !== undefined && { base_model: base, base_model_relation: adapter ? 'adapter' : 'finetune' }),
    ...licenceOf(textIn(options, 'model')),
    tags: ['critical-token-fine-tuning', 'cft-native', strategy, ...(adapter ? ['lora'] : [])],
    ...modelIndex(
      base === undefined ? strategy : `${base.split('/')[1]}-${strategy}`,
      strategy,
      gainsWorthSaying(options, data.gains),
    ),
  };
}

/** In a table cell nothing may end the cell or the line. */
const cell = (text: string): string => text.replaceAll('|', '\\|').replace(/\s+/g, ' ');

function gainsText({ evaluatedOn, questions, samples, rows, comparisons }: Gains): string[] {
  const sampled = rows.some((row) => row.sampled);
  const shown = (accuracy: Gains['rows'][number]['greedy']): string =>
    accuracy ? `${percent(accuracy.value)} (${interval(accuracy.interval)})` : '';
  const head = [
    '',
    'greedy (95 % interval)',
    ...(sampled ? [`sampled × ${samples ?? '?'} (95 % interval)`] : []),
  ];
  return [
    `Accuracy on ${count(questions)} questions of ${cell(evaluatedOn)}:`,
    '',
    `| ${head.join(' | ')} |`,
    `|${head.map(() => ' --- ').join('|')}|`,
    ...rows.map(
      (row) =>
        `| ${[cell(row.name), shown(row.greedy), ...(sampled ? [shown(row.sampled)] : [])].join(' | ')} |`,
    ),
    '',
    ...comparisons.map(({ name, kind, text }) => `- ${name}, ${kind}: ${text}`),
    ...(comparisons.length > 0
      ? ['', 'Paired on the same questions; "no difference detected" is not "no difference".']
      : []),
    '',
  ];
}

function usage(base: string | undefined, adapter: boolean): string[] {
  const load = adapter
    ? [
        'from peft import AutoPeftModelForCausalLM',
        'from transformers import AutoTokenizer',
        '',
        'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")',
        `tokenizer = AutoTokenizer.from_pretrained(${JSON.stringify(base ?? 'path/to/the/base')})`,
      ]
    : [
        'from transformers import AutoModelForCausalLM, AutoTokenizer',
        '',
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
      ];
  return ['```python', ...load, '```', ''];
}

/** The card as text. @param record run.json. */
export function modelCard(record: Fields, data: ReportData, adapter: boolean): string {
  const options = optionsOf(record);
  const gains = gainsWorthSaying(options, data.gains);
  const strategy = textIn(options, 'strategy') ?? 'cft';
  const base = hubName(textIn(options, 'model'));
  const { sites, costs } = data;
  const selected =
    strategy === 'cft'
      ? 'only on the tokens that decide whether a solution is right: those where every alternative that was tried ' +
        'leads to a wrong answer'
      : `with the strategy \`${strategy}\``;
  const settings = [
    ['strategy', strategy],
    ['epochs', numberIn(options, 'epochs')],
    ['batch size', numberIn(options, 'batch_size')],
    ['learning rate', numberIn(options, 'learning_rate') ?? 'default'],
    ['LoRA rank', adapter ? numberIn(options, 'lora_rank') : undefined],
    ['seed', numberIn(record, 'seed')],
  ].filter(([, value]) => value !== undefined);
  const lines = [
    '---',
    stringify(metadata(record, data, adapter)).trimEnd(),
    '---',
    unmarked,
    '',
    `# ${base === undefined ? 'A model' : base} fine-tuned with Critical Token Fine-tuning`.replace(
      'Critical Token Fine-tuning',
      strategy === 'cft' ? 'Critical Token Fine-tuning' : strategy,
    ),
    '',
    `${adapter ? 'A LoRA adapter' : 'A model'}${base === undefined ? '' : ` of [${base}](https://huggingface.co/${base})`}, ` +
      `trained on its own correct responses, ${selected} (Ruan et al., arXiv 2510.10974). Made with ${data.generator}.`,
    '',
    ...(gains.length > 0 ? ['## Evaluation', '', ...gains.flatMap(gainsText)] : []),
    '## Training',
    '',
    ...(sites
      ? [
          `${count(sites.responses)} correct responses with ${count(sites.tokens)} tokens, ` +
            `${count(sites.critical)} of them critical (${percent(sites.critical / sites.tokens)}).`,
          '',
        ]
      : []),
    '| | |',
    '| --- | --- |',
    ...[...settings, ...costs.rows].map(
      ([name, value]) => `| ${cell(String(name))} | ${cell(String(value))} |`,
    ),
    '',
    '## Use',
    '',
    ...usage(base, adapter),
  ];
  return marked(lines.join('\n'));
}

/**
 * Writes the card into the model's folder; one that a person wrote or changed stays.
 * @returns its path; undefined where the run has no model or the card is somebody's own.
 */
export function writeModelCard(run: string, data: ReportData): string | undefined {
  const folder = join(run, 'model');
  const record = readRunRecord(run);
  if (record.command !== 'train' || !isFolder(folder)) return undefined;
  const path = join(folder, 'README.md');
  if (existsSync(path) && !isOwn(readFileSync(path, 'utf8'))) return undefined;
  writeFileAtomic(path, modelCard(record, data, existsSync(join(folder, 'adapter_config.json'))));
  return path;
}
