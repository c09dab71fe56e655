/**
 * A greedy evaluation of the embedded model beside transformers' responses and the score of a plain script:
 * test/fixtures/eval/make_parity.py.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { wilsonInterval } from '../../lib/eval/statistics.js';
import { evaluate } from '../../lib/index.js';
import { temporaryFolder } from '../helpers/fixtures.js';

interface Expected {
  max_new_tokens: number;
  accuracy: number;
  mean_response_tokens: number;
  predictions: {
    id: string;
    response: string;
    response_token_ids: number[];
    finish_reason: string;
    correct: boolean;
  }[];
}

test('greedy predictions and their score are those of transformers and a plain script', async (t) => {
  const expected = JSON.parse(
    readFileSync(new URL('../fixtures/eval/parity.json', import.meta.url), 'utf8'),
  ) as Expected;
  const n = expected.predictions.length;
  const { summary, predictions } = await evaluate({
    data: 'models/embedded/questions/test.jsonl',
    limit: n,
    maxNewTokens: expected.max_new_tokens,
    dtype: 'float32',
    output: join(temporaryFolder(t), 'eval'),
  });
  t.deepEqual(
    predictions.flat().map(({ id, response, response_token_ids, finish_reason, correct }) => ({
      id,
      response,
      response_token_ids,
      finish_reason,
      correct,
    })),
    expected.predictions,
  );
  t.is(summary.accuracy, expected.accuracy);
  t.deepEqual(summary.accuracyCi95, wilsonInterval(expected.accuracy * n, n));
  t.true(Math.abs(summary.meanResponseTokens - expected.mean_response_tokens) < 1e-9);
  t.true(expected.accuracy > 0.2 && expected.accuracy < 1, 'a score that could differ');
});
