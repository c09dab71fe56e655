/**
 * Bad input of every kind: one clear message that names the place, what was expected and what was found; the right
 * exit status; no stack trace; and nothing that was there before is lost.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { makeAnnotations, writeAnnotations } from '../helpers/annotation-file.js';
import { type CliResult, runCli } from '../helpers/cli.js';
import { copyOfFixture, editJson, fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const tinyModel = fixturePath('models/qwen2');
const question = { question: 'What is 1 + 1?', answer: '2' };

/** What every refusal and failure has in common. */
function checkMessage(t: ExecutionContext, result: CliResult, status: number, message: RegExp): void {
  t.is(result.status, status, result.stderr);
  t.regex(result.stderr, message);
  t.notRegex(result.stderr, /\n\s+at .+:\d+|node:internal|Unhandled|\[object /, 'a stack trace');
  const lines = result.stderr.split('\n').filter((line) => /^cft-native\b/.test(line));
  t.is(lines.length, 1, `expected one message, found:\n${result.stderr}`);
}

interface Case {
  args: (folder: string, t: ExecutionContext) => string[];
  /** 2 where nothing is said: refused before any work. */
  status?: number;
  message: RegExp;
}

const file = (folder: string, name: string, content: string | Buffer): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
const trainOn = (folder: string, data: string): string[] => [
  ...['train', '--model', tinyModel, '--data', data, '--output', join(folder, 'run')],
  ...['--max-new-tokens', '4', '--user-template', '{question}', '--system', ''],
];
const trainWith = (folder: string, annotations: string, ...more: string[]): string[] => [
  ...['train', '--model', tinyModel, '--annotations', annotations, '--output', join(folder, 'run'), ...more],
];
const withData =
  (name: string, content: string | Buffer): Case['args'] =>
  (folder) =>
    trainOn(folder, file(folder, name, content));
const withAnnotations =
  (edit: (record: Record<string, unknown>) => void, ...more: string[]): Case['args'] =>
  (folder) => {
    const records = makeAnnotations(4) as unknown as Record<string, unknown>[];
    edit(records[1]!);
    return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), records), ...more);
  };
const withModel =
  (damage: (model: string) => void): Case['args'] =>
  (folder, t) => {
    const model = copyOfFixture(t, 'models/qwen2');
    damage(model);
    const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(4));
    return ['train', '--model', model, '--annotations', annotations, '--output', join(folder, 'run')];
  };

/** Rewrites the header of a safetensors file; the data stays. */
function editHeader(model: string, edit: (header: Record<string, { data_offsets: number[] }>) => void): void {
  const path = join(model, 'model.safetensors');
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  edit(header);
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([prefix, text, bytes.subarray(8 + length)]));
}

const cases: Record<string, Case> = {
  'no command': { args: () => [], message: /expected a command, found none/ },
  'an unknown command': { args: () => ['trian'], message: /unknown command "trian"; did you mean train\?/ },
  'an unknown flag': {
    args: () => ['train', '--learning-rte', '1'],
    message: /unknown flag --learning-rte for train; did you mean --learning-rate\?/,
  },
  'an unknown strategy': {
    args: () => ['train', '--strategy', 'cfd'],
    message: /strategy \(--strategy\): expected one of cft, sft, found "cfd"/,
  },
  'a negative learning rate': {
    args: () => ['train', '--learning-rate', '-1'],
    message: /learningRate \(--learning-rate\): expected a number above 0 .*, found -1/,
  },
  'a number that is none': {
    args: () => ['annotate', '--limit', 'abc'],
    message: /limit \(--limit\): expected an integer of at least 1, found "abc"/,
  },
  'a rule that the waves leave without verdicts': {
    args: () => ['train', '--rule', 'any'],
    message: /rule \(--rule\): "any" needs the verdict of every alternative/,
  },
  'greedy samples': {
    args: () => ['eval', '--samples', '4'],
    message: /samples \(--samples\): expected 1 at/,
  },
  'resume without a folder': {
    args: () => ['train', '--resume'],
    message: /resume \(--resume\): expected the run folder as well \(--output\)/,
  },
  'no questions for a model of your own': {
    args: () => ['train', '--model', tinyModel],
    message: /data \(--data\): expected a file of questions/,
  },
  'a missing question file': {
    args: (folder) => trainOn(folder, join(folder, 'none.jsonl')),
    message: /none\.jsonl: there is no such file/,
  },
  'a broken line': {
    args: withData('q.jsonl', `${JSON.stringify(question)}\n{"question": "x", "ans\n{}\n`),
    message: /q\.jsonl:2: expected one JSON object, found a broken line/,
  },
  'a missing field': {
    args: withData('q.jsonl', '{"problem": "x", "answer": "1"}\n'),
    message: /q\.jsonl:1: field "question" is missing.* is it "problem"\? Then say --question-field problem/,
  },
  'an empty answer': {
    args: withData('q.jsonl', '{"question": "x", "answer": ""}\n'),
    message: /q\.jsonl:1: field "answer": expected text or a number, found empty text/,
  },
  'invalid UTF-8': {
    args: withData('q.jsonl', Buffer.from([0x7b, 0xff, 0xfe, 0x7d, 0x0a])),
    message: /q\.jsonl:1: expected UTF-8 text/,
  },
  'an empty file': {
    args: withData('q.jsonl', ''),
    message: /q\.jsonl: expected at least one question, found none/,
  },
  'evaluation questions that are missing are found before any work': {
    args: (folder) => [
      ...trainOn(folder, file(folder, 'q.jsonl', JSON.stringify(question))),
      ...['--eval-data', join(folder, 'none.jsonl')],
    ],
    message: /none\.jsonl: there is no such file/,
  },
  'a missing verifier': {
    args: (folder) => [
      ...trainOn(folder, file(folder, 'q.jsonl', JSON.stringify(question))),
      ...['--verifier', './none.js'],
    ],
    message: /none\.js/,
  },
  'stopping at the answer with a verifier that does not say when it is complete': {
    args: (folder) => [
      ...trainOn(folder, file(folder, 'q.jsonl', JSON.stringify(question))),
      ...['--verifier', 'exact', '--stop-at-answer'],
    ],
    message: /--stop-at-answer\): expected a verifier that says when an answer is complete, found exact/,
  },
  'not one correct response': {
    args: withData('q.jsonl', JSON.stringify(question)),
    status: 1,
    message: /not one of 1 responses is correct .*look at .*responses\.jsonl/,
  },
  'a missing annotation file': {
    args: (folder) => trainWith(folder, join(folder, 'none.jsonl')),
    message: /none\.jsonl: there is no such file/,
  },
  'questions beside annotations': {
    args: (folder) => trainWith(folder, join(folder, 'a.jsonl'), '--data', 'q.jsonl'),
    message: /data \(--data\): expected none beside annotations/,
  },
  'a mask longer than its response': {
    args: withAnnotations((record) => (record.critical_mask as number[]).push(1)),
    message: /a\.jsonl:2: field "critical_mask": expected .*13.*found .*14/,
  },
  'ids outside the vocabulary': {
    args: withAnnotations((record) => {
      (record.response_token_ids as number[])[3] = 96;
    }),
    message: /a\.jsonl:2: field "response_token_ids\[3\]": expected a token id .*found 96/,
  },
  'a sequence longer than the model': {
    args: withAnnotations((record) => {
      const long = new Array(130).fill(5);
      Object.assign(record, { response_token_ids: long, critical_mask: long.map(() => 1), logprobs: long });
    }),
    message: /a\.jsonl: annotation 2: expected at most 128 tokens .*found 135/,
  },
  'not one critical token': {
    args: (folder) => {
      const records = makeAnnotations(3).map((record) => ({
        ...record,
        critical_mask: record.critical_mask!.map(() => 0),
      }));
      return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), records));
    },
    message: /not one critical token in 3 annotated responses.*--strategy sft/,
  },
  'annotations of another model': {
    args: (folder) => {
      const meta = { format: 'cft-annotations/1', model: 'other', weights_sha256: 'a'.repeat(64) };
      file(folder, 'a.meta.json', JSON.stringify(meta));
      return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3)));
    },
    message: /a\.meta\.json: weights_sha256: .*made with the weights aaaaaaaaaaaa.*--force/,
  },
  'annotations of another tokenizer': {
    args: (folder) => {
      const meta = { format: 'cft-annotations/1', model: 'other', tokenizer_sha256: 'b'.repeat(64) };
      file(folder, 'a.meta.json', JSON.stringify(meta));
      return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3)));
    },
    message:
      /a\.meta\.json: tokenizer_sha256: .*made with the tokenizer bbbbbbbbbbbb.* has [0-9a-f]{12}.*--force/,
  },
  'held-out annotations of another model': {
    args: (folder) => {
      const meta = { format: 'cft-annotations/1', model: 'other', weights_sha256: 'a'.repeat(64) };
      file(folder, 'v.meta.json', JSON.stringify(meta));
      const held = writeAnnotations(join(folder, 'v.jsonl'), makeAnnotations(3));
      const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3));
      return trainWith(folder, annotations, '--validation-annotations', held);
    },
    message: /v\.meta\.json: weights_sha256: .*made with the weights aaaaaaaaaaaa/,
  },
  'a best model without anything to choose it by': {
    args: withAnnotations(() => {}, '--save-best'),
    message:
      /saveBest \(--save-best\): expected held-out responses beside it: validation \(--validation 0\.1\)/,
  },
  'a target that is no linear layer': {
    args: withAnnotations(() => {}, '--lora-rank', '2', '--lora-targets', 'q_proj,input_layernorm'),
    message: /loraTargets \(--lora-targets\): expected all-linear or some of .*found "input_layernorm"/,
  },
  'no held-out token to find the best model by': {
    args: (folder) => {
      const held = writeAnnotations(join(folder, 'v.jsonl'), makeAnnotations(3).slice(2));
      const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3));
      return trainWith(folder, annotations, '--validation-annotations', held, '--save-best');
    },
    message: /v\.jsonl: not one of 1 held-out responses has a token of cft/,
  },
  'LoRA on a head that is the embedding': {
    args: withAnnotations(() => {}, '--lora-rank', '2', '--lora-targets', 'q_proj,lm_head'),
    message:
      /loraTargets \(--lora-targets\): expected all-linear or some of q_proj.*found "lm_head", which is the embedding/,
  },
  'an unknown target beside all-linear': {
    args: withAnnotations(() => {}, '--lora-rank', '2', '--lora-targets', 'all-linear,embed_tokens'),
    message: /loraTargets \(--lora-targets\): expected all-linear or some of q_proj.*found "embed_tokens"/,
  },
  'LoRA on modules that do not exist': {
    args: withAnnotations(() => {}, '--lora-rank', '2', '--lora-targets', 'c_attn'),
    message: /loraTargets \(--lora-targets\): expected all-linear or some of q_proj.*found "c_attn"/,
  },
  'a missing model': {
    args: () => ['generate', 'x', '--model', './no-such-folder/model'],
    message: /no-such-folder\/model/,
  },
  'a folder without config.json': {
    args: withModel((model) => rmSync(join(model, 'config.json'))),
    message: /config\.json/,
  },
  'a truncated safetensors file': {
    args: withModel((model) => {
      const path = join(model, 'model.safetensors');
      writeFileSync(path, readFileSync(path).subarray(0, -100));
    }),
    message: /model\.safetensors: /,
  },
  'a header that is longer than its file': {
    args: withModel((model) => {
      const path = join(model, 'model.safetensors');
      const bytes = readFileSync(path);
      bytes.writeBigUInt64LE(2n ** 62n, 0);
      writeFileSync(path, bytes);
    }),
    message: /model\.safetensors: .*header of 4611686018427387904 bytes in a file of \d+ bytes/,
  },
  'tensors that overlap': {
    args: withModel((model) =>
      editHeader(model, (header) => {
        const names = Object.keys(header).filter((name) => name !== '__metadata__');
        const [first, second] = names.map((name) => header[name]!);
        const size = second!.data_offsets[1]! - second!.data_offsets[0]!;
        second!.data_offsets = [first!.data_offsets[0]!, first!.data_offsets[0]! + size];
      }),
    ),
    message: /model\.safetensors: /,
  },
  'negative offsets': {
    args: withModel((model) =>
      editHeader(model, (header) => {
        Object.values(header).find((entry) => entry.data_offsets)!.data_offsets = [-8, 0];
      }),
    ),
    message: /data_offsets/,
  },
  'a tensor of the wrong shape': {
    args: withModel((model) =>
      editJson(join(model, 'config.json'), (config) => {
        config.intermediate_size = 40;
      }),
    ),
    message: /mlp\.\w+_proj\.weight.*expected.*\[40, 32\].*found.*\[48, 32\]/,
  },
  'NaN weights': {
    args: withModel((model) => {
      const path = join(model, 'model.safetensors');
      const bytes = readFileSync(path);
      bytes.writeFloatLE(Number.NaN, bytes.length - 400);
      writeFileSync(path, bytes);
    }),
    message: /NaN/i,
  },
  'an unsupported feature': {
    args: withModel((model) =>
      editJson(join(model, 'config.json'), (config) => {
        config.hidden_act = 'gelu';
      }),
    ),
    message: /hidden_act/,
  },
  'a tokenizer whose ids exceed the vocabulary': {
    args: withModel((model) =>
      editJson(join(model, 'tokenizer.json'), (tokenizer) => {
        (tokenizer.model as { vocab: Record<string, number> }).vocab.zzzzz = 5000;
      }),
    ),
    message: /tokenizer\.json.*5000/,
  },
  'a folder that is not empty': {
    args: (folder) => {
      mkdirSync(join(folder, 'run'));
      file(folder, 'run/precious.txt', 'x');
      return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3)));
    },
    message: /run: expected an empty or missing folder, found precious\.txt/,
  },
  'a folder that cannot be made': {
    args: (folder) => {
      file(folder, 'run', 'a file');
      return trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3)));
    },
    message: /run: expected a folder, found a file/,
  },
  'a folder that cannot be written to': {
    args: (folder) => [
      ...trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3))).slice(0, -1),
      '/sys/cft-native-run',
    ],
    message: /\/sys\/cft-native-run: not writable/,
  },
  'resuming in a folder of another run': {
    args: (folder) => {
      mkdirSync(join(folder, 'run'));
      file(folder, 'run/precious.txt', 'x');
      return [
        ...trainWith(folder, writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3))),
        '--resume',
      ];
    },
    message: /expected a run folder \(with run\.json\) or an empty one, found precious\.txt/,
  },
  'an input line that is no JSON': { args: () => ['verify'], message: /standard input:1: expected one JSON/ },
  'an empty prompt': {
    args: () => ['generate'],
    message: /prompt \(--prompt\): expected a text, found none/,
  },
};

for (const [name, { args, status = 2, message }] of Object.entries(cases)) {
  test(name, async (t) => {
    t.timeout(120_000);
    const folder = temporaryFolder(t);
    const argv = args(folder, t);
    const input = argv[0] === 'verify' ? 'nonsense\n' : '';
    checkMessage(t, await runCli(argv, { input }), status, message);
    if (existsSync(join(folder, 'run/precious.txt')))
      t.is(readFileSync(join(folder, 'run/precious.txt'), 'utf8'), 'x');
    // Refused before any work: no folder is left behind.
    if (status === 2 && !/folder/.test(name)) t.false(existsSync(join(folder, 'run')), 'a folder is left');
  });
}

test('cuda where there is none is an error with the remedy, never a silent run on the CPU', async (t) => {
  t.timeout(120_000);
  if (existsSync('/dev/nvidia0')) {
    t.log('skipped: this machine has a GPU');
    t.pass();
    return;
  }
  const result = await runCli(['generate', 'x', '--model', tinyModel, '--device', 'cuda']);
  checkMessage(t, result, 2, /cuda/i);
  t.is(result.stdout, '');
});

test('annotations of another model are accepted with --force', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const meta = { format: 'cft-annotations/1', model: 'other', weights_sha256: 'a'.repeat(64) };
  file(folder, 'a.meta.json', JSON.stringify(meta));
  const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(3));
  const result = await runCli(trainWith(folder, annotations, '--force', '--epochs', '1'));
  t.is(result.status, 0, result.stderr);
});

test('responses and verdicts are kept where none is correct', async (t) => {
  t.timeout(120_000);
  const folder = temporaryFolder(t);
  const data = file(folder, 'q.jsonl', `${JSON.stringify(question)}\n${JSON.stringify(question)}\n`);
  const result = await runCli(trainOn(folder, data));
  t.is(result.status, 1, result.stderr);
  t.is(readFileSync(join(folder, 'run/responses.jsonl'), 'utf8').trimEnd().split('\n').length, 2);
  t.is(readJson<{ status: string }>(join(folder, 'run/run.json')).status, 'failed');
});

test('with CFT_DEBUG the stack trace is shown', async (t) => {
  t.timeout(120_000);
  const result = await runCli(['train', '--strategy', 'cfd'], { env: { CFT_DEBUG: '1' } });
  t.is(result.status, 2);
  t.regex(result.stderr, /\n\s+at .+:\d+/);
});

test('a full disk ends the run with a message and keeps the last checkpoint, from which it goes on', async (t) => {
  t.timeout(300_000);
  const folder = temporaryFolder(t);
  const disk = join(folder, 'disk');
  mkdirSync(disk);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2200k', 'tmpfs', disk], { stdio: 'pipe' });
  } catch {
    t.log('skipped: a small file system cannot be mounted here');
    t.pass();
    return;
  }
  try {
    const annotations = writeAnnotations(join(folder, 'a.jsonl'), makeAnnotations(8));
    const args = [
      ...['train', '--model', tinyModel, '--annotations', annotations, '--output', join(disk, 'run')],
      ...['--batch-size', '2', '--epochs', '3', '--checkpoint-every', '2'],
    ];
    // Room for one checkpoint, not for two; without it, for the report as well.
    writeFileSync(join(disk, 'ballast'), Buffer.alloc(1_724_000));
    const failed = await runCli(args);
    checkMessage(
      t,
      failed,
      1,
      /checkpoints.*no space left on device.*the last good checkpoint, .*step-\d+, is kept; go on with --resume/i,
    );
    t.true(existsSync(join(disk, 'run/checkpoints/step-2/state.json')));
    rmSync(join(disk, 'ballast'));
    const resumed = await runCli([...args, '--resume']);
    t.is(resumed.status, 0, resumed.stderr);
    t.regex(resumed.stderr, /continuing at step [246] of 12/);
    copyFileSync(join(disk, 'run/model/model.safetensors'), join(folder, 'resumed.safetensors'));
  } finally {
    execFileSync('umount', [disk]);
  }
  const annotations = join(folder, 'a.jsonl');
  const undisturbed = await runCli([
    ...['train', '--model', tinyModel, '--annotations', annotations, '--output', join(folder, 'run')],
    ...['--batch-size', '2', '--epochs', '3', '--checkpoint-every', '2'],
  ]);
  t.is(undisturbed.status, 0, undisturbed.stderr);
  t.deepEqual(
    readFileSync(join(folder, 'resumed.safetensors')),
    readFileSync(join(folder, 'run/model/model.safetensors')),
  );
});

test('a verifier that never answers does not make an unfinished run look done', async (t) => {
  const folder = temporaryFolder(t);
  const verifier = join(folder, 'verifier.mjs');
  writeFileSync(verifier, 'export default () => new Promise(() => {});\n');
  const output = join(folder, 'run');
  const result = await runCli(['annotate', '--limit', '2', '--verifier', verifier, '--output', output]);
  checkMessage(t, result, 1, /the work has not ended.*a promise that never settles/);
  t.false(existsSync(join(output, 'annotations.jsonl')));
});
