import { randomUUIDv7 } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { ChangeFeed, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema, type TenantId } from '../../src/core/identifiers.ts';
import { Quotas } from '../../src/log/quota.ts';
import { AppendStore, type Publication } from '../../src/log/append.store.ts';
import { PartitionsStore, Partitions } from '../../src/log/partitions.ts';
import { Tenants, TenantsStore } from '../../src/tenants/tenants.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { draft } from '../support/notifications.ts';
import { loneBus, openMaintenancePool, openPools, type TestPools } from '../support/pools.ts';
import { testConfig, type TestSettings } from '../support/settings.ts';

const RATE = 10;
/** Per second: what time pays while a test runs is next to nothing. */
const SLOW = 0.001;

let database: TestDatabase;
let shared: TestPools;
let store: AppendStore;
const pools: { end(): Promise<void> }[] = [];
beforeAll(async () => {
  database = await createDatabase();
  shared = openPools(database, 8);
  const maintenance = openMaintenancePool(database);
  pools.push(shared, maintenance);
  const settings = { PARTITION_HOURS: 24, PARTITIONS_AHEAD: 1 };
  await new Partitions(new PartitionsStore(maintenance), settings).ensureAhead();
  store = new AppendStore(shared.tenant);
});
afterAll(async () => {
  await Promise.all(pools.map((each) => each.end()));
  await database.drop();
});

/** Reads of what was used, counted. */
class CountedStore extends AppendStore {
  reads = 0;

  override async usage(tenantId: TenantId) {
    this.reads += 1;
    return await super.usage(tenantId);
  }
}

function node(settings: TestSettings = {}) {
  const config = testConfig(settings);
  const tenants = new Tenants(
    new ChangeFeed(new ChangeFeedStore(shared.engine), loneBus(), config),
    new TenantsStore(shared.engine, shared.engine, shared.tenant),
    config,
  );
  const reading = new CountedStore(shared.tenant);
  return { quotas: new Quotas(reading, tenants), reading };
}

let tenants = 0;
async function freshTenant(): Promise<TenantId> {
  const tenant = tenantIdSchema.parse(`quota-${(tenants += 1)}`);
  await store.ensureTenant(tenant);
  return tenant;
}

function publication(sizes: readonly number[], key?: string): Publication {
  return {
    publisher: 'billing',
    drafts: sizes.map((size) => draft({ data: '1'.repeat(size) })),
    idempotency: key === undefined ? undefined : { publisher: 'billing', key, fingerprint: Buffer.from(key) },
  };
}

const append = async (tenant: TenantId, publications: readonly Publication[], rate = RATE) => {
  const appended = await store.append(tenant, publications, randomUUIDv7(), rate);
  if (appended === undefined) throw new Error('nothing was appended');
  return appended.usage;
};

/** As if the last append had been so long ago by the clock of the database; a negative time if that was set back since. */
const age = (tenant: TenantId, seconds: number) =>
  database.query(
    `update tenant_logs set spent_at = clock_timestamp() - make_interval(secs => $2) where tenant_id = $1`,
    [tenant, seconds],
  );

describe('an append', () => {
  test('costs a notification for each that it stores, and keeps their bytes', async () => {
    const tenant = await freshTenant();
    expect(await append(tenant, [publication([5])], SLOW)).toEqual({ spent: 1, storedBytes: 5 });
    const balance = await append(tenant, [publication([1, 2]), publication([3])], SLOW);
    expect(balance.spent).toBeGreaterThan(3.5);
    expect(balance.spent).toBeLessThanOrEqual(4);
    expect(balance.storedBytes).toBe(11);
  });

  test('costs nothing for a key that was used, whatever else it stores', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication([7, 7], 'used')]);
    await age(tenant, 3_600);
    expect(await append(tenant, [publication([7, 7], 'used')])).toEqual({ spent: 0, storedBytes: 14 });
    await age(tenant, 3_600);
    const mixed = [publication([7, 7], 'used'), publication([1], 'new'), publication([2])];
    expect(await append(tenant, mixed)).toEqual({ spent: 2, storedBytes: 17 });
  });

  test('is paid off by the clock of the database, at the rate that the tenant has now, and never beyond nothing', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication(Array(40).fill(1))]);
    await age(tenant, 20_000);
    const { spent } = await append(tenant, [publication([1])], SLOW);
    expect(spent).toBeLessThanOrEqual(40 - 20_000 * SLOW + 1);
    expect(spent).toBeGreaterThan(40 - 21_000 * SLOW + 1);
    await age(tenant, 1);
    expect((await append(tenant, [publication([1])], 1_000)).spent).toBe(1);
  });

  test('is paid off once for the time that has gone', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication(Array(40).fill(1))], SLOW);
    await age(tenant, 50_000);
    expect((await append(tenant, [publication(Array(40).fill(1))], SLOW)).spent).toBe(40);
    expect((await append(tenant, [publication([1])], SLOW)).spent).toBeGreaterThan(40);
  });

  test('pays nothing when the clock was set back, and from then on by the new one', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication(Array(40).fill(1))]);
    await age(tenant, -3_600);
    expect((await append(tenant, [publication([1])])).spent).toBe(41);
    await age(tenant, 2);
    expect((await append(tenant, [publication([1])])).spent).toBeLessThanOrEqual(41 - 2 * RATE + 1);
  });

  test('of many at once is charged exactly', async () => {
    const tenant = await freshTenant();
    const many = Array.from({ length: 40 }, (_, n) => publication(Array(n % 5 || 1).fill(3), `k-${n % 30}`));
    const usages = await Promise.all(many.map((one) => append(tenant, [one], 1e-9)));
    const [row] = await database.query<{ n: number; bytes: number }>(
      `select count(*)::int as n, sum(size)::int as bytes from notifications where tenant_id = $1`,
      [tenant],
    );
    expect(Math.max(...usages.map(({ spent }) => spent))).toBeCloseTo(row?.n ?? 0, 5);
    expect(Math.max(...usages.map(({ storedBytes }) => storedBytes))).toBe(row?.bytes);
  });

  test('that comes too late to be stored costs nothing', async () => {
    const tenant = await freshTenant();
    const late = randomUUIDv7();
    await store.outcomeOf(tenant, [randomUUIDv7()], late);
    expect(await store.append(tenant, [publication([9])], late, RATE)).toBeUndefined();
    expect(await store.usage(tenant)).toMatchObject({ spent: 0, storedBytes: 0 });
  });
});

describe('what a node knows of a quota', () => {
  const LIMITS = { NOTIFICATIONS_PER_SECOND: '1', NOTIFICATIONS_BURST_SECONDS: 50 };

  test('is what the database says when it meets the tenant, as old as that is, asked once for all', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication(Array(50).fill(1))]);
    const began = performance.now();
    await age(tenant, 20);
    const { quotas, reading } = node(LIMITS);
    await Promise.all([1, 2, 3].map(() => quotas.state(tenant)));
    const { left } = await quotas.state(tenant);
    expect(reading.reads).toBe(1);
    expect(left).toBeGreaterThanOrEqual(20);
    expect(left).toBeLessThan(21 + (performance.now() - began) / 1_000);
    await quotas.state(tenant);
    expect(reading.reads).toBe(1);
  });

  test('is all that it may have for a tenant that nobody has seen', async () => {
    const nobody = tenantIdSchema.parse('nobody');
    const { quotas } = node(LIMITS);
    expect((await quotas.state(nobody)).left).toBe(50);
    expect(await quotas.refusal(nobody, 50, 1)).toBeUndefined();
    expect(await quotas.refusal(nobody, 51, 1)).toMatchObject({
      code: 'rate_limited',
      headers: { 'retry-after': '1' },
    });
  });

  test('is asked again after an append of which nobody knows what became', async () => {
    const tenant = await freshTenant();
    const { quotas, reading } = node(LIMITS);
    await quotas.state(tenant);
    const began = performance.now();
    await append(tenant, [publication(Array(30).fill(1))]);
    quotas.doubt(tenant);
    expect((await quotas.state(tenant)).left).toBeLessThan(21 + (performance.now() - began) / 1_000);
    expect(reading.reads).toBe(2);
    quotas.doubt(tenant);
    quotas.learn(tenant, { spent: 0, storedBytes: 0 });
    await quotas.state(tenant);
    expect(reading.reads).toBe(2);
  });

  test('is not what was asked before an append told more', async () => {
    const tenant = await freshTenant();
    const { quotas } = node(LIMITS);
    await quotas.state(tenant);
    quotas.doubt(tenant);
    const opening = quotas.state(tenant);
    const began = performance.now();
    quotas.learn(tenant, { spent: 45, storedBytes: 7 });
    await opening;
    expect((await quotas.state(tenant)).left).toBeLessThan(6 + (performance.now() - began) / 1_000);
  });

  test('of one without room is asked again once a second, since others may have made some', async () => {
    const tenant = await freshTenant();
    await append(tenant, [publication([100])]);
    const { quotas, reading } = node({ STORED_BYTES_PER_TENANT: '100' });
    const refused = async (bytes: number) => (await quotas.refusal(tenant, 1, bytes))?.code;
    const now = performance.now();
    const clock = jest.spyOn(performance, 'now').mockReturnValue(now);
    try {
      for (const _ of [1, 2, 3]) expect(await refused(1)).toBe('storage_full');
      expect(reading.reads).toBe(2);
      await database.query(`update tenant_logs set removed_bytes = 60 where tenant_id = $1`, [tenant]);
      clock.mockReturnValue(now + 990);
      // What remembers the second looks at the clock once a millisecond.
      await sleep(5);
      expect([await refused(60), reading.reads]).toEqual(['storage_full', 2]);
      clock.mockReturnValue(now + 1_010);
      await sleep(5);
      expect([await refused(60), reading.reads]).toEqual([undefined, 3]);
      expect([await refused(61), reading.reads]).toEqual(['storage_full', 3]);
    } finally {
      clock.mockRestore();
    }
  });
});
