/** How much the responses to one question differ from each other: of all of them, and of the correct ones alone. */
import { canonicalText, tokenize } from '../verify/normalize.js';
import type { Prediction } from './predictions.js';
import { mean } from './statistics.js';

export interface Diversity {
  /** Questions that have at least two such responses; only they say something about diversity. */
  questions: number;
  /** Mean over these questions of the share of responses with a text of their own; null where there is none. */
  distinctShare: number | null;
  /** Mean share of answers that differ, as the verifier read them; null where it never says, and of the correct ones. */
  distinctAnswerShare: number | null;
  /**
   * distinct-n (Li et al., arXiv 1510.03055) for n = 1 to 4: different n-grams of tokens over all n-grams of a
   * question's responses, mean over the questions. Longer responses have less of it; compare like with like.
   */
  distinctN: Record<string, number | null>;
}

/**
 * The same for answers that are equal, as far as is known: correct ones are (18, $18, 18.00), others where only white
 * space and the like differ. Undefined where the verifier read none.
 */
export function answerKey({ extracted, correct }: Prediction): string | undefined {
  if (extracted === undefined) return undefined;
  if (correct) return 'correct';
  const tokens = tokenize(extracted);
  return `wrong: ${(tokens && canonicalText(tokens)) || extracted}`;
}

const orders = [1, 2, 3, 4] as const;

/** Different n-grams over all n-grams of some token sequences; undefined where they have none. */
export function distinctNgrams(sequences: readonly (readonly number[])[], n: number): number | undefined {
  const seen = new Set<string>();
  let total = 0;
  for (const tokens of sequences) {
    for (let start = 0; start + n <= tokens.length; start++) {
      seen.add(tokens.slice(start, start + n).join(' '));
      total++;
    }
  }
  return total === 0 ? undefined : seen.size / total;
}

const meanOrNull = (values: readonly (number | undefined)[]): number | null => {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? null : mean(known);
};

/** Diversity of the responses of each question that `chosen` takes. */
export function diversityOf(
  questions: readonly (readonly Prediction[])[],
  chosen: (prediction: Prediction) => boolean = () => true,
): Diversity {
  const groups = questions.map((responses) => responses.filter(chosen)).filter(({ length }) => length >= 2);
  const share = (count: number, of: number): number => count / of;
  return {
    questions: groups.length,
    distinctShare: meanOrNull(
      groups.map((group) => share(new Set(group.map((one) => one.response)).size, group.length)),
    ),
    distinctAnswerShare: meanOrNull(
      groups.map((group) => {
        const answers = group.map(answerKey).filter((answer) => answer !== undefined);
        return answers.length < 2 ? undefined : share(new Set(answers).size, answers.length);
      }),
    ),
    distinctN: Object.fromEntries(
      orders.map((n) => [
        String(n),
        meanOrNull(
          groups.map((group) =>
            distinctNgrams(
              group.map((one) => one.response_token_ids),
              n,
            ),
          ),
        ),
      ]),
    ),
  };
}
