/**
 * What each technique of the annotation is worth: the same questions annotated with everything on and with one switch
 * after the other turned off, in turn. Prints a JSON object per variant: seconds per annotated response (p20, p50, p80),
 * and the ratio to everything on, repeat by repeat. The labels of all variants but --stop-at-answer are compared.
 *   npx tsx bench/gains.ts [--case embedded] [--model FOLDER] [--limit 24] [--repeats 7] [--dtype float32] [--output FILE]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { benchCase, type RealCase } from '../lib/bench/cases.js';
import type { CaseName } from '../lib/bench/names.js';
import { mostOtherCpu, watchOthers } from '../lib/bench/quiet.js';
import { spreadOf } from '../lib/bench/statistics.js';
import { type AnnotateOptions, annotate } from '../lib/counterfactual/annotate.js';
import { appendLines } from '../lib/files.js';
import { loadModel } from '../lib/model/load.js';
import type { Question } from '../lib/types.js';

const { values } = parseArgs({
  options: {
    case: { type: 'string', default: 'embedded' },
    model: { type: 'string' },
    limit: { type: 'string' },
    repeats: { type: 'string', default: '7' },
    dtype: { type: 'string', default: 'float32' },
    device: { type: 'string', default: 'auto' },
    output: { type: 'string' },
  },
});

function realCase(name: string): RealCase {
  const given = benchCase(name as CaseName);
  if (given.kind !== 'real') throw new TypeError(`--case ${name}: expected one with real responses`);
  return given;
}

const given = realCase(values.case);
const asked = await given.questions(Number(values.limit ?? given.limit));
await using model = await loadModel(values.model ?? given.model ?? 'embedded', {
  device: values.device,
  dtype: values.dtype as 'auto' | 'float32' | 'bfloat16',
});

interface Variant {
  name: string;
  options: Pick<AnnotateOptions, 'waves' | 'draft' | 'stopAtAnswer'>;
  /** A response after the other instead of all in one batch. */
  oneByOne?: boolean;
  otherLabels?: boolean;
}

const variants: readonly Variant[] = [
  { name: 'everything on', options: {} },
  { name: 'without waves', options: { waves: false } },
  { name: 'without drafts', options: { draft: false } },
  { name: 'one response at a time', options: {}, oneByOne: true },
  { name: 'one response at a time, without drafts', options: { draft: false }, oneByOne: true },
  { name: 'nothing of these', options: { waves: false, draft: false }, oneByOne: true },
  { name: 'with --stop-at-answer', options: { stopAtAnswer: true }, otherLabels: true },
];

interface Outcome {
  seconds: number;
  responses: number;
  rollouts: number;
  decodedTokens: number;
  /** Of the first repeat: positions that are critical, as one text. */
  labels: string;
  /** Of the annotated responses. */
  ids: string[];
}

async function once(chosen: readonly Question[], options: Variant['options']): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'cft-gains-'));
  try {
    const start = performance.now();
    const { summary, annotations } = await annotate({
      ...options,
      ...given.prompting,
      model,
      data: [...chosen],
      maxNewTokens: given.trunkTokens,
      output: join(folder, 'run'),
    });
    const seconds = (performance.now() - start) / 1000;
    const labels = annotations.map(({ id, critical_mask }) => `${id} ${critical_mask?.join('')}`).join('\n');
    const { correct: responses, rollouts, decodedTokens } = summary;
    const ids = annotations.map(({ id }) => id);
    return { seconds, responses, rollouts, decodedTokens, labels, ids };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure({ options, oneByOne }: Variant, questions: readonly Question[]): Promise<Outcome> {
  if (!oneByOne) return once(questions, options);
  const parts: Outcome[] = [];
  for (const question of questions) parts.push(await once([question], options));
  const sum = (of: (part: Outcome) => number): number => parts.reduce((total, part) => total + of(part), 0);
  return {
    seconds: sum(({ seconds }) => seconds),
    responses: sum(({ responses }) => responses),
    rollouts: sum(({ rollouts }) => rollouts),
    decodedTokens: sum(({ decodedTokens }) => decodedTokens),
    ids: parts.flatMap(({ ids }) => ids),
    labels: parts
      .map(({ labels }) => labels)
      .filter((labels) => labels !== '')
      .join('\n'),
  };
}

// Also warms up. A response that is wrong is not annotated, and one alone would be an error.
const correct = new Set((await once(asked, {})).ids);
const questions = asked.filter(({ id }) => correct.has(id));
const outcomes: Outcome[][] = variants.map(() => []);
const voids = variants.map(() => 0);
for (let round = 0; round < Number(values.repeats); round++) {
  for (const [i, variant] of variants.entries()) {
    const watched = watchOthers([process.pid]);
    outcomes[i]!.push(await measure(variant, questions));
    const { otherCpu } = watched();
    if (otherCpu !== undefined && otherCpu > mostOtherCpu) voids[i]!++;
  }
}
const base = outcomes[0]!;
for (const [i, { name, otherLabels }] of variants.entries()) {
  const own = outcomes[i]!;
  const [first] = own as [Outcome];
  const sameLabels = first.labels === base[0]!.labels;
  if (!otherLabels && !sameLabels) process.exitCode = 1;
  const row = {
    bench: 'gains',
    case: values.case,
    variant: name,
    seconds_per_response: spreadOf(own.map(({ seconds, responses }) => seconds / responses)),
    times_everything_on: spreadOf(
      own.map(({ seconds, responses }, r) => seconds / responses / (base[r]!.seconds / base[r]!.responses)),
    ),
    responses: first.responses,
    rollouts: first.rollouts,
    decoded_tokens: first.decodedTokens,
    same_labels: sameLabels,
    repeats: own.length,
    disturbed_repeats: voids[i],
    dtype: model.dtype,
    device: model.device,
    device_name: cpus()[0]?.model.trim(),
    cores: availableParallelism(),
    threads: model.addon.info().threads,
    libtorch: model.addon.info().libtorch,
    date: new Date().toISOString(),
  };
  console.log(JSON.stringify(row));
  if (values.output) appendLines(values.output, [JSON.stringify(row)]);
}
