/** Names that the option table needs; it must not load what is behind them. */

export const benchSuites = ['rollouts'] as const;

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
