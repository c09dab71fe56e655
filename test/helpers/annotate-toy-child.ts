/**
 * Annotates toy questions into the run folder given as the first argument, resuming; for tests that kill it.
 * Says "ready" on standard output when the work starts and one line per event after that.
 */

import { promptsOf } from '../../lib/counterfactual/rollout-model.js';
import { defaultSettings } from '../../lib/counterfactual/settings.js';
import { runAnnotationStage } from '../../lib/counterfactual/stage.js';
import { hashQuestions, RunFolder } from '../../lib/run-folder.js';
import { hashTokens, toyModel } from './toy-model.js';

const questions = Array.from({ length: 40 }, (_, i) => ({
  id: `q${i}`,
  question: `question ${i * 37}`,
  answer: '0',
}));
const settings = { ...defaultSettings, maxNewTokens: 40 };
const toy = toyModel();
const model = { name: 'toy', weightsSha256: 'aa', tokenizerSha256: 'bb' };

using folder = RunFolder.open(process.argv[2]!, { resume: true });
folder.begin({
  command: 'annotate',
  options: settings,
  seed: 0,
  device: 'cpu',
  dtype: 'float32',
  model,
  data: { name: 'toy', sha256: hashQuestions(questions), questions: questions.length },
  libtorch: '0',
});
console.log('ready');
await runAnnotationStage(
  {
    model: toy,
    questions,
    prompts: promptsOf(toy, questions, { ...settings, system: '', userTemplate: '{question}' }),
    verifier: async (_, { tokenIds }) => {
      await new Promise(setImmediate);
      return (hashTokens(tokenIds) >>> 7) % 2 === 0;
    },
    settings,
    maxBranches: 8,
    file: (name) => folder.file(name),
    origin: { model, options: {}, libtorch: '0', device: 'cpu' },
  },
  ({ type }) => console.log(type),
);
folder.end('done');
