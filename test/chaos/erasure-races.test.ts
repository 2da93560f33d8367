import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { errorCode } from '../../src/postgres/errors.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import {
  eraseUser,
  eraseWhole,
  holding,
  rowsOf,
  untilErasure,
  untilHeld,
  type ErasureBody,
} from '../support/privacy.ts';
import { startServiceProcess, type ServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/*
 * A user is erased while something of theirs is under way on another node, which a lock in the database holds up there.
 * Nothing of it is left in the end, whenever the lock is given back.
 */

/** Processes are started and waited for, one after the other. */
jest.setTimeout(300_000);

const FLUSH_MS = 6_000;
const USER = 'zebra';
const NODE = 'there';
const token = (tenant: string) => userToken({ tenant, user: USER, device: 'phone' });
const publisher = (tenant: string) => serviceToken({ tenant });

async function openLive(
  url: string,
  tenant: string,
  query: Record<string, string> = {},
): Promise<StreamClient> {
  const stream = await StreamClient.open(url, token(tenant), { query });
  await stream.untilEvent('caught-up');
  return stream;
}

const send = (url: string, tenant: string) =>
  publish(url, publisher(tenant), { to: { user: USER }, type: 't', data: 1 });

/** Postgres' name for a row that is there already. */
const UNIQUE_VIOLATION = '23505';

/**
 * A stream whose next interval is held up on its way into the database: somebody else has written the same row, and has
 * not decided yet. Returns how that ends.
 */
async function holdFlush(url: string, database: TestDatabase, tenant: string) {
  for (;;) {
    const stream = await openLive(url, tenant);
    const release = await tryToHoldFlush(stream, url, database, tenant);
    if (release !== undefined) return release;
    await stream.cut();
  }
}

/** Undefined: it was written before, since the machine stood still for longer than the service waits between two flushes. */
async function tryToHoldFlush(stream: StreamClient, url: string, database: TestDatabase, tenant: string) {
  // The flush that recorded the connection has just been, and the next one is FLUSH_MS away.
  await eventually(async () => {
    const rows = await database.query('select from connections where connection_id = $1', [
      stream.named('sync')[0]?.['connectionId'],
    ]);
    expect(rows).toHaveLength(1);
  });
  const { position } = await send(url, tenant);
  await stream.untilNotifications(1);
  const release = await holding(
    database,
    `insert into sends values ('${tenant}', '${USER}', 'phone', '${String(stream.named('sync')[0]?.['connectionId'])}',
       ${position}::bigint - 1, ${position}, 0, now(), false)`,
  ).catch((error: unknown) => {
    if (errorCode(error) !== UNIQUE_VIOLATION) throw error;
  });
  if (release === undefined) return undefined;
  await untilHeld(database, 'insert into sends');
  return release;
}

/** What names the user, by table. */
async function left(database: TestDatabase, tenant: string): Promise<Record<string, number>> {
  const rows = Object.entries(await rowsOf(database, tenant)).map(
    ([table, all]) => [table, all.filter((row) => row.includes(USER)).length] as const,
  );
  return Object.fromEntries(rows.filter(([, count]) => count > 0));
}

/** Resolves when so many nodes, and no more, have nothing of it in memory, and it goes no further. */
async function untilWaiting(database: TestDatabase, tenant: string, nodes: number): Promise<void> {
  await eventually(async () => {
    const [row] = await database.query<{ heard: string[]; touched: boolean }>(
      `select heard, touched_at > created_at + interval '2 seconds' as touched from erasures
         where tenant_id = $1 and position is null`,
      [tenant],
    );
    // Every node has had two seconds to hear of it.
    expect([row?.heard.length, row?.touched]).toEqual([nodes, true]);
  });
}

describe('with two nodes, nothing is left of a user', () => {
  let here: Service;
  let there: Service;
  beforeAll(async () => {
    here = await startService();
    there = await startService(
      // What is held up is not to be given up before it is released.
      { NODE_NAME: NODE, RECEIPTS_FLUSH_MS: FLUSH_MS, DATABASE_STATEMENT_TIMEOUT_MS: '120000' },
      { database: here.database },
    );
  });
  afterAll(async () => {
    await there.close();
    await here.close();
  });

  test('whose intervals were being written', async () => {
    const tenant = 'flush';
    const release = await holdFlush(there.url, here.database, tenant);
    const erasing = eraseWhole(here.url, tenant, USER);
    // The other has not heard before its flush is over.
    await untilWaiting(here.database, tenant, 1);
    await release();
    await erasing;
    expect(await left(here.database, tenant)).toEqual({});
  });

  test('whose device was being made', async () => {
    const tenant = 'arrival';
    await send(here.url, tenant);
    const release = await holding(
      here.database,
      `insert into devices (tenant_id, user_id, device_id, cursor) values ('${tenant}', '${USER}', 'phone', 0)`,
    );
    const stream = await StreamClient.open(there.url, token(tenant));
    await untilHeld(here.database, 'with opening');
    const erasing = eraseWhole(here.url, tenant, USER);
    // The other has not heard before nobody is on the way in to it.
    await untilWaiting(here.database, tenant, 1);
    await release();
    await erasing;
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked' }]);
    expect(await left(here.database, tenant)).toEqual({});
  });

  test('who was confirming', async () => {
    const tenant = 'ack';
    const stream = await openLive(there.url, tenant);
    const { position } = await send(there.url, tenant);
    const release = await holding(
      here.database,
      `select from devices where tenant_id = '${tenant}' and user_id = '${USER}' for update`,
    );
    const ack = post(`${there.url}/v1/acks`, token(tenant), { upTo: position, device: 'phone' });
    await untilHeld(here.database, 'with ack');
    const erasing = eraseWhole(here.url, tenant, USER);
    await untilWaiting(here.database, tenant, 2);
    await release();
    expect((await ack).status).toBe(204);
    await erasing;
    await stream.closed;
    expect(await left(here.database, tenant)).toEqual({});
  });

  test('whose stream was being renewed', async () => {
    const tenant = 'renewal';
    const stream = await openLive(there.url, tenant);
    const { connectionId } = stream.named('sync')[0] ?? {};
    const release = await holding(here.database, 'lock table stream_commands in exclusive mode');
    const renewal = {
      connectionId,
      token: userToken({ tenant, user: USER, device: 'phone', topics: ['new'] }),
    };
    const renewed = post(`${there.url}/v1/stream/renewals`, token(tenant), renewal);
    await untilHeld(here.database, 'insert into stream_commands');
    const erasing = eraseWhole(here.url, tenant, USER);
    await untilWaiting(here.database, tenant, 2);
    await release();
    // A statement that waits for a table has seen nothing yet; now it sees the erasure.
    expect(await renewed).toMatchObject({ status: 503, body: { code: 'being_erased' } });
    await erasing;
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked' }]);
    expect(await left(here.database, tenant)).toEqual({});
  });

  test('to whom was published by requests that another node had taken', async () => {
    // Each is a statement of its own, so that they are stored one after the other.
    const slow = await startService({ NODE_NAME: 'slow', INGEST_BATCH_SIZE: 1 }, { database: here.database });
    const tenant = 'append';
    await send(here.url, tenant);
    const release = await holding(
      here.database,
      `select from tenant_logs where tenant_id = '${tenant}' for update`,
    );
    const requests = Array.from({ length: 200 }, () => send(slow.url, tenant));
    await eventually(
      async () => {
        const metrics = await (await fetch(`${slow.url}/metrics`)).text();
        expect(metrics).toContain(`\ntidings_ingest_queue ${requests.length}\n`);
      },
      { every: 50 },
    );
    const erasing = eraseWhole(here.url, tenant, USER);
    await eventually(async () => {
      const rows = await here.database.query(
        `select from erasures where tenant_id = $1 and cardinality(heard) = 2`,
        [tenant],
      );
      expect(rows).toHaveLength(1);
    });
    await release();
    await Promise.all(requests);
    await erasing;
    expect(await left(here.database, tenant)).toEqual({});
    await slow.close();
  });
});

describe('a node that', () => {
  let database: TestDatabase;
  let here: Service;
  beforeEach(async () => {
    database = await createDatabase();
    here = await startService({}, { database });
  });
  afterEach(async () => {
    await here.close();
    await database.drop();
  });

  /** Erases the user, which takes its time. */
  async function eraseSlowly(tenant: string): Promise<ErasureBody> {
    const { status, body } = await eraseUser(here.url, tenant, USER);
    expect({ status, body }).toMatchObject({ status: 202, body: { status: 'closing' } });
    return body;
  }

  test('is cut off from the database brings nothing back when it is there again', async () => {
    const tenant = 'cut-off';
    const proxy = await BreakingProxy.start(database);
    const there = await startService(
      { NODE_NAME: NODE, RECEIPTS_FLUSH_MS: 1_000 },
      { database: { ...database, urls: proxy.urls } },
    );
    const stream = await openLive(there.url, tenant, { ack: 'auto' });
    await send(there.url, tenant);
    await stream.untilNotifications(1);
    // What was written waits to be stored, or is there already; its end will be written when it is back.
    proxy.away = true;
    proxy.cut();
    const { id } = await eraseSlowly(tenant);
    // By now the node is taken for dead.
    await untilErasure(here.url, tenant, id, 'done');
    expect(await left(database, tenant)).toEqual({});
    expect(stream.ended).toBe(false);

    proxy.away = false;
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked', reconnect: false }]);
    const back = await openLive(there.url, tenant);
    await back.cut();
    // A flush that came later than that of the old stream.
    await eventually(async () => {
      expect(await left(database, tenant)).toEqual({ devices: 1, connections: 1 });
    });
    const [row] = await database.query<{ ended: boolean }>(
      'select until is not null as ended from connections where tenant_id = $1',
      [tenant],
    );
    expect(row?.ended).toBeDefined();
    await there.close();
    await proxy.close();
  });

  test('died with a flush in the database brings nothing back when that ends', async () => {
    const tenant = 'died';
    const there = await startServiceProcess(database, {
      NODE_NAME: NODE,
      RECEIPTS_FLUSH_MS: FLUSH_MS,
      DATABASE_STATEMENT_TIMEOUT_MS: '120000',
    });
    const release = await holdFlush(there.url, database, tenant);
    await there.end();
    const { id } = await eraseSlowly(tenant);
    // It is taken for dead, and what it left in the database is waited for.
    await eventually(
      async () => {
        const rows = await database.query(
          `select from nodes where node = $1 and seen_at < clock_timestamp() - interval '11 seconds'`,
          [NODE],
        );
        expect(rows).toHaveLength(1);
      },
      { every: 100 },
    );
    await untilErasure(here.url, tenant, id, 'closing');
    await release();
    await untilErasure(here.url, tenant, id, 'done');
    expect(await left(database, tenant)).toEqual({});
  });
});

describe('an erasure whose node is killed half-way', () => {
  const COUNT = 5_000;
  const tenant = 'killed';
  let database: TestDatabase;
  let service: ServiceProcess;
  beforeEach(async () => {
    database = await createDatabase();
    service = await startServiceProcess(database, { NODE_NAME: 'doomed' });
    const body = {
      notifications: Array.from({ length: 1_000 }, () => ({ to: { user: USER }, type: 't', data: 1 })),
    };
    for (let n = 0; n < COUNT; n += 1_000)
      expect((await post(`${service.url}/v1/notifications/batch`, publisher(tenant), body)).status).toBe(201);
    await publish(service.url, publisher(tenant), { to: { user: 'bob' }, type: 't', data: 1 });
  });
  afterEach(async () => {
    await service.end();
    await database.drop();
  });

  /** Kills the node that was asked when about half is gone; returns the id of the erasure. */
  async function killHalfWay(): Promise<string> {
    const release = await holding(
      database,
      `select from notifications where position = (
         select position from notifications where user_id = '${USER}' order by position offset ${COUNT / 2} limit 1
       ) for update`,
    );
    void eraseUser(service.url, tenant, USER).catch(() => undefined);
    await untilHeld(database, 'delete from notifications');
    const [row] = await database.query<{ erasure_id: string }>('select erasure_id from erasures');
    await service.end();
    expect(await left(database, tenant)).toEqual({ erasures: 1, notifications: COUNT - 2_000 });
    await release();
    return String(row?.erasure_id);
  }

  async function expectDone(url: string, id: string): Promise<void> {
    await untilErasure(url, tenant, id, 'done');
    expect(await left(database, tenant)).toEqual({});
    const rows = await database.query<{ user_id: string }>('select user_id from notifications');
    expect(rows).toEqual([{ user_id: 'bob' }]);
    const acts = await database.query<{ action: string; after: string }>(
      'select action, after from audit_log order by at',
    );
    expect(acts.map(({ action }) => action)).toEqual(['user.erase', 'user.erased']);
    expect(JSON.parse(acts[1]?.after ?? '')).toMatchObject({ erased: { notifications: COUNT } });
  }

  test('is carried on by another node', async () => {
    const other = await startService({ NODE_NAME: 'other' }, { database });
    const id = await killHalfWay();
    await expectDone(other.url, id);
    await other.close();
  });

  test('is carried on by the same node when it starts again', async () => {
    const id = await killHalfWay();
    service = await startServiceProcess(database, { NODE_NAME: 'doomed' });
    await expectDone(service.url, id);
  });
});
