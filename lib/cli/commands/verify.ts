import { once } from 'node:events';
import { resolveOptions } from '../../options.js';
import { verifyLines } from '../../verify/stream.js';
import type { CommandFunction } from '../program.js';

export const verifyCommand: CommandFunction = async (given, { signal, worked }) => {
  const { data, answerField, verifier } = resolveOptions('verify', given);
  const lines = verifyLines({ data: data ?? process.stdin, answerField, verifier, signal });
  for await (const line of lines) {
    worked();
    if (!process.stdout.write(`${JSON.stringify(line)}\n`)) await once(process.stdout, 'drain');
  }
};
