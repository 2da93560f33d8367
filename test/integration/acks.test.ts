import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Problem } from '../../src/core/errors.ts';
import { Acknowledgements } from '../../src/receipts/acknowledgements.ts';
import { CLASS_WIDTHS, widthClassOf } from '../../src/receipts/intervals.ts';
import { asPosition, positionOfTime, POSITIONS_PER_MS, START } from '../../src/core/position.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { ack, registration, ReceiptsBench, letIn, type ReceiptsNode } from '../support/receipts.ts';

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

/** A tenant whose alice has these devices. */
async function tenantWith(
  devices: readonly string[] = ['phone'],
  stream: { head?: number; floor?: number } = {},
) {
  const tenant = await bench.tenant(stream);
  await node.arrivals.register(
    tenant,
    devices.map((device) => registration({ device })),
  );
  return tenant;
}

describe('an acknowledgement', () => {
  test('moves the cursor and confirms what lies between, with the topics of the token', async () => {
    const tenant = await tenantWith();
    expect(await node.acks.acknowledge(tenant, [ack(30, { topics: ['news', '{"x"}'] })])).toEqual([
      'confirmed',
    ]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(30);
    expect(
      await bench.database.query(
        'select from_position, to_position, by_resume, topics, width_class from acks where tenant_id = $1',
        [tenant],
      ),
    ).toEqual([
      { from_position: 0, to_position: 30, by_resume: false, topics: ['news', '{"x"}'], width_class: 0 },
    ]);
  });

  test('leaves when the device connected, and with which topics, as it was', async () => {
    const tenant = await tenantWith();
    await bench.database.query(
      `update devices set topics = '{a}', last_seen_at = '2020-01-01' where tenant_id = $1`,
      [tenant],
    );
    await node.acks.acknowledge(tenant, [ack(30)]);
    expect(
      await bench.database.query(
        `select topics, last_seen_at = '2020-01-01' as same from devices where tenant_id = $1`,
        [tenant],
      ),
    ).toEqual([{ topics: ['a'], same: true }]);
  });

  test('that repeats or goes back is answered alike and changes nothing', async () => {
    const tenant = await tenantWith();
    for (const upTo of [30, 30, 10, 0])
      expect(await node.acks.acknowledge(tenant, [ack(upTo)])).toEqual(['confirmed']);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(30);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[0, 30]]);
  });

  test('at the head is confirmed and one past it is ahead', async () => {
    const tenant = await tenantWith(['phone'], { head: 100 });
    expect(await node.acks.acknowledge(tenant, [ack(101), ack(100), ack(101)])).toEqual([
      'ahead',
      'confirmed',
      'ahead',
    ]);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[0, 100]]);
  });

  test('of a device that never connected is told so, and makes no device', async () => {
    const tenant = await tenantWith();
    expect(
      await node.acks.acknowledge(tenant, [
        ack(30, { device: 'tablet' }),
        ack(30, { user: 'bob' }),
        ack(101, { device: 'tablet' }),
      ]),
    ).toEqual(['device_unknown', 'device_unknown', 'ahead']);
    expect(await bench.cursor(tenant, 'alice', 'tablet')).toBeUndefined();
  });

  test('in a tenant that has no log yet is ahead of it', async () => {
    const tenant = await bench.tenant();
    await bench.database.query('delete from tenant_logs where tenant_id = $1', [tenant]);
    expect(await node.acks.acknowledge(tenant, [ack(1), ack(0)])).toEqual(['ahead', 'device_unknown']);
  });

  test('below the floor moves the cursor and stores no interval, since nothing in it is kept', async () => {
    const tenant = await tenantWith(['phone'], { floor: 0 });
    await bench.setStream(tenant, { floor: 40 });
    await node.acks.acknowledge(tenant, [ack(40), ack(41)]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(41);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[40, 41]]);
  });

  test('reaches one device of one user of one tenant', async () => {
    const [tenant, other] = [await tenantWith(['phone', 'tablet']), await tenantWith()];
    await node.arrivals.register(tenant, [registration({ user: 'bob' })]);
    await node.acks.acknowledge(tenant, [ack(30)]);
    expect(await bench.cursor(tenant, 'alice', 'tablet')).toBe(0);
    expect(await bench.cursor(tenant, 'bob', 'phone')).toBe(0);
    expect(await bench.cursor(other, 'alice', 'phone')).toBe(0);
  });

  test('waits for a twin on another node, and its interval begins where that one ended', async () => {
    const tenant = await tenantWith();
    const results = await bench.whileHolding(
      `update devices set cursor = 60 where tenant_id = $1`,
      [tenant],
      () => node.acks.acknowledge(tenant, [ack(50), ack(80)]),
    );
    expect(results).toEqual(['confirmed', 'confirmed']);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[60, 80]]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(80);
  });
});

describe('many acknowledgements at once', () => {
  test('are one statement, and those of one device walk on from one another', async () => {
    const tenant = await tenantWith(['phone', 'tablet']);
    const before = node.pools.ran.length;
    const acks = [
      ack(20),
      ack(50, { device: 'tablet' }),
      ack(10),
      ack(30),
      ack(90, { device: 'nobody' }),
      ack(30),
    ];
    expect(await node.acks.acknowledge(tenant, acks)).toEqual([
      'confirmed',
      'confirmed',
      'confirmed',
      'confirmed',
      'device_unknown',
      'confirmed',
    ]);
    expect(node.pools.ran.length - before).toBe(1);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([
      [0, 20],
      [20, 30],
    ]);
    expect(await bench.confirmed(tenant, 'alice', 'tablet')).toEqual([[0, 50]]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(30);
  });

  test('on two nodes, in opposite orders, beside devices that arrive: nobody deadlocks', async () => {
    const other = bench.node();
    const tenant = await bench.tenant();
    const users = Array.from({ length: 300 }, (_, n) => `u-${n}`);
    await node.arrivals.register(
      tenant,
      users.map((user) => registration({ user })),
    );
    for (let round = 1; round <= 5; round += 1) {
      const acks = users.map((user) => ack(round * 10, { user }));
      const [left, right, arrived] = await Promise.all([
        node.acks.acknowledge(tenant, acks),
        other.acks.acknowledge(tenant, acks.toReversed()),
        node.arrivals.register(
          tenant,
          users
            .toSorted()
            .reverse()
            .map((user) => registration({ user, resume: round * 10 - 5 })),
        ),
        other.receipts.moveCursors(
          tenant,
          acks
            .toReversed()
            .map(({ user, device, upTo }) => ({ user, device, position: asPosition(upTo - 7), openedAt: 0 })),
        ),
      ]);
      expect([...left, ...right].every((result) => result === 'confirmed')).toBe(true);
      expect(letIn(arrived).every(({ outcome }) => outcome === 'exact')).toBe(true);
    }
    const [row] = await bench.database.query<{ overlapping: number; short: number }>(
      `select count(*) filter (where from_position < previous) as overlapping, count(*) filter (where last and to_position <> 50) as short
       from (select *, lag(to_position) over device as previous, lead(to_position) over device is null as last from acks
             where tenant_id = $1 window device as (partition by user_id, device_id order by to_position)) a`,
      [tenant],
    );
    expect(row).toEqual({ overlapping: 0, short: 0 });
  });
});

test('the width class of every stored interval is the one that readers compute', async () => {
  const edges = CLASS_WIDTHS.flatMap((width) => [width - 1, width, width + 1]).filter(
    (width) => width < 2 ** 45,
  );
  let cursor = 0;
  const acks = edges.map((width) => ack((cursor += width)));
  for (const { upTo } of acks) await node.partitions.ensureCovering(upTo);
  const tenant = await tenantWith(['phone'], { head: cursor });
  await node.acks.acknowledge(tenant, acks);
  const rows = await bench.database.query<{
    from_position: number;
    to_position: number;
    width_class: number;
  }>('select * from acks where tenant_id = $1', [tenant]);
  expect(rows).toHaveLength(edges.length);
  for (const { from_position, to_position, width_class } of rows) {
    expect(width_class).toBe(widthClassOf(asPosition(from_position), asPosition(to_position)));
  }
});

describe('where no partition is', () => {
  const day = 24 * 3_600_000 * POSITIONS_PER_MS;
  const partitionsOf = async (own: ReceiptsBench) =>
    await own.database.query(
      `select relname from pg_inherits join pg_class on oid = inhrelid where inhparent = 'acks'::regclass order by 1`,
    );

  test('none is made for a position that a caller names: what it confirms ends with the partition before', async () => {
    const own = await ReceiptsBench.open();
    const { partitions, arrivals, acks } = own.node();
    const tenant = await own.tenant({ head: 2_000 * day });
    await partitions.ensureAhead();
    await partitions.ensureCovering(asPosition(1_900 * day));
    const before = await partitionsOf(own);
    await arrivals.register(
      tenant,
      ['phone', 'tablet', 'watch'].map((device) => registration({ device })),
    );

    expect(
      await acks.acknowledge(tenant, [
        ack(1_500 * day, { device: 'watch' }),
        ack(1_900 * day + 5),
        ack(1_950 * day, { device: 'tablet' }),
        ack(2_000 * day),
      ]),
    ).toEqual(['confirmed', 'confirmed', 'confirmed', 'confirmed']);
    const resumed = await arrivals.register(tenant, [
      registration({ device: 'tablet', resume: 1_980 * day }),
      registration({ device: 'watch', resume: 1_899 * day }),
    ]);
    expect(letIn(resumed)).toMatchObject([
      { outcome: 'exact', start: 1_980 * day },
      { outcome: 'exact', start: 1_899 * day },
    ]);

    expect(await own.confirmed(tenant, 'alice', 'phone')).toEqual([
      [0, 1_900 * day + 5],
      [1_900 * day + 5, 1_901 * day - 1],
    ]);
    expect(await own.confirmed(tenant, 'alice', 'tablet')).toEqual([[0, 1_901 * day - 1]]);
    // Older than all that is kept: there is nothing that it could confirm.
    expect(await own.confirmed(tenant, 'alice', 'watch')).toEqual([]);
    expect(await own.cursor(tenant, 'alice', 'tablet')).toBe(1_980 * day);
    expect(await own.cursor(tenant, 'alice', 'watch')).toBe(1_899 * day);
    expect(await partitionsOf(own)).toEqual(before);
    await own.close();
  });

  test('that of the current day is made, and what was answered is stored', async () => {
    const own = await ReceiptsBench.open();
    const { arrivals, acks } = own.node();
    const now = positionOfTime(Date.now());
    const tenant = await own.tenant({ head: now });
    await arrivals.register(tenant, [registration()]);
    expect(await acks.acknowledge(tenant, [ack(now)])).toEqual(['confirmed']);
    expect(await own.confirmed(tenant, 'alice', 'phone')).toEqual([[0, now]]);
    await own.close();
  });
});

test('a violated constraint is not mistaken for a missing partition', async () => {
  const tenant = await tenantWith();
  await bench.database.query('alter table acks add constraint no_thirteen check (to_position <> 13)');
  await expect(node.acks.acknowledge(tenant, [ack(13)])).rejects.toMatchObject({ constraint: 'no_thirteen' });
  await bench.database.query('alter table acks drop constraint no_thirteen');
  expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(0);
});

describe('the queue of acknowledgements', () => {
  test('stores what arrives during a statement with the next one, per tenant', async () => {
    const acknowledgements = new Acknowledgements(node.acks, new Metrics());
    const [tenant, other] = [await tenantWith(), await tenantWith()];
    const before = node.pools.ran.length;
    const held = await bench.hold('select from devices where tenant_id = $1 for update', [tenant]);
    const first = acknowledgements.acknowledge(tenant, ack(1));
    await held.waiting();
    const later = [2, 4, 3, 5].map((upTo) => acknowledgements.acknowledge(tenant, ack(upTo)));
    // The other tenant waits for nothing.
    expect(await acknowledgements.acknowledge(other, ack(1))).toBe('confirmed');
    await held.commit();
    expect(await Promise.all([first, ...later])).toEqual(Array(5).fill('confirmed'));
    expect(node.pools.ran.length - before).toBe(3);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([
      [0, 1],
      [1, 2],
      [2, 4],
      [4, 5],
    ]);
  });

  test('counts what was stored', async () => {
    const metrics = new Metrics();
    const tenant = await tenantWith();
    const acknowledgements = new Acknowledgements(node.acks, metrics);
    await Promise.all(
      [ack(1), ack(2), ack(101), ack(1, { device: 'nobody' })].map((one) =>
        acknowledgements.acknowledge(tenant, one),
      ),
    );
    expect((await metrics.acknowledgements.get()).values).toMatchObject([{ value: 2 }]);
  });

  test('is bounded for each tenant: beyond it 503, and what waits is stored', async () => {
    const acknowledgements = new Acknowledgements(node.acks, new Metrics());
    const [tenant, other] = [await tenantWith(), await tenantWith()];
    const waiting = Array.from({ length: 10_000 }, (_, n) =>
      acknowledgements.acknowledge(tenant, ack(n % 100)),
    );
    await expect(acknowledgements.acknowledge(tenant, ack(1))).rejects.toMatchObject({
      code: 'overloaded',
      status: 503,
      headers: { 'retry-after': '1' },
    });
    expect(await acknowledgements.acknowledge(other, ack(1))).toBe('confirmed');
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['confirmed']));
    expect(await acknowledgements.acknowledge(tenant, ack(100))).toBe('confirmed');
  });

  test('runs a statement again whose connection died', async () => {
    const acknowledgements = new Acknowledgements(node.acks, new Metrics());
    const tenant = await tenantWith();
    const held = await bench.hold('select from devices where tenant_id = $1 for update', [tenant]);
    const result = acknowledgements.acknowledge(tenant, ack(30));
    await bench.database.query('select pg_terminate_backend(unnest($1::int[]))', [await held.waiting()]);
    await held.commit();
    expect(await result).toBe('confirmed');
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[0, 30]]);
  });

  test('answers 503 when the database stays away', async () => {
    const lonely = bench.node();
    const acknowledgements = new Acknowledgements(lonely.acks, new Metrics());
    const tenant = await tenantWith();
    await bench.cut(lonely);
    const refusal = acknowledgements.acknowledge(tenant, ack(30));
    await expect(refusal).rejects.toBeInstanceOf(Problem);
    await expect(refusal).rejects.toMatchObject({ code: 'database_unavailable', status: 503 });
  });
});
