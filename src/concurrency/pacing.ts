import { setImmediate } from 'node:timers/promises';

/** No turn came in time. The statement was not sent; `isNeverSent` knows it. */
class AcquireTimeout extends Error {
  override readonly name = 'AcquireTimeout';
  readonly code = 'ACQUIRE_TIMEOUT';

  constructor() {
    super('the statements of this tenant that wait already take too long');
  }
}

interface Waiting {
  readonly begin: () => void;
  readonly timer: NodeJS.Timeout;
}

/** Lets each key, such as a tenant, have so much under way at once; what is more waits in its order, and holds up no other key. */
export class KeyedSemaphore<Key> {
  readonly #keys = new Map<Key, { running: number; readonly waiting: Set<Waiting> }>();

  constructor(
    private readonly most: number,
    private readonly patienceMs: number,
  ) {}

  /** @throws AcquireTimeout */
  async run<Result>(key: Key, work: () => Promise<Result>): Promise<Result> {
    await this.#begin(key);
    try {
      return await work();
    } finally {
      this.#end(key);
    }
  }

  async #begin(key: Key): Promise<void> {
    const own = this.#keys.get(key) ?? { running: 0, waiting: new Set() };
    this.#keys.set(key, own);
    if (own.running < this.most) {
      own.running += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        own.waiting.delete(waiting);
        reject(new AcquireTimeout());
      }, this.patienceMs);
      const waiting = { begin: resolve, timer };
      own.waiting.add(waiting);
    });
  }

  /** The turn goes to the next, or is free. */
  #end(key: Key): void {
    const own = this.#keys.get(key);
    if (own === undefined) return;
    const [next] = own.waiting;
    if (next !== undefined) {
      own.waiting.delete(next);
      clearTimeout(next.timer);
      next.begin();
      return;
    }
    own.running -= 1;
    if (own.running === 0) this.#keys.delete(key);
  }
}

/** One piece of work under way for each key: whoever asks meanwhile gets what comes of it. */
export class SingleFlight<Key, Result> {
  readonly #underWay = new Map<Key, Promise<Result>>();

  async run(key: Key, work: () => Promise<Result>): Promise<Result> {
    const underWay = this.#underWay.get(key) ?? work().finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, underWay);
    return await underWay;
  }
}

/** Work that is under way, by key. */
export class InFlight<Key> {
  readonly #work = new Map<Key, Set<Promise<unknown>>>();

  async track<Result>(key: Key, work: Promise<Result>): Promise<Result> {
    const all = this.#work.get(key) ?? new Set();
    this.#work.set(key, all.add(work));
    try {
      return await work;
    } finally {
      all.delete(work);
      if (all.size === 0) this.#work.delete(key);
    }
  }

  /** Resolves when what is under way now has ended, in whatever way. */
  async settled(key: Key): Promise<void> {
    await Promise.allSettled([...(this.#work.get(key) ?? [])]);
  }
}

/** How long one piece of work may keep the event loop, in ms: what others wait for a few times on the way of one request. */
const SLICE_MS = 1;

/** Long work for many, cut into slices, between which the event loop serves everybody else. */
export class TimeSlicer {
  #began = performance.now();

  /** The slice has used up its time; `next` has to be awaited before more is done. */
  get isOver(): boolean {
    return performance.now() - this.#began > SLICE_MS;
  }

  async next(): Promise<void> {
    await setImmediate();
    this.#began = performance.now();
  }
}

/** At most one line of log in so long: what strangers may cause as often as they like must not fill the log. */
export class LogThrottle {
  #counted = 0;
  #saidAt = -Infinity;

  /** @param everyMs time between two lines, in ms */
  constructor(private readonly everyMs: number) {}

  /** Counts what happened. If a line is due, `say` writes it, and is told how often it happened since the last one. */
  note(say: (times: number) => void): void {
    this.#counted += 1;
    const now = performance.now();
    if (now - this.#saidAt < this.everyMs) return;
    say(this.#counted);
    this.#saidAt = now;
    this.#counted = 0;
  }
}
