/** What the annotation of the toy model must be, and which of its texts are right. */
import type { AnnotationSettings } from '../../lib/counterfactual/settings.js';
import type { AnnotationRecord, Question, Verdict } from '../../lib/types.js';
import { hashTokens, toyDecode, toyEncode, toyEndTokenIds, toyLogProbs, toyRanking } from './toy-model.js';

/** About half of all texts are right. */
export const isRight = (tokenIds: Iterable<number>): boolean => (hashTokens(tokenIds) >>> 7) % 2 === 0;

/** The method by the letter, one token at a time, without an engine. */
export function reference(question: Question, settings: AnnotationSettings): AnnotationRecord | Verdict {
  const prompt = [...toyEncode(question.question)];
  const isEnd = (token: number) => toyEndTokenIds.includes(token);
  const continueGreedily = (start: number[], budget: number): { tokens: number[]; end: number } => {
    const tokens: number[] = [];
    while (tokens.length < budget) {
      const next = toyRanking([...prompt, ...start, ...tokens])[0]!;
      if (isEnd(next)) return { tokens, end: next };
      tokens.push(next);
    }
    return { tokens, end: -1 };
  };
  const verdictOf = (tokens: number[], ended: boolean): Verdict =>
    ended ? (isRight(tokens) ? 'correct' : 'incorrect') : 'truncated';
  const trunk = continueGreedily([], settings.maxNewTokens);
  const trunkVerdict = verdictOf(trunk.tokens, trunk.end >= 0);
  if (trunkVerdict !== 'correct') return trunkVerdict;
  const positions = settings.includeEos ? [...trunk.tokens, trunk.end] : trunk.tokens;
  const record: AnnotationRecord = {
    id: question.id,
    question: question.question,
    answer: question.answer,
    response: toyDecode(trunk.tokens),
    prompt_token_ids: prompt,
    response_token_ids: positions,
    end_token_id: trunk.end,
    logprobs: [],
    alternatives: [],
    rollouts: 0,
  };
  const weights: number[] = [];
  positions.forEach((token, position) => {
    const kept = positions.slice(0, position);
    const logProbs = toyLogProbs([...prompt, ...kept]);
    record.logprobs.push(Math.round(logProbs[token]! * 1e4) / 1e4);
    const verdicts: Verdict[] = [];
    const others = toyRanking([...prompt, ...kept]).filter((other) => other !== token);
    for (let rank = 2; rank <= settings.k; rank++) {
      const other = others[rank - 2]!;
      if (Math.exp(logProbs[other]!) < settings.minAlternativeProb) continue;
      if (settings.waves && !settings.complete && verdicts.includes('correct')) continue;
      const head = isEnd(other) ? kept : [...kept, other];
      const rest = isEnd(other)
        ? { tokens: [], end: other }
        : continueGreedily(head, settings.maxNewTokens - position - 1);
      const verdict = verdictOf([...head, ...rest.tokens], rest.end >= 0);
      verdicts.push(verdict);
      record.alternatives.push({
        position,
        rank,
        token_id: other,
        logprob: Math.round(logProbs[other]! * 1e4) / 1e4,
        verdict,
        ...(settings.keepRollouts ? { continuation: toyDecode(rest.tokens) } : {}),
      });
    }
    const judged = verdicts.filter(
      (verdict) => verdict !== 'truncated' || settings.truncated === 'incorrect',
    );
    const failed = judged.filter((verdict) => verdict !== 'correct').length;
    if (judged.length === 0) weights.push(0);
    else if (settings.rule === 'all') weights.push(failed === judged.length ? 1 : 0);
    else if (settings.rule === 'any') weights.push(failed > 0 ? 1 : 0);
    else weights.push(failed / judged.length);
  });
  if (settings.rule === 'graded') record.token_weights = weights;
  else record.critical_mask = weights;
  record.rollouts = record.alternatives.length;
  return record;
}
