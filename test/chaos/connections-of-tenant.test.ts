import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { OpenConnectionsStore } from '../../src/delivery/open-connections.store.ts';
import { setTenant } from '../support/acts.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { holding } from '../support/privacy.ts';
import { startServiceProcess } from '../support/service-process.ts';
import type { StreamClient } from '../support/stream-client.ts';
import { userToken } from '../support/tokens.ts';
import { connectionOf, expectBye, TwoNodes } from '../support/two-nodes.ts';

/* How many streams a tenant may have, on all nodes together. */

let nodes: TwoNodes;
beforeAll(async () => {
  nodes = await TwoNodes.start();
});
afterEach(async () => {
  await nodes.cutAll();
});
afterAll(async () => {
  await nodes.close();
});

async function tenantWith(connections: number): Promise<string> {
  const tenant = `t-${randomUUID()}`;
  await nodes.limit(tenant, { connections });
  return tenant;
}

/** A stream of a user of its own. */
const open = (service: Pick<Service, 'url'>, tenant: string) =>
  nodes.open(service, userToken({ tenant, user: randomUUID() }));

const openMany = async (service: Pick<Service, 'url'>, tenant: string, count: number) => {
  const streams: StreamClient[] = [];
  for (let n = 0; n < count; n += 1) streams.push(await open(service, tenant));
  return streams;
};

/** One that is not let in: there is no `sync` in it. */
async function expectRefused(service: Pick<Service, 'url'>, tenant: string): Promise<void> {
  const stream = await nodes.ask(service, userToken({ tenant, user: randomUUID() }));
  expect(stream.status).toBe(200);
  const retryAfterMs = await expectBye(stream, 'over-limit');
  expect(retryAfterMs).toBeGreaterThanOrEqual(nodes.here.config.STREAM_RETRY_MS / 2);
  expect(retryAfterMs).toBeLessThanOrEqual(nodes.here.config.STREAM_RETRY_MS * 1.5);
  expect(stream.named('sync')).toEqual([]);
}

/** The node knows by now that the tenant is full. */
const untilRefused = (service: Pick<Service, 'url'>, tenant: string) =>
  eventually(() => expectRefused(service, tenant), { every: 100 });

/**
 * Every node has told the others what it has, heard what they told, and done what follows from it. They exchange that every
 * half second, one exchange after the other: when one begins the one before is over.
 */
async function untilExchanged(): Promise<void> {
  const exchanges = nodes.both.map(({ app }) => jest.spyOn(app.get(OpenConnectionsStore), 'exchange'));
  const exchanged = async () => {
    const before = exchanges.map(({ mock }) => mock.calls.length);
    await eventually(() =>
      exchanges.forEach(({ mock }, n) => expect(mock.calls.length).toBeGreaterThan((before[n] ?? 0) + 1)),
    );
  };
  // Told, and then heard.
  await exchanged();
  await exchanged();
  for (const exchange of exchanges) exchange.mockRestore();
}

const countsOf = (tenant: string) =>
  nodes.here.database.query<{ node: string; connections: number }>(
    'select node, connections from connection_counts where tenant_id = $1 order by node',
    [tenant],
  );

/** What the node has counted of streams that were over the limit of their tenant. */
const refusals = async ({ url }: Pick<Service, 'url'>): Promise<number> =>
  Number(
    /^tidings_over_limit_total\{limit="connections"\} (\d+)$/m.exec(
      await (await fetch(`${url}/metrics`)).text(),
    )?.[1],
  );

describe('a tenant at its limit', () => {
  test('gets no further stream on a node until one ends, exactly', async () => {
    const tenant = await tenantWith(3);
    const [first, ...others] = await openMany(nodes.here, tenant, 3);
    await expectRefused(nodes.here, tenant);
    await first?.cut();
    const next = await open(nodes.here, tenant);
    await expectRefused(nodes.here, tenant);
    await nodes.expectAlive(tenant, [...others, next]);
  });

  test('gets none on another node either, once they told one another; and one again when one ends anywhere', async () => {
    const tenant = await tenantWith(4);
    const there = await openMany(nodes.there, tenant, 1);
    const here = await openMany(nodes.here, tenant, 3);
    await untilExchanged();
    await expectRefused(nodes.there, tenant);
    await expectRefused(nodes.here, tenant);
    await here.pop()?.cut();
    const next = await eventually(() => open(nodes.there, tenant), { every: 100 });
    await untilExchanged();
    await expectRefused(nodes.here, tenant);
    await nodes.expectAlive(tenant, [...there, ...here, next]);
  });

  test('is not known to be full on a node without a stream of it, which lets one in and ends it', async () => {
    const tenant = await tenantWith(2);
    const old = await openMany(nodes.here, tenant, 2);
    const young = await open(nodes.there, tenant);
    await expectBye(young, 'over-limit');
    // From now on it knows, though it has none.
    const counted = await refusals(nodes.there);
    await expectRefused(nodes.there, tenant);
    expect(await refusals(nodes.there)).toBe(counted + 1);
    await nodes.expectAlive(tenant, old);
  });

  test('takes no place from another tenant', async () => {
    const [tenant, other] = [await tenantWith(1), await tenantWith(1)];
    const streams = [await open(nodes.here, tenant), await open(nodes.there, other)];
    await untilRefused(nodes.there, tenant);
    await untilRefused(nodes.here, other);
    await nodes.expectAlive(tenant, streams.slice(0, 1));
    await nodes.expectAlive(other, streams.slice(1));
  });
});

test('of thirty streams at once on two nodes those that came first stay, exactly as many as there may be', async () => {
  for (let round = 0; round < 5; round += 1) {
    const limit = 7;
    const tenant = await tenantWith(limit);
    // In the first round no node hears of the other before each has as many as there may be on both.
    const release =
      round === 0
        ? await holding(nodes.here.database, 'lock table connection_counts in access exclusive mode')
        : undefined;
    const streams = await Promise.all(
      Array.from({ length: 30 }, (_, n) =>
        nodes.ask(n % 2 === 0 ? nodes.here : nodes.there, userToken({ tenant, user: `u-${n}` })),
      ),
    );
    const letIn = () => streams.filter((stream) => stream.named('sync').length > 0);
    const answered = () => streams.filter((stream) => stream.ended || stream.named('sync').length > 0);
    await eventually(() => expect(answered().length).toBe(streams.length));
    if (release !== undefined) {
      expect(letIn()).toHaveLength(2 * limit);
      await release();
    }
    const left = () => letIn().filter(({ ended }) => !ended);
    await eventually(() => expect(left().length).toBe(limit));
    await eventually(async () =>
      expect((await countsOf(tenant)).reduce((sum, { connections }) => sum + connections, 0)).toBe(limit),
    );
    for (const service of nodes.both) await untilRefused(service, tenant);
    await nodes.expectAlive(tenant, left());
    for (const stream of streams.filter(({ ended }) => ended)) await expectBye(stream, 'over-limit');
    const [oldest] = await nodes.here.database.query<{ ids: string[] }>(
      `select array(select connection_id from connections where tenant_id = $1 order by since, connection_id limit $2) as ids`,
      [tenant, limit],
    );
    expect(left().map(connectionOf).toSorted()).toEqual(oldest?.ids.toSorted());
  }
});

describe('a limit that changes', () => {
  test('ends the newest streams on both nodes; a raised one lets more in', async () => {
    const tenant = await tenantWith(6);
    const streams: StreamClient[] = [];
    for (let n = 0; n < 6; n += 1) streams.push(await open(n % 2 === 0 ? nodes.here : nodes.there, tenant));
    for (const service of nodes.both) await untilRefused(service, tenant);
    await setTenant(nodes.here, tenant, { limits: { ...NO_LIMITS, connections: 2 } });
    for (const stream of streams.slice(2)) await expectBye(stream, 'over-limit');
    await nodes.expectAlive(tenant, streams.slice(0, 2));

    await nodes.limit(tenant, { connections: 3 });
    const more = await eventually(() => open(nodes.there, tenant));
    for (const service of nodes.both) await untilRefused(service, tenant);
    await nodes.expectAlive(tenant, [...streams.slice(0, 2), more]);
  });
});

describe('the streams of a node that is no more', () => {
  test('do not count: of one that was killed, after it has been silent for a while', async () => {
    const tenant = await tenantWith(2);
    const doomed = await startServiceProcess(nodes.here.database, { NODE_NAME: 'doomed' });
    await openMany(doomed, tenant, 2);
    await eventually(async () =>
      expect(await countsOf(tenant)).toEqual([{ node: 'doomed', connections: 2 }]),
    );
    const early = await open(nodes.here, tenant);
    await expectBye(early, 'over-limit');
    await doomed.end();
    // Where this test stands still for longer than a node may be silent, the last sign of life would be too long ago.
    const seen = (ago: string) =>
      nodes.here.database.query(
        `update nodes set seen_at = clock_timestamp() - interval '${ago}' where node = 'doomed'`,
      );
    await seen('-1 hour');
    await untilExchanged();
    await expectRefused(nodes.here, tenant);
    await seen('11 seconds');
    const streams = [
      await eventually(() => open(nodes.here, tenant), { every: 200 }),
      await eventually(() => open(nodes.there, tenant), { every: 200 }),
    ];
    for (const service of nodes.both) await untilRefused(service, tenant);
    await nodes.expectAlive(tenant, streams);
  });

  test('do not count: of one that was killed and started again, once it has started', async () => {
    const tenant = await tenantWith(2);
    const doomed = await startServiceProcess(nodes.here.database, { NODE_NAME: 'phoenix' });
    await openMany(doomed, tenant, 2);
    await eventually(async () =>
      expect(await countsOf(tenant)).toEqual([{ node: 'phoenix', connections: 2 }]),
    );
    await doomed.end();
    const phoenix = await startServiceProcess(nodes.here.database, { NODE_NAME: 'phoenix' });
    expect(await countsOf(tenant)).toEqual([]);
    const streams = await openMany(nodes.here, tenant, 2);
    await untilRefused(phoenix, tenant);
    await nodes.expectAlive(tenant, streams);
    await phoenix.end();
  });

  test('do not count: of one that was stopped, at once', async () => {
    const tenant = await tenantWith(2);
    const third = await startService({ NODE_NAME: 'third' }, { database: nodes.here.database });
    const before = await openMany(third, tenant, 2);
    await eventually(async () => expect(await countsOf(tenant)).toEqual([{ node: 'third', connections: 2 }]));
    await third.close();
    for (const stream of before) await expectBye(stream, 'shutdown');
    expect(await countsOf(tenant)).toEqual([]);
    await nodes.expectAlive(tenant, await openMany(nodes.here, tenant, 2));
  });
});

describe('a stream that does not begin takes no place', () => {
  /** Once nothing is left of what was. */
  const fill = async (tenant: string, limit: number) => {
    await eventually(async () => expect(await countsOf(tenant)).toEqual([]));
    const streams = await openMany(nodes.here, tenant, limit);
    await expectRefused(nodes.here, tenant);
    await nodes.expectAlive(tenant, streams);
  };

  test('when it was refused: for the limit, and for a device too many', async () => {
    const tenant = `t-${randomUUID()}`;
    await nodes.limit(tenant, { connections: 2, devicesPerUser: 1 });
    await openMany(nodes.here, tenant, 1);
    const token = userToken({ tenant });
    const known = await nodes.open(nodes.here, token, { device: 'known' });
    for (let n = 0; n < 5; n += 1) await expectRefused(nodes.here, tenant);
    await known.cut();
    for (let n = 0; n < 5; n += 1)
      await expectBye(await nodes.ask(nodes.here, token, { device: `new-${n}` }), 'over-limit');
    await nodes.cutAll();
    await fill(tenant, 2);
  });

  test('when its client has gone, or its token has ended, while the database was asked', async () => {
    const tenant = await tenantWith(3);
    const token = userToken({ tenant });
    await (await nodes.open(nodes.here, token)).cut();
    const release = await holding(
      nodes.here.database,
      `select from devices where tenant_id = '${tenant}' for update`,
    );
    const gone = await nodes.ask(nodes.here, token);
    // A token that ended before it was looked at, where the machine stood still, opens nothing.
    const ending = await eventually(async () => {
      const stream = await nodes.ask(nodes.here, userToken({ tenant, expiresInSeconds: 2 }));
      expect(stream.status).toBe(200);
      return stream;
    });
    const ended = Date.now() + 2_000;
    await gone.cut();
    await eventually(() => expect(Date.now()).toBeGreaterThan(ended));
    await release();
    await expectBye(ending, 'token-expired');
    await fill(tenant, 3);
  });

  test('and one that ended with the log gives its own back', async () => {
    const tenant = await tenantWith(2);
    const before = await openMany(nodes.here, tenant, 2);
    await nodes.here.database.query('delete from tenant_logs where tenant_id = $1', [tenant]);
    for (const stream of before) await expectBye(stream, 'unavailable');
    await fill(tenant, 2);
  });
});
