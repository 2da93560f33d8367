/** How often, and for how long, a program that only counts the time did not run, in ms. */
export interface Stalls {
  readonly seconds: number;
  readonly count: number;
  readonly longestMs: number;
  readonly sumMs: number;
}

/** Less is the collector or an interrupt. */
const STALL_MS = 2;

/**
 * What the machine takes away while nothing else runs: a virtual one may lose its processor for 10 ms and more, which no
 * server on it can make up for, and which the p99 of whatever keeps a processor busy has in it.
 */
export function stallsOf(seconds: number): Stalls {
  const stalls: number[] = [];
  const end = performance.now() + seconds * 1_000;
  for (let last = performance.now(); last < end;) {
    const now = performance.now();
    if (now - last > STALL_MS) stalls.push(now - last);
    last = now;
  }
  return {
    seconds,
    count: stalls.length,
    longestMs: Math.max(0, ...stalls),
    sumMs: stalls.reduce((sum, ms) => sum + ms, 0),
  };
}

export const textOf = ({ seconds, count, longestMs, sumMs }: Stalls): string =>
  count === 0
    ? `The machine kept a program running for ${seconds} s without taking its processor away.`
    : `The machine took the processor away from a program ${count} times in ${seconds} s, for ${sumMs.toFixed(0)} ms in all and ${longestMs.toFixed(0)} ms at most: a p99 may have that in it.`;
