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
