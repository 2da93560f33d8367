import { randomUUIDv7 } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { ChangeFeed, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import type { Config } from '../../src/core/config.ts';
import { tenantIdSchema, userIdSchema, type TenantId } from '../../src/core/identifiers.ts';
import { Quotas } from '../../src/log/quota.ts';
import { AppendStore, type Publication } from '../../src/log/append.store.ts';
import { Ingest } from '../../src/log/ingest.ts';
import { IdempotencyRecords } from '../../src/log/idempotency.ts';
import type { Batch, Draft } from '../../src/core/notification.ts';
import { PartitionsStore, Partitions } from '../../src/log/partitions.ts';
import { asPosition, positionOfTime } from '../../src/core/position.ts';
import { ReadStore } from '../../src/log/read.store.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { Tenants, TenantsStore } from '../../src/tenants/tenants.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { draft } from '../support/notifications.ts';
import { loneBus, openMaintenancePool, openPools } from '../support/pools.ts';
import { testConfig, type TestSettings } from '../support/settings.ts';

let database: TestDatabase;
let partitions: Partitions;
let readers: ReadStore;
const pools: { end(): Promise<void> }[] = [];

beforeAll(async () => {
  database = await createDatabase();
  const maintenance = openMaintenancePool(database);
  const { tenant, engine, end } = openPools(database, 2);
  pools.push(maintenance, { end });
  partitions = new Partitions(new PartitionsStore(maintenance), { PARTITION_HOURS: 24, PARTITIONS_AHEAD: 1 });
  readers = new ReadStore(tenant, engine);
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.end()));
  await database.drop();
});

/** What one node has to append with. */
function node(settings: TestSettings = {}) {
  const opened = openPools(database);
  pools.push(opened);
  const config: Config = testConfig(settings);
  const store = new AppendStore(opened.tenant);
  const changes = new ChangeFeed(new ChangeFeedStore(opened.engine), loneBus(), config);
  const accounts = new Quotas(
    store,
    new Tenants(changes, new TenantsStore(opened.engine, opened.engine, opened.tenant), config),
  );
  const ingest = new Ingest(
    store,
    accounts,
    new IdempotencyRecords(store),
    partitions,
    new Metrics(),
    config,
  );
  const batches: Batch[] = [];
  ingest.committed.subscribe((batch) => batches.push(batch));
  return { store, ingest, batches };
}

let tenants = 0;
const freshTenant = (): TenantId => tenantIdSchema.parse(`append-${(tenants += 1)}`);
const user = userIdSchema.parse('alice');

const publication = (drafts: readonly Draft[] = [draft()], key?: string): Publication => ({
  publisher: 'billing',
  drafts,
  idempotency: key === undefined ? undefined : { publisher: 'billing', key, fingerprint: Buffer.from(key) },
});

const positionsOf = async (tenant: TenantId) =>
  (
    await database.query<{ position: number }>(
      'select position from notifications where tenant_id = $1 order by position',
      [tenant],
    )
  ).map(({ position }) => position);

/** Batches link to one another: each begins where another ended, and none is missing. */
function expectChain(batches: readonly Batch[]): void {
  const sorted = batches.toSorted((a, b) => a.head - b.head);
  for (const [index, batch] of sorted.entries()) {
    const before = sorted[index - 1]?.head ?? asPosition(0);
    expect(batch.previous).toBe(before);
    for (const { position } of batch.notifications) {
      expect(position).toBeGreaterThan(batch.previous);
      expect(position).toBeLessThanOrEqual(batch.head);
    }
  }
}

test.each(['deleting', 'deleted'])(
  'a tenant that is %s is not made anew by a node that has not heard of it',
  async (status) => {
    const tenant = freshTenant();
    await database.query('insert into tenants (tenant_id, status) values ($1, $2)', [tenant, status]);
    const { ingest, batches } = node();
    await expect(ingest.publish(tenant, publication())).rejects.toMatchObject({ code: 'tenant_unknown' });
    expect(batches).toEqual([]);
    expect(await database.query('select from tenant_logs where tenant_id = $1', [tenant])).toEqual([]);
  },
);

describe('many publishers on several nodes', () => {
  test('a reader who has seen a position never finds a new one below it', async () => {
    const tenant = freshTenant();
    const nodes = [node(), node(), node()];
    let publishing = true;
    const published = Promise.all(
      nodes.flatMap(({ ingest }) =>
        Array.from({ length: 6 }, async (_, n) => {
          for (let i = 0; i < 40; i += 1)
            await ingest.publish(
              tenant,
              publication(Array.from({ length: 1 + ((n + i) % 4) }, () => draft())),
            );
        }),
      ),
    ).finally(() => {
      publishing = false;
    });

    // Reads on as a stream does, and reads again what lies behind it.
    const seen: number[] = [];
    let rounds = 0;
    for (let last = false; !last; rounds += 1) {
      last = !publishing;
      const head = seen.at(-1) ?? 0;
      const rows = await database.query<{ position: number }>(
        'select position from notifications where tenant_id = $1 order by position',
        [tenant],
      );
      const positions = rows.map(({ position }) => position);
      expect(positions.filter((position) => position <= head)).toEqual(seen);
      seen.push(...positions.filter((position) => position > head));
    }
    await published;
    expect(rounds).toBeGreaterThan(5);
    // 3 nodes × 6 publishers × 10 rounds of 1, 2, 3 and 4.
    expect(seen).toHaveLength(3 * 6 * 10 * (1 + 2 + 3 + 4));
    expect(new Set(seen).size).toBe(seen.length);
  });

  test('batches form one chain over all nodes, and what they say is what is stored', async () => {
    const tenant = freshTenant();
    const nodes = [node(), node(), node({ INGEST_BATCH_SIZE: 3 })];
    await Promise.all(
      nodes.flatMap(({ ingest }) =>
        Array.from({ length: 8 }, async (_, n) => {
          for (let i = 0; i < 15; i += 1) {
            // Some share a key with a publisher on another node: their twins leave holes in the numbers.
            await ingest.publish(tenant, publication([draft(), draft()], n < 2 ? `${n}-${i}` : undefined));
          }
        }),
      ),
    );
    const batches = nodes.flatMap((each) => each.batches);
    expectChain(batches);
    const told = batches
      .flatMap(({ notifications }) => notifications.map(({ position }) => Number(position)))
      .toSorted((a, b) => a - b);
    expect(await positionsOf(tenant)).toEqual(told);
    // 3 nodes × 6 publishers × 15 without keys, and 2 × 15 keys that only one node could take.
    expect(told).toHaveLength(2 * (3 * 6 * 15 + 2 * 15));
    for (const { batches: own } of nodes) {
      const heads = own.map(({ head }) => head);
      expect(heads).toEqual(heads.toSorted((a, b) => a - b));
    }
  });

  test('a backlog page says up to where it is complete, while others append', async () => {
    const tenant = freshTenant();
    const { ingest } = node();
    await ingest.publish(tenant, publication());
    let publishing = true;
    const published = Promise.all(
      Array.from({ length: 200 }, async () => await ingest.publish(tenant, publication([draft(), draft()]))),
    ).finally(() => {
      publishing = false;
    });
    const got: number[] = [];
    for (let after = asPosition(0), last = false; !last;) {
      const over = !publishing;
      const limits = { rows: 30, bytes: 10_000 };
      const page = await readers.backlog(tenant, [{ user, after }], [], limits, limits);
      const [own] = page.own;
      if (own === undefined) throw new Error('a reader got no page');
      got.push(...own.notifications.map(({ position }) => Number(position)));
      after = own.upTo;
      last = over && own.notifications.length === 0;
    }
    await published;
    expect(got).toEqual(await positionsOf(tenant));
  });
});

describe('positions', () => {
  test('carry the time of the database, and go on above the head when its clock is behind', async () => {
    const tenant = freshTenant();
    const { ingest } = node();
    const clock = async () => {
      const [row] = await database.query<{ now: number }>(
        `select floor(extract(epoch from clock_timestamp()) * 1000)::bigint - ${Date.UTC(2020, 0, 1)} as now`,
      );
      return row?.now;
    };
    const before = await clock();
    const { first } = await ingest.publish(tenant, publication());
    expect(Math.floor(first / 4096)).toBeGreaterThanOrEqual(before ?? Infinity);
    expect(Math.floor(first / 4096)).toBeLessThanOrEqual((await clock()) ?? 0);
    const ahead = first + 4096 * 3_600_000;
    await database.query('update tenant_logs set head = $2 where tenant_id = $1', [tenant, ahead]);
    const next = await ingest.publish(tenant, publication([draft(), draft()]));
    expect(next.first).toBe(ahead + 1);
    expect((await positionsOf(tenant)).slice(-2)).toEqual([ahead + 1, ahead + 2]);
  });

  test('lie above the beginning of the log, also when the clock was set back since', async () => {
    const tenant = freshTenant();
    const { ingest, store } = node();
    await store.ensureTenant(tenant);
    const beginning = positionOfTime(Date.now() + 3_600_000);
    await database.query('update tenant_logs set beginning = $2 where tenant_id = $1', [tenant, beginning]);
    expect((await ingest.publish(tenant, publication())).first).toBe(beginning + 1);
  });

  test('of one publication follow one another, in its order', async () => {
    const tenant = freshTenant();
    const drafts = Array.from({ length: 100 }, () => draft());
    const { first, ids } = await node().ingest.publish(tenant, publication(drafts));
    expect(ids).toEqual(drafts.map(({ id }) => id));
    const rows = await database.query<{ id: string; position: number }>(
      'select id, position from notifications where tenant_id = $1 order by position',
      [tenant],
    );
    expect(rows).toEqual(drafts.map(({ id }, index) => ({ id, position: first + index })));
  });
});

describe('what is missing is made', () => {
  afterEach(async () => {
    await partitions.ensureAhead();
  });

  test('the rows of a tenant that was never seen', async () => {
    const tenant = freshTenant();
    const { store } = node();
    expect(await store.append(tenant, [publication()], randomUUIDv7(), 1)).toBeUndefined();
    expect(await positionsOf(tenant)).toEqual([]);
    await node().ingest.publish(tenant, publication());
    expect(await positionsOf(tenant)).toHaveLength(1);
  });

  test('the partition, also of a tenant that was never seen, and for many at once', async () => {
    const dropped = async () => {
      const tables = await database.query<{ name: string }>(
        `select inhrelid::regclass::text as name from pg_inherits where inhparent = 'notifications'::regclass`,
      );
      for (const { name } of tables) await database.query(`drop table ${name}`);
    };
    await dropped();
    const nodes = [node(), node()];
    const several = [freshTenant(), freshTenant(), freshTenant()];
    await Promise.all(
      several.flatMap((tenant) =>
        nodes.map(async ({ ingest }) => await ingest.publish(tenant, publication())),
      ),
    );
    for (const tenant of several) expect(await positionsOf(tenant)).toHaveLength(2);
  });
});

describe('one that cannot be stored', () => {
  test('is refused alone, and those beside it are stored', async () => {
    const tenant = freshTenant();
    const { ingest, batches } = node();
    await ingest.publish(tenant, publication());
    // The first is under way when the others come: they share a statement.
    const outcomes = await Promise.allSettled([
      ingest.publish(tenant, publication()),
      ingest.publish(tenant, publication()),
      ingest.publish(tenant, publication([draft(), draft({ data: 'NUL: \u0000' })])),
      ingest.publish(tenant, publication([draft()], 'keyed')),
      ingest.publish(tenant, publication([draft({ id: 'not a uuid' })], 'bad')),
      ingest.publish(tenant, publication()),
    ]);
    expect(outcomes.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'rejected',
      'fulfilled',
      'rejected',
      'fulfilled',
    ]);
    expect(await positionsOf(tenant)).toHaveLength(5);
    expectChain(batches);
    // A failure is not remembered.
    const again = await ingest.publish(tenant, publication([draft()], 'bad'));
    expect(again.replayed).toBe(false);
  });

  test('does not stop the tenant, nor its neighbours', async () => {
    const [tenant, other] = [freshTenant(), freshTenant()];
    const { ingest } = node();
    await expect(ingest.publish(tenant, publication([draft({ data: '\u0000' })]))).rejects.toThrow(
      /invalid byte sequence/,
    );
    await ingest.publish(tenant, publication());
    await ingest.publish(other, publication());
    expect(await positionsOf(tenant)).toHaveLength(1);
    await ingest.settled();
  });
});

describe('the queue', () => {
  test('is bounded: what does not fit is refused at once and stored nowhere', async () => {
    const tenant = freshTenant();
    const { ingest } = node({ INGEST_QUEUE_NOTIFICATIONS: 5 });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, async () => await ingest.publish(tenant, publication())),
    );
    const refused = outcomes.filter(({ status }) => status === 'rejected');
    expect(refused).toHaveLength(3);
    for (const { reason } of refused as PromiseRejectedResult[])
      expect(reason).toMatchObject({ code: 'overloaded', headers: { 'retry-after': '1' } });
    expect(await positionsOf(tenant)).toHaveLength(5);
    await ingest.publish(tenant, publication());
  });

  test('takes a request that is larger than itself when nothing waits', async () => {
    const tenant = freshTenant();
    const { ingest } = node({ INGEST_QUEUE_NOTIFICATIONS: 5, INGEST_QUEUE_BYTES: 1_024 });
    await ingest.publish(
      tenant,
      publication(Array.from({ length: 20 }, () => draft({ data: `"${'x'.repeat(500)}"`, size: 502 }))),
    );
    expect(await positionsOf(tenant)).toHaveLength(20);
  });

  test('shares statements: a crowd needs far fewer of them than it has publishes', async () => {
    const tenant = freshTenant();
    const { ingest, batches } = node();
    await ingest.publish(tenant, publication());
    await Promise.all(Array.from({ length: 300 }, async () => await ingest.publish(tenant, publication())));
    expect(batches.length).toBeLessThan(20);
    expectChain(batches);
  });
});
