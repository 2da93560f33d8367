import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { Eviction } from '../../src/delivery/eviction.ts';
import { StreamCommandsStore } from '../../src/delivery/stream-commands.ts';
import { setTenant } from '../support/acts.ts';
import { post } from '../support/api.ts';
import type { Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { holding } from '../support/privacy.ts';
import type { StreamClient } from '../support/stream-client.ts';
import { userToken } from '../support/tokens.ts';
import { connectionOf, expectBye, TwoNodes } from '../support/two-nodes.ts';

/* How many streams a user may have, on two nodes. */

/**
 * Nodes wait for RECEIPTS_FLUSH_MS and 400 ms before they count (test/unit/eviction.test.ts): by then what has ended is
 * written down, on a machine that does not stand still. Where that matters they are given so much more.
 */
const MORE_MS = 5_000;

let nodes: TwoNodes;
beforeAll(async () => {
  nodes = await TwoNodes.start();
  await nodeOfTheTest();
});
afterEach(async () => {
  await nodes.cutAll();
});
afterAll(async () => {
  await nodes.close();
});

/** A tenant whose users may have so many. */
async function tenantWith(connectionsPerUser: number): Promise<string> {
  const tenant = `t-${randomUUID()}`;
  await nodes.limit(tenant, { connectionsPerUser });
  return tenant;
}

/** The streams of a user that receipts know as open, the newest first, as the limit orders them. */
const openIds = async (tenant: string, user = 'alice'): Promise<string[]> =>
  (
    await nodes.here.database.query<{ id: string }>(
      `select connection_id as id from connections where tenant_id = $1 and user_id = $2 and until is null
       order by since desc, connection_id desc`,
      [tenant, user],
    )
  ).map(({ id }) => id);

/** Orders by which all nodes count the streams of a user: not needed where one node has all of them. */
const reconciliations = async (tenant: string) =>
  await nodes.here.database.query(
    `select order_id from stream_commands where tenant_id = $1 and kind = 'reconcile'`,
    [tenant],
  );

/** A node that is always alive, and has whatever streams a test gives it. */
async function nodeOfTheTest(): Promise<void> {
  await nodes.here.database.query(
    `insert into nodes (node, started_at, seen_at) values ('of the test', '2020-01-01', now() + interval '1 day')`,
  );
}

/**
 * The nodes have looked at all that was opened on them until now, and done what had to be done. They do one thing after
 * the other; here somebody comes last who has younger streams elsewhere, as many as he may have.
 */
async function untilLookedAt(
  tenant: string,
  limit: number,
  services: readonly Service[] = nodes.both,
): Promise<void> {
  const lookedAt = services.map(async (service) => {
    const user = randomUUID();
    await nodes.here.database.query(
      `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
       select $1, gen_random_uuid(), $2, 'd', 'of the test', now() + interval '1 hour', 0 from generate_series(1, $3)`,
      [tenant, user, limit],
    );
    await expectBye(await nodes.open(service, userToken({ tenant, user })), 'replaced');
  });
  await Promise.all(lookedAt);
}

/** As if orders to count again had been given later than they were. */
function givenLater(services: readonly Service[]): () => void {
  const spies = services.map(({ app }) => {
    const eviction = app.get(Eviction);
    const reconcile = eviction.reconcile.bind(eviction);
    return jest
      .spyOn(eviction, 'reconcile')
      .mockImplementation((order) => reconcile({ ...order, at: order.at + MORE_MS }));
  });
  return () => spies.forEach((spy) => spy.mockRestore());
}

describe('a user over the limit', () => {
  test('loses his oldest stream at once on its own node, and is told not to come back soon', async () => {
    const tenant = await tenantWith(2);
    const token = userToken({ tenant });
    const [oldest, older] = [await nodes.open(nodes.here, token), await nodes.open(nodes.here, token)];
    const newest = await nodes.open(nodes.here, token);
    const retryAfterMs = await expectBye(oldest, 'replaced');
    expect(await reconciliations(tenant)).toEqual([]);
    expect(retryAfterMs).toBeGreaterThanOrEqual(30_000);
    await nodes.expectAlive(tenant, [older, newest]);
  });

  test.each(['here', 'there'] as const)(
    'loses his oldest stream when it is on another node: %s',
    async (first) => {
      const tenant = await tenantWith(2);
      const token = userToken({ tenant });
      const other = first === 'here' ? nodes.there : nodes.here;
      const oldest = await nodes.open(nodes[first], token);
      const older = await nodes.open(other, token);
      const newest = await nodes.open(nodes[first], token);
      await expectBye(oldest, 'replaced');
      // Two that are left by each node's own count, and one too many by that of both.
      const last = await nodes.open(nodes[first], token);
      await expectBye(older, 'replaced');
      await nodes.expectAlive(tenant, [newest, last]);
    },
  );

  test('takes nothing from another user, nor from the same user of another tenant', async () => {
    const [tenant, twin] = [await tenantWith(1), await tenantWith(1)];
    const others: [string, StreamClient][] = [];
    for (const service of nodes.both) {
      others.push([
        tenant,
        await nodes.open(service, userToken({ tenant, user: `Alice of ${service.config.NODE_NAME}` })),
      ]);
    }
    others.push([twin, await nodes.open(nodes.there, userToken({ tenant: twin }))]);
    const streams = [];
    for (let n = 0; n < 6; n += 1)
      streams.push(await nodes.open(n % 2 === 0 ? nodes.here : nodes.there, userToken({ tenant })));
    const newest = streams.pop();
    for (const stream of streams) await expectBye(stream, 'replaced');
    await untilLookedAt(tenant, 1);
    for (const [of, stream] of others) await nodes.expectAlive(of, [stream]);
    await nodes.expectAlive(tenant, newest === undefined ? [] : [newest]);
  });

  test('loses his oldest stream though users of that name in other tenants are over theirs in the same moment', async () => {
    const tenants = await Promise.all(Array.from({ length: 4 }, () => tenantWith(1)));
    const open = (service: Service) =>
      Promise.all(tenants.map((tenant) => nodes.open(service, userToken({ tenant }))));
    const oldest = await open(nodes.here);
    const newest = await open(nodes.there);
    for (const stream of oldest) await expectBye(stream, 'replaced');
    for (const [n, stream] of newest.entries()) await nodes.expectAlive(tenants[n] ?? '', [stream]);
  });

  test('who opens thirty at once on two nodes is left with the newest, exactly as many as he may have, and they stay', async () => {
    const limit = 5;
    const tenant = await tenantWith(limit);
    for (const user of ['ann', 'bob', 'cid', 'dan', 'eve']) {
      const token = userToken({ tenant, user });
      const streams = await Promise.all(
        Array.from({ length: 30 }, (_, n) => nodes.ask(n % 2 === 0 ? nodes.here : nodes.there, token)),
      );
      for (const stream of streams) await stream.untilEvent('sync');
      const left = () => streams.filter(({ ended }) => !ended);
      await eventually(() => expect(left().length).toBe(limit));
      await eventually(async () => expect(await openIds(tenant, user)).toHaveLength(limit));
      await untilLookedAt(tenant, limit);
      expect(left().length).toBe(limit);
      await nodes.expectAlive(tenant, left());
      const [newest] = await nodes.here.database.query<{ ids: string[] }>(
        `select array(select connection_id from connections where tenant_id = $1 and user_id = $2
         order by since desc, connection_id desc limit $3) as ids`,
        [tenant, user, limit],
      );
      expect(left().map(connectionOf).toSorted()).toEqual(newest?.ids.toSorted());
      const ended = streams.filter((stream) => stream.ended);
      for (const stream of ended) await expectBye(stream, 'replaced');
    }
  });
});

describe('what has ended does not count', () => {
  test('though its end is not written down yet: a page that is reloaded through another node costs its user nothing', async () => {
    const tenant = await tenantWith(2);
    const [here, there] = nodes.both;
    const asGiven = givenLater(nodes.both);
    const left = await Promise.all(
      Array.from({ length: 8 }, async (_, n) => {
        const token = userToken({ tenant, user: `u-${n}` });
        const kept = await nodes.open(here, token);
        const reloaded = await nodes.open(there, token);
        // Each at another moment between two flushes.
        await sleep(n * 40);
        await reloaded.cut();
        return [kept, await nodes.open(here, token)];
      }),
    );
    await untilLookedAt(tenant, 2);
    asGiven();
    await nodes.expectAlive(tenant, left.flat());
  });

  test('though it takes its node a while to write it down, when others count already', async () => {
    const settings = { RECEIPTS_FLUSH_MS: 600, CHANGES_POLL_MS: 100 };
    const slow = await TwoNodes.start(settings);
    givenLater(slow.both);
    try {
      const tenant = `t-${randomUUID()}`;
      await slow.limit(tenant, { connectionsPerUser: 2 });
      const token = userToken({ tenant });
      const kept = await slow.open(slow.here, token);
      const reloaded = await slow.open(slow.there, token);
      const { database } = slow.here;
      const record = [tenant, connectionOf(reloaded)];
      const rows = (sql: string) => database.query(sql, record);
      await eventually(async () =>
        expect(
          await rows('select from connections where tenant_id = $1 and connection_id = $2'),
        ).toHaveLength(1),
      );
      const release = await holding(
        database,
        `select from connections where connection_id = '${connectionOf(reloaded)}' for update`,
      );
      await reloaded.cut();
      const again = await slow.open(slow.here, token);
      await eventually(async () =>
        expect(
          await database.query(`select from stream_commands where tenant_id = $1 and kind = 'reconcile'`, [
            tenant,
          ]),
        ).not.toEqual([]),
      );
      // Every node has heard of the order by then; they count a second and more after it.
      await sleep(400);
      await release('rollback');
      // They count one user after the other: when he has lost a stream, the first was counted.
      const bob = userToken({ tenant, user: 'bob' });
      const first = await slow.open(slow.here, bob);
      for (let n = 0; n < 2; n += 1) await slow.open(slow.there, bob);
      await expectBye(first, 'replaced');
      await slow.expectAlive(tenant, [kept, again]);
      await slow.cutAll();
    } finally {
      await slow.close();
    }
  });

  test('nor does a stream count twice that goes on with other topics; it is as young as that', async () => {
    const tenant = await tenantWith(2);
    const [here, there] = nodes.both;
    const token = userToken({ tenant });
    const renewed = await nodes.open(here, token);
    const plain = await nodes.open(here, token);
    const { status } = await post(`${here.url}/v1/stream/renewals`, token, {
      connectionId: connectionOf(renewed),
      token: userToken({ tenant, topics: ['news'] }),
    });
    expect(status).toBe(202);
    await eventually(async () =>
      expect(
        await nodes.here.database.query(`select from connections where reason = 'renewed'`),
      ).toHaveLength(1),
    );
    await untilLookedAt(tenant, 2);
    await nodes.expectAlive(tenant, [renewed, plain]);

    const newest = await nodes.open(there, token);
    await expectBye(plain, 'replaced');
    await nodes.expectAlive(tenant, [renewed, newest]);
    await nodes.open(here, token);
    await expectBye(renewed, 'replaced');
  });
});

describe('a limit that changes', () => {
  test('is kept by the streams that are open, on both nodes; a raised one lets more in', async () => {
    const tenant = await tenantWith(6);
    const token = userToken({ tenant });
    const streams: StreamClient[] = [];
    for (let n = 0; n < 6; n += 1)
      streams.push(await nodes.open(n % 2 === 0 ? nodes.here : nodes.there, token));
    const other = await nodes.open(nodes.there, userToken({ tenant, user: 'bob' }));
    await eventually(async () => expect(await openIds(tenant)).toHaveLength(6));

    await setTenant(nodes.here, tenant, { limits: { ...NO_LIMITS, connectionsPerUser: 2 } });
    for (const stream of streams.slice(0, 4)) await expectBye(stream, 'replaced');
    await nodes.expectAlive(tenant, [...streams.slice(4), other]);

    await nodes.limit(tenant, { connectionsPerUser: 4 });
    const more = [await nodes.open(nodes.here, token), await nodes.open(nodes.there, token)];
    await untilLookedAt(tenant, 4);
    await nodes.expectAlive(tenant, [...streams.slice(4), ...more]);
  });
});

test('an order to count a user again ends nothing that is not too many, however often it comes', async () => {
  const tenant = await tenantWith(2);
  const token = userToken({ tenant });
  const streams = [await nodes.open(nodes.here, token), await nodes.open(nodes.there, token)];
  await eventually(async () => expect(await openIds(tenant)).toHaveLength(2));
  for (let n = 0; n < 3; n += 1)
    await nodes.here.app
      .get(StreamCommandsStore)
      .reconcile(tenantIdSchema.parse(tenant), [userIdSchema.parse('alice')]);
  await untilLookedAt(tenant, 2);
  await nodes.expectAlive(tenant, streams);
});

test('the streams of a node that gave no sign of life for a while count again when it does', async () => {
  const tenant = await tenantWith(2);
  const token = userToken({ tenant });
  const [here, there] = nodes.both;
  const before = [await nodes.open(there, token), await nodes.open(there, token)];
  await eventually(async () => expect(await openIds(tenant)).toHaveLength(2));
  const holder = new pg.Client({ connectionString: here.database.url });
  await holder.connect();
  await holder.query(`begin; select from nodes where node = 'there' for update`);
  await eventually(
    async () =>
      expect(
        await holder.query(
          `select from nodes where node = 'there' and seen_at < clock_timestamp() - interval '10 seconds'`,
        ),
      ).toMatchObject({ rowCount: 1 }),
    { every: 100 },
  );
  const meanwhile = [await nodes.open(here, token), await nodes.open(here, token)];
  await untilLookedAt(tenant, 2, [here]);
  expect([...before, ...meanwhile].flatMap((stream) => stream.named('bye'))).toEqual([]);
  await holder.end();
  for (const stream of before) await expectBye(stream, 'replaced');
  await nodes.expectAlive(tenant, meanwhile);
});
