import { type AnnotateOptions, annotate } from '../../index.js';
import { follow } from '../follow.js';
import { count, duration, percent, savingsText, shortPath } from '../format.js';
import { nextAfterAnnotate } from '../next.js';
import type { CommandFunction } from '../program.js';

export const annotateCommand: CommandFunction = async (given, context) => {
  const { model, revision, output: asked } = given as { model?: string; revision?: string; output?: string };
  // A run that was finished already does not start.
  let output = asked ?? '';
  const run = annotate({ ...(given as AnnotateOptions), signal: context.signal });
  const { summary } = await follow(run, context, (event) => {
    if (event.type === 'start') output = event.output;
  });
  if (context.json) return;
  const { correct, questions, criticalTokens, tokens, criticalShare, unjudged } = summary;
  const stopped =
    summary.stoppedResponses > 0 ? `, ${count(summary.stoppedResponses)} stopped at their answer` : '';
  const lines = [
    `responses    ${count(correct)} of ${count(questions)} correct, ${count(summary.truncatedResponses)} truncated${stopped}`,
    `critical     ${count(criticalTokens)} of ${count(tokens)} tokens (${percent(criticalShare)}), ${count(unjudged)} unjudged`,
    `rollouts     ${count(summary.rollouts)}, ${count(summary.truncatedRollouts)} truncated; rank 2 correct at ${percent(summary.p2)} (p2)`,
    `techniques   ${savingsText(summary) || 'nothing saved'}`,
    `speed        ${count(summary.tokensPerSecond)} decoded tokens/s, ${duration(summary.seconds)}`,
    `folder       ${shortPath(output)}`,
    `next         ${nextAfterAnnotate(output, model ?? 'embedded', revision)}`,
  ];
  process.stdout.write(`\n${lines.join('\n')}\n`);
};
