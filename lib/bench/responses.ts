/** Which responses of a model come out correct, and the two best alternatives at each of their positions. */
import type { DetailedVerifier } from '../counterfactual/judge.js';
import type { Model } from '../model/model.js';
import type { PromptOptions } from '../model/tokenizer.js';
import type { Question } from '../types.js';
import type { CaseResponse } from './protocol.js';

/** Ranks 2 and 3. */
const alternatives = 2;

export interface ResponsesRequest {
  questions: readonly Question[];
  verifier: DetailedVerifier;
  prompting: PromptOptions;
  maxNewTokens: number;
  maxBranches: number;
}

/** Greedy responses to the questions that end and are correct, with their alternatives. */
export async function correctResponses(
  model: Model,
  { questions, verifier, prompting, maxNewTokens, maxBranches }: ResponsesRequest,
): Promise<CaseResponse[]> {
  const prompts = questions.map(({ question }) => model.promptFor(question, prompting));
  const generated = await model.generate(prompts, { maxNewTokens, maxBranches });
  const engine = model.createEngine({ maxBranches: 1 });
  const responses: CaseResponse[] = [];
  try {
    for (const [i, { id, question, answer }] of questions.entries()) {
      const { tokenIds, text, finishReason } = generated[i]![0]!;
      if (finishReason !== 'stop' || tokenIds.length === 0) continue;
      const verdict = await verifier(text, { id, question, answer, tokenIds });
      if (!(typeof verdict === 'object' ? verdict.correct : verdict)) continue;
      const prompt = prompts[i]!;
      const whole = Int32Array.from([...prompt, ...tokenIds]);
      const { trunk, alternativeIds } = await engine.addTrunk({
        tokenIds: whole,
        scoreFrom: prompt.length,
        alternatives,
      });
      engine.releaseTrunk(trunk);
      responses.push({
        id,
        question,
        answer,
        promptTokens: prompt.length,
        tokenIds: [...whole],
        alternatives: Array.from(alternativeIds, (tokenId, n) => ({
          position: Math.floor(n / alternatives),
          rank: (n % alternatives) + 2,
          tokenId,
        })),
      });
    }
  } finally {
    engine.dispose();
  }
  return responses;
}
