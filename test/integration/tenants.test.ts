import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { ChangeFeed, ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { Tenants, TenantsStore } from '../../src/tenants/tenants.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { loneBus, openPools, openTransactions } from '../support/pools.ts';
import { testConfig, type TestSettings } from '../support/settings.ts';
import { TEST_SECRET } from '../support/tokens.ts';

const acme = tenantIdSchema.parse('acme');
const globex = tenantIdSchema.parse('globex');
const APP = 'https://app.acme.example';

let database: TestDatabase;
const closing: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  await database.drop();
});

/** What one node knows of tenants; it looks when it is told to. */
async function node(settings: TestSettings = {}) {
  const config = testConfig({
    ...settingsOf(database),
    JWT_SECRET: TEST_SECRET,
    CHANGES_POLL_MS: 900,
    ...settings,
  });
  const { tenant: pool, engine, end } = openPools(database, 2);
  const transactions = await openTransactions(database);
  const changes = new ChangeFeed(new ChangeFeedStore(engine), loneBus(), config);
  const store = new TenantsStore(engine, engine, pool);
  const tenants = new Tenants(changes, store, config);
  const changed: string[] = [];
  await changes.onModuleInit();
  const subscription = tenants.changed.subscribe((tenantId) => changed.push(tenantId));
  closing.push(async () => {
    subscription.unsubscribe();
    await changes.onModuleDestroy();
    await transactions.end();
    await end();
  });
  return { tenants, changes, store, transactions: transactions.tenants, changed };
}

const ordinary = {
  name: null,
  status: 'active',
  keptDays: null,
  corsOrigins: [],
  limits: NO_LIMITS,
} as const;

describe('the standing of a tenant', () => {
  test('is active for one that nobody has seen, unless tenants have to be registered', async () => {
    await database.query(`insert into tenants (tenant_id) values ('acme')`);
    const auto = await node();
    const explicit = await node({ TENANT_PROVISIONING: 'explicit' });
    expect([auto.tenants.standing(acme), auto.tenants.standing(globex)]).toEqual(['active', 'active']);
    expect([explicit.tenants.standing(acme), explicit.tenants.standing(globex)]).toEqual([
      'active',
      'unknown',
    ]);
  });

  test('is known at start when the tenant is suspended', async () => {
    await database.query(`insert into tenants (tenant_id, status) values ('acme', 'suspended')`);
    expect((await node()).tenants.standing(acme)).toBe('suspended');
    expect((await node({ TENANT_PROVISIONING: 'explicit' })).tenants.standing(acme)).toBe('suspended');
  });

  test.each(['auto', 'explicit'])('follows what another node does to it (%s)', async (provisioning) => {
    const one = await node({ TENANT_PROVISIONING: provisioning });
    const other = await node({ TENANT_PROVISIONING: provisioning });
    const standing = async () => {
      await other.changes.now();
      return other.tenants.standing(acme);
    };
    await one.transactions.transaction(acme, (transaction) => one.store.create(transaction, acme, ordinary));
    expect(await standing()).toBe('active');
    await one.transactions.transaction(acme, (transaction) =>
      one.store.update(transaction, acme, { ...ordinary, status: 'suspended' }),
    );
    expect(await standing()).toBe('suspended');
    await one.transactions.transaction(acme, (transaction) => one.store.update(transaction, acme, ordinary));
    expect(await standing()).toBe('active');
  });

  test('is not missed when a transaction that began before others commits after them', async () => {
    const { tenants, changes } = await node({ TENANT_PROVISIONING: 'explicit' });
    const slow = new pg.Client({ connectionString: database.url });
    await slow.connect();
    closing.push(() => slow.end());
    await slow.query('begin');
    await slow.query(`insert into tenants (tenant_id) values ('acme')`);
    await database.query(`insert into tenants (tenant_id) values ('globex')`);
    await changes.now();
    await changes.now();
    expect([tenants.standing(acme), tenants.standing(globex)]).toEqual(['unknown', 'active']);
    await slow.query('commit');
    await changes.now();
    expect(tenants.standing(acme)).toBe('active');
  });

  test('is forgotten when the database no longer has the tenant', async () => {
    await database.query(
      `insert into tenants (tenant_id, status, cors_origins) values ('acme', 'suspended', $1)`,
      [[APP]],
    );
    const { tenants, changed } = await node();
    await database.query(`delete from tenants`);
    await tenants.load();
    expect([tenants.standing(acme), tenants.allowsOriginSomewhere(APP), changed]).toEqual([
      'active',
      false,
      ['acme'],
    ]);
  });
});

test('a change is told once, however often its row is read', async () => {
  const { tenants, changes, changed } = await node();
  await database.query(
    `insert into tenants (tenant_id, status) values ('acme', 'suspended'), ('globex', 'active')`,
  );
  await changes.now();
  await tenants.catchUp('3:3:');
  await tenants.load();
  expect(changed).toEqual(['acme']);
  await database.query(
    `update tenants set status = 'active', transaction = pg_current_xact_id() where tenant_id = 'acme'`,
  );
  await changes.now();
  expect(changed).toEqual(['acme', 'acme']);
});

describe('an origin', () => {
  test('is allowed for the tenant that has it, and for every tenant if the settings name it', async () => {
    await database.query(`insert into tenants (tenant_id, cors_origins) values ('acme', $1)`, [[APP]]);
    const { tenants } = await node({ CORS_ORIGINS: 'https://console.example' });
    expect(tenants.allowsOrigin(acme, APP)).toBe(true);
    expect(tenants.allowsOrigin(globex, APP)).toBe(false);
    expect(tenants.allowsOrigin(acme, `${APP}.evil.example`)).toBe(false);
    expect(tenants.allowsOrigin(globex, 'https://console.example')).toBe(true);
    expect(tenants.allowsOriginSomewhere('https://console.example')).toBe(true);
  });

  test('is allowed somewhere as long as one tenant has it', async () => {
    const { tenants, changes, store, transactions } = await node();
    const set = async (tenantId: typeof acme, corsOrigins: string[]) => {
      await transactions.transaction(tenantId, (transaction) =>
        store.update(transaction, tenantId, { ...ordinary, corsOrigins }),
      );
      await changes.now();
    };
    await database.query(`insert into tenants (tenant_id) values ('acme'), ('globex')`);
    expect(tenants.allowsOriginSomewhere(APP)).toBe(false);
    await set(acme, [APP]);
    await set(globex, [APP, 'https://globex.example']);
    await set(acme, []);
    expect([tenants.allowsOriginSomewhere(APP), tenants.allowsOrigin(acme, APP)]).toEqual([true, false]);
    await set(globex, ['https://globex.example']);
    expect(tenants.allowsOriginSomewhere(APP)).toBe(false);
    expect(tenants.allowsOriginSomewhere('https://globex.example')).toBe(true);
  });
});

describe('the limits of a tenant', () => {
  test('are those of the settings, but for what it has of its own', async () => {
    await database.query(
      `insert into tenants (tenant_id, limits) values ('acme', '{"burst": 7, "notificationsPerSecond": 3, "unheardOf": true}')`,
    );
    const { tenants } = await node({ NOTIFICATIONS_PER_SECOND: '100', MAX_DEVICES_PER_USER: '4' });
    expect(tenants.limits(globex)).toMatchObject({
      notificationsPerSecond: 100,
      burst: 200,
      devicesPerUser: 4,
    });
    expect(tenants.limits(acme)).toEqual({ ...tenants.limits(globex), notificationsPerSecond: 3, burst: 7 });
    expect([acme, globex].map((id) => Object.isFrozen(tenants.limits(id)))).toEqual([true, true]);
  });

  test.each(['auto', 'explicit'])('follow what another node does to them (%s)', async (provisioning) => {
    const one = await node();
    const other = await node({ TENANT_PROVISIONING: provisioning });
    const usual = other.tenants.limits(acme).connections;
    const set = async (connections: number | null) => {
      const limits = { ...NO_LIMITS, connections };
      await one.transactions.transaction(acme, (transaction) =>
        one.store.update(transaction, acme, { ...ordinary, limits }),
      );
      await other.changes.now();
      return other.tenants.limits(acme).connections;
    };
    await database.query(`insert into tenants (tenant_id) values ('acme')`);
    expect([await set(5), await set(6), await set(6), await set(null)]).toEqual([5, 6, 6, usual]);
    expect(other.changed.slice(-3)).toEqual(['acme', 'acme', 'acme']);
  });

  test('are forgotten when the database no longer has the tenant', async () => {
    await database.query(`insert into tenants (tenant_id, limits) values ('acme', '{"connections": 5}')`);
    const { tenants } = await node();
    expect(tenants.limits(acme).connections).toBe(5);
    await database.query(`delete from tenants`);
    await tenants.load();
    expect(tenants.limits(acme)).toEqual(tenants.limits(globex));
  });
});

test('a tenant that is created can be published to, and is created once', async () => {
  const { store, transactions } = await node();
  const create = () =>
    transactions.transaction(acme, (transaction) =>
      store.create(transaction, acme, { ...ordinary, name: 'Acme' }),
    );
  const made = await Promise.all([create(), create(), create()]);
  expect(made.filter((tenant) => tenant !== undefined)).toMatchObject([{ id: 'acme', name: 'Acme' }]);
  expect(await database.query(`select tenant_id, head from tenant_logs`)).toEqual([
    { tenant_id: 'acme', head: 0 },
  ]);
});
