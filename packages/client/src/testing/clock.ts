import { surroundings, type Clock } from '../surroundings.ts';

/** A clock that stands still until a test moves it. */
export interface FakeClock extends Clock {
  /**
   * Lets `ms` go by: timers fire in their order, each at its time, and everything that follows from one (promises, chunks of a
   * stream) is over before the next. With 0 it only waits for that. Throws what a timer throws.
   */
  advance(ms: number): Promise<void>;
  /** A sleep: all at once it is `ms` later, and then the timers that are due fire, late. Throws what a timer throws. */
  jump(ms: number): Promise<void>;
}

interface Timer {
  readonly at: number;
  readonly call: () => void;
}

/** 2026-01-01, a Thursday. */
const START = Date.UTC(2026, 0, 1);

/** @param start ms since 1970 */
export function createFakeClock(start: number = START): FakeClock {
  let now = start;
  /** In the order in which they were set: of those of one moment the first set is the first to fire. */
  const timers = new Set<Timer>();

  async function fire(until: number): Promise<void> {
    await settled();
    for (;;) {
      let next: Timer | undefined;
      for (const timer of timers)
        if (timer.at <= until && (next === undefined || timer.at < next.at)) next = timer;
      if (next === undefined) break;
      timers.delete(next);
      now = Math.max(now, next.at);
      next.call();
      await settled();
    }
    now = Math.max(now, until);
  }

  return {
    now: () => now,
    after(ms, call) {
      const timer = { at: now + Math.max(0, ms), call };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    advance: (ms) => fire(now + ms),
    async jump(ms) {
      await settled();
      now += ms;
      await fire(now);
    },
  };
}

/** The real time. */
export const realClock = (): Clock =>
  surroundings({ storage: undefined, locks: undefined, openChannel: undefined }, true).clock;

/** Turns of the event loop: what takes one to begin with (a hash, the body of a request) goes on in the next. */
const TURNS = 3;

/** When all promises that can settle have done so, and what they led to. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < TURNS; turn += 1) {
    const { port1, port2 } = new MessageChannel();
    await new Promise((resolve) => {
      port1.addEventListener('message', resolve, { once: true });
      port1.start();
      port2.postMessage(undefined);
    });
    port1.close();
  }
}
