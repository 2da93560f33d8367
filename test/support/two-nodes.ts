import { expect } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { NO_LIMITS, type OwnLimits } from '../../src/core/limits.ts';
import { setTenant } from './acts.ts';
import { publish } from './api.ts';
import { startService, type Service } from './app.ts';
import type { TestDatabase } from './database.ts';
import type { TestSettings } from './settings.ts';
import { StreamClient } from './stream-client.ts';
import { serviceToken } from './tokens.ts';

/** Two nodes on one database, and the streams that a test opens on them. */
export class TwoNodes {
  readonly #streams: StreamClient[] = [];

  private constructor(
    readonly here: Service,
    readonly there: Service,
  ) {}

  /** @param database one to use instead of a new one; it is not dropped */
  static async start(settings: TestSettings = {}, database?: TestDatabase): Promise<TwoNodes> {
    const here = await startService(
      { NODE_NAME: 'here', ...settings },
      database === undefined ? {} : { database },
    );
    const there = await startService({ NODE_NAME: 'there', ...settings }, { database: here.database });
    return new TwoNodes(here, there);
  }

  get both(): readonly [Service, Service] {
    return [this.here, this.there];
  }

  /** Gives the tenant these limits; both nodes know of it then. */
  async limit(tenant: string, limits: Partial<OwnLimits>): Promise<void> {
    await setTenant(this.here, tenant, { limits: { ...NO_LIMITS, ...limits } });
    await this.there.app.get(ChangeFeed).now();
  }

  /** Opens a stream and does not wait for anything on it. */
  async ask(
    { url }: Pick<Service, 'url'>,
    token: string,
    query: Record<string, string> = {},
  ): Promise<StreamClient> {
    const stream = await StreamClient.open(url, token, { query });
    this.#streams.push(stream);
    return stream;
  }

  /** Opens a stream that has all there is. */
  async open(
    service: Pick<Service, 'url'>,
    token: string,
    query: Record<string, string> = {},
  ): Promise<StreamClient> {
    const stream = await this.ask(service, token, query);
    await stream.untilEvent('caught-up');
    return stream;
  }

  /** That these are open, were told no end, and get what is published now. */
  async expectAlive(tenant: string, streams: readonly StreamClient[]): Promise<void> {
    const { id } = await publish(this.here.url, serviceToken({ tenant, client: 'prober' }), {
      to: { everyone: true },
      type: 't',
      data: 'alive',
    });
    for (const stream of streams) {
      await stream.until(() => stream.notifications.some((one) => one.id === id), 'what is new');
      expect(stream.named('bye')).toEqual([]);
    }
  }

  /** Cuts the streams that are left, after a test. */
  async cutAll(): Promise<void> {
    await Promise.all(this.#streams.splice(0).map((stream) => stream.cut()));
  }

  async close(): Promise<void> {
    await this.there.close();
    await this.here.close();
  }
}

/** How long the client of a stream that the service ended with this reason is told to wait, in ms. */
export async function expectBye(stream: StreamClient, reason: string): Promise<number> {
  await stream.untilEvent('bye');
  await stream.closed;
  const reconnect = reason !== 'replaced';
  expect(stream.named('bye')).toEqual([{ reason, reconnect, retryAfterMs: expect.any(Number) }]);
  expect(stream.events.at(-1)?.event).toBe('bye');
  const retryAfterMs = Number(stream.named('bye')[0]?.['retryAfterMs']);
  expect(stream.retries.at(-1)).toBe(retryAfterMs);
  return retryAfterMs;
}

/** The id by which the client of a stream knows it. */
export const connectionOf = (stream: StreamClient): string =>
  String(stream.named('sync')[0]?.['connectionId']);
