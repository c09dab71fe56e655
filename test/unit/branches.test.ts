import test from 'ava';
import { branchesFor } from '../../lib/model/model.js';

const model = (device: string, hiddenSize: number, parameterCount: number) => ({
  device,
  parameterCount,
  config: { hiddenSize },
});

test('branches decoded together: what was asked for, a CPU by parameters, a GPU by width', (t) => {
  t.is(branchesFor(model('cuda:0', 896, 5e8), 7), 7);
  t.is(branchesFor(model('cpu', 64, 1e6)), 32);
  t.is(branchesFor(model('cpu', 576, 1.3e8)), 128);
  const widths = [64, 576, 896, 1536, 2048, 2560, 8192];
  t.deepEqual(
    widths.map((width) => branchesFor(model('cuda:0', width, 5e8))),
    [4096, 2048, 2048, 1024, 1024, 512, 512],
  );
});
