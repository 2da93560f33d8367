import { TUNING } from '../../../src/core/tuning.ts';
import { BUSY } from '../../../src/http/connection-throttle.ts';
import { costOfStream, MEASURED } from './model.ts';

/*
 * The storm after one of several nodes is gone: its streams come back to the others. A simulation with a seed, so that the
 * page that is made of it stays the same.
 */

export interface Storm {
  /** Before one of them is gone. */
  readonly nodes: number;
  readonly streamsPerNode: number;
  /** `lost`: nobody told its streams when to come back. */
  readonly gone: 'lost' | 'stopped';
  readonly seed: number;
}

/** What the fullest of the nodes that are left went through, and when it was over. */
export interface Aftermath {
  /** Most connects that it was asked for in one second. */
  readonly asked: number;
  /** Part of a processor in that second, with what it does anyway. */
  readonly share: number;
  /** Longest time that a client waited to be let in, in s. */
  readonly waited: number;
  /** From the loss until the last of all was let in, in s. */
  readonly over: number;
}

/** What the streams that a node has anyway cost it, as a part of a processor. */
const everyday = (streams: number): number => costOfStream() * streams * 1e-6;

/** Connects that a node lets in each second beside so many streams: the connection throttle leaves the rest of its time to those. */
export const letIn = (streams: number): number =>
  ((BUSY - everyday(streams)) * 1e6) / MEASURED.connectNew.value;

export function simulate({ nodes, streamsPerNode, gone, seed }: Storm): Aftermath {
  const random = mulberry32(seed);
  const left = Array.from({ length: nodes - 1 }, (): number[] => []);
  for (let n = 0; n < streamsPerNode; n += 1) {
    // As `jittered` (src/delivery/frames.ts), and as `endAll` (src/delivery/streams.ts) spreads them.
    const [retryMs, spread] =
      gone === 'lost' ? [TUNING.STREAM_RETRY_MS, 0] : [TUNING.MOVING_RETRY_MS, n / TUNING.RETURNS_PER_SECOND];
    const at = (retryMs / 1_000) * (0.5 + random()) + spread;
    left[Math.floor(random() * left.length)]?.push(at);
  }
  const outcomes = left.map((times) => queueUp(times, streamsPerNode));
  const most = (of: (outcome: Aftermath) => number): number => Math.max(...outcomes.map(of));
  return {
    asked: most(({ asked }) => asked),
    share: most(({ share }) => share),
    waited: most(({ waited }) => waited),
    over: most(({ over }) => over),
  };
}

/** One node: who comes waits until those before are let in. */
function queueUp(times: readonly number[], streams: number): Aftermath {
  const arrivals = times.toSorted((a, b) => a - b);
  const each = 1 / letIn(streams);
  let [free, waited, asked, first] = [0, 0, 0, 0];
  for (const [n, at] of arrivals.entries()) {
    const done = Math.max(free, at) + each;
    waited = Math.max(waited, done - each - at);
    free = done;
    while (at - (arrivals[first] ?? at) >= 1) first += 1;
    asked = Math.max(asked, n - first + 1);
  }
  const share = Math.min(BUSY, everyday(streams) + asked * MEASURED.connectNew.value * 1e-6);
  return { asked, share, waited, over: free };
}

/** A small generator of numbers in [0, 1) (mulberry32, by Tommy Ettinger, public domain). */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** How many streams a node may have so that those that are left hold all when one is lost. */
export const streamsWithRoom = (nodes: number, most: number): number =>
  Math.floor((most * (nodes - 1)) / nodes);
