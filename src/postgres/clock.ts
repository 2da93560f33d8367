/**
 * The database's clock as seen from this process. Expiry is judged by it, at the socket write, where no one can ask
 * the database. It never runs late: an answer that says `t` was written after the question left, so the database's
 * clock is at most `t` further than ours was when we asked.
 */
export class DatabaseClock {
  #samples: number[] = [];
  /** How far the database's clock is ahead of this machine's, in ms. */
  #ahead = 0;

  /** `askedAt`: Date.now() before the question; `answer`: the database's time in it, both ms since 1970. */
  observe(askedAt: number, answer: number): void {
    // The fastest of the last ten answers is the closest; older ones are dropped, since clocks are set and drift.
    this.#samples = [...this.#samples.slice(-9), answer - askedAt];
    this.#ahead = Math.min(...this.#samples);
  }

  /** ms since 1970. Before the first answer: this machine's clock. */
  now(): number {
    return Date.now() + this.#ahead;
  }
}
