import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { TicketsStore } from '../../src/auth/tickets.ts';
import type { RunOfTenant } from '../../src/postgres/tenant-pool.ts';
import type { TenantId } from '../../src/core/identifiers.ts';
import { asPosition, START } from '../../src/core/position.ts';
import { RevocationsStore } from '../../src/auth/revocations.ts';
import { StreamCommandsStore } from '../../src/delivery/stream-commands.ts';
import {
  registration,
  deviceId,
  ReceiptsBench,
  letIn,
  userId,
  type ReceiptsNode,
} from '../support/receipts.ts';

/*
 * What an erasure has taken does not come back by a statement that began after its row was there, whatever the node
 * that runs it has heard.
 */

/** When the erasure was settled. */
const ERASED_AT = Date.UTC(2026, 10, 22, 12, 0, 0, 123);

let bench: ReceiptsBench;
let node: ReceiptsNode;
beforeAll(async () => {
  bench = await ReceiptsBench.open();
  node = bench.node();
  await node.partitions.ensureCovering(START);
});
afterAll(async () => {
  await bench.close();
});

/** `user` undefined: the whole tenant. */
async function erasure(tenant: TenantId, user: string | undefined, phase: 'closing' | 'erasing' | 'done') {
  const digest =
    user === undefined ? Buffer.alloc(0) : createHash('sha256').update(`${tenant}:${user}`).digest();
  await bench.database.query(
    `insert into erasures (tenant_id, erasure_id, digest, user_id, ordered_by, worker, position, erased_at, done_at)
     values ($1, gen_random_uuid(), $2, $3, '{}', gen_random_uuid(), $4, $5, $6)`,
    [
      tenant,
      digest,
      phase === 'done' ? null : (user ?? null),
      phase === 'closing' ? null : 100,
      phase === 'closing' ? null : new Date(ERASED_AT),
      phase === 'done' ? new Date(ERASED_AT + 1_000) : null,
    ],
  );
}

/** What a stream of a user did that was let in at that time, and what of it is stored. */
async function recorded(tenant: TenantId, user: string, openedAt: number) {
  const of = { user: userId(user), device: deviceId('phone'), openedAt };
  const connectionId = randomUUID();
  await bench.setCursor(tenant, user, 'phone', 5);
  await node.receipts.recordConnections(tenant, [
    { ...of, connectionId, node: 'n', topics: [], since: openedAt, position: asPosition(5) },
  ]);
  const at = openedAt + 10;
  await node.receipts.recordSends(tenant, [
    { ...of, connectionId, from: asPosition(5), to: asPosition(9), at, replayed: false },
  ]);
  await node.receipts.moveCursors(tenant, [{ ...of, position: asPosition(9) }]);
  const [row] = await bench.database.query<{ connections: number; sends: number }>(
    `select (select count(*) from connections where tenant_id = $1 and connection_id = $2)::int as connections,
       (select count(*) from sends where tenant_id = $1 and connection_id = $2)::int as sends`,
    [tenant, connectionId],
  );
  return { ...row, cursor: await bench.cursor(tenant, user, 'phone') };
}

const NOTHING = { connections: 0, sends: 0, cursor: 5 };
const ALL = { connections: 1, sends: 1, cursor: 9 };

describe('what a stream did', () => {
  test.each(['closing', 'erasing'] as const)(
    'is not stored while its user is being erased (%s)',
    async (phase) => {
      const [tenant, other] = [await bench.tenant(), await bench.tenant()];
      await erasure(tenant, 'alice', phase);
      expect(await recorded(tenant, 'alice', ERASED_AT + 60_000)).toEqual(NOTHING);
      expect(await recorded(tenant, 'bob', ERASED_AT - 60_000)).toEqual(ALL);
      expect(await recorded(other, 'alice', ERASED_AT - 60_000)).toEqual(ALL);
    },
  );

  test('is not stored afterwards if it was let in before, to the millisecond, and else it is', async () => {
    const tenant = await bench.tenant();
    await erasure(tenant, 'alice', 'done');
    for (const before of [0, 0.25, 3_600_000])
      expect(await recorded(tenant, 'alice', ERASED_AT - before)).toEqual(NOTHING);
    expect(await recorded(tenant, 'alice', ERASED_AT + 1)).toEqual(ALL);
    expect(await recorded(tenant, 'bob', ERASED_AT - 1)).toEqual(ALL);
  });

  test('is not stored of anybody when the whole tenant is erased', async () => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    await erasure(tenant, undefined, 'done');
    for (const user of ['alice', 'bob']) {
      expect(await recorded(tenant, user, ERASED_AT)).toEqual(NOTHING);
      expect(await recorded(tenant, `${user}-anew`, ERASED_AT + 1)).toEqual(ALL);
      expect(await recorded(other, user, ERASED_AT)).toEqual(ALL);
    }
  });

  test('of several streams in one flush is stored of those that are not erased', async () => {
    const tenant = await bench.tenant();
    for (const user of ['alice', 'bob', 'carol']) await bench.setCursor(tenant, user, 'phone', 5);
    await erasure(tenant, 'alice', 'done');
    await erasure(tenant, 'bob', 'closing');
    const moves = ['alice', 'bob', 'carol'].flatMap((user) =>
      [ERASED_AT, ERASED_AT + 1].map((openedAt) => ({
        user: userId(user),
        device: deviceId('phone'),
        openedAt,
        // The stream that was let in before got further.
        position: asPosition(openedAt === ERASED_AT ? 9 : 7),
      })),
    );
    await node.receipts.moveCursors(tenant, moves);
    expect(
      await Promise.all(['alice', 'bob', 'carol'].map((user) => bench.cursor(tenant, user, 'phone'))),
    ).toEqual([7, 5, 9]);
  });
});

describe('while a user is being erased', () => {
  const users = ['alice', 'bob', 'alice', 'carol'];
  const devicesOf = (tenant: TenantId) =>
    bench.database.query('select user_id from devices where tenant_id = $1 order by 1', [tenant]);

  test.each([['alice'], [undefined]])(
    'nobody of them gets a device or confirms by a resume (%s)',
    async (user) => {
      const tenant = await bench.tenant();
      await erasure(tenant, user, 'closing');
      const arrived = await node.arrivals.register(
        tenant,
        users.map((each) => registration({ user: each, resume: 50 })),
      );
      const isHeld = (each: string) => user === undefined || each === user;
      expect(arrived.map((one) => one === 'being-erased')).toEqual(users.map(isHeld));
      expect(letIn(arrived)).toEqual(
        users
          .filter((each) => !isHeld(each))
          .map(() => expect.objectContaining({ outcome: 'exact', start: 50, cursor: 50 })),
      );
      const expected = user === undefined ? [] : ['bob', 'carol'];
      expect((await devicesOf(tenant)).map((row) => String(row['user_id']))).toEqual(expected);
      expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([]);
    },
  );

  test('afterwards they do', async () => {
    const tenant = await bench.tenant();
    await erasure(tenant, 'alice', 'done');
    const [arrived] = await node.arrivals.register(tenant, [registration({ resume: 50 })]);
    expect(arrived).toMatchObject({ outcome: 'exact', start: 50 });
  });

  test.each([['alice'], [undefined]])('no ticket, renewal or order of theirs is kept (%s)', async (user) => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    await erasure(tenant, user, 'closing');
    const tickets = new TicketsStore(node.pools.tenant, node.pools.engine);
    const keep = (tenantId: TenantId, ...names: string[]) =>
      tickets.keep(
        tenantId,
        names.map((name) => ({
          user: userId(name),
          hash: Buffer.from(randomUUID()),
          principal: '{}',
          tokenExpiresAt: Date.now() + 60_000,
        })),
        30,
      );
    const bobs = user === undefined ? undefined : expect.any(Date);
    expect(await keep(tenant, 'alice', 'bob', 'alice')).toEqual([undefined, bobs, undefined]);
    expect(await keep(other, 'alice')).toEqual([expect.any(Date)]);

    const orders = new StreamCommandsStore(node.pools.tenant, node.pools.engine);
    const renewed = { topics: [], expiresAt: 1, issuer: 'i', tokenId: undefined, issuedAt: undefined };
    const renew = (tenantId: TenantId, name: string) =>
      orders.renew(tenantId, { kind: 'renew', connectionId: randomUUID(), user: userId(name), renewed });
    await expect(renew(tenant, 'alice')).rejects.toMatchObject({ code: 'being_erased' });
    await renew(other, 'alice');
    const run: RunOfTenant = (...statement) => node.pools.tenant.rows(...statement);
    const close = { kind: 'close', connectionId: randomUUID() } as const;
    expect(await orders.insert(run, tenant, close)).toBe(user !== undefined);
    const disconnect = { kind: 'disconnect', user: userId('alice') } as const;
    expect(await orders.insert(run, tenant, disconnect)).toBe(false);
    expect(await orders.insert(run, other, disconnect)).toBe(true);
  });
});

test.each(['deleting', 'deleted'])('nothing is revoked in a tenant that is %s', async (status) => {
  const tenant = await bench.tenant();
  const run: RunOfTenant = (...statement) => node.pools.tenant.rows(...statement);
  const revoke = () =>
    new RevocationsStore(node.pools.engine, node.pools.tenant).insert(
      run,
      tenant,
      { kind: 'user', user: userId('alice'), issuedBefore: undefined },
      1,
    );
  expect(await revoke()).toBeDefined();
  await bench.database.query('insert into tenants (tenant_id, status) values ($1, $2)', [tenant, status]);
  expect(await revoke()).toBeUndefined();
});
