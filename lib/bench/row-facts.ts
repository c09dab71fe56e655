/** What a row of any measurement says about where and how it was taken. */
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import type { Greeting } from './protocol.js';
import type { OwnGreeting } from './serve-side.js';

export interface RowFacts {
  case: string;
  what: string;
  side: string;
  /** The same for all sides of one run; rows of different runs do not compare. */
  run: string;
  date: string;
  command: string;
  model: string;
  parameters: number;
  device: string;
  deviceName: string;
  cores: number;
  memoryBytes: number;
  os: string;
  threads: number;
  gompSpincount: string | null;
  ompWaitPolicy: string | null;
  dtype: string;
  setting: string;
  versions: Record<string, string>;
}

export function rowFacts(
  given: Pick<RowFacts, 'case' | 'what' | 'side' | 'run' | 'command' | 'model' | 'threads'>,
  own: OwnGreeting,
  ready: Greeting & { type: 'ready' },
): RowFacts {
  const { GOMP_SPINCOUNT: spincount, OMP_WAIT_POLICY: policy } = process.env;
  return {
    ...given,
    date: new Date().toISOString(),
    parameters: own.parameters,
    device: own.device,
    deviceName: own.device_name ?? cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    os: `${type()} ${release()}`,
    gompSpincount: spincount ?? (policy === undefined ? '20000' : null),
    ompWaitPolicy: policy ?? null,
    dtype: ready.dtype,
    setting: ready.setting,
    versions: ready.versions,
  };
}
