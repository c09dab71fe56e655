/** Names of the training strategies; index.ts holds what they do. */
export const strategyNames = ['cft', 'sft'] as const;
export type StrategyName = (typeof strategyNames)[number];
