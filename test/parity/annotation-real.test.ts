/**
 * Annotation of real models against labels made by transformers without a KV cache
 * (test/fixtures/annotation/make_labels.py folder ...): the embedded model, and SmolLM2-135M-Instruct where
 * CFT_SMOLLM2_DIR names the folder that test/fixtures/annotation/convert_smollm2.py writes.
 */
import test, { type ExecutionContext } from 'ava';
import { annotate } from '../../lib/counterfactual/annotate.js';
import { textOf } from '../../lib/counterfactual/rollout-model.js';
import { loadModel } from '../../lib/model/load.js';
import { checkRecord, questionsOf, readLabels } from '../helpers/annotation-labels.js';
import { fixturePath, temporaryFolder } from '../helpers/fixtures.js';

/** As `last_number_verdict` in make_labels.py. */
function lastNumberIs(text: string, answer: string): boolean {
  const last = text
    .replaceAll(',', '')
    .match(/-?\d+(?:\.\d+)?/g)
    ?.at(-1);
  return last !== undefined && Number(last) === Number(answer);
}

async function compareWithLabels(
  t: ExecutionContext,
  modelName: string,
  labelsPath: string,
  { threads, verifier }: { threads?: number; verifier?: string },
): Promise<void> {
  const labels = readLabels(labelsPath);
  const correct = labels.labels.filter(({ verdict }) => verdict === 'correct');
  t.true(correct.length >= 2);
  await using model = await loadModel(modelName, { device: 'cpu', dtype: 'float32', threads });
  t.is(
    await model.weightsSha256(),
    labels.header.weights_sha256,
    `${labelsPath} is of other weights: make it again with make_labels.py folder`,
  );
  const { annotations } = await annotate({
    model,
    data: questionsOf(labels),
    userTemplate: '{question}',
    maxNewTokens: labels.header.max_new_tokens,
    complete: true,
    keepRollouts: true,
    verifier: verifier ?? ((text, { answer }) => lastNumberIs(text, answer)),
    output: temporaryFolder(t),
  });
  t.deepEqual(
    annotations.map(({ id }) => id),
    correct.map(({ id }) => id),
  );
  annotations.forEach((record, i) => {
    checkRecord(t, record, correct[i]!, {
      complete: true,
      every: labels.header.every ?? 1,
      textOf: (ids) => textOf(model, ids),
    });
  });
  const rollouts = correct.flatMap(({ alternatives }) => alternatives!);
  const unsure = rollouts.filter(({ gap }) => gap !== undefined).length;
  t.log(`${annotations.length} responses, ${rollouts.length} rollouts, ${unsure} with a near tie left out`);
  t.true(unsure <= rollouts.length / 20);
}

test('the embedded model with the builtin verifier: every label is that of transformers', async (t) => {
  await compareWithLabels(t, 'embedded', fixturePath('annotation/embedded.json'), {
    threads: 1,
    verifier: 'builtin',
  });
});

test('SmolLM2-135M-Instruct: every label is that of transformers', async (t) => {
  t.timeout(600_000);
  const folder = process.env.CFT_SMOLLM2_DIR;
  if (folder === undefined) {
    t.log('skipped: CFT_SMOLLM2_DIR does not name a folder made by convert_smollm2.py');
    t.pass();
    return;
  }
  await compareWithLabels(t, folder, fixturePath('annotation/smollm2.json'), {});
});
