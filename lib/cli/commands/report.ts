import { resolve } from 'node:path';
import { type ReportOptions, report } from '../../index.js';
import { InterruptedError } from '../failure.js';
import { counted, shortPath } from '../format.js';
import type { CommandFunction } from '../program.js';

export const reportCommand: CommandFunction = async (given, { signal, json }) => {
  const onListening = (url: string): void => {
    if (json) process.stdout.write(`${JSON.stringify({ type: 'listening', url })}\n`);
    else process.stdout.write(`${url}\n`);
    process.stderr.write('the page follows the run; Ctrl-C ends it\n');
  };
  const onWaiting = (folder: string): void => {
    if (json) process.stdout.write(`${JSON.stringify({ type: 'waiting', folder })}\n`);
    process.stderr.write(`waiting for a run to begin in ${shortPath(resolve(folder))}; Ctrl-C ends it\n`);
  };
  try {
    const result = await report({ ...(given as ReportOptions), signal, onListening, onWaiting });
    if (json) {
      process.stdout.write(`${JSON.stringify({ type: 'report', ...result })}\n`);
      return 0;
    }
    const lines = [
      `report       ${shortPath(result.path)} (${(result.bytes / 1e6).toFixed(1)} MB, ${counted(result.responses, 'response')})`,
      ...result.charts.map((path, i) => `${i === 0 ? 'charts' : '      '}       ${shortPath(path)}`),
      ...(result.modelCard === undefined ? [] : [`model card   ${shortPath(result.modelCard)}`]),
    ];
    process.stdout.write(`${lines.join('\n')}\n`);
    return 0;
  } catch (error) {
    // Ctrl-C is how serving ends.
    if (given.watch === true && error instanceof InterruptedError) return 0;
    throw error;
  }
};
