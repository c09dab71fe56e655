import { type AnnotateOptions, annotate } from '../../index.js';
import { follow } from '../follow.js';
import { count, duration, percent, shortPath } from '../format.js';
import { nextAfterAnnotate } from '../next.js';
import type { CommandFunction } from '../program.js';

export const annotateCommand: CommandFunction = async (given, context) => {
  const { model, revision } = given as { model?: string; revision?: string };
  let output = '';
  const run = annotate({ ...(given as AnnotateOptions), signal: context.signal });
  const { summary } = await follow(run, context, (event) => {
    if (event.type === 'start') output = event.output;
  });
  if (context.json) return;
  const { correct, questions, criticalTokens, tokens, criticalShare, unjudged } = summary;
  const lines = [
    `responses    ${count(correct)} of ${count(questions)} correct, ${count(summary.truncatedResponses)} truncated`,
    `critical     ${count(criticalTokens)} of ${count(tokens)} tokens (${percent(criticalShare)}), ${count(unjudged)} unjudged`,
    `rollouts     ${count(summary.rollouts)}, ${count(summary.rolloutsSaved)} saved by waves ` +
      `(rank 2 correct at ${percent(summary.p2)})`,
    `speed        ${count(summary.tokensPerSecond)} decoded tokens/s, ${duration(summary.seconds)}`,
    `folder       ${shortPath(output)}`,
    `next         ${nextAfterAnnotate(output, model ?? 'embedded', revision)}`,
  ];
  process.stdout.write(`\n${lines.join('\n')}\n`);
};
