/** From the verdicts of a position's counterfactual rollouts to its weight. */
import { CftError } from '../errors.js';
import type { Verdict } from '../types.js';

/** `all`: critical where every judged rollout failed (the method's rule); `any`: where one did; `graded`: the share. */
export type Rule = 'all' | 'any' | 'graded';

/** How a rollout counts that ran to the token limit: as incorrect, or not at all. */
export type TruncatedRule = 'incorrect' | 'skip';

/**
 * Weight of a position, 0 = not critical; undefined where no rollout of it was judged (it is not critical then, and
 * counted as unjudged).
 */
export function positionWeight(
  verdicts: readonly Verdict[],
  rule: Rule,
  truncated: TruncatedRule,
): number | undefined {
  const judged = verdicts.filter((verdict) => verdict !== 'truncated' || truncated === 'incorrect');
  if (judged.length === 0) return undefined;
  const failed = judged.filter((verdict) => verdict !== 'correct').length;
  switch (rule) {
    case 'all':
      return failed === judged.length ? 1 : 0;
    case 'any':
      return failed > 0 ? 1 : 0;
    case 'graded':
      return failed / judged.length;
  }
}

/** True where every alternative is tried; otherwise rank r + 1 only where no rank up to r was correct. */
export const triesEverything = ({ waves, complete }: { waves: boolean; complete: boolean }): boolean =>
  complete || !waves;

/** @throws CftError ERR_CFT_BAD_OPTION for a rule that the waves would leave without its verdicts. */
export function checkRule(options: { rule: string; waves: boolean; complete: boolean }): void {
  if (options.rule === 'all' || triesEverything(options)) return;
  throw new CftError(
    'ERR_CFT_BAD_OPTION',
    `rule (--rule): "${options.rule}" needs the verdict of every alternative, and the waves stop at the first ` +
      'correct one; add --complete (or --no-waves)',
  );
}
