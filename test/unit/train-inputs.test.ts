import test from 'ava';
import { embeddedPreset } from '../../lib/preset.js';
import { strategies } from '../../lib/strategies/index.js';
import { loraOptions } from '../../lib/train/adapter.js';
import { toExample } from '../../lib/train/examples.js';
import { makeValidation } from '../../lib/train/held-out.js';
import { readTrainData, resolveTrainInputs, type TrainOptions } from '../../lib/train/inputs.js';
import { splitHeldOut } from '../../lib/train/pipeline.js';
import { makeAnnotations } from '../helpers/annotation-file.js';

const preset = embeddedPreset('train');

test('without anything it is the embedded run: its questions, its settings, SFT beside CFT', (t) => {
  const { options, data, evalData } = resolveTrainInputs({});
  t.is(options.model, 'embedded');
  t.is(options.learningRate, preset.learningRate as number);
  t.is(options.baseline, 'sft');
  t.true(options.evalSamples > 0);
  t.regex(String(data), /models\/embedded\/questions\/train\.jsonl$/);
  t.regex(String(evalData), /models\/embedded\/questions\/test\.jsonl$/);
});

test('what is given beats the preset', (t) => {
  const { options } = resolveTrainInputs({ learningRate: 0.5, baseline: 'none', limit: 3 });
  t.is(options.learningRate, 0.5);
  t.is(options.baseline, 'none');
  t.is(options.limit, 3);
  t.is(options.userTemplate, preset.userTemplate as string);
});

test('with data or annotations of your own the embedded model keeps its rate, not its questions', (t) => {
  for (const given of [{ data: 'q.jsonl' }, { annotations: makeAnnotations(2) }]) {
    const { options, evalData } = resolveTrainInputs(given);
    t.is(options.learningRate, preset.learningRate as number);
    t.is(evalData, undefined);
    t.is(options.baseline, undefined);
    t.is(options.limit, undefined);
    t.is(options.evalSamples, 0);
  }
});

test('another model has the defaults of the table and needs questions', (t) => {
  t.throws(() => resolveTrainInputs({ model: 'org/name' }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /data \(--data\): expected a file of questions/,
  });
  const { options } = resolveTrainInputs({ model: 'org/name', data: 'q.jsonl' });
  t.is(options.learningRate, undefined);
  t.is(options.maxNewTokens, 2048);
});

test('questions, records and verifiers in memory go by a name in the options', (t) => {
  const verifier = (): boolean => true;
  const inputs = resolveTrainInputs({ data: [{ question: 'q', answer: 1 }], verifier });
  t.is(inputs.options.data, '(in memory)');
  t.is(inputs.options.verifier, '(in memory)');
  t.is(inputs.verifier, verifier);
});

test('a share for validation is kept out of training, of questions and of annotations', async (t) => {
  const questions = Array.from({ length: 20 }, (_, i) => ({ question: `q${i}`, answer: i }));
  const fromQuestions = await readTrainData(resolveTrainInputs({ data: questions, validation: 0.2 }), 96);
  t.is(fromQuestions.questions.length, 20, 'those for validation are annotated too');
  t.deepEqual(
    [...fromQuestions.heldOut],
    fromQuestions.evalQuestions.map(({ id }) => id),
  );
  t.is(fromQuestions.heldOut.size, 4);
  const annotations = makeAnnotations(20);
  const split = splitHeldOut(annotations, { heldOut: new Set(['3', '7']), validationRecords: [] });
  t.deepEqual(
    split.validation.map(({ id }) => id),
    ['3', '7'],
  );
  t.is(split.training.length, 18);
  const fromRecords = await readTrainData(resolveTrainInputs({ annotations, validation: 0.2 }), 96);
  t.is(fromRecords.records!.length, 16);
  t.is(fromRecords.validationRecords.length, 4);
  const trained = new Set(fromRecords.records!.map(({ id }) => id));
  t.is(fromRecords.evalQuestions.length, 4);
  for (const { id } of fromRecords.evalQuestions) t.false(trained.has(id));
  const all = await readTrainData(resolveTrainInputs({ annotations }), 96);
  t.is(all.records!.length, 20);
  t.is(all.evalQuestions.length, 0);
});

test('records without their question are good for a validation loss, not for an evaluation', async (t) => {
  const annotations = makeAnnotations(10).map(({ question: _, answer: __, ...record }) => record);
  const data = await readTrainData(resolveTrainInputs({ annotations, validation: 0.3 }), 96);
  t.is(data.validationRecords.length, 3);
  t.is(data.evalQuestions.length, 0);
});

test('records for validation may be given; all others are trained on', async (t) => {
  const [annotations, validationAnnotations] = [makeAnnotations(6), makeAnnotations(3)];
  const data = await readTrainData(resolveTrainInputs({ annotations, validationAnnotations }), 96);
  t.is(data.records!.length, 6);
  t.is(data.validationRecords.length, 3);
  t.is(data.evalQuestions.length, 0);
  await t.throwsAsync(readTrainData(resolveTrainInputs({ annotations, validationAnnotations }), 20), {
    code: 'ERR_CFT_BAD_DATA',
    message: /expected a token id/,
  });
});

test('a loss on held-out responses needs one with a token of the strategy where it decides', (t) => {
  const records = makeAnnotations(3);
  const options = (more: TrainOptions) =>
    resolveTrainInputs({ annotations: records, validation: 0.3, ...more }).options;
  // The third record has no critical token.
  const make = (more: TrainOptions) => makeValidation(records.slice(2), 'cft', 128, 'a.jsonl', options(more));
  t.is(make({}), undefined);
  t.throws(() => make({ saveBest: true }), {
    code: 'ERR_CFT_NO_SIGNAL',
    message: /a\.jsonl: not one of 1 held-out responses has a token of cft.*--save-best/,
  });
  t.throws(() => make({ earlyStoppingPatience: 2 }), { code: 'ERR_CFT_NO_SIGNAL' });
  t.is(makeValidation(records, 'cft', 128, 'a.jsonl', options({ saveBest: true }))!.length, 3);
});

test('an evaluation alone is of the test questions, all of them', (t) => {
  const { data, limit } = embeddedPreset('eval');
  t.regex(String(data), /questions\/test\.jsonl$/);
  t.is(limit, undefined);
  t.regex(String(embeddedPreset('annotate').data), /questions\/train\.jsonl$/);
});

test('options of annotation beside annotations are refused by name', (t) => {
  const annotations = makeAnnotations(3);
  t.throws(() => resolveTrainInputs({ annotations, k: 4 }), {
    code: 'ERR_CFT_BAD_OPTION',
    message: 'k (--k): expected none beside annotations, which are made already, found 4',
  });
  t.throws(() => resolveTrainInputs({ annotations, waves: false }), { message: /^waves \(.*found false$/ });
  t.notThrows(() => resolveTrainInputs({ annotations, k: undefined }));
});

const vain: [TrainOptions, RegExp][] = [
  [
    { validation: 0.1, validationAnnotations: 'v.jsonl' },
    /^validation \(--validation\): expected none beside validationAnnotations/,
  ],
  [{ warmup: 0.2, warmupSteps: 5 }, /^warmup \(--warmup\): expected none beside warmupSteps/],
  [{ saveBest: true }, /^saveBest \(--save-best\): expected held-out responses beside it: validation/],
  [{ earlyStoppingPatience: 1 }, /^earlyStoppingPatience \(--early-stopping-patience\): expected held-out/],
  [{ probeEvery: 5 }, /^probeEvery \(--probe-every\): expected held-out/],
  [{ baseline: 'cft' }, /^baseline \(--baseline\): expected another strategy than cft/],
  [{ strategy: 'sft', baseline: 'sft' }, /^baseline \(--baseline\): expected another strategy than sft/],
  [{ loraAlpha: 8 }, /^loraAlpha \(--lora-alpha\): expected loraRank \(--lora-rank\) above 0 beside it/],
  [{ loraDropout: 0.1, loraRank: 0 }, /^loraDropout \(--lora-dropout\): expected loraRank/],
  [{ loraRankStabilized: true }, /^loraRankStabilized \(--lora-rank-stabilized\): expected loraRank/],
  [{ loraMerge: true }, /^loraMerge \(--lora-merge\): expected loraRank/],
  [{ loraTargets: ['q_proj'] }, /^loraTargets \(--lora-targets\): expected loraRank/],
];
for (const [given, message] of vain) {
  test(`refused: what would have no effect, ${JSON.stringify(given)}`, (t) => {
    t.throws(() => resolveTrainInputs({ data: 'q.jsonl', ...given }), {
      code: 'ERR_CFT_BAD_OPTION',
      message,
    });
  });
}

test('a share for validation takes the place of the embedded test questions', (t) => {
  t.is(resolveTrainInputs({ validation: 0.1 }).evalData, undefined);
  t.is(resolveTrainInputs({ strategy: 'sft' }).options.baseline, 'sft', "the preset is nobody's mistake");
});

test('no strategy trains more than all tokens', (t) => {
  const record = { ...makeAnnotations(1)[0]!, end_token_id: 2 };
  const { selected, responseTokens } = toExample(record, strategies.sft, 128, 'a.jsonl');
  t.is(selected.length, record.response_token_ids.length + 1);
  t.is(responseTokens, selected.length);
});

test('all linear layers and more: each target once, and none that is unknown', (t) => {
  const targets = (loraTargets: string[]) =>
    loraOptions(resolveTrainInputs({ data: 'q.jsonl', loraRank: 2, loraTargets }).options)!.targets;
  const all = targets(['all-linear']);
  t.is(all.length, 7);
  t.deepEqual(targets(['all-linear', 'lm_head', 'q_proj']), [...all, 'lm_head']);
  t.throws(() => targets(['all-linear', 'wq']), {
    code: 'ERR_CFT_BAD_OPTION',
    message: /expected all-linear or some of q_proj, .*lm_head, found "wq"/,
  });
});

test('LoRA as asked for: targets by name or all linear layers, alpha twice the rank, rsLoRA by choice', (t) => {
  const lora = (more: TrainOptions) =>
    loraOptions(resolveTrainInputs({ model: 'org/name', data: 'q.jsonl', ...more }).options);
  t.is(lora({}), undefined);
  t.deepEqual(lora({ loraRank: 8 }), {
    rank: 8,
    alpha: 16,
    dropout: 0,
    targets: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    rankStabilized: false,
  });
  t.deepEqual(
    lora({
      loraRank: 4,
      loraAlpha: 3,
      loraDropout: 0.1,
      loraTargets: ['v_proj', 'q_proj'],
      loraRankStabilized: true,
    }),
    { rank: 4, alpha: 3, dropout: 0.1, targets: ['v_proj', 'q_proj'], rankStabilized: true },
  );
});
