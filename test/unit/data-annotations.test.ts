import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { annotationsMetaPath, readAnnotations, readAnnotationsMeta } from '../../lib/data/annotations.js';
import { splitValidation } from '../../lib/data/split.js';
import { CftError } from '../../lib/errors.js';
import { temporaryFolder } from '../helpers/fixtures.js';

const record = {
  id: '7',
  question: 'Q',
  answer: '8',
  response: 'R',
  prompt_token_ids: [1, 2],
  response_token_ids: [5, 9, 4],
  end_token_id: 2,
  logprobs: [-0.1, -0.4, -0.02],
  critical_mask: [0, 1, 0],
  alternatives: [
    { position: 0, rank: 2, token_id: 77, logprob: -1.9, verdict: 'correct', extracted: '8' },
    { position: 1, rank: 2, token_id: 12, logprob: -4, verdict: 'incorrect' },
    { position: 1, rank: 3, token_id: 31, logprob: -6.2, verdict: 'truncated', continuation: ' or' },
  ],
  rollouts: 3,
};

test('the record of the file format is read as it is, from a file and from memory', async (t) => {
  const path = join(temporaryFolder(t), 'annotations.jsonl');
  writeFileSync(path, `${JSON.stringify(record)}\n${JSON.stringify({ ...record, id: '8' })}\n`);
  t.deepEqual(await readAnnotations(path, { vocabSize: 78 }), [record, { ...record, id: '8' }] as never);
  t.deepEqual(await readAnnotations([record]), [record] as never);
});

test('a record of another tool needs token ids and weights; the rest is filled', async (t) => {
  const [read] = await readAnnotations([
    { prompt_token_ids: [1], response_token_ids: [5, 9], token_weights: [0, 0.5] },
  ]);
  t.deepEqual(read, {
    id: '1',
    question: '',
    answer: '',
    response: '',
    prompt_token_ids: [1],
    response_token_ids: [5, 9],
    end_token_id: -1,
    logprobs: [],
    token_weights: [0, 0.5],
    alternatives: [],
    rollouts: 0,
  });
});

test('one more weight is for the end token, where there is one', async (t) => {
  const own = { prompt_token_ids: [1], response_token_ids: [5, 9], token_weights: [0, 0.5, 1] };
  const [read] = await readAnnotations([{ ...own, end_token_id: 2 }]);
  t.deepEqual(read?.token_weights, [0, 0.5, 1]);
  const error = await t.throwsAsync(readAnnotations([own]), { instanceOf: CftError });
  t.true(error?.message.includes('"end_token_id": expected an id, since token_weights'), error?.message);
});

/** [what is wrong, the change, parts of the message] */
const broken: [string, object, string[]][] = [
  [
    'a mask of another length',
    { critical_mask: [0, 1] },
    ['"critical_mask"', 'expected 3 values', 'found 2'],
  ],
  ['a mask value', { critical_mask: [0, 2, 0] }, ['"critical_mask[1]"', '0 or 1', '2 (number)']],
  ['no mask', { critical_mask: undefined }, ['"critical_mask" and "token_weights"', 'neither']],
  ['both', { token_weights: [0, 1, 0] }, ['"critical_mask" and "token_weights"', 'found both']],
  [
    'a negative weight',
    { critical_mask: undefined, token_weights: [0, -1, 0] },
    ['"token_weights[1]"', '-1 (number)'],
  ],
  [
    'a weight beyond float32',
    { critical_mask: undefined, token_weights: [0, 1e40, 0] },
    ['"token_weights[1]"', 'a weight of 0, or from 1e-38 to 1000000', '1e+40 (number)'],
  ],
  [
    'a weight that vanishes in float32',
    { critical_mask: undefined, token_weights: [0, 1e-60, 0] },
    ['"token_weights[1]"', '1e-60 (number)'],
  ],
  [
    'a weight that is no number',
    { critical_mask: undefined, token_weights: [0, Number.NaN, 0] },
    ['"token_weights[1]"', 'NaN'],
  ],
  [
    'an infinite weight',
    { critical_mask: undefined, token_weights: [Infinity, 0, 0] },
    ['"token_weights[0]"'],
  ],
  [
    'too many weights',
    { critical_mask: undefined, token_weights: [0, 0, 0, 0, 0] },
    ['expected 3 or 4 values'],
  ],
  [
    'a token id past the vocabulary',
    { response_token_ids: [5, 78, 4] },
    ['"response_token_ids[1]"', '0 to 77', '78'],
  ],
  ['a negative token id', { prompt_token_ids: [1, -2] }, ['"prompt_token_ids[1]"', '-2 (number)']],
  ['a fractional token id', { prompt_token_ids: [1.5, 2] }, ['"prompt_token_ids[0]"', '1.5 (number)']],
  ['text for token ids', { prompt_token_ids: 'abc' }, ['"prompt_token_ids"', 'a list', '"abc"']],
  ['no prompt', { prompt_token_ids: [] }, ['"prompt_token_ids"', 'at least one token id']],
  ['no response', { response_token_ids: undefined }, ['"response_token_ids"', 'found nothing']],
  ['an end token past the vocabulary', { end_token_id: 100 }, ['"end_token_id"', '100 (number)']],
  ['log-probabilities of another length', { logprobs: [-1] }, ['"logprobs"', 'expected 3 values', 'found 1']],
  ['a log-probability of null', { logprobs: [-1, null, -2] }, ['"logprobs[1]"', 'found null']],
  ['an id of null text', { id: '' }, ['"id"', 'empty text']],
  ['negative rollouts', { rollouts: -1 }, ['"rollouts"', '-1 (number)']],
  [
    'an alternative past the end',
    { alternatives: [{ ...record.alternatives[0], position: 3 }] },
    ['alternatives[0].position', '0 to 2'],
  ],
  [
    'an alternative that is the token itself',
    { alternatives: [{ ...record.alternatives[0], token_id: 5 }] },
    ['alternatives[0].token_id', 'position 0'],
  ],
  [
    'an alternative of rank 1',
    { alternatives: [{ ...record.alternatives[0], rank: 1 }] },
    ['alternatives[0].rank'],
  ],
  [
    'an unknown verdict',
    { alternatives: [{ ...record.alternatives[0], verdict: 'yes' }] },
    ['alternatives[0].verdict', 'correct, incorrect, truncated', '"yes"'],
  ],
];

for (const [name, change, parts] of broken) {
  test(`refused: ${name}`, async (t) => {
    const changed = { ...record, ...change };
    const error = await t.throwsAsync(readAnnotations([record, changed], { vocabSize: 78 }), {
      instanceOf: CftError,
    });
    t.is(error?.code, 'ERR_CFT_BAD_DATA');
    for (const part of ['item 2', ...parts])
      t.true(error?.message.includes(part), `"${error?.message}": "${part}"`);
  });
}

test('a broken line, an empty file and an absent file', async (t) => {
  const path = join(temporaryFolder(t), 'annotations.jsonl');
  writeFileSync(path, `${JSON.stringify(record)}\n${JSON.stringify({ ...record, critical_mask: [1] })}\n`);
  const wrong = await t.throwsAsync(readAnnotations(path), { instanceOf: CftError });
  t.true(wrong?.message.startsWith(`${path}:2: field "critical_mask"`), wrong?.message);
  writeFileSync(path, '');
  const empty = await t.throwsAsync(readAnnotations(path), { instanceOf: CftError });
  t.true(empty?.message.includes('at least one record'));
  const absent = await t.throwsAsync(readAnnotations(`${path}.absent`), { instanceOf: CftError });
  t.true(absent?.message.includes('no such file'));
});

test('the meta file beside the annotations is optional, but what it says must have sense', async (t) => {
  const path = join(temporaryFolder(t), 'annotations.jsonl');
  const metaPath = annotationsMetaPath(path);
  t.is(metaPath, path.replace('annotations.jsonl', 'annotations.meta.json'));
  t.is(await readAnnotationsMeta(path), undefined);
  const meta = { format: 'cft-annotations/1', weights_sha256: 'ab', complete: true };
  writeFileSync(metaPath, JSON.stringify(meta));
  t.deepEqual(await readAnnotationsMeta(path), meta as never);
  for (const [content, part] of [
    ['{', 'broken file'],
    ['[]', 'expected an object'],
    ['{"format":"cft-annotations/2"}', '"cft-annotations/2"'],
    ['{"format":"cft-annotations/1","weights_sha256":5}', '"weights_sha256"'],
    ['{"format":"cft-annotations/1","complete":"yes"}', '"complete"'],
  ] as const) {
    writeFileSync(metaPath, content);
    const error = await t.throwsAsync(readAnnotationsMeta(path), { instanceOf: CftError });
    t.true(error?.message.startsWith(metaPath) && error.message.includes(part), error?.message);
  }
});

test('the validation split depends on seed and ids alone', (t) => {
  const items = Array.from({ length: 200 }, (_, i) => ({ id: String(i) }));
  const ids = (list: readonly { id: string }[]) => list.map(({ id }) => id).sort();
  const { training, validation } = splitValidation(items, 0.1, 1);
  t.is(validation.length, 20);
  t.deepEqual(ids([...training, ...validation]), ids(items));
  t.deepEqual(
    validation.map(({ id }) => Number(id)),
    validation.map(({ id }) => Number(id)).sort((a, b) => a - b),
  );
  t.deepEqual(ids(splitValidation(items.toReversed(), 0.1, 1).validation), ids(validation));
  t.notDeepEqual(ids(splitValidation(items, 0.1, 2).validation), ids(validation));
  // Golden (Python: sorted(range(30), key=lambda i: sha256(f'1\0{i}'.encode()).hexdigest())[:3]): a change of the hash would silently change which questions a resumed or repeated run holds out.
  t.deepEqual(ids(splitValidation(items.slice(0, 30), 0.1, 1).validation), ['2', '4', '8']);
});

test('the split keeps one id together and leaves something to train on', (t) => {
  const items = [
    { id: 'a', n: 1 },
    { id: 'b', n: 2 },
    { id: 'a', n: 3 },
  ];
  const { training, validation } = splitValidation(items, 0.5, 0);
  t.is(new Set(training.map(({ id }) => id)).size, 1);
  t.false(validation.some(({ id }) => id === training[0]?.id));
  t.is(training.length + validation.length, 3);
  t.is(splitValidation(items, 0, 0).validation.length, 0);
  t.is(splitValidation(items, 0.01, 0).validation.length > 0, true);
  t.is(splitValidation(items, 0.99, 0).training.length > 0, true);
  t.is(splitValidation([{ id: 'a' }], 0.5, 0).training.length, 1);
});

test('an id that comes again is refused with both lines', async (t) => {
  const own = { prompt_token_ids: [1], response_token_ids: [5], critical_mask: [1] };
  await t.throwsAsync(
    readAnnotations([
      { ...own, id: 'a' },
      { ...own, id: 'b' },
      { ...own, id: 'a' },
    ]),
    {
      code: 'ERR_CFT_BAD_DATA',
      message:
        'annotations (item 3): field "id": expected distinct ids, found "a" again (first in annotations (item 1))',
    },
  );
});
