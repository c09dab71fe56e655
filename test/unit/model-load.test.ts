import test from 'ava';
import { chooseDtype } from '../../lib/model/load.js';

const weights = (dtype: 'F32' | 'F16' | 'BF16', millions: number) => ({
  dtype,
  shape: [1000, 1000 * millions],
});
const fast = { fastBfloat16: true };
const slow = { fastBfloat16: false };

test('a wanted dtype is taken', (t) => {
  t.is(chooseDtype('float32', 'cuda:0', [weights('BF16', 100)], fast), 'float32');
  t.is(chooseDtype('bfloat16', 'cpu', [weights('F32', 1)], slow), 'bfloat16');
});

test('auto on the CPU: float32 below 50M parameters or where bf16 is slow', (t) => {
  t.is(chooseDtype('auto', 'cpu', [weights('BF16', 30), weights('BF16', 19)], fast), 'float32');
  t.is(chooseDtype('auto', 'cpu', [weights('F32', 30), weights('F32', 20)], fast), 'bfloat16');
  t.is(chooseDtype('auto', 'cpu', [weights('BF16', 7000)], slow), 'float32');
});

test('auto on CUDA: the weights’ own, float16 becomes bfloat16', (t) => {
  t.is(chooseDtype('auto', 'cuda:0', [weights('F32', 3), weights('BF16', 2)], fast), 'float32');
  t.is(chooseDtype('auto', 'cuda:0', [weights('F32', 2), weights('BF16', 3)], fast), 'bfloat16');
  t.is(chooseDtype('auto', 'cuda:1', [weights('F16', 1)], fast), 'bfloat16');
});
