/**
 * The database's clock, estimated in this process. Whether a notification has expired is decided by it at the socket write,
 * where there is no time to ask the database.
 *
 * The estimate is never behind the database's clock, as long as neither clock is set: an answer `t` was
 * written after the question was sent, so the database's clock is ahead of ours by at most `t - askedAt`. The smallest of
 * these differences is the closest.
 */
export class DatabaseClock {
  /** The last differences, in ms. */
  #samples: number[] = [];
  /** How far the database's clock is ahead of this machine's, in ms. */
  #ahead = 0;

  /** `askedAt`: Date.now() before the question; `answer`: the database's time in it, both ms since 1970. */
  observe(askedAt: number, answer: number): void {
    // Ten are kept; older ones are dropped, since clocks are set and drift.
    this.#samples = [...this.#samples.slice(-9), answer - askedAt];
    this.#ahead = Math.min(...this.#samples);
  }

  /** ms since 1970. Before the first answer: this machine's clock. */
  now(): number {
    return Date.now() + this.#ahead;
  }
}
