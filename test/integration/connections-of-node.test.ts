import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { getDataSourceToken } from '@nestjs/typeorm';
import pg from 'pg';
import type { DataSource } from 'typeorm';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { HealthStore } from '../../src/health/health.controller.ts';
import { CROSS_TENANT } from '../../src/postgres/entity-transactions.ts';
import {
  AppendPool,
  BacklogPool,
  ChangeFeedPool,
  ClientPool,
  CrossTenantPool,
  HistoryPool,
  MaintenancePool,
} from '../../src/postgres/pools.ts';
import { CONNECTIONS, connectionsOf, connectionsPerPool } from '../../src/postgres/sessions.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';

const PER_POOL = 3;
/** More than any pool has. */
const AT_ONCE = 12;
const LOCK = 4_711;
const wait = `pg_advisory_xact_lock_shared(${LOCK})`;
/** The service's login names the tenant in whatever it asks (test/support/statement-log.ts). */
const waitOfTenant = `select ${wait}, $1::text as tenant_id`;

let service: Service;
beforeAll(async () => {
  service = await startService({ DATABASE_CONNECTIONS_PER_POOL: String(PER_POOL) });
});
afterAll(() => service.close());

test('a node that is busy in every way has the connections that a start counts, less those of the bus', async () => {
  const { app, database } = service;
  const holder = new pg.Client({ connectionString: database.url });
  await holder.connect();
  await holder.query(`select pg_advisory_lock(${LOCK})`);
  const times = Array.from({ length: AT_ONCE }, (_, index) => index);
  const ofTenants = [AppendPool, ClientPool, BacklogPool, HistoryPool].flatMap((token) =>
    // A tenant has half of a pool.
    times.map((index) =>
      app.get(token).rows(tenantIdSchema.parse(`t-${index}`), { name: 'wait', text: waitOfTenant }),
    ),
  );
  const ofAll = [CrossTenantPool, ChangeFeedPool, MaintenancePool].flatMap((token) =>
    times.map(() => app.get(token).rows({ name: 'wait', text: `select ${wait}` })),
  );
  const ofEntities = [getDataSourceToken(), getDataSourceToken(CROSS_TENANT)].flatMap((token) =>
    times.map(() => app.get<DataSource>(token).query(waitOfTenant, ['t'])),
  );
  const probes = times.map(() => app.get(HealthStore).lastMigration());
  const sessions = async () =>
    await database.query<{ waits: boolean }>(
      `select coalesce(wait_event = 'advisory', false) as waits from pg_stat_activity
       where datname = current_database() and application_name like 'tidings %'`,
    );
  const expected = connectionsOf({ WORKERS: 1, DATABASE_CONNECTIONS_PER_POOL: PER_POOL }) - CONNECTIONS.bus;
  await eventually(async () =>
    expect((await sessions()).filter(({ waits }) => waits)).toHaveLength(expected - CONNECTIONS.health),
  );
  await holder.end();
  await Promise.all([...ofTenants, ...ofAll, ...ofEntities, ...probes]);
  // All that ever were, since they are kept.
  expect(await sessions()).toHaveLength(expected);
});

test('workers share the pools of a node, and each has two connections in a pool, if there are two', () => {
  const perPool = (WORKERS: number, all: number) =>
    connectionsPerPool({ WORKERS, DATABASE_CONNECTIONS_PER_POOL: all });
  expect([1, 2, 3, 8].map((workers) => perPool(workers, 4))).toEqual([4, 2, 2, 2]);
  expect([1, 2, 3, 8].map((workers) => perPool(workers, 20))).toEqual([20, 10, 6, 2]);
  expect([1, 8].map((workers) => perPool(workers, 1))).toEqual([1, 1]);
});

test('the numbers that operators are told are those that count', () => {
  const page = readFileSync(new URL('../../docs/how-to/deploy.md', import.meta.url), 'utf8').replaceAll(
    / +/g,
    ' ',
  );
  for (const WORKERS of [1, 2, 4, 8]) {
    const nodes = { WORKERS, DATABASE_CONNECTIONS_PER_POOL: 4 };
    const all = connectionsOf(nodes);
    expect(page).toContain(`| ${WORKERS} | ${connectionsPerPool(nodes)} | ${all / WORKERS} | ${all} |`);
  }
});
