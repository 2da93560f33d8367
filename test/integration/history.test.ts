import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { MaintenancePool } from '../../src/postgres/pools.ts';
import {
  tenantIdSchema,
  topicSchema,
  typeSchema,
  userIdSchema,
  type TenantId,
} from '../../src/core/identifiers.ts';
import { widthClassOf } from '../../src/receipts/intervals.ts';
import { Partitions, PartitionsStore } from '../../src/log/partitions.ts';
import { asPosition, positionOfTime, type Position } from '../../src/core/position.ts';
import { ConnectionsStore } from '../../src/history/connections.store.ts';
import { DeliveriesStore } from '../../src/history/deliveries.store.ts';
import { STATUSES, type Receipt } from '../../src/history/delivery-status.ts';
import {
  type Filters,
  type HistoryItem,
  HistoryService,
  HistoryStore,
} from '../../src/history/history.service.ts';
import { timelineOf, TimelineStore } from '../../src/history/timeline.store.ts';
import { engaged, type Engagement } from '../support/inbox.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { explain, type PlanNode } from '../support/plans.ts';
import { openMaintenancePool, openPools, type TestPools } from '../support/pools.ts';

const HOUR = 3_600_000;
/** Noon, two days ago: positions of a day are in two partitions, and expiries can lie on both sides of now. */
const NOON = Math.floor(Date.now() / (24 * HOUR)) * 24 * HOUR - 36 * HOUR;
const at = (seconds: number) => new Date(NOON + seconds * 1000);
const place = (seconds: number): Position => positionOfTime(NOON + seconds * 1000);

let database: TestDatabase;
let pools: TestPools;
let maintenance: MaintenancePool;
let log: HistoryStore;
let deliveries: DeliveriesStore;
let timelines: TimelineStore;
let history: HistoryService;
let connections: ConnectionsStore;
let tenant: TenantId;
let tenants = 0;

beforeAll(async () => {
  database = await createDatabase();
  pools = openPools(database, 2);
  const pool = pools.tenant;
  maintenance = openMaintenancePool(database);
  const partitions = new Partitions(new PartitionsStore(maintenance), {
    PARTITION_HOURS: 24,
    PARTITIONS_AHEAD: 1,
  });
  for (const day of [-2, -1, 0, 1]) await partitions.ensureCovering(place(day * 24 * 3600));
  await partitions.ensureAhead();
  log = new HistoryStore(pool);
  deliveries = new DeliveriesStore(pool);
  timelines = new TimelineStore(pool);
  connections = new ConnectionsStore(pool);
  history = new HistoryService(log, deliveries);
});

afterAll(async () => {
  await Promise.all([pools.end(), maintenance.end()]);
  await database.drop();
});

beforeEach(async () => {
  tenants += 1;
  tenant = tenantIdSchema.parse(`tenant-${tenants}`);
  await database.query('insert into tenant_logs (tenant_id, head, floor) values ($1, $2, 0)', [
    tenant,
    positionOfTime(Date.now()),
  ]);
});

interface Written {
  user?: string | null;
  topic?: string | null;
  type?: string;
  data?: string;
  expiresAt?: Date | null;
}

/** A notification in the log, to alice unless told otherwise. */
async function notification(seconds: number, written: Written = {}): Promise<string> {
  const {
    user = written.topic === undefined ? 'alice' : null,
    topic = null,
    type = 'a.type',
    data = '{}',
    expiresAt = null,
  } = written;
  const id = randomUUID();
  await database.query(
    `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at)
     values ($1, $2, $3, $4, $5, $6, $7, octet_length($7), 'billing', $8)`,
    [tenant, place(seconds), id, user, topic, type, data, expiresAt],
  );
  return id;
}

interface Device {
  user?: string;
  device?: string;
}

async function device({ user = 'alice', device: name = 'phone' }: Device = {}): Promise<void> {
  await database.query(
    'insert into devices (tenant_id, user_id, device_id, cursor) values ($1, $2, $3, 0) on conflict do nothing',
    [tenant, user, name],
  );
}

async function connection({
  user = 'alice',
  device: name = 'phone',
  topics = [] as string[],
  since = 0,
  until = null as number | null,
  node = 'node-1',
} = {}): Promise<string> {
  const id = randomUUID();
  await database.query(
    `insert into connections (tenant_id, connection_id, user_id, device_id, node, topics, since, until, position, reason)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    [
      tenant,
      id,
      user,
      name,
      node,
      topics,
      at(since),
      until === null ? null : at(until),
      place(0),
      until === null ? null : 'closed',
    ],
  );
  return id;
}

const randomId = (): string => randomUUID();

/** Positions are given as seconds; the interval holds both ends, as one that was written does. */
async function sent(
  from: number,
  to: number,
  { user = 'alice', device: name = 'phone', connectionId = randomId(), seconds = to, replayed = false } = {},
): Promise<void> {
  const begin = asPosition(place(from) - 1);
  await device({ user, device: name });
  await database.query(
    `insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      tenant,
      user,
      name,
      connectionId,
      begin,
      place(to),
      widthClassOf(begin, place(to)),
      at(seconds),
      replayed,
    ],
  );
}

/** Live, to one stream of each of so many users. */
async function sentToMany(seconds: number, count: number, topics: readonly string[] = []): Promise<void> {
  await database.query(
    `with stream as (
       insert into connections (tenant_id, connection_id, user_id, device_id, node, topics, since, position)
       select $1, gen_random_uuid(), 'u-' || n, 'phone', 'node-1', $5, now(), $2 from generate_series(1, $4::int) n
       returning connection_id, user_id
     )
     insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
     select $1, user_id, 'phone', connection_id, $2, $3, 0, now(), false from stream`,
    [tenant, place(seconds) - 1, place(seconds), count, topics],
  );
}

/** All up to `to` and behind `from`, by each of so many users. */
async function engageMany(
  from: number,
  to: number,
  count: number,
  kind: Engagement['kind'] = 'read',
): Promise<void> {
  await database.query(
    `with inbox as (
       insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
       select $1, 'u-' || n, 0, 0, 0, 1, 1 from generate_series(1, $4::int) n on conflict do nothing
     )
     insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class)
     select $1, 'u-' || n, $5, false, $2, $3, $6 from generate_series(1, $4::int) n`,
    [tenant, place(from), place(to), count, kind, widthClassOf(place(from), place(to))],
  );
}

/** An acknowledgement of everything after `from` up to `to`. */
async function acked(
  from: number,
  to: number,
  { user = 'alice', device: name = 'phone', topics = [] as string[], seconds = to, byResume = false } = {},
): Promise<void> {
  await device({ user, device: name });
  await database.query(
    `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, at, by_resume, topics)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      tenant,
      user,
      name,
      place(from),
      place(to),
      widthClassOf(place(from), place(to)),
      at(seconds),
      byResume,
      topics,
    ],
  );
}

/** What a user read, or did else, as it is stored. `from` undefined: that notification alone. */
const engage = (
  user: string,
  upTo: number,
  {
    from,
    kind = 'read',
    seconds = upTo,
    topics = [],
  }: { from?: number; kind?: Engagement['kind']; seconds?: number; topics?: string[] } = {},
): Promise<void> =>
  engaged(database, tenant, {
    user,
    kind,
    upTo: place(upTo),
    at: at(seconds),
    topics,
    ...(from === undefined ? {} : { from: place(from) }),
  });

/** What is for topics and everyone is in the inbox of a user from there on. */
const setSince = async (user: string, seconds: number) => {
  await database.query('update inbox_users set since = $3 where tenant_id = $1 and user_id = $2', [
    tenant,
    user,
    place(seconds),
  ]);
};

const setFloor = async (seconds: number) => {
  await database.query('update tenant_logs set floor = $2 where tenant_id = $1', [tenant, place(seconds)]);
};

async function find(id: string): Promise<HistoryItem> {
  const entry = await log.find(tenant, id);
  if (entry === undefined) throw new Error('the notification is not there');
  return await history.item(tenant, entry);
}

const readAtOf = ({ outcome }: HistoryItem) => ('readAt' in outcome ? outcome.readAt : undefined);
const devicesOf = ({ outcome }: HistoryItem): readonly Receipt[] =>
  'devices' in outcome ? outcome.devices : [];
const countsOf = ({ outcome }: HistoryItem) => ('counts' in outcome ? outcome.counts : undefined);

/** Follows the cursors to the end. */
async function all(filters: Filters = {}, limit = 50): Promise<{ items: HistoryItem[]; pages: number[] }> {
  const items: HistoryItem[] = [];
  const pages: number[] = [];
  let before: Position | undefined;
  do {
    const page = await history.page(tenant, filters, before, limit);
    items.push(...page.items);
    pages.push(page.items.length);
    before = page.next;
  } while (before !== undefined);
  return { items, pages };
}

const types = (items: readonly HistoryItem[]) => items.map(({ entry }) => entry.type);

describe('the status of a notification to a user', () => {
  test('is queued until something was written', async () => {
    const item = await find(await notification(1));
    expect([item.status, devicesOf(item)]).toEqual(['queued', []]);
  });

  test('is sent once an interval of a device covers it', async () => {
    const id = await notification(2);
    await sent(1, 3, { seconds: 4 });
    const item = await find(id);
    expect(item.status).toBe('sent');
    expect(devicesOf(item)).toEqual([
      { user: 'alice', device: 'phone', sends: 1, firstSentAt: at(4), lastSentAt: at(4), deliveredAt: null },
    ]);
  });

  test.each([
    ['ends just before it', 1, 1.999],
    ['begins just after it', 2.001, 3],
  ])('is queued when the interval %s', async (_, from, to) => {
    const id = await notification(2);
    await sent(from, to);
    expect((await find(id)).status).toBe('queued');
  });

  test('is queued when only the devices of others were written to', async () => {
    const id = await notification(2);
    await sent(1, 3, { user: 'bob' });
    await acked(1, 3, { user: 'bob' });
    expect((await find(id)).status).toBe('queued');
  });

  test('is delivered once any device confirmed, also when another was only written to', async () => {
    const id = await notification(2);
    await sent(2, 2, { device: 'laptop' });
    await sent(2, 2, { seconds: 2.5 });
    await acked(1, 3, { seconds: 5 });
    const item = await find(id);
    expect(item.status).toBe('delivered');
    expect(devicesOf(item).map(({ device: name, deliveredAt }) => [name, deliveredAt])).toEqual([
      ['laptop', null],
      ['phone', at(5)],
    ]);
  });

  test('is delivered for a device whose sends were forgotten, which is shown without them', async () => {
    const id = await notification(2);
    await acked(1, 3, { seconds: 5 });
    const item = await find(id);
    expect(item.status).toBe('delivered');
    expect(devicesOf(item)).toEqual([
      { user: 'alice', device: 'phone', sends: 0, firstSentAt: null, lastSentAt: null, deliveredAt: at(5) },
    ]);
  });

  test('is not delivered by the acknowledgement that begins at its own position', async () => {
    const id = await notification(2);
    await acked(2, 3);
    expect((await find(id)).status).toBe('queued');
  });

  test('is not delivered by what was skipped between two acknowledgements', async () => {
    const id = await notification(2);
    await acked(0, 1);
    await acked(3, 4);
    expect((await find(id)).status).toBe('queued');
  });

  test('is expired after its time, whether it was written or not', async () => {
    const [queued, written] = [
      await notification(2, { expiresAt: at(60) }),
      await notification(3, { expiresAt: at(60) }),
    ];
    await sent(3, 3);
    expect([(await find(queued)).status, (await find(written)).status]).toEqual(['expired', 'expired']);
  });

  test('is sent before its time is over', async () => {
    const id = await notification(2, { expiresAt: new Date(Date.now() + HOUR) });
    await sent(2, 2);
    expect((await find(id)).status).toBe('sent');
  });

  test('is delivered and not expired when it was confirmed in time', async () => {
    const id = await notification(2, { expiresAt: at(60) });
    await acked(1, 3, { seconds: 59 });
    expect((await find(id)).status).toBe('delivered');
  });

  test('stays expired when it was never written and the acknowledgement came late', async () => {
    const id = await notification(2, { expiresAt: at(60) });
    await acked(1, 3, { seconds: 60 });
    const item = await find(id);
    expect([item.status, devicesOf(item)]).toEqual(['expired', []]);
  });

  test('is delivered when it was written in time and confirmed late', async () => {
    const id = await notification(2, { expiresAt: at(60) });
    await sent(2, 2);
    await acked(1, 3, { seconds: 70 });
    expect((await find(id)).status).toBe('delivered');
  });
});

describe('what its user read', () => {
  test.each([
    ['it was marked alone', undefined],
    ['all up to behind it was', 1],
  ])('has the status read, with the first time, when %s', async (_, from) => {
    const id = await notification(2);
    expect([(await find(id)).status, readAtOf(await find(id))]).toEqual(['queued', null]);
    await engage('alice', from === undefined ? 2 : 3, {
      ...(from === undefined ? {} : { from }),
      seconds: 9,
    });
    const item = await find(id);
    expect([item.status, readAtOf(item), devicesOf(item)]).toEqual(['read', at(9), []]);
  });

  test('is read and delivered on axes of their own', async () => {
    const id = await notification(2);
    await sent(2, 2);
    await engage('alice', 2, { seconds: 4 });
    const item = await find(id);
    expect([item.status, devicesOf(item).map(({ deliveredAt }) => deliveredAt)]).toEqual(['read', [null]]);
    await acked(1, 3, { seconds: 8 });
    const confirmed = await find(id);
    expect([confirmed.status, readAtOf(confirmed)]).toEqual(['read', at(4)]);
    expect(devicesOf(confirmed).map(({ deliveredAt }) => deliveredAt)).toEqual([at(8)]);
  });

  test('was read when the first of both says so, and not before it was accepted', async () => {
    const [both, early] = [await notification(2), await notification(5)];
    await engage('alice', 2, { seconds: 30 });
    await engage('alice', 3, { from: 1, seconds: 20 });
    await engage('alice', 5, { seconds: -10 });
    expect([readAtOf(await find(both)), readAtOf(await find(early))]).toEqual([at(20), at(5)]);
  });

  test.each<[string, Parameters<typeof engage>]>([
    ['by somebody else', ['bob', 3, { from: 1 }]],
    ['by whoever has seen it', ['alice', 3, { from: 1, kind: 'seen' }]],
    ['by whoever has archived it', ['alice', 2, { kind: 'archived' }]],
    ['up to just before it', ['alice', 1.999, { from: 0 }]],
    ['from its own position on', ['alice', 3, { from: 2 }]],
    ['when another one was', ['alice', 2.001]],
  ])('is not read %s', async (_, engagement) => {
    const id = await notification(2);
    await engage(...engagement);
    expect([(await find(id)).status, readAtOf(await find(id))]).toEqual(['queued', null]);
  });

  test('is no signal, which no inbox shows', async () => {
    const id = await notification(2);
    await database.query('update notifications set inbox = false where id = $1', [id]);
    await engage('alice', 3, { from: 1 });
    expect([(await find(id)).status, readAtOf(await find(id))]).toEqual(['queued', null]);
  });

  test('after the expiry counts if it was marked alone', async () => {
    const id = await notification(2, { expiresAt: at(60) });
    await engage('alice', 2, { seconds: 70 });
    expect([(await find(id)).status, readAtOf(await find(id))]).toEqual(['read', at(70)]);
  });

  test.each([
    ['that no device had was not read', 60, async () => undefined, 'expired'],
    ['that somebody else had was not read', 60, () => sent(2, 2, { user: 'bob' }), 'expired'],
    ['that a device was sent was read', 60, () => sent(2, 2), 'read'],
    ['that a device confirmed in time was read', 60, () => acked(1, 3, { seconds: 50 }), 'read'],
    ['before the expiry was read', 59.999, async () => undefined, 'read'],
  ])('of all up to behind it, %s', async (_, seconds, reach, status) => {
    const id = await notification(2, { expiresAt: at(60) });
    await reach();
    await engage('alice', 3, { from: 1, seconds });
    const item = await find(id);
    expect([item.status, readAtOf(item)]).toEqual([status, status === 'read' ? at(seconds) : null]);
  });

  test('is found in moves of every width, also years wide', async () => {
    const id = await notification(2);
    for (const [n, width] of [1, 100_000, 20_000_000, 100_000_000].entries()) {
      const user = `u-${n}`;
      const own = await notification(2.5 + n / 10, { user });
      await engage(user, 3, { from: 1 - width });
      expect((await find(own)).status).toBe('read');
    }
    expect((await find(id)).status).toBe('queued');
  });
});

describe('the times of a device', () => {
  test('count every connection that it was written to, with the first and the last time', async () => {
    const id = await notification(2);
    await sent(2, 2, { seconds: 3 });
    await sent(1, 1_000, { seconds: 1_001, replayed: true });
    await sent(1, 80_000, { seconds: 80_000, replayed: true });
    const [receipt] = devicesOf(await find(id));
    expect(receipt).toMatchObject({ sends: 3, firstSentAt: at(3), lastSentAt: at(80_000) });
  });

  test('never show a confirmation before what it confirms', async () => {
    const id = await notification(2);
    await sent(1, 100, { seconds: 100 });
    await acked(0, 2, { seconds: 50 });
    const [receipt] = devicesOf(await find(id));
    expect(receipt).toMatchObject({ firstSentAt: at(50), lastSentAt: at(50), deliveredAt: at(50) });
  });

  test('never lie before the notification was accepted, however the clock of a node goes', async () => {
    const id = await notification(2);
    await sent(2, 2, { seconds: -30 });
    expect(devicesOf(await find(id))[0]).toMatchObject({ firstSentAt: at(2), lastSentAt: at(2) });
  });

  test('are found in intervals of every width', async () => {
    const id = await notification(2);
    for (const width of [0, 1, 3, 12, 50, 200, 900, 4_000, 15_000, 70_000, 100_000])
      await sent(2 - width / 2, 2 + width / 2);
    // Of weeks, and of months.
    for (const from of [-100_000, -2_000_000, -5_000_000, -20_000_000])
      await sent(from, 110_000, { device: 'laptop' });
    expect(devicesOf(await find(id)).map(({ device: name, sends }) => [name, sends])).toEqual([
      ['laptop', 4],
      ['phone', 11],
    ]);
  });

  test('are not those of an interval that ends before it, or begins after it', async () => {
    const id = await notification(1_000);
    for (const [from, to] of [
      [-5_000_000, 999],
      [1_001, 2_000],
    ] as const)
      await sent(from, to);
    // As wide as those that are looked for at once.
    await database.query(`update sends set width_class = 14 where tenant_id = $1`, [tenant]);
    expect(devicesOf(await find(id))).toEqual([]);
  });
});

describe('a notification to a topic', () => {
  const topic = 'weather';

  test('was sent to the connections that had the topic, and to no other that was written to', async () => {
    const id = await notification(2, { topic });
    await sent(1, 3, { connectionId: await connection({ topics: ['news', topic] }) });
    await sent(1, 3, { user: 'bob', connectionId: await connection({ user: 'bob', topics: ['news'] }) });
    expect([(await find(id)).status, countsOf(await find(id))]).toEqual([
      'sent',
      { sent: 1, delivered: 0, read: 0, more: false },
    ]);
  });

  test('is not delivered to a device that gained the topic later', async () => {
    const id = await notification(2, { topic });
    await acked(1, 3, { topics: ['news'] });
    await acked(3, 4, { topics: [topic] });
    expect((await find(id)).status).toBe('queued');
  });

  test('is delivered by an acknowledgement with the topic, and counts a device once', async () => {
    const id = await notification(2, { topic });
    const topics = [topic];
    await sent(1, 3, { connectionId: await connection({ topics }) });
    await sent(2, 2, { connectionId: await connection({ topics }) });
    await acked(1, 3, { topics });
    await acked(1, 3, { user: 'bob', topics });
    await acked(1, 3, { user: 'carol' });
    expect([(await find(id)).status, countsOf(await find(id))]).toEqual([
      'delivered',
      { sent: 1, delivered: 2, read: 0, more: false },
    ]);
  });

  test('is read by users whose token had the topic, once each', async () => {
    const id = await notification(2, { topic });
    const topics = ['news', topic];
    await engage('alice', 2, { topics });
    await engage('alice', 3, { from: 1, topics });
    await engage('bob', 3, { from: 1, topics });
    await engage('carol', 3, { from: 1, topics: ['news'] });
    await engage('dora', 3, { from: 2, topics });
    await engage('erik', 3, { from: 1, kind: 'seen', topics });
    const item = await find(id);
    expect([item.status, countsOf(item)]).toEqual(['read', { sent: 0, delivered: 0, read: 2, more: false }]);
  });

  test('is looked at in a list for as long as a page may take, and by id until it is counted', async () => {
    const id = await notification(2, { topic });
    await sentToMany(2, 3_000, [topic]);
    expect(countsOf(await find(id))).toEqual({ sent: 3_000, delivered: 0, read: 0, more: false });
    const [listed] = (await all()).items;
    expect(listed && countsOf(listed)).toEqual({ sent: 600, delivered: 0, read: 0, more: true });
  });

  test('is estimated in a list in which another one had too many devices, and is exact if that is enough', async () => {
    for (const [n, many] of [900, 900, 99].toReversed().entries()) {
      await notification(n, { topic, type: `n.${n}` });
      await sentToMany(n, many, [topic]);
    }
    expect((await all()).items.map(countsOf)).toEqual([
      { sent: 600, delivered: 0, read: 0, more: true },
      { sent: 100, delivered: 0, read: 0, more: true },
      { sent: 99, delivered: 0, read: 0, more: false },
    ]);
  });

  test('ends a page sooner than one to everyone: each stream is looked at too', async () => {
    for (let n = 0; n < 10; n += 1) {
      await notification(n, { topic, type: `n.${n}` });
      await sentToMany(n, 500, [topic]);
    }
    const { items, pages } = await all();
    expect(items.map(countsOf)).toEqual(Array(10).fill({ sent: 500, delivered: 0, read: 0, more: false }));
    expect(pages).toEqual([2, 2, 2, 3, 1]);
  });

  test('counts each of those that share a page by its own streams', async () => {
    for (const n of [1, 2, 3]) {
      await notification(n, { topic: n === 2 ? 'news' : topic, type: `n.${n}` });
      await sentToMany(n, n * 10, [topic]);
      await sentToMany(n, n, ['news', 'other']);
    }
    // Two streams that were there all the time.
    for (const [user, topics] of [
      ['both', ['news', topic]],
      ['one', [topic]],
    ] as const)
      await sent(0, 9, { user, connectionId: await connection({ user, topics: [...topics] }) });
    const { items } = await all();
    expect(items.map((item) => [item.entry.type, countsOf(item)?.sent])).toEqual([
      ['n.3', 32],
      ['n.2', 3],
      ['n.1', 12],
    ]);
  });

  test('lists the same devices as it counts', async () => {
    const id = await notification(2, { topic });
    const topics = [topic];
    await sent(1, 3, { connectionId: await connection({ topics }) });
    await acked(1, 3, { topics });
    await sent(1, 3, { user: 'bob', connectionId: await connection({ user: 'bob', topics: ['news'] }) });
    await acked(1, 3, { user: 'bob', topics: ['news'] });
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    const { receipts, reached } = await deliveries.devices(tenant, entry, ['', ''], 10);
    expect(receipts).toEqual([expect.objectContaining({ user: 'alice', sends: 1, deliveredAt: at(3) })]);
    expect(reached).toBeUndefined();
  });
});

describe('a notification to everyone', () => {
  test('counts the devices that it was sent to and those that confirmed', async () => {
    const id = await notification(2, { user: null });
    for (let n = 0; n < 7; n += 1) await sent(1, 3, { user: `u-${n}` });
    for (let n = 5; n < 9; n += 1) await acked(1, 3, { user: `u-${n}` });
    expect(countsOf(await find(id))).toEqual({ sent: 7, delivered: 4, read: 0, more: false });
  });

  test('that expired counts a late confirmation only for a device that it was sent to', async () => {
    const id = await notification(2, { user: null, expiresAt: at(60) });
    await sent(2, 2);
    await acked(1, 3, { seconds: 70 });
    await acked(1, 3, { user: 'bob', seconds: 70 });
    await acked(1, 3, { user: 'carol', seconds: 50 });
    expect(countsOf(await find(id))).toEqual({ sent: 1, delivered: 2, read: 0, more: false });
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    const { receipts } = await deliveries.devices(tenant, entry, ['', ''], 10);
    expect(receipts.map(({ user }) => user)).toEqual(['alice', 'carol']);
  });

  test('counts the users who read it, and not their devices', async () => {
    const id = await notification(2, { user: null });
    for (const name of ['phone', 'laptop']) await acked(1, 3, { device: name });
    await engage('alice', 3, { from: 1 });
    await engage('alice', 2);
    await engage('bob', 2);
    await engage('carol', 1.9, { from: 1 });
    const item = await find(id);
    expect([item.status, countsOf(item)]).toEqual(['read', { sent: 0, delivered: 2, read: 2, more: false }]);
  });

  test('is not read by who moved on over it before the inbox began, unless it was marked alone', async () => {
    const id = await notification(2, { user: null });
    const own = await notification(2.5, { user: 'alice' });
    await engage('alice', 3, { from: 1 });
    await setSince('alice', 2);
    expect([(await find(id)).status, (await find(own)).status]).toEqual(['queued', 'read']);
    await setSince('alice', 1.999);
    expect(countsOf(await find(id))).toMatchObject({ read: 1 });
  });

  test('that is a signal, or expired before anybody had it, was read by nobody who moved on over it', async () => {
    const signal = await notification(2, { user: null });
    await database.query('update notifications set inbox = false where id = $1', [signal]);
    const expired = await notification(3, { user: null, expiresAt: at(60) });
    await engage('alice', 4, { from: 1, seconds: 70 });
    for (const id of [signal, expired]) expect(countsOf(await find(id))).toMatchObject({ read: 0 });
    await sent(3, 3, { user: 'bob' });
    await engage('bob', 4, { from: 1, seconds: 70 });
    await acked(2, 4, { user: 'carol', seconds: 50 });
    await engage('carol', 4, { from: 1, seconds: 70 });
    await engage('dora', 3, { seconds: 70 });
    await engage('erik', 4, { from: 1, seconds: 59 });
    expect(countsOf(await find(expired))).toEqual({ sent: 1, delivered: 1, read: 4, more: false });
  });

  test.each([
    [10_000, { sent: 0, delivered: 0, read: 10_000, more: false }],
    [10_001, { sent: 0, delivered: 0, read: 10_000, more: true }],
  ])('with %i who read it says whether there are more than are counted', async (count, counts) => {
    const id = await notification(2, { user: null });
    await engageMany(1, 3, count);
    expect(countsOf(await find(id))).toEqual(counts);
  });

  test('that expired is looked at until it is certain that nobody read it', async () => {
    await notification(2, { user: null, expiresAt: at(60) });
    await sentToMany(2, 150);
    // The last of them, whom a short look does not reach.
    const [last] = await database.query<{ user: string }>(
      `select user_id as user from sends where tenant_id = $1 order by ctid desc limit 1`,
      [tenant],
    );
    await engage(String(last?.user), 3, { from: 1, seconds: 70 });
    expect((await all({ status: 'read' })).items.map(countsOf)).toMatchObject([{ sent: 150, read: 1 }]);
    expect((await all({ status: 'expired' })).items).toEqual([]);
  });

  test.each([
    [10_000, { sent: 10_000, delivered: 0, read: 0, more: false }],
    [10_001, { sent: 10_000, delivered: 0, read: 0, more: true }],
  ])('with %i devices says whether there are more than are counted', async (count, counts) => {
    const id = await notification(2, { user: null });
    await sentToMany(2, count);
    expect(countsOf(await find(id))).toEqual(counts);
  });

  test('counts a device once, also when it has so many streams that a short look does not reach all devices', async () => {
    const id = await notification(2, { user: null });
    for (let stream = 0; stream < 2; stream += 1) await sentToMany(2, 7_000);
    expect(countsOf(await find(id))).toEqual({ sent: 7_000, delivered: 0, read: 0, more: false });
    const [listed] = (await all()).items;
    expect(listed === undefined ? undefined : countsOf(listed)).toEqual({
      sent: 7_000,
      delivered: 0,
      read: 0,
      more: false,
    });
  });

  test('ends a page when enough was counted, and the next page goes on after it', async () => {
    for (let n = 0; n < 5; n += 1) {
      await notification(n, { user: null, type: `n.${n}` });
      await sentToMany(n, 2_500);
    }
    for (const status of [undefined, 'sent'] as const) {
      const { items, pages } = await all({ status });
      expect([types(items), pages]).toEqual([
        ['n.4', 'n.3', 'n.2', 'n.1', 'n.0'],
        [2, 2, 1],
      ]);
    }
  });

  test('ends a page sooner if many read it: the inbox of each is looked at too', async () => {
    for (let n = 0; n < 10; n += 1) {
      await notification(n, { user: null, type: `n.${n}` });
      await engageMany(n - 0.5, n, 500);
    }
    const { items, pages } = await all();
    expect(items.map((item) => countsOf(item)?.read)).toEqual(Array(10).fill(500));
    expect(pages).toEqual([2, 2, 2, 3, 1]);
  });

  test('ends a page also when it was counted a little at a time', async () => {
    for (let n = 0; n < 80; n += 1) {
      await notification(n, { user: null, type: `n.${n}` });
      await sentToMany(n, 99);
    }
    const { items, pages } = await all({}, 100);
    expect(types(items)).toEqual(Array.from({ length: 80 }, (_, n) => `n.${79 - n}`));
    expect(pages).toEqual([48, 32]);
  });

  test('lists its devices in pages, each once, in the order of their ids', async () => {
    const id = await notification(2, { user: null });
    const users = Array.from({ length: 25 }, (_, n) => `u-${String(n).padStart(2, '0')}`);
    for (const user of users) await sent(1, 3, { user });
    await device({ user: 'u-07', device: 'never-sent' });
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    const seen: string[] = [];
    let after: readonly [string, string] = ['', ''];
    for (;;) {
      const { receipts, reached } = await deliveries.devices(tenant, entry, after, 10);
      seen.push(...receipts.map(({ user }) => user));
      if (reached === undefined) break;
      after = [reached.user, reached.device];
    }
    expect(seen).toEqual(users);
  });
});

describe('the list', () => {
  test('is newest first and follows its cursor without a gap or a double', async () => {
    for (let n = 0; n < 23; n += 1)
      await notification(n, { type: `n.${n}`, user: n % 3 === 0 ? null : 'alice' });
    const { items, pages } = await all({}, 5);
    expect(types(items)).toEqual(Array.from({ length: 23 }, (_, n) => `n.${22 - n}`));
    expect(pages).toEqual([5, 5, 5, 5, 3]);
  });

  test('filters by user, topic, type and time, alone and together', async () => {
    const [alice, bob] = [userIdSchema.parse('alice'), userIdSchema.parse('bob')];
    const weather = topicSchema.parse('weather');
    const paid = typeSchema.parse('paid');
    await notification(1, { type: 'paid' });
    await notification(2, { type: 'shipped' });
    await notification(3, { user: 'bob', type: 'paid' });
    await notification(4, { topic: 'weather', type: 'rain' });
    await notification(5, { user: null, type: 'notice' });
    const found = async (filters: Filters) => types((await all(filters)).items);
    expect(await found({ user: alice })).toEqual(['shipped', 'paid']);
    expect(await found({ topic: weather })).toEqual(['rain']);
    expect(await found({ type: paid })).toEqual(['paid', 'paid']);
    expect(await found({ user: bob, type: paid })).toEqual(['paid']);
    expect(await found({ user: alice, topic: weather })).toEqual([]);
    // `since` is part of the selection, `until` is not.
    expect(await found({ since: at(2).getTime(), until: at(4).getTime() })).toEqual(['paid', 'shipped']);
    expect(await found({ user: alice, since: at(2).getTime() })).toEqual(['shipped']);
    expect(await found({ until: 253_402_300_799_999 })).toHaveLength(5);
  });

  test('shows nothing at or below the floor, though its rows are still there', async () => {
    const [gone, atFloor, kept] = [await notification(1), await notification(2), await notification(3)];
    await setFloor(2);
    expect((await all()).items.map(({ entry }) => entry.id)).toEqual([kept]);
    expect(await log.find(tenant, gone)).toBeUndefined();
    expect(await log.find(tenant, atFloor)).toBeUndefined();
  });

  test('shows nothing of another tenant', async () => {
    const id = await notification(1);
    const other = tenantIdSchema.parse(`${tenant}-other`);
    await database.query('insert into tenant_logs (tenant_id, head) values ($1, $2)', [other, place(100)]);
    expect((await history.page(other, {}, undefined, 50)).items).toEqual([]);
    expect(await log.find(other, id)).toBeUndefined();
  });

  test('by status finds each notification under exactly one', async () => {
    await notification(1, { type: 'queued' });
    await notification(2, { type: 'sent' });
    await sent(2, 2);
    await notification(3, { type: 'delivered' });
    await acked(2, 3);
    await notification(4, { type: 'expired', expiresAt: at(60) });
    await notification(5, { type: 'queued', user: null });
    await notification(6, { type: 'sent', user: null });
    await sent(6, 6, { user: 'bob' });
    await notification(7, { type: 'delivered', user: null });
    await acked(6, 7, { user: 'bob' });
    await notification(8, { type: 'expired', user: null, expiresAt: at(60) });
    await notification(9, { type: 'read' });
    await acked(8, 9);
    await engage('alice', 9);
    await notification(10, { type: 'read', user: null });
    await acked(9, 10, { user: 'bob' });
    await engage('bob', 10);
    for (const status of STATUSES) {
      const { items } = await all({ status }, 1);
      expect([status, types(items)]).toEqual([status, [status, status]]);
      expect(items.map((item) => item.status)).toEqual([status, status]);
    }
  });

  test('for a rare type is made of bounded pages, some of them empty', async () => {
    await notification(1, { type: 'rare' });
    await database.query(
      `insert into notifications (tenant_id, position, id, user_id, type, data, size, publisher)
       select $1, $2::bigint + n, gen_random_uuid(), 'bob', 'common', '{}', 2, 'billing' from generate_series(1, 12000) n`,
      [tenant, place(2)],
    );
    const { items, pages } = await all({ type: typeSchema.parse('rare') });
    expect(types(items)).toEqual(['rare']);
    expect(pages).toEqual([0, 0, 1]);
  });

  test('ends a page before its data gets large, and goes on after it', async () => {
    for (let n = 0; n < 6; n += 1)
      await notification(n, { type: `n.${n}`, data: `"${'x'.repeat(1_000_000)}"` });
    const { items, pages } = await all();
    expect(types(items)).toEqual(['n.5', 'n.4', 'n.3', 'n.2', 'n.1', 'n.0']);
    expect(Math.max(...pages)).toBeLessThanOrEqual(3);
  });
});

describe('the timeline', () => {
  async function timeline(id: string) {
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    return timelineOf(entry, await timelines.deliveries(tenant, entry));
  }

  test('has what happened in the order in which it must have happened', async () => {
    const id = await notification(2, { expiresAt: at(500) });
    const live = await connection({ node: 'node-1' });
    const later = await connection({ node: 'node-2' });
    await sent(1, 100, { seconds: 100, connectionId: live });
    await acked(0, 2, { seconds: 50 });
    await sent(1, 3, { seconds: 200, connectionId: later, replayed: true });
    await sent(1, 3, { seconds: 40, device: 'laptop', connectionId: live });
    await acked(1, 3, { seconds: 60, device: 'laptop', byResume: true });
    await sent(1, 3, { user: 'bob' });
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    expect(timelineOf(entry, await timelines.deliveries(tenant, entry))).toEqual([
      { event: 'accepted', at: at(2).toISOString(), publisher: 'billing' },
      {
        event: 'sent',
        at: at(40).toISOString(),
        user: 'alice',
        device: 'laptop',
        connectionId: live,
        node: 'node-1',
      },
      {
        event: 'sent',
        at: at(50).toISOString(),
        user: 'alice',
        device: 'phone',
        connectionId: live,
        node: 'node-1',
      },
      { event: 'delivered', at: at(50).toISOString(), user: 'alice', device: 'phone', by: 'ack' },
      { event: 'delivered', at: at(60).toISOString(), user: 'alice', device: 'laptop', by: 'resume' },
      {
        event: 'replayed',
        at: at(200).toISOString(),
        user: 'alice',
        device: 'phone',
        connectionId: later,
        node: 'node-2',
      },
      { event: 'expired', at: at(500).toISOString() },
    ]);
  });

  test('has what its user did, the first time of each', async () => {
    const id = await notification(2, { expiresAt: at(60) });
    await sent(2, 2);
    await acked(1, 3, { seconds: 3 });
    await engage('alice', 3, { from: 1, kind: 'seen', seconds: 4 });
    await engage('alice', 2, { seconds: 5 });
    await engage('alice', 4, { from: 1, seconds: 70 });
    await engage('alice', 2, { kind: 'archived', seconds: 5 });
    await engage('bob', 3, { from: 1 });
    expect(await timeline(id)).toMatchObject([
      { event: 'accepted' },
      { event: 'sent' },
      { event: 'delivered' },
      { event: 'seen', user: 'alice', at: at(4).toISOString() },
      { event: 'read', user: 'alice', at: at(5).toISOString() },
      { event: 'archived', user: 'alice', at: at(5).toISOString() },
      { event: 'expired' },
    ]);
  });

  test('of a broadcast has what those did who had it in their inbox', async () => {
    const id = await notification(2, { topic: 'weather', expiresAt: at(60) });
    const topics = ['weather'];
    await engage('alice', 3, { from: 1, kind: 'seen', topics, seconds: 4 });
    await engage('bob', 3, { from: 1, topics: ['news'], seconds: 4 });
    await engage('carol', 3, { from: 1, topics, seconds: 4 });
    await setSince('carol', 2);
    await engage('dora', 3, { from: 1, topics, seconds: 70 });
    await engage('erik', 2, { topics, seconds: 80 });
    const entries = await timeline(id);
    expect(entries.map(({ event, user }) => [event, user])).toEqual([
      ['accepted', undefined],
      ['seen', 'alice'],
      ['expired', undefined],
      ['read', 'erik'],
    ]);
    await database.query('update notifications set inbox = false where id = $1', [id]);
    expect((await timeline(id)).map(({ event }) => event)).toEqual(['accepted', 'expired']);
  });

  test('of very many says that there is more, of each kind by itself', async () => {
    const id = await notification(2, { user: null });
    await engageMany(1, 3, 10_000, 'seen');
    await engageMany(1, 3, 5);
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    const found = await timelines.deliveries(tenant, entry);
    expect(found.more).toBe(true);
    expect(found.engagements.filter(({ kind }) => kind === 'read')).toHaveLength(5);
  });

  test('of a topic has the connections and the confirmations that had it', async () => {
    const id = await notification(2, { topic: 'weather' });
    await sent(1, 3, { connectionId: await connection({ topics: ['weather'] }) });
    await sent(1, 3, { user: 'bob', connectionId: await connection({ user: 'bob' }) });
    await acked(1, 3, { topics: ['weather'], seconds: 4 });
    await acked(1, 3, { user: 'bob' });
    const entry = await log.find(tenant, id);
    if (entry === undefined) throw new Error('not there');
    const entries = timelineOf(entry, await timelines.deliveries(tenant, entry));
    expect(entries.map(({ event, user }) => [event, user])).toEqual([
      ['accepted', undefined],
      ['sent', 'alice'],
      ['delivered', 'alice'],
    ]);
  });
});

describe('connections', () => {
  const period = (since: number, until: number) => ({
    since: at(since).getTime(),
    until: at(until).getTime(),
  });
  const shown = async (when: Parameters<ConnectionsStore['page']>[2], user?: string) => {
    const { items } = await connections.page(
      tenant,
      user === undefined ? undefined : userIdSchema.parse(user),
      when,
      undefined,
      100,
    );
    return items.map(({ user: name }) => name as string);
  };
  /** No node falls silent while a slow machine runs a test. */
  const ALIVE = -600;
  const node = async (name: string, seenSecondsAgo: number, startedAt: Date) => {
    await database.query(
      `insert into nodes (node, started_at, seen_at) values ($1, $2, now() - make_interval(secs => $3))
       on conflict (node) do update set started_at = excluded.started_at, seen_at = excluded.seen_at`,
      [name, startedAt, seenSecondsAgo],
    );
  };

  test('are open now, or were open at any time of a period', async () => {
    await node('node-1', ALIVE, at(-1000));
    await connection({ user: 'early', since: 0, until: 10 });
    await connection({ user: 'long', since: 5, until: 100 });
    await connection({ user: 'open', since: 50 });
    expect(await shown('now')).toEqual(['open']);
    expect(await shown('now', 'long')).toEqual([]);
    expect(await shown(period(0, 5))).toEqual(['early']);
    expect(await shown(period(10, 20))).toEqual(['long']);
    expect(await shown(period(9, 51))).toEqual(['open', 'long', 'early']);
    expect(await shown(period(9, 51), 'early')).toEqual(['early']);
    expect(await shown({ since: at(100).getTime(), until: undefined })).toEqual(['open']);
    expect(await shown({ since: undefined, until: at(50).getTime() })).toEqual(['long', 'early']);
  });

  test('of a node that is silent for ten seconds ended when it was last seen', async () => {
    await node('dead', 11, at(-1000));
    await node('alive', ALIVE, at(-1000));
    await connection({ user: 'lost', node: 'dead' });
    await connection({ user: 'kept', node: 'alive' });
    expect(await shown('now')).toEqual(['kept']);
    const { items } = await connections.page(tenant, undefined, period(0, 10), undefined, 100);
    const lost = items.find(({ user }) => user === 'lost');
    expect(lost).toMatchObject({ reason: 'node-lost' });
    expect(Date.now() - (lost?.until?.getTime() ?? 0)).toBeGreaterThan(10_900);
  });

  test('that a node left open before it started again are over', async () => {
    await node('again', ALIVE, at(30));
    await connection({ user: 'before', node: 'again', since: 10 });
    await connection({ user: 'after', node: 'again', since: 31 });
    expect(await shown('now')).toEqual(['after']);
    expect(await shown(period(29, 30))).toEqual(['before']);
    expect(await shown(period(30, 31))).toEqual([]);
  });

  test('come in pages, each once, also where many began in the same moment', async () => {
    await node('node-1', 0, at(-1000));
    for (let n = 0; n < 9; n += 1) await connection({ user: `u-${n}`, since: n < 6 ? 1 : 2 });
    const seen: string[] = [];
    let after: Parameters<ConnectionsStore['page']>[3];
    do {
      const page = await connections.page(tenant, undefined, 'now', after, 4);
      seen.push(...page.items.map(({ user }) => user));
      after = page.reached;
    } while (after !== undefined);
    expect(seen.toSorted()).toEqual(Array.from({ length: 9 }, (_, n) => `u-${n}`));
  });
});

const nodesOf = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];
/** One row each for a tenant or a node of the service. */
const SMALL = /^(?:tenant_logs|nodes)$/;

describe('the statements of history', () => {
  const users = 200;
  const perUser = 100;

  /** Notifications, sends and acknowledgements of many users over four days; more than a plan could read unnoticed. */
  async function fill(): Promise<void> {
    const spread = `$2::bigint + (n::bigint * 345600000 / ${users * perUser}) * 4096`;
    await database.query(
      `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher)
       select $1, ${spread}, gen_random_uuid(), case when n % 10 > 1 then 'u-' || n % ${users} end,
         case when n % 10 = 1 then 'topic-' || n % 7 end, 'type-' || n % 5, '{}', 2, 'billing'
       from generate_series(1, ${users * perUser}) n`,
      [tenant, place(-2 * 24 * 3600)],
    );
    await database.query(
      `insert into devices (tenant_id, user_id, device_id, cursor) select $1, 'u-' || u, 'd-' || d, 0
       from generate_series(0, ${users - 1}) u, generate_series(1, 2) d`,
      [tenant],
    );
    await database.query(
      `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position, until)
       select $1, gen_random_uuid(), 'u-' || n % ${users}, 'd-1', 'node-1', $2::timestamptz + make_interval(secs => n * 10), 0,
         case when n % 10 > 0 then $2::timestamptz + make_interval(secs => n * 10 + 100) end
       from generate_series(1, 20000) n`,
      [tenant, at(-2 * 24 * 3600)],
    );
    await database.query(
      `insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
       select $1, 'u-' || n % ${users}, 'd-1', gen_random_uuid(), ${spread} - 1, ${spread}, 0, now(), false
       from generate_series(1, ${users * perUser}) n`,
      [tenant, place(-2 * 24 * 3600)],
    );
    await database.query(
      `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, at, by_resume)
       select $1, 'u-' || n % ${users}, 'd-1', ${spread} - 3000000, ${spread}, 1, now(), false
       from generate_series(1, ${users * perUser}) n`,
      [tenant, place(-2 * 24 * 3600)],
    );
    await database.query(
      `insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
       select $1, 'u-' || u, 0, 0, 0, 1, 1 from generate_series(0, ${users - 1}) u`,
      [tenant],
    );
    await database.query(
      `insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class)
       select $1, 'u-' || n % ${users}, kind, n % 2 = 0, case when n % 2 = 0 then ${spread} - 1 else ${spread} - 3000000 end, ${spread}, n % 2
       from generate_series(1, ${users * perUser}) n, unnest(array['seen', 'read', 'archived']) kind`,
      [tenant, place(-2 * 24 * 3600)],
    );
    // What autovacuum does: it never visits a partition that is still empty.
    const filled = await database.query<{ name: string }>(
      `select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and pg_relation_size(oid) > 0`,
    );
    await database.query(`analyze ${filled.map(({ name }) => name).join(', ')}`);
  }

  /** Asks everything that can be asked, about a place in the middle. */
  async function askEverything(): Promise<string[]> {
    const before = place(0);
    const one = (filters: Filters) => history.page(tenant, filters, before, 50);
    await one({});
    await one({ type: typeSchema.parse('type-1') });
    await one({ user: userIdSchema.parse('u-17'), status: 'queued' });
    await one({ topic: topicSchema.parse('topic-1') });
    for (const entry of (await one({ status: 'read' })).items.slice(0, 1).map((item) => item.entry))
      await log.find(tenant, entry.id);
    const { entries } = await log.scan(tenant, { first: asPosition(0) }, before, {
      scan: 50,
      rows: 50,
      bytes: 1_000_000,
    });
    for (const entry of entries.slice(0, 10)) {
      await deliveries.devices(tenant, entry, ['u-1', ''], 20);
      await timelines.deliveries(tenant, entry);
    }
    const when = { since: at(-3600).getTime(), until: at(0).getTime() };
    for (const user of [undefined, userIdSchema.parse('u-17')]) {
      await connections.page(tenant, user, 'now', undefined, 50);
      await connections.page(tenant, user, when, undefined, 50);
    }
    return [...new Set(pools.ran.map(({ statement }) => statement.name))].toSorted();
  }

  test('read short index ranges and nothing else, however long the history is', async () => {
    await fill();
    pools.ran.length = 0;
    expect(await askEverything()).toEqual([
      'connections_now',
      'connections_now_of_user',
      'connections_then',
      'connections_then_of_user',
      'history_any',
      'history_confirmed_by_users',
      'history_counts',
      'history_devices',
      'history_devices_of_user',
      'history_find',
      'history_of_topic',
      'history_of_user',
      'history_read_by_users',
      'history_sent_to_users',
      'timeline_confirmed',
      'timeline_confirmed_by_user',
      'timeline_engaged',
      'timeline_engaged_of_user',
      'timeline_sent',
      'timeline_sent_to_user',
    ]);
    // The last of each is enough.
    const last = new Map(pools.ran.map((ran) => [ran.statement.name, ran]));
    for (const [name, ran] of last) {
      const plans = {
        generic: nodesOf(await explain(database, ran, ['generic_plan'])),
        ran: nodesOf(await explain(database, ran, ['analyze'])),
      };
      for (const [kind, nodes] of Object.entries(plans)) {
        const scans = nodes.filter(
          (node) => node['Relation Name'] !== undefined && !SMALL.test(node['Relation Name']),
        );
        expect([name, kind, scans.length > 0]).toEqual([name, kind, true]);
        for (const scan of scans.filter((node) => !node['Node Type'].startsWith('Bitmap Heap'))) {
          const bad = scan['Node Type'] === 'Seq Scan' || scan['Index Cond']?.includes('tenant_id') !== true;
          expect([name, kind, bad ? scan : 'an index range']).toEqual([name, kind, 'an index range']);
        }
      }
      const scans = plans.ran.filter((node) => node['Relation Name'] !== undefined);
      const read = scans.reduce(
        (sum, node) =>
          sum +
          (node['Actual Loops'] ?? 0) *
            ((node['Actual Rows'] ?? 0) +
              (node['Rows Removed by Filter'] ?? 0) +
              (node['Rows Removed by Index Recheck'] ?? 0)),
        0,
      );
      expect([name, read < 2_000 ? 'few' : read]).toEqual([name, 'few']);
    }
  });
});
