import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { START } from '../../src/core/position.ts';
import { registration, ack, ReceiptsBench, letIn, type ReceiptsNode } from '../support/receipts.ts';

/** When the database was asked. */
const AT: unknown = expect.any(Number);

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

describe('a device that connects for the first time', () => {
  test('starts at the oldest kept', async () => {
    const tenant = await bench.tenant({ head: 100, floor: 10 });
    expect(await node.arrivals.register(tenant, [registration()])).toEqual([
      { cursor: 10, head: 100, floor: 10, at: AT, start: 10, outcome: 'undelivered' },
    ]);
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(10);
  });

  test('starts where the furthest acknowledgement of the user is, not where a cursor skipped to', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [
      registration({ device: 'phone' }),
      registration({ device: 'tablet' }),
      registration({ device: 'watch' }),
    ]);
    await node.acks.acknowledge(tenant, [
      ack(40, { device: 'phone' }),
      ack(60, { device: 'tablet' }),
      ack(30, { device: 'tablet' }),
    ]);
    await node.arrivals.register(tenant, [registration({ device: 'watch', from: 'latest' })]);
    const [laptop] = await node.arrivals.register(tenant, [registration({ device: 'laptop' })]);
    expect(laptop).toMatchObject({ cursor: 60, start: 60, outcome: 'undelivered' });
  });

  test('learns nothing from another user, and nothing from the same user of another tenant', async () => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    await node.arrivals.register(tenant, [registration({ user: 'bob' })]);
    await node.arrivals.register(other, [registration()]);
    await node.acks.acknowledge(tenant, [ack(50, { user: 'bob' })]);
    await node.acks.acknowledge(other, [ack(70)]);
    expect((await node.arrivals.register(tenant, [registration({ device: 'laptop' })]))[0]).toMatchObject({
      cursor: 0,
    });
    expect(await bench.cursor(other, 'alice', 'phone')).toBe(70);
  });

  test('confirms from where it would have started when it brings a position', async () => {
    const tenant = await bench.tenant({ floor: 10 });
    expect((await node.arrivals.register(tenant, [registration({ resume: 30 })]))[0]).toMatchObject({
      cursor: 30,
      start: 30,
      outcome: 'exact',
    });
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[10, 30]]);
  });
});

describe('a resume', () => {
  test('continues after the position and confirms up to it, with the topics of the token', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration()]);
    const [arrived] = await node.arrivals.register(tenant, [
      registration({ resume: 42, topics: ['news', 'a "b" {c}, \\d'] }),
    ]);
    expect(arrived).toEqual({ cursor: 42, head: 100, floor: 0, at: AT, start: 42, outcome: 'exact' });
    expect(
      await bench.database.query(
        'select from_position, to_position, by_resume, topics from acks where tenant_id = $1',
        [tenant],
      ),
    ).toEqual([{ from_position: 0, to_position: 42, by_resume: true, topics: ['news', 'a "b" {c}, \\d'] }]);
  });

  test('behind the cursor continues there and moves nothing back', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration({ resume: 50 })]);
    const [arrived] = await node.arrivals.register(tenant, [registration({ resume: 20 })]);
    expect(arrived).toMatchObject({ cursor: 50, start: 20, outcome: 'exact' });
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(50);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[0, 50]]);
  });

  test('at the head is exact', async () => {
    const tenant = await bench.tenant({ head: 100 });
    expect((await node.arrivals.register(tenant, [registration({ resume: 100 })]))[0]).toMatchObject({
      cursor: 100,
      start: 100,
      outcome: 'exact',
    });
  });

  test.each(['undelivered', 'latest', 'earliest'] as const)('wins over from=%s', async (from) => {
    const tenant = await bench.tenant();
    expect((await node.arrivals.register(tenant, [registration({ resume: 42, from })]))[0]).toMatchObject({
      cursor: 42,
      start: 42,
      outcome: 'exact',
    });
  });

  test('at the floor is no gap, since what follows it is kept', async () => {
    const tenant = await bench.tenant({ floor: 30 });
    const [arrived] = await node.arrivals.register(tenant, [registration({ resume: 30 })]);
    expect(arrived).toEqual({ cursor: 30, head: 100, floor: 30, at: AT, start: 30, outcome: 'exact' });
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([]);
  });

  test('below the floor is a gap; it moves the cursor but never back, and confirms nothing that is kept', async () => {
    const tenant = await bench.tenant({ floor: 30 });
    await bench.setCursor(tenant, 'alice', 'phone', 10);
    expect(await node.arrivals.register(tenant, [registration({ resume: 29 })])).toEqual([
      { cursor: 29, head: 100, floor: 30, at: AT, start: 30, outcome: 'gap', requested: 29 },
    ]);
    expect((await node.arrivals.register(tenant, [registration({ resume: 20 })]))[0]).toMatchObject({
      cursor: 29,
      start: 30,
      outcome: 'gap',
      requested: 20,
    });
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(29);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([]);
  });
});

describe('a position that cannot be', () => {
  test.each([
    ['ahead of the head', { resume: 101 }],
    ['malformed', { malformed: true }],
  ])('%s is treated as absent and confirms nothing', async (_, position) => {
    const tenant = await bench.tenant({ floor: 5 });
    await bench.setCursor(tenant, 'alice', 'phone', 20);
    const arrive = async (from: 'undelivered' | 'earliest' | 'latest') =>
      (await node.arrivals.register(tenant, [registration({ ...position, from })]))[0];
    expect(await arrive('undelivered')).toEqual({
      cursor: 20,
      head: 100,
      floor: 5,
      at: AT,
      start: 20,
      outcome: 'reset',
    });
    expect(await arrive('earliest')).toEqual({
      cursor: 20,
      head: 100,
      floor: 5,
      at: AT,
      start: 5,
      outcome: 'reset',
    });
    expect(await arrive('latest')).toEqual({
      cursor: 100,
      head: 100,
      floor: 5,
      at: AT,
      start: 100,
      outcome: 'reset',
    });
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([]);
  });

  test('says also what is missing when the cursor is below the floor', async () => {
    const tenant = await bench.tenant({ floor: 30 });
    await bench.setCursor(tenant, 'alice', 'phone', 20);
    expect((await node.arrivals.register(tenant, [registration({ malformed: true })]))[0]).toMatchObject({
      start: 30,
      outcome: 'reset',
      requested: 20,
    });
  });
});

describe('a stream without a position', () => {
  test('from=undelivered starts at the cursor', async () => {
    const tenant = await bench.tenant({ floor: 20 });
    await bench.setCursor(tenant, 'alice', 'phone', 20);
    expect(await node.arrivals.register(tenant, [registration()])).toEqual([
      { cursor: 20, head: 100, floor: 20, at: AT, start: 20, outcome: 'undelivered' },
    ]);
  });

  test('from=undelivered is a gap when retention overtook the cursor', async () => {
    const tenant = await bench.tenant({ floor: 21 });
    await bench.setCursor(tenant, 'alice', 'phone', 20);
    expect(await node.arrivals.register(tenant, [registration()])).toEqual([
      { cursor: 20, head: 100, floor: 21, at: AT, start: 21, outcome: 'gap', requested: 20 },
    ]);
  });

  test('from=latest moves the cursor to the head, and what it skipped is never confirmed', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration({ resume: 10 })]);
    expect(await node.arrivals.register(tenant, [registration({ from: 'latest' })])).toEqual([
      { cursor: 100, head: 100, floor: 0, at: AT, start: 100, outcome: 'latest' },
    ]);
    await bench.setStream(tenant, { head: 200 });
    await node.acks.acknowledge(tenant, [ack(90), ack(150)]);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([
      [0, 10],
      [100, 150],
    ]);
  });

  test('from=earliest starts at the oldest kept and leaves the cursor alone', async () => {
    const tenant = await bench.tenant({ floor: 10 });
    await bench.setCursor(tenant, 'alice', 'phone', 50);
    expect(await node.arrivals.register(tenant, [registration({ from: 'earliest' })])).toEqual([
      { cursor: 50, head: 100, floor: 10, at: AT, start: 10, outcome: 'earliest' },
    ]);
  });
});

test('every connect stores the topics of its token and when the device was seen', async () => {
  const tenant = await bench.tenant();
  await node.arrivals.register(tenant, [registration({ topics: ['a'] })]);
  await bench.database.query(`update devices set last_seen_at = '2020-01-01' where tenant_id = $1`, [tenant]);
  await node.arrivals.register(tenant, [registration({ topics: ['b', 'ü'] })]);
  expect(
    await bench.database.query(
      `select topics, now() - last_seen_at < '1 minute' as recent from devices where tenant_id = $1`,
      [tenant],
    ),
  ).toEqual([{ topics: ['b', 'ü'], recent: true }]);
});

test('a tenant without a log is an error and not an empty answer', async () => {
  const tenant = await bench.tenant();
  await bench.database.query('delete from tenant_logs where tenant_id = $1', [tenant]);
  await expect(node.arrivals.register(tenant, [registration()])).rejects.toThrow(
    `no log of tenant ${tenant}`,
  );
  expect(await node.arrivals.register(tenant, [])).toEqual([]);
});

describe('many that arrive together', () => {
  test('are one statement, known and new, and answered in their order', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [
      registration({ user: 'u-3', resume: 33 }),
      registration({ user: 'u-1', resume: 11 }),
    ]);
    const before = node.pools.ran.length;
    const arrived = await node.arrivals.register(
      tenant,
      ['u-4', 'u-3', 'u-2', 'u-1'].map((user) => registration({ user })),
    );
    expect(node.pools.ran.length - before).toBe(1);
    expect(letIn(arrived).map(({ start }) => start)).toEqual([0, 33, 0, 11]);
  });

  test('as tabs of one device walk on from one another and confirm nothing twice', async () => {
    const tenant = await bench.tenant();
    for (const device of ['known', 'new']) {
      if (device === 'known') await node.arrivals.register(tenant, [registration({ device })]);
      const before = node.pools.ran.length;
      const arrived = await node.arrivals.register(tenant, [
        registration({ device, resume: 20, topics: ['first'] }),
        registration({ device, resume: 10 }),
        registration({ device }),
        registration({ device, resume: 50 }),
        registration({ device, resume: 40, topics: ['last'] }),
      ]);
      expect(node.pools.ran.length - before).toBe(1);
      expect(letIn(arrived).map(({ start, cursor }) => [start, cursor])).toEqual([
        [20, 20],
        [10, 20],
        [20, 20],
        [50, 50],
        [40, 50],
      ]);
      expect(await bench.confirmed(tenant, 'alice', device)).toEqual([
        [0, 20],
        [20, 50],
      ]);
      expect(await bench.cursor(tenant, 'alice', device)).toBe(50);
      await bench.database.query('delete from acks where tenant_id = $1', [tenant]);
    }
    expect(await bench.database.query('select topics from devices where tenant_id = $1', [tenant])).toEqual([
      { topics: ['last'] },
      { topics: ['last'] },
    ]);
  });

  test('on two nodes, in opposite orders, half of them new: nobody deadlocks and everybody is answered', async () => {
    const other = bench.node();
    const tenant = await bench.tenant();
    for (let round = 0; round < 5; round += 1) {
      const crowd = Array.from({ length: 100 * (round + 1) }, (_, n) =>
        registration({ user: `u-${n}`, resume: round * 10 + 1 + (n % 7) }),
      );
      const [left, right] = await Promise.all([
        node.arrivals.register(tenant, crowd),
        other.arrivals.register(tenant, crowd.toReversed()),
      ]);
      expect(letIn([...left, ...right]).filter(({ outcome }) => outcome !== 'exact')).toEqual([]);
      expect([left.length, right.length]).toEqual([crowd.length, crowd.length]);
    }
    const overlapping = await bench.database.query(
      `select 1 from acks a join acks b on b.tenant_id = a.tenant_id and b.user_id = a.user_id and b.device_id = a.device_id
       and b.to_position > a.to_position and b.from_position < a.to_position where a.tenant_id = $1`,
      [tenant],
    );
    expect(overlapping).toEqual([]);
  });
});

describe('crowds of the same devices on two nodes, in opposite orders', () => {
  const crowd = ['a', 'b', 'c'].map((user) => registration({ user, resume: 30 }));

  test.each([
    ['known', `select from devices where tenant_id = $1 and user_id = 'b' for update`],
    ['new', `insert into devices (tenant_id, user_id, device_id, cursor) values ($1, 'b', 'phone', 0)`],
  ])('that are %s wait for one another and do not deadlock', async (kind, holding) => {
    const tenant = await bench.tenant();
    if (kind === 'known')
      await node.arrivals.register(
        tenant,
        crowd.map((one) => ({ ...one, resume: undefined })),
      );
    // Both stop half-way. Had one of them begun at the other end, each would then hold what the other needs next.
    const held = await bench.hold(holding, [tenant]);
    const arriving = [
      node.arrivals.register(tenant, crowd),
      bench.node().arrivals.register(tenant, crowd.toReversed()),
    ];
    await held.waiting(2);
    await held.commit();
    for (const arrived of await Promise.all(arriving))
      expect(letIn(arrived).map(({ cursor }) => cursor)).toEqual([30, 30, 30]);
  });
});

describe('a twin on another node', () => {
  test('that creates the device at the same moment is waited for, and its cursor counts', async () => {
    const tenant = await bench.tenant();
    const before = node.pools.ran.length;
    const arrived = await bench.whileHolding(
      `insert into devices (tenant_id, user_id, device_id, cursor) values ($1, 'alice', 'phone', 50)`,
      [tenant],
      () =>
        node.arrivals.register(tenant, [
          registration({ user: 'aaron', resume: 70 }),
          registration({ resume: 70 }),
        ]),
    );
    expect(arrived).toMatchObject([
      { cursor: 70, outcome: 'exact' },
      { cursor: 70, outcome: 'exact' },
    ]);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([[50, 70]]);
    expect(await bench.confirmed(tenant, 'aaron', 'phone')).toEqual([[0, 70]]);
    expect(node.pools.ran.length - before).toBe(2);
  });

  test('that moves the cursor at the same moment is waited for, and no interval overlaps its own', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration()]);
    const [arrived] = await bench.whileHolding(
      `with moved as (update devices set cursor = 60 where tenant_id = $1)
       insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume) values ($1, 'alice', 'phone', 0, 60, 0, false)`,
      [tenant],
      () => node.arrivals.register(tenant, [registration({ resume: 80 })]),
    );
    expect(arrived).toMatchObject({ cursor: 80, start: 80 });
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([
      [0, 60],
      [60, 80],
    ]);
  });

  test('that moves the cursor past the head we know does not make the head smaller than the start', async () => {
    const tenant = await bench.tenant({ head: 100 });
    await node.arrivals.register(tenant, [registration()]);
    const [arrived] = await bench.whileHolding(
      `with published as (update tenant_logs set head = 150 where tenant_id = $1) update devices set cursor = 140 where tenant_id = $1`,
      [tenant],
      () => node.arrivals.register(tenant, [registration()]),
    );
    expect(arrived).toEqual({ cursor: 140, head: 140, floor: 0, at: AT, start: 140, outcome: 'undelivered' });
  });

  test('that deletes an idle device at the same moment leaves a device that begins anew', async () => {
    const tenant = await bench.tenant({ floor: 30 });
    await bench.setCursor(tenant, 'alice', 'phone', 10);
    const [arrived] = await bench.whileHolding(`delete from devices where tenant_id = $1`, [tenant], () =>
      node.arrivals.register(tenant, [registration()]),
    );
    expect(arrived).toMatchObject({ cursor: 30, start: 30, outcome: 'undelivered' });
    expect(await bench.cursor(tenant, 'alice', 'phone')).toBe(30);
  });
});

describe('a device too many', () => {
  const devices = async (tenant: string): Promise<string[]> =>
    (
      await bench.database.query<{ device_id: string }>(
        'select device_id from devices where tenant_id = $1 order by user_id, device_id',
        [tenant],
      )
    ).map((row) => row.device_id);

  test('does not come in, gets no cursor and confirms nothing; those that are known come in', async () => {
    const tenant = await bench.tenant();
    const mostDevices = 2;
    await node.arrivals.register(tenant, [
      registration({ device: 'phone', mostDevices }),
      registration({ device: 'tablet', mostDevices }),
    ]);
    const before = node.pools.ran.length;
    expect(
      await node.arrivals.register(tenant, [
        registration({ device: 'watch', resume: 30, mostDevices }),
        registration({ device: 'phone', resume: 40, mostDevices }),
        registration({ user: 'bob', device: 'watch', mostDevices }),
      ]),
    ).toMatchObject(['too-many-devices', { start: 40 }, { start: 0 }]);
    expect(node.pools.ran.length - before).toBe(1);
    expect(await bench.cursor(tenant, 'alice', 'watch')).toBeUndefined();
    expect(await bench.confirmed(tenant, 'alice', 'watch')).toEqual([]);
    // A limit that was lowered takes nothing away.
    expect(
      await node.arrivals.register(tenant, [registration({ device: 'tablet', mostDevices: 1 })]),
    ).toMatchObject([{ start: 0 }]);
  });

  test('is the one that came last, of many at once, and each of its tabs is refused', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [registration({ device: 'z' })]);
    const crowd = ['d', 'z', 'c', 'b', 'd', 'a', 'b'].map((device) =>
      registration({ device, mostDevices: 3 }),
    );
    const arrived = await node.arrivals.register(tenant, crowd);
    expect(arrived.map((one) => one !== 'too-many-devices')).toEqual([
      true,
      true,
      true,
      false,
      true,
      false,
      false,
    ]);
    expect(await devices(tenant)).toEqual(['c', 'd', 'z']);
  });

  test('is counted without the devices of others, and without those of the same user in another tenant', async () => {
    const [tenant, other] = [await bench.tenant(), await bench.tenant()];
    await node.arrivals.register(other, [
      registration({ device: 'phone' }),
      registration({ device: 'tablet' }),
    ]);
    await node.arrivals.register(tenant, [registration({ user: 'alic' }), registration({ user: 'alice2' })]);
    expect(await node.arrivals.register(tenant, [registration({ mostDevices: 1 })])).toMatchObject([
      { start: 0 },
    ]);
  });

  test('finds a place when one was forgotten', async () => {
    const tenant = await bench.tenant();
    await node.arrivals.register(tenant, [
      registration({ device: 'phone' }),
      registration({ device: 'tablet' }),
    ]);
    await bench.database.query(`delete from devices where tenant_id = $1 and device_id = 'phone'`, [tenant]);
    const watch = registration({ device: 'watch', mostDevices: 2 });
    expect(await node.arrivals.register(tenant, [watch])).toMatchObject([{ start: 0 }]);
    expect(await node.arrivals.register(tenant, [registration({ device: 'phone', mostDevices: 2 })])).toEqual(
      ['too-many-devices'],
    );
  });

  test('is counted once more when another node made one at the same moment', async () => {
    const tenant = await bench.tenant();
    const [arrived] = await bench.whileHolding(
      `insert into devices (tenant_id, user_id, device_id, cursor, ordinal) values ($1, 'alice', 'tablet', 0, 1)`,
      [tenant],
      () => node.arrivals.register(tenant, [registration({ device: 'phone', resume: 30, mostDevices: 1 })]),
    );
    expect(arrived).toBe('too-many-devices');
    expect(await devices(tenant)).toEqual(['tablet']);
    expect(await bench.confirmed(tenant, 'alice', 'phone')).toEqual([]);
  });

  test('does not come in through several nodes at once, in whichever order they come', async () => {
    const nodes = [node, bench.node(), bench.node()];
    for (let round = 0; round < 10; round += 1) {
      const tenant = await bench.tenant();
      const crowd = ['alice', 'bob'].flatMap((user) =>
        Array.from({ length: 12 }, (_, n) => registration({ user, device: `d-${n}`, mostDevices: 7 })),
      );
      const answers = await Promise.all(
        nodes.map(({ arrivals }, index) =>
          arrivals.register(tenant, [...crowd.slice(index * 5), ...crowd.slice(0, index * 5)]),
        ),
      );
      expect(answers.map(({ length }) => length)).toEqual([24, 24, 24]);
      const counts = await bench.database.query(
        'select user_id, count(*)::int as devices from devices where tenant_id = $1 group by 1 order by 1',
        [tenant],
      );
      expect(counts).toEqual([
        { user_id: 'alice', devices: 7 },
        { user_id: 'bob', devices: 7 },
      ]);
    }
  });
});
