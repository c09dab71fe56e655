import test from 'ava';
import { strategies } from '../../lib/strategies/index.js';
import { strategyNames } from '../../lib/strategies/names.js';
import { toExample } from '../../lib/train/examples.js';
import type { AnnotationRecord } from '../../lib/types.js';

const record: AnnotationRecord = {
  id: '1',
  question: 'q',
  answer: 'a',
  response: 'r',
  prompt_token_ids: [10, 11],
  response_token_ids: [20, 21, 22, 23],
  end_token_id: 2,
  logprobs: [-1, -1, -1, -1],
  critical_mask: [0, 1, 1, 0],
  alternatives: [],
  rollouts: 0,
};
const { critical_mask: _mask, ...unmasked } = record;

test('every strategy has a name and every name a strategy', (t) => {
  t.deepEqual(Object.keys(strategies), [...strategyNames]);
});

test('cft trains the critical tokens alone, and the input ends where the last of them is predicted', (t) => {
  const example = toExample(record, strategies.cft, 100, 'file');
  t.deepEqual([...example.selected], [2, 3]); // tokens 20 and 21 predict 21 and 22
  t.deepEqual([...example.targets], [21, 22]);
  t.deepEqual([...example.weights], [1, 1]);
  t.deepEqual([...example.tokenIds], [10, 11, 20, 21]);
  t.is(example.tokens, 6);
});

test('cft takes weights instead of a mask, one more for the end token', (t) => {
  const weighted = { ...unmasked, token_weights: [0.5, 0, 0, 0, 2] };
  const example = toExample(weighted, strategies.cft, 100, 'file');
  t.deepEqual([...example.selected], [1, 5]);
  t.deepEqual([...example.targets], [20, 2]);
  t.deepEqual([...example.weights], [0.5, 2]);
  t.deepEqual([...example.tokenIds], [10, 11, 20, 21, 22, 23]);
});

test('cft without a mask or weights names the record', (t) => {
  t.throws(() => strategies.cft.weights({ ...unmasked, id: '7' }), {
    code: 'ERR_CFT_BAD_DATA',
    message: /annotation 7: .*critical_mask/,
  });
});

test('sft trains the whole response and its end token', (t) => {
  const example = toExample(record, strategies.sft, 100, 'file');
  t.deepEqual([...example.selected], [1, 2, 3, 4, 5]);
  t.deepEqual([...example.targets], [20, 21, 22, 23, 2]);
});

test('sft trains the end token once where the response holds it, and not where there is none', (t) => {
  const withEnd = { ...record, response_token_ids: [20, 21, 22, 2] };
  t.deepEqual([...toExample(withEnd, strategies.sft, 100, 'file').targets], [20, 21, 22, 2]);
  const without = { ...record, end_token_id: -1 };
  t.deepEqual([...toExample(without, strategies.sft, 100, 'file').targets], [20, 21, 22, 23]);
});

test('a response without a critical token keeps its length but brings no input', (t) => {
  const example = toExample({ ...record, critical_mask: [0, 0, 0, 0] }, strategies.cft, 100, 'file');
  t.is(example.selected.length, 0);
  t.is(example.tokenIds.length, 0);
  t.is(example.tokens, 6);
});

test('a sequence beyond the positions of the model is refused with both numbers', (t) => {
  t.notThrows(() => toExample(record, strategies.sft, 6, 'file'));
  t.throws(() => toExample(record, strategies.sft, 5, 'a.jsonl'), {
    code: 'ERR_CFT_BAD_DATA',
    message: /a\.jsonl: annotation 1: expected at most 5 tokens .* found 6/,
  });
});
