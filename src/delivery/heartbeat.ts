/** When a stream has been silent for long enough. Looked at once a second, as everything of a stream, and no timer. */
export class Heartbeat {
  #left: number;
  #written = false;

  /** `seconds`: how long a stream may be silent. */
  constructor(private readonly seconds: number) {
    // Spread over the period, so that ten thousand heartbeats do not leave in the same second.
    this.#left = 1 + Math.floor(Math.random() * seconds);
  }

  /** A notification was written: it shows as much as a heartbeat. */
  written(): void {
    this.#written = true;
  }

  /** Once a second: whether it is time. */
  isDue(): boolean {
    if (this.#written) {
      this.#written = false;
      // By another time for each stream: what was one broadcast would be as many heartbeats at once a little later.
      this.#left = Math.max(this.#left, Math.floor((this.seconds * (1 + Math.random())) / 2));
      return false;
    }
    this.#left -= 1;
    if (this.#left > 0) return false;
    this.#left = this.seconds;
    return true;
  }
}
