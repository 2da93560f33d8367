import type { Problem } from './wire.ts';
import type { Clock, Surroundings } from './surroundings.ts';

/** Throw it from `token` when nobody is logged in any more. It is also what a session ends with whose new tokens are refused. */
export class SignedOut extends Error {
  override name = 'SignedOut';

  constructor(readonly reason = 'signed-out') {
    super(`signed out: ${reason}`);
  }
}

/** The service refused a request. `code` is stable: docs/reference/errors.md. */
export class ServiceError extends Error {
  override name = 'ServiceError';

  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** What `Retry-After` says. */
    readonly retryAfterMs: number | undefined,
  ) {
    super(message);
  }

  /** Asked again it may be answered: the service is busy, or what answered is a proxy. */
  get passes(): boolean {
    return this.status === 429 || this.status >= 500 || this.code === 'unknown';
  }
}

/** Asked for a token; undefined: the cookie of the session says who it is. */
export type GetToken = () => string | undefined | Promise<string | undefined>;

/** What is not answered by then was lost on the way, in ms. A stream sees to that itself. */
const ANSWER_MS = 20_000;

/** Requests with the token of the user. The app is asked for one at a time, and for another after a 401. */
export class Caller {
  #token: string | undefined;
  #isKnown = false;
  #asking: Promise<string | undefined> | undefined;

  constructor(
    readonly url: string,
    private readonly getToken: GetToken,
    private readonly fetch: Surroundings['fetch'],
    private readonly clock: Clock,
  ) {}

  /** The token in hand, or a new one. */
  async token(): Promise<string | undefined> {
    return this.#isKnown ? this.#token : await this.refresh();
  }

  /** It has ended: the next request asks for another. */
  forget(): void {
    this.#isKnown = false;
  }

  /** Asks the app. Throws what it throws. */
  refresh(): Promise<string | undefined> {
    // By `finally` and not in `#ask`, which may throw before there is a promise to forget.
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined));
    return this.#asking;
  }

  async #ask(): Promise<string | undefined> {
    this.#token = await this.getToken();
    this.#isKnown = true;
    return this.#token;
  }

  /**
   * Throws ServiceError if it is refused, SignedOut if two new tokens are, a TypeError without a network.
   * `opened` is told of the token that was taken.
   */
  async request(
    path: string,
    init: RequestInit = {},
    opened?: (token: string | undefined) => void,
  ): Promise<Response> {
    let isNew = !this.#isKnown;
    let token = await this.token();
    for (let refused = 0; ;) {
      const answer = await this.#fetch(path, this.#with(token, init));
      if (answer.ok) {
        opened?.(token);
        return answer;
      }
      const error = await errorOf(answer);
      if (error.status !== 401) throw error;
      if (isNew) refused += 1;
      if (refused > 1) throw new SignedOut(error.code);
      // Another request may have had it replaced already.
      token = this.#token === token ? await this.refresh() : this.#token;
      isNew = true;
    }
  }

  async json<T>(path: string, init?: RequestInit): Promise<T> {
    const value: T = JSON.parse(await (await this.request(path, init)).text());
    return value;
  }

  /** `token`: that which the stream has, in place of the one in hand. A 401 is not mended. */
  async post(path: string, body: object, token?: string, keepalive = false): Promise<void> {
    const init = postOf(body, keepalive);
    if (token === undefined) await this.request(path, init);
    else {
      const answer = await this.#fetch(path, this.#with(token, init));
      if (!answer.ok) throw await errorOf(answer);
    }
  }

  /** A request without a signal of its own is given up when it takes too long, its answer included. */
  async #fetch(path: string, init: RequestInit): Promise<Response> {
    if (init.signal) return await this.fetch(this.url + path, init);
    const over = new AbortController();
    const callOff = this.clock.after(ANSWER_MS, () => over.abort(new TypeError('No answer came')));
    try {
      const answer = await this.fetch(this.url + path, { ...init, signal: over.signal });
      const { status, headers } = answer;
      return new Response(answer.body === null ? null : await answer.blob(), { status, headers });
    } finally {
      callOff();
    }
  }

  #with(token: string | undefined, init: RequestInit): RequestInit {
    const headers = new Headers(init.headers);
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`);
    return { ...init, headers, cache: 'no-store', credentials: token === undefined ? 'include' : 'omit' };
  }
}

export const postOf = (body: object, keepalive = false): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
  keepalive,
});

async function errorOf(answer: Response): Promise<ServiceError> {
  const isProblem = answer.headers.get('content-type')?.startsWith('application/problem+json');
  const problem: Partial<Problem> = isProblem ? await answer.json().catch(() => ({})) : {};
  if (!isProblem) void answer.body?.cancel();
  const seconds = Number(answer.headers.get('retry-after') ?? Number.NaN);
  return new ServiceError(
    answer.status,
    problem.code ?? 'unknown',
    problem.detail ?? problem.title ?? `HTTP ${answer.status}`,
    Number.isNaN(seconds) ? undefined : seconds * 1_000,
  );
}
