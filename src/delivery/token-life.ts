/** How long before the end of a token what happens, in seconds. */
export interface TokenNotice {
  readonly TOKEN_EXPIRY_NOTICE_SECONDS: number;
  readonly TOKEN_EXPIRY_SPREAD_SECONDS: number;
}

/**
 * Streams are looked at once a second. One look early and a little more, since the next would be too late, and comes a
 * little late itself: a stream never outlives its token.
 */
const LOOK_MS = 1_500;

/**
 * The life of the token that holds a stream open. Nothing here is a timer: one set for a token of a month would fire at
 * once, and ten thousand are a cost of their own.
 */
export class TokenLife {
  #expiresAt: number;
  /** The stream ends this much earlier than the token, in ms; each stream at another moment. */
  #ahead: number;
  #warned = false;
  #renewedAt = 0;

  /** Times in ms since 1970. */
  constructor(
    expiresAt: number,
    now: number,
    private readonly notice: TokenNotice,
  ) {
    this.#expiresAt = expiresAt;
    this.#ahead = this.#drawAhead(now);
  }

  /** What is due: the end, or, once for each token, the notice that it comes. */
  look(now: number): 'end' | 'notice' | undefined {
    const left = this.left(now);
    if (left <= LOOK_MS + this.#ahead) return 'end';
    if (this.#warned || left > this.notice.TOKEN_EXPIRY_NOTICE_SECONDS * 1_000) return undefined;
    this.#warned = true;
    return 'notice';
  }

  /** What the token has left, in ms. */
  left(now: number): number {
    return this.#expiresAt - now;
  }

  /** A new token, by an order given `at`. False: a later order was there before it. */
  renew(expiresAt: number, at: number, now: number): boolean {
    if (at < this.#renewedAt) return false;
    this.#renewedAt = at;
    // A client that was not answered asks again with the same token: of its end it knows.
    this.#warned &&= expiresAt === this.#expiresAt;
    this.#expiresAt = expiresAt;
    this.#ahead = this.#drawAhead(now);
    return true;
  }

  /** At most a tenth of what is left, so that the streams of short tokens are not all but useless. */
  #drawAhead(now: number): number {
    const most = Math.min(this.notice.TOKEN_EXPIRY_SPREAD_SECONDS * 1_000, this.left(now) / 10);
    return Math.random() * Math.max(0, most);
  }
}
