import { type TrainOptions, train } from '../../index.js';
import { painterOf } from '../color.js';
import { follow } from '../follow.js';
import type { CommandFunction } from '../program.js';
import { trainTable } from '../train-table.js';

export const trainCommand: CommandFunction = async (given, context) => {
  const run = train({ ...(given as TrainOptions), signal: context.signal });
  const result = await follow(run, context);
  if (!context.json) process.stdout.write(`\n${trainTable(result, painterOf(process.stdout))}\n`);
};
