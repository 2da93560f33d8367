import { ServiceError, type Caller } from './call.ts';
import type { Clock } from './surroundings.ts';
import { isAfter } from './wire.ts';

/** What is handled at nearly the same time is confirmed by one request, in ms. */
const COALESCE_MS = 250;
const FIRST_RETRY_MS = 2_000;
const LONGEST_RETRY_MS = 60_000;

/**
 * Confirms what was handled: one request at a time, for all that was handled meanwhile. What fails is sent again with what has come
 * since; what a tab could not send before it was closed is confirmed by the position that the next stream begins with.
 */
export class Acknowledgements {
  #handled = '';
  #confirmed = '';
  #sending: Promise<void> | undefined;
  #callOff: (() => void) | undefined;
  #failures = 0;

  constructor(
    private readonly caller: Caller,
    private readonly clock: Clock,
    private readonly device: string,
    /** That of the stream: its topics say what was addressed to the device. */
    private readonly token: () => string | undefined,
    private readonly random: () => number,
    private readonly report: (error: unknown) => void,
  ) {}

  handled(position: string): void {
    this.#handled = position;
    this.#sendIn(COALESCE_MS);
  }

  /** The network is back, or the page goes, which lets a request live on only with `keepalive`. */
  async flush(keepalive = false): Promise<void> {
    this.#callOff?.();
    this.#callOff = undefined;
    this.#failures = 0;
    if (keepalive) return await this.#post(true);
    await this.#sending;
    await this.#send();
  }

  stop(): void {
    this.#callOff?.();
    this.#callOff = undefined;
    this.#handled = this.#confirmed;
  }

  #sendIn(ms: number): void {
    if (this.#sending === undefined)
      this.#callOff ??= this.clock.after(ms, () => {
        this.#callOff = undefined;
        void this.#send();
      });
  }

  #send(): Promise<void> {
    this.#sending ??= this.#post(false).finally(() => {
      this.#sending = undefined;
      if (this.#handled !== this.#confirmed) this.#sendIn(this.#failures === 0 ? COALESCE_MS : this.#wait());
    });
    return this.#sending;
  }

  /** Does not throw: what fails is sent again. */
  async #post(keepalive: boolean): Promise<void> {
    const upTo = this.#handled;
    if (upTo === '' || (this.#confirmed !== '' && !isAfter(upTo, this.#confirmed))) return;
    try {
      await this.caller.post('/v1/acks', { device: this.device, upTo }, this.token(), keepalive);
      this.#failures = 0;
      this.#confirmed = upTo;
    } catch (error) {
      this.#failed(error, upTo);
    }
  }

  #failed(error: unknown, upTo: string): void {
    // A token that has ended is replaced by that of the next stream.
    if (error instanceof ServiceError && error.status !== 401 && !error.passes) {
      this.#confirmed = upTo;
      this.report(error);
    } else this.#failures += 1;
  }

  #wait(): number {
    const longest = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** (this.#failures - 1));
    return longest * (0.5 + this.random() / 2);
  }
}
