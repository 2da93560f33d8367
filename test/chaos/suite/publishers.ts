import { setTimeout as sleep } from 'node:timers/promises';
import { post, type StoredAnswer } from '../../support/api.ts';
import { serviceToken } from '../../support/tokens.ts';
import type { Books, To } from './books.ts';
import type { Random } from './random.ts';

/** Long enough for all runs, and from long ago: nodes may have other clocks. */
export const TOKEN_TIMES = {
  iat: Math.floor(Date.now() / 1_000) - 3_600,
  exp: Math.floor(Date.now() / 1_000) + 86_400,
};

/** What publishers and devices may be answered while something is wrong. */
export const PASSING = new Set([429, 503]);

/** A request that is not answered is given up and sent again, in ms. */
export const REQUEST_MS = 8_000;
const PAUSE_MS = 200;

interface Item {
  readonly n: number;
  readonly to: To;
  readonly ttlSeconds: number | undefined;
}

/** Publishes one request after the other, each until it is answered 201. */
export class Publisher {
  #stopped = false;
  #abandoned = false;
  readonly #token: string;

  constructor(
    private readonly tenant: string,
    private readonly name: string,
    private readonly people: { readonly users: readonly string[]; readonly topics: readonly string[] },
    private readonly urls: readonly string[],
    private readonly books: Books,
    private readonly random: Random,
    /** Middle of the pause between two, in ms. */
    private readonly pauseMs: number,
  ) {
    this.#token = serviceToken({ tenant, client: name, claims: TOKEN_TIMES });
  }

  /** Resolves after `stop`, when the last one is answered, too. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      const items = this.random.chance(0.1)
        ? Array.from({ length: 2 + this.random.integer(8) }, () => this.#item())
        : [this.#item()];
      await this.#untilStored(items);
      await sleep(this.random.between(0, 2 * this.pauseMs));
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Ends also what is not answered yet. */
  abandon(): void {
    this.#stopped = true;
    this.#abandoned = true;
  }

  #item(): Item {
    const dice = this.random.next();
    const to =
      dice < 0.05
        ? ({ everyone: true } as const)
        : dice < 0.2
          ? { topic: this.random.one(this.people.topics) }
          : { user: this.random.one(this.people.users) };
    return {
      n: this.books.next(),
      to,
      ttlSeconds: this.random.chance(0.15) ? 1 + this.random.integer(4) : undefined,
    };
  }

  async #untilStored(items: readonly Item[]): Promise<void> {
    const notifications = items.map(({ n, to, ttlSeconds }) => ({
      to,
      type: 'chaos',
      ...(ttlSeconds === undefined ? {} : { ttlSeconds }),
      // Some are large: they fill the sockets of those who read nothing.
      data: { tenant: this.tenant, n, text: 'x'.repeat(n % 50 === 0 ? 30_000 : 100) },
    }));
    const [only] = notifications;
    const isBatch = notifications.length > 1;
    const body = JSON.stringify(isBatch ? { notifications } : only);
    const key = { 'idempotency-key': `${this.name}-${items[0]?.n ?? 0}` };
    for (let attempt = this.random.integer(this.urls.length); !this.#abandoned; attempt += 1) {
      const url = this.urls[attempt % this.urls.length];
      const answer = await post<StoredAnswer & { notifications?: StoredAnswer[] }>(
        `${url}/v1/notifications${isBatch ? '/batch' : ''}`,
        this.#token,
        body,
        key,
        REQUEST_MS,
      ).catch(() => undefined);
      if (answer?.status === 201) {
        this.#book(items, isBatch ? (answer.body.notifications ?? []) : [answer.body]);
        return;
      }
      if (answer !== undefined && !PASSING.has(answer.status))
        this.books.find(
          'strange',
          `a publish of ${this.tenant} (n ${items[0]?.n ?? 0}) was answered ${answer.status}: ${JSON.stringify(answer.body).slice(0, 300)}`,
        );
      await sleep(PAUSE_MS);
    }
  }

  #book(items: readonly Item[], stored: readonly StoredAnswer[]): void {
    if (stored.length !== items.length)
      this.books.find('strange', `${items.length} notifications were answered with ${stored.length}`);
    this.books.answered(
      items.flatMap(({ n, to, ttlSeconds }, index) => {
        const place = stored[index];
        if (place === undefined) return [];
        const { id, position } = place;
        return [
          { tenant: this.tenant, n, to, id, position: Number(position), expires: ttlSeconds !== undefined },
        ];
      }),
    );
  }
}
