import { type EvaluateOptions, evaluate } from '../../index.js';
import { follow } from '../follow.js';
import { count, counted, percent, shortPath } from '../format.js';
import type { CommandFunction } from '../program.js';

export const evalCommand: CommandFunction = async (given, context) => {
  const run = evaluate({ ...(given as EvaluateOptions), signal: context.signal });
  const { summary, name, output } = await follow(run, context);
  if (context.json) return;
  const [low, high] = summary.accuracyCi95;
  const lines = [
    `${name}: ${counted(summary.n, 'question')}, ${summary.samples} response${summary.samples > 1 ? 's' : ''} each, ` +
      `temperature ${summary.temperature}`,
    `accuracy     ${percent(summary.accuracy)} (95 % interval ${percent(low)} to ${percent(high)})`,
  ];
  if (summary.samples > 1) {
    if (summary.majAtK !== null) lines.push(`majority     ${percent(summary.majAtK)}`);
    const pass = Object.entries(summary.passAtK).map(([k, value]) => `@${k} ${percent(value)}`);
    lines.push(`pass         ${pass.join(', ')}`, `distinct     ${percent(summary.distinctShare)}`);
  }
  lines.push(
    `length       ${summary.meanResponseTokens.toFixed(1)} tokens, ${count(summary.truncated)} truncated`,
  );
  if (summary.meanEntropy !== null)
    lines.push(
      `entropy      ${summary.meanEntropy.toFixed(3)} nats per token (first ${summary.entropyResponses} responses)`,
    );
  lines.push(`folder       ${shortPath(output)}`);
  process.stdout.write(`\n${lines.join('\n')}\n`);
};
