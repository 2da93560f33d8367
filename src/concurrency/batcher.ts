import { setImmediate, setTimeout as sleep } from 'node:timers/promises';

/** Then others get their turn: an asker may have a millisecond's work with its answer. */
const ANSWERS_AT_ONCE = 8;

/**
 * So many who come within so many ms are a crowd, which is taken to go on for a while. The size of a round does not tell:
 * where calls are fast, thousands come in hundreds of small rounds.
 */
const CROWD = 32;
const CROWD_WITHIN_MS = 100;
const CROWD_LASTS_MS = 1_000;

export interface BatcherOptions {
  /** Most asks that one call answers. */
  readonly atOnce: number;
  /**
   * How long a round of a crowd collects at most before it is served, in ms; less when nobody comes for a tenth of that.
   * Every call has a price of its own, and of thousands who come a few at a time each few would pay it. Default: not at all.
   */
  readonly collectsMs?: number;
}

/**
 * Serves many askers with one call: while a call is under way the next collects. A lone asker waits
 * for nobody, a crowd shares a round trip.
 */
export class Batcher<Ask, Answer> {
  #waiting: { ask: Ask; resolve: (answer: Answer) => void; reject: (error: unknown) => void }[] = [];
  #serving = false;
  #pending = 0;
  /** How many have come since then, of those who may make a crowd. */
  #coming = { since: -Infinity, asks: 0 };
  #crowdUntil = -Infinity;

  /** `serve` answers every ask, in their order. */
  constructor(
    private readonly serve: (asks: readonly Ask[]) => Promise<readonly Answer[]>,
    private readonly options: BatcherOptions,
  ) {}

  /** How many asks are not answered yet. */
  get pending(): number {
    return this.#pending;
  }

  /** For how many ms more those who come are taken for a crowd. */
  get burstFor(): number {
    return Math.max(0, this.#crowdUntil - performance.now());
  }

  /** For how many ms more it matters that somebody has asked. */
  get remembersFor(): number {
    return Math.max(this.burstFor, this.#coming.since + CROWD_WITHIN_MS - performance.now(), 0);
  }

  async request(ask: Ask): Promise<Answer> {
    this.#pending += 1;
    if (this.options.collectsMs !== undefined) this.#count();
    try {
      return await new Promise<Answer>((resolve, reject) => {
        this.#waiting.push({ ask, resolve, reject });
        if (this.#serving) return;
        this.#serving = true;
        // What arrives in the same turn of the event loop goes out together.
        void setImmediate().then(() => this.#run());
      });
    } finally {
      this.#pending -= 1;
    }
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const { atOnce, collectsMs = 0 } = this.options;
      if (this.burstFor > 0) await this.#collect(collectsMs);
      const round = this.#waiting.splice(0, atOnce);
      try {
        const answers = await this.serve(round.map(({ ask }) => ask));
        for (const [index, { resolve, reject }] of round.entries()) {
          const answer = answers[index];
          if (answer === undefined) reject(new Error(`ask ${index} of ${round.length} was not answered`));
          else resolve(answer);
          // What the askers do with their answers comes all at once, as soon as this waits.
          if (index % ANSWERS_AT_ONCE === ANSWERS_AT_ONCE - 1) await setImmediate();
        }
      } catch (error) {
        for (const { reject } of round) reject(error);
      }
    }
    this.#serving = false;
  }

  #count(): void {
    const now = performance.now();
    if (now >= this.#coming.since + CROWD_WITHIN_MS) this.#coming = { since: now, asks: 0 };
    this.#coming.asks += 1;
    if (this.#coming.asks >= CROWD) this.#crowdUntil = now + CROWD_LASTS_MS;
  }

  async #collect(forMs: number): Promise<void> {
    const until = performance.now() + forMs;
    for (let before = 0; this.#waiting.length > before && performance.now() < until;) {
      if (this.#waiting.length >= this.options.atOnce) return;
      before = this.#waiting.length;
      await sleep(forMs / 10);
    }
  }
}

/** A batcher for each key, such as a tenant, that exists while somebody asks for it, or a crowd may come. */
export class KeyedBatcher<Key, Ask, Answer> {
  readonly #batchers = new Map<Key, Batcher<Ask, Answer>>();

  constructor(
    private readonly serve: (key: Key, asks: readonly Ask[]) => Promise<readonly Answer[]>,
    private readonly options: BatcherOptions,
  ) {}

  /** How many asks for this key are not answered yet. */
  pending(key: Key): number {
    return this.#batchers.get(key)?.pending ?? 0;
  }

  async request(key: Key, ask: Ask): Promise<Answer> {
    let batcher = this.#batchers.get(key);
    if (batcher === undefined) {
      batcher = new Batcher((asks) => this.serve(key, asks), this.options);
      this.#batchers.set(key, batcher);
    }
    try {
      return await batcher.request(ask);
    } finally {
      this.#drop(key, batcher);
    }
  }

  #drop(key: Key, batcher: Batcher<Ask, Answer>): void {
    // Only its own: by the time that the last is answered another may have begun.
    if (batcher.pending > 0 || this.#batchers.get(key) !== batcher) return;
    const { remembersFor } = batcher;
    if (remembersFor === 0) this.#batchers.delete(key);
    else setTimeout(() => this.#drop(key, batcher), remembersFor).unref();
  }
}
