/**
 * Whether a measurement had the machine to itself: the processor time that everybody else took meanwhile. Linux only;
 * elsewhere nothing is known and nothing is void.
 */
import { readFileSync } from 'node:fs';

/** A repeat is void where others took more than this share of one core. */
export const mostOtherCpu = 0.1;

/** Clock ticks per second of /proc; every Linux that Node runs on has 100. */
const ticksPerSecond = 100;

/** Fields of /proc/stat's first line in which a processor was not idle: user, nice, system, irq, softirq, steal. */
const busyFields = [0, 1, 2, 5, 6, 7];

function busyTicks(): number | undefined {
  try {
    const fields = readFileSync('/proc/stat', 'utf8')
      .split('\n')[0]!
      .trim()
      .split(/\s+/)
      .slice(1)
      .map(Number);
    return busyFields.reduce((sum, i) => sum + (fields[i] ?? 0), 0);
  } catch {
    return undefined;
  }
}

/** User and system time of a process and of the children that it waited for. */
function ticksOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0);
  } catch {
    return 0; // it has ended
  }
}

export interface Quiet {
  wallSeconds: number;
  /** Cores that other processes kept busy on average; undefined where that cannot be known. */
  otherCpu: number | undefined;
}

/** Starts watching; the returned function ends it. `pids`: the processes that belong to the measurement. */
export function watchOthers(pids: readonly number[]): () => Quiet {
  const start = performance.now();
  const busy = busyTicks();
  const before = pids.map(ticksOf);
  return () => {
    const wallSeconds = (performance.now() - start) / 1000;
    const busyNow = busyTicks();
    if (busy === undefined || busyNow === undefined) return { wallSeconds, otherCpu: undefined };
    const ours = pids.reduce((sum, pid, i) => sum + Math.max(0, ticksOf(pid) - before[i]!), 0);
    const others = Math.max(0, busyNow - busy - ours) / ticksPerSecond;
    return { wallSeconds, otherCpu: others / wallSeconds };
  };
}

/** High-water mark of a process's resident memory in bytes; undefined where the system does not tell. */
export function peakMemoryOf(pid: number): number | undefined {
  try {
    const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
  } catch {
    return undefined;
  }
}
