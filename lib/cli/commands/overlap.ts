import { findOverlaps, type OverlapOptions } from '../../eval/overlaps.js';
import { count, counted } from '../format.js';
import type { CommandFunction } from '../program.js';

const examplesOf = (examples: readonly [string, string][], of: number): string => {
  if (examples.length === 0) return '';
  const more = examples.length < of ? ' ...' : '';
  return ` (${examples.map(([id, other]) => `${id} = ${other}`).join(', ')}${more})`;
};

export const overlapCommand: CommandFunction = async (given, { json, signal }) => {
  const { duplicates, training, between } = await findOverlaps({ ...(given as OverlapOptions), signal });
  if (json) {
    process.stdout.write(`${JSON.stringify({ type: 'overlap', duplicates, training, between })}\n`);
    return undefined;
  }
  const lines = [
    ...duplicates.map(
      ({ name, questions, repeated, examples }) =>
        `${name}: ${counted(questions, 'question')}, ${count(repeated)} of them repeated${examplesOf(examples, repeated)}`,
    ),
    ...[...training, ...between].map(
      ({ name, with: other, questions, shared, examples }) =>
        `${name}: ${count(shared)} of ${counted(questions, 'question')} are in ${other}${examplesOf(examples, shared)}`,
    ),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  return undefined;
};
