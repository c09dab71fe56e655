import { runSetup } from '../../native/setup.js';
import { resolveOptions } from '../../options.js';
import type { CommandFunction } from '../program.js';

export const setupCommand: CommandFunction = async (given, { json }) => {
  const { flavour } = resolveOptions('setup', given);
  const log = (line: string): void => {
    if (json) process.stdout.write(`${JSON.stringify({ type: 'log', line })}\n`);
    else process.stderr.write(`${line}\n`);
  };
  const { addon, rebuilt, info, devices } = await runSetup({ flavour, log });
  if (json) process.stdout.write(`${JSON.stringify({ type: 'result', addon, rebuilt, info, devices })}\n`);
  else process.stdout.write('ready: npx cft-native train\n');
};
