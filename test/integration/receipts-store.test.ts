import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { tenantIdSchema, type TenantId } from '../../src/core/identifiers.ts';
import { widthClassOf } from '../../src/receipts/intervals.ts';
import type { ConnectionOpened, SendInterval } from '../../src/receipts/receipts.store.ts';
import { NodeName, NodesStore } from '../../src/cluster/nodes.ts';
import { asPosition, positionOfTime, START } from '../../src/core/position.ts';
import {
  ack,
  registration,
  deviceId,
  ReceiptsBench,
  topic,
  userId,
  type ReceiptsNode,
} from '../support/receipts.ts';
import { scannedWhole } from '../support/plans.ts';

const AT = Date.UTC(2026, 10, 22, 12, 0, 0, 123);

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

const connection = (user = 'alice'): ConnectionOpened => ({
  connectionId: randomUUID(),
  user: userId(user),
  device: deviceId('phone'),
  node: 'node-1',
  topics: ['news', 'a,"b"'].map(topic),
  since: AT,
  position: asPosition(7),
  openedAt: AT,
});

const interval = (from: number, to: number, rest: Partial<SendInterval> = {}): SendInterval => ({
  user: userId('alice'),
  device: deviceId('phone'),
  connectionId: '0190a000-0000-7000-8000-000000000001',
  from: asPosition(from),
  to: asPosition(to),
  at: AT,
  replayed: false,
  openedAt: AT,
  ...rest,
});

const move = (position: number, device = 'phone') => ({
  user: userId('alice'),
  device: deviceId(device),
  position: asPosition(position),
  openedAt: AT,
});

describe('connections', () => {
  const stored = (tenant: TenantId) =>
    bench.database.query('select * from connections where tenant_id = $1 order by user_id', [tenant]);

  test('are recorded when they open and ended when they end, to the millisecond', async () => {
    const tenant = await bench.tenant();
    const [first, second] = [connection('alice'), connection('bob')];
    await node.receipts.recordConnections(tenant, [first, second]);
    await node.receipts.endConnections(tenant, [
      {
        connectionId: first.connectionId,
        until: AT + 1_001,
        position: asPosition(50),
        reason: 'it said "bye", \\o/',
      },
    ]);
    const row = {
      tenant_id: tenant,
      device_id: 'phone',
      node: 'node-1',
      topics: ['news', 'a,"b"'],
      since: new Date(AT),
    };
    expect(await stored(tenant)).toEqual([
      {
        ...row,
        connection_id: first.connectionId,
        user_id: 'alice',
        until: new Date(AT + 1_001),
        position: 50,
        reason: 'it said "bye", \\o/',
      },
      { ...row, connection_id: second.connectionId, user_id: 'bob', until: null, position: 7, reason: null },
    ]);
  });

  test('keep their first end, and a flush that repeats changes nothing', async () => {
    const tenant = await bench.tenant();
    const opened = connection();
    const ended = {
      connectionId: opened.connectionId,
      until: AT + 5,
      position: asPosition(50),
      reason: 'client',
    };
    for (const reason of ['client', 'shutdown']) {
      await node.receipts.recordConnections(tenant, [opened]);
      await node.receipts.endConnections(tenant, [{ ...ended, reason }]);
    }
    expect(await stored(tenant)).toMatchObject([{ until: new Date(AT + 5), reason: 'client' }]);
  });

  test('of one tenant cannot be ended by another', async () => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    const opened = connection();
    await node.receipts.recordConnections(tenant, [opened]);
    await node.receipts.endConnections(other, [
      { connectionId: opened.connectionId, until: AT, position: asPosition(1), reason: 'client' },
    ]);
    expect(await stored(tenant)).toMatchObject([{ until: null }]);
  });
});

describe('sends', () => {
  const stored = (tenant: TenantId) =>
    bench.database.query(
      'select user_id, device_id, from_position, to_position, width_class, at, replayed from sends where tenant_id = $1 order by to_position, user_id',
      [tenant],
    );

  test('are intervals with their width class, their time, and whether they were replayed', async () => {
    const tenant = await bench.tenant();
    await node.receipts.recordSends(tenant, [
      interval(0, 2 ** 22, { replayed: true }),
      interval(5, 9, { user: userId('b,"\\{} ü'), device: deviceId('null') }),
    ]);
    expect(await stored(tenant)).toEqual([
      {
        user_id: 'b,"\\{} ü',
        device_id: 'null',
        from_position: 5,
        to_position: 9,
        width_class: 0,
        at: new Date(AT),
        replayed: false,
      },
      {
        user_id: 'alice',
        device_id: 'phone',
        from_position: 0,
        to_position: 2 ** 22,
        width_class: widthClassOf(START, asPosition(2 ** 22)),
        at: new Date(AT),
        replayed: true,
      },
    ]);
  });

  test('stay as they are when a flush repeats', async () => {
    const tenant = await bench.tenant();
    await node.receipts.recordSends(tenant, [interval(0, 5)]);
    await node.receipts.recordSends(tenant, [interval(0, 5), interval(5, 8)]);
    expect(await stored(tenant)).toHaveLength(2);
  });

  test('that end at or below the floor are not stored', async () => {
    const tenant = await bench.tenant({ floor: 50 });
    await node.receipts.recordSends(tenant, [interval(0, 50), interval(40, 45), interval(50, 51)]);
    expect(await stored(tenant)).toMatchObject([{ from_position: 50, to_position: 51 }]);
  });

  test('that end where no partition is any more bring none back, and keep no others from being stored', async () => {
    const gone = positionOfTime(Date.UTC(2025, 0, 1));
    const now = positionOfTime(Date.now());
    await node.partitions.ensureAhead();
    const tenant = await bench.tenant({ head: now });
    const partitions = async () =>
      (await bench.database.query(`select 1 from pg_inherits where inhparent = 'sends'::regclass`)).length;
    const before = await partitions();
    await node.receipts.recordSends(tenant, [interval(gone - 1, gone), interval(now - 1, now)]);
    expect(await stored(tenant)).toMatchObject([{ from_position: now - 1, to_position: now }]);
    expect(await partitions()).toBe(before);
  });
});

describe('the cursors of streams that acknowledge by themselves', () => {
  test('follow what was written, never back, and confirm nothing', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration(), registration({ device: 'tablet' })]);
    await node.receipts.moveCursors(tenant, [move(30), move(20), move(40, 'tablet')]);
    await node.receipts.moveCursors(tenant, [move(10), move(50, 'tablet')]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(30);
    expect(await bench.cursor(tenant, 'alice', 'tablet')).toBe(50);
    expect(await bench.database.query('select 1 from acks where tenant_id = $1', [tenant])).toEqual([]);
  });

  test('are skipped by a later acknowledgement, which confirms only what comes after', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration()]);
    await node.receipts.moveCursors(tenant, [move(30)]);
    await node.acks.acknowledge(tenant, [ack(45)]);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[30, 45]]);
  });

  test('of a device that is gone do not bring it back, and its topics and last visit are left alone', async () => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    await node.arrivals.register(other, [registration({ topics: ['a'] })]);
    await node.receipts.moveCursors(tenant, [move(30)]);
    await node.receipts.moveCursors(other, [move(30)]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBeUndefined();
    expect(
      await bench.database.query('select cursor, topics from devices where tenant_id = $1', [other]),
    ).toEqual([{ cursor: 30, topics: ['a'] }]);
  });

  test('wait for an acknowledgement on another node and do not undo it', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration()]);
    await bench.whileHolding('update devices set cursor = 60 where tenant_id = $1', [tenant], () =>
      node.receipts.moveCursors(tenant, [move(50)]),
    );
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(60);
  });
});

test('a node shows when it started and when it was last seen', async () => {
  const nodes = new NodesStore(node.pools.engine);
  const times = async () =>
    (
      await bench.database.query<{ started_at: Date; seen_at: Date }>(
        `select * from nodes where node = 'node-7'`,
      )
    )[0];
  await nodes.seen('node-7');
  await bench.database.query(`update nodes set started_at = '2020-01-01', seen_at = '2020-01-02'`);
  await nodes.seen('node-7');
  expect((await times())?.started_at).toEqual(new Date('2020-01-01T00:00:00Z'));
  expect((await times())?.seen_at.getTime()).toBeGreaterThan(Date.UTC(2021, 0));
  await nodes.started('node-7');
  expect((await times())?.started_at.getTime()).toBeGreaterThan(Date.UTC(2021, 0));
});

test('a name belongs to one process while that gives signs of life, and is free at once when it leaves', async () => {
  const [first, second, third] = [1, 2, 3].map(() => new NodesStore(node.pools.engine));
  if (first === undefined || second === undefined || third === undefined) throw new Error('three were made');
  expect(await first.started('twin')).toBeUndefined();
  const sign = await second.started('twin');
  expect(sign).toEqual(expect.any(Number));
  expect(await first.seen('twin')).toBe('held');
  // It was silent until then, and is not any more.
  expect(await second.started('twin', sign)).toBeGreaterThan(sign ?? Infinity);

  // Silent for as long as one that is dead.
  await bench.database.query(`update nodes set seen_at = now() - interval '11 seconds' where node = 'twin'`);
  expect(await second.started('twin')).toBeUndefined();
  expect(await first.seen('twin')).toBe('lost');
  await first.left('twin');
  expect(await third.started('twin')).toBeDefined();
  await second.left('twin');
  expect(await third.started('twin')).toBeUndefined();

  // As after the clock of the database was set back.
  await bench.database.query(`update nodes set seen_at = now() + interval '1 hour' where node = 'twin'`);
  const ahead = await first.started('twin');
  expect(ahead).toBeGreaterThan(Date.now() * 1_000);
  expect(await first.started('twin', ahead)).toBeUndefined();
});

test('a node that lost its name has it again once nobody else lives under it, and starts anew', async () => {
  const [own, other] = [new NodesStore(node.pools.engine), new NodesStore(node.pools.engine)];
  const startedAt = async () =>
    (await bench.database.query<{ at: Date }>(`select started_at as at from nodes where node = 'lost'`))[0]
      ?.at;
  await own.started('lost');
  await bench.database.query(`update nodes set seen_at = now() - interval '11 seconds' where node = 'lost'`);
  await other.started('lost');
  const taken = await startedAt();
  expect(await own.seen('lost')).toBe('lost');
  expect(await startedAt()).toEqual(taken);

  await bench.database.query(
    `update nodes set started_at = '2020-01-01', seen_at = now() - interval '11 seconds' where node = 'lost'`,
  );
  expect(await own.seen('lost')).toBe('anew');
  const again = await startedAt();
  expect(again?.getTime()).toBeGreaterThan(Date.UTC(2021, 0));
  expect(await own.seen('lost')).toBe('held');
  expect(await startedAt()).toEqual(again);
  expect(await other.seen('lost')).toBe('lost');
});

test('a process that waits for its name sees a twin whose clock was set back, and ends with the service', async () => {
  const twin = new NodesStore(node.pools.engine);
  await twin.started('awaited');
  const sign = (at: string) =>
    bench.database.query(`update nodes set seen_at = ${at} where node = 'awaited'`);
  const waiting = (signal: AbortSignal) => {
    const name = new NodeName(new NodesStore(node.pools.engine), { NODE_NAME: 'awaited' }, signal);
    return name.onModuleInit();
  };
  await sign(`now() + interval '1 hour'`);
  const stop = new AbortController();
  const stopped = waiting(stop.signal).catch(String);
  stop.abort();
  expect(await stopped).toMatch(/AbortError/);

  const refused = waiting(new AbortController().signal).then(() => 'started', String);
  let outcome: string | undefined;
  while (outcome === undefined)
    outcome = await Promise.race([refused, sign(`seen_at - interval '1 second'`).then(() => undefined)]);
  expect(outcome).toMatch(/alive under the name awaited/);
});

describe('every statement of receipts, among many tenants, devices and days', () => {
  test('reads by ranges of keys and never a whole table', async () => {
    const crowded = await ReceiptsBench.open();
    const own = crowded.node();
    const day = 24 * 3_600_000 * 4096;
    await Promise.all([0, 1, 2, 3].map((n) => own.partitions.ensureCovering(asPosition(n * day))));
    await crowded.database.query(
      `insert into tenant_logs (tenant_id, head) select 't-' || n, ${4 * day - 1} from generate_series(1, 5000) n`,
    );
    await crowded.database.query(
      `insert into devices (tenant_id, user_id, device_id, cursor)
       select 't-' || n % 100, 'u-' || n / 10, 'd-' || n % 3, 0 from generate_series(1, 20000) n on conflict do nothing`,
    );
    await crowded.database.query(
      `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume)
       select 't-' || n % 100, 'u-' || n / 10, 'd-' || n % 3, ${day}::bigint * d + n, ${day}::bigint * d + n + 1, 0, false
       from generate_series(1, 5000) n, generate_series(0, 3) d on conflict do nothing`,
    );
    await crowded.database.query(
      `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
       select 't-' || n % 100, gen_random_uuid(), 'u-' || n / 10, 'd', 'n', now(), 0 from generate_series(1, 20000) n`,
    );
    await crowded.database.query(
      `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker, erased_at, done_at)
       select 't-' || n % 100, gen_random_uuid(), sha256(n::text::bytea), '{}', gen_random_uuid(), now(), now()
       from generate_series(1, 10000) n`,
    );
    await crowded.database.query('analyze');

    const tenant = tenantIdSchema.parse('t-7');
    const crowd = Array.from({ length: 20 }, (_, n) => `u-${n}`);
    await own.arrivals.register(
      tenant,
      crowd.map((user) => registration({ user, device: 'd-1', resume: 2 * day })),
    );
    await own.acks.acknowledge(
      tenant,
      crowd.map((user) => ack(3 * day, { user, device: 'd-1' })),
    );
    await own.receipts.moveCursors(
      tenant,
      crowd.map((user) => ({
        user: userId(user),
        device: deviceId('d-1'),
        position: asPosition(3 * day + 1),
        openedAt: AT,
      })),
    );
    await own.receipts.recordSends(tenant, [interval(1, 2)]);
    await own.receipts.recordConnections(tenant, [connection()]);
    await own.receipts.endConnections(tenant, [
      { connectionId: randomUUID(), until: AT, position: asPosition(1), reason: 'client' },
    ]);

    expect(own.pools.ran).toHaveLength(6);
    for (const ran of own.pools.ran) {
      const { name } = ran.statement;
      expect({ name, scanned: await scannedWhole(crowded.database, ran) }).toEqual({ name, scanned: [] });
    }
    await crowded.close();
  });
});
