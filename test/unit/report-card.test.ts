/** The model card, and result.json that it and the report read. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { parse } from 'yaml';
import { RunReader } from '../../lib/report/collect.js';
import { modelCard, writeModelCard } from '../../lib/report/model-card.js';
import { readResult, writeResult } from '../../lib/train/result.js';
import { temporaryFolder } from '../helpers/fixtures.js';
import { attack, embeddedTokenizer, makeRun, runRecord } from '../helpers/report-run.js';

const front = (card: string): Record<string, unknown> =>
  parse(/^---\n([\s\S]*?)\n---\n/.exec(card)![1]!) as Record<string, unknown>;

const readData = (folder: string) => new RunReader(folder, { tokenizer: embeddedTokenizer }).read();

test('the card of a hub model names base, library, pipeline and results', async (t) => {
  const folder = makeRun(t);
  const options = { model: 'Qwen/Qwen2.5-0.5B', strategy: 'cft', lora_rank: 8, epochs: 3 };
  const card = modelCard(runRecord({ options }), await readData(folder), true);
  t.deepEqual(front(card), {
    library_name: 'peft',
    pipeline_tag: 'text-generation',
    base_model: 'Qwen/Qwen2.5-0.5B',
    base_model_relation: 'adapter',
    tags: ['critical-token-fine-tuning', 'cft-native', 'cft', 'lora'],
    'model-index': [
      {
        name: 'Qwen2.5-0.5B-cft',
        results: [
          {
            task: { type: 'text-generation' },
            dataset: { name: 'test', type: 'test' },
            metrics: [{ type: 'accuracy', name: 'greedy accuracy', value: 0.7 }],
          },
        ],
      },
    ],
  });
  t.regex(card, /\| after cft \| 70\.0 % \(66\.0 % to 74\.0 %\) \| 45\.0 %/);
  t.regex(card, /AutoPeftModelForCausalLM/);
  t.regex(card, /\| LoRA rank \| 8 \|/);
});

test('an accuracy on held-out questions of given annotations is not in the card', async (t) => {
  const options = { model: 'a/b', strategy: 'cft', annotations: 'a.jsonl', validation: 0.1 };
  const data = await readData(makeRun(t));
  const card = modelCard(runRecord({ options }), data, false);
  t.is(front(card)['model-index'], undefined);
  t.notRegex(card, /## Evaluation/);
  const evaluated = modelCard(runRecord({ options: { ...options, eval_data: 'test.jsonl' } }), data, false);
  t.regex(evaluated, /## Evaluation/);
});

test('a local base is not named, its licence is taken over, and names cannot break the table', async (t) => {
  const base = join(temporaryFolder(t), 'base');
  mkdirSync(base);
  writeFileSync(join(base, 'README.md'), '---\nlicense: mit\nlanguage: [en]\nother: 1\n---\ntext');
  const data = await readData(makeRun(t));
  data.gains[0]!.evaluatedOn = `a|b\n${attack}`;
  const card = modelCard(runRecord({ options: { model: base, strategy: 'cft' } }), data, false);
  const fields = front(card);
  t.is(fields.base_model, undefined);
  t.is(fields.license, 'mit');
  t.deepEqual(fields.language, ['en']);
  t.is(fields.other, undefined);
  t.is(fields.library_name, 'transformers');
  t.false(card.includes(base));
  t.regex(card, /questions of a\\\|b /);
});

test('the card is written into the model folder, and one that a person wrote stays', async (t) => {
  const folder = makeRun(t);
  const data = await readData(folder);
  const path = join(folder, 'model/README.md');
  t.is(writeModelCard(folder, data), path);
  t.is(writeModelCard(folder, data), path, 'its own is replaced');
  const written = readFileSync(path, 'utf8');
  t.regex(written, /^<!-- written by cft-native [0-9a-f]{16} -->$/m);
  const changed = written.replace('## Use', '## How to use it');
  t.not(changed, written);
  writeFileSync(path, changed);
  t.is(writeModelCard(folder, data), undefined, 'changed by hand below the mark');
  t.is(readFileSync(path, 'utf8'), changed);
  writeFileSync(path, 'mine');
  t.is(writeModelCard(folder, data), undefined);
  t.is(readFileSync(path, 'utf8'), 'mine');
  const plain = temporaryFolder(t);
  writeFileSync(join(plain, 'run.json'), JSON.stringify(runRecord({ command: 'annotate' })));
  t.is(writeModelCard(plain, data), undefined);
  t.false(existsSync(join(plain, 'model')));
});

test('result.json is in snake_case and reads back as it was', (t) => {
  const folder = makeRun(t);
  const result = readResult(join(folder, 'result.json'))!;
  t.is(result.trained.change?.greedy.differenceCi95.length, 2);
  const path = join(temporaryFolder(t), 'result.json');
  t.is(readResult(path), undefined);
  writeResult(path, result);
  t.deepEqual(readResult(path), result);
  t.regex(readFileSync(path, 'utf8'), /"against_baseline"/);
});
