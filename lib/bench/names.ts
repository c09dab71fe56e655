/** Names that the option table needs; it must not load what is behind them. */

export const benchSuites = ['rollouts', 'train'] as const;

export const caseNames = [
  'embedded',
  'smollm2-latency',
  'smollm2-throughput',
  'random-135m',
  'random-0.5b',
  'random-1.5b',
  'random-3b',
] as const;
export type CaseName = (typeof caseNames)[number];

export const peerNames = ['hf-generate', 'hf-continuous', 'node-llama-cpp'] as const;
export type PeerName = (typeof peerNames)[number];

/** Of `bench train`. */
export const trainCaseNames = [
  'embedded',
  'smollm2-8',
  'smollm2-50',
  'smollm2-100',
  'random-135m-8',
  'random-135m-50',
  'random-135m-100',
] as const;
export type TrainCaseName = (typeof trainCaseNames)[number];

export const trainPeerNames = ['trl', 'trl-packing', 'trl-checkpointing', 'transformers'] as const;
export type TrainPeerName = (typeof trainPeerNames)[number];
