/** The registry of training strategies. A new one is a file here, a name in names.ts and a line below. */
import { cft } from './cft.js';
import type { StrategyName } from './names.js';
import { sft } from './sft.js';
import type { Strategy } from './strategy.js';

export type { StrategyName } from './names.js';
export type { Strategy } from './strategy.js';

export const strategies: Readonly<Record<StrategyName, Strategy>> = { cft, sft };
