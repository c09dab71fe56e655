/**
 * `annotate` on a tiny model whose verdict is a hash of the tokens, into the run folder given as the first argument,
 * resuming; for tests that kill it or take its disk away. Prints the type of each event.
 */
import { annotate } from '../../lib/counterfactual/annotate.js';
import { fixturePath } from './fixtures.js';
import { hashTokens } from './toy-model.js';

const data = Array.from({ length: 240 }, (_, i) => ({
  id: `q${i}`,
  question: `what is ${i * i + 7}+${(i * 13) % 50}?`,
  answer: '0',
}));

try {
  const run = annotate({
    model: fixturePath('annotation/llama'),
    device: 'cpu',
    threads: 1,
    data,
    system: '',
    userTemplate: '{question}',
    maxNewTokens: 48,
    maxConcurrency: 8,
    verifier: (_, { tokenIds }) => (hashTokens(tokenIds) >>> 7) % 2 === 0,
    output: process.argv[2],
    resume: true,
  });
  for await (const { type } of run) console.log(type);
} catch (error) {
  console.error(`${(error as { code?: string }).code}: ${(error as Error).message}`);
  process.exitCode = 1;
}
