import { expect } from '@jest/globals';
import pg from 'pg';
import { call, operatorOf, readerOf } from './admin.ts';
import type { Answer } from './api.ts';
import type { TestDatabase } from './database.ts';
import { eventually } from './eventually.ts';

export interface ErasureBody {
  readonly id: string;
  readonly status: 'closing' | 'erasing' | 'done';
  readonly erased: Record<string, number>;
}

export const eraseUser = (url: string, tenant: string, user: string): Promise<Answer<ErasureBody>> =>
  call('DELETE', `${url}/v1/users/${encodeURIComponent(user)}/data`, operatorOf(tenant));

/** Resolves when the erasure is as far as that. */
export const untilErasure = (
  url: string,
  tenant: string,
  id: string,
  status: ErasureBody['status'],
): Promise<void> =>
  eventually(
    async () => {
      const { body } = await call<ErasureBody>('GET', `${url}/v1/erasures/${id}`, operatorOf(tenant));
      expect(body.status).toBe(status);
    },
    { every: 50 },
  );

/** Erases a user and waits for the end of it, however long that takes. */
export async function eraseWhole(url: string, tenant: string, user: string): Promise<void> {
  const { status, body } = await eraseUser(url, tenant, user);
  if (status === 202) await untilErasure(url, tenant, body.id, 'done');
  else expect(status).toBe(204);
}

/** The lines of an export. */
export async function exported(
  url: string,
  tenant: string,
  user: string,
): Promise<Record<string, unknown>[]> {
  const response = await fetch(`${url}/v1/users/${encodeURIComponent(user)}/data`, {
    headers: { authorization: `Bearer ${readerOf(tenant)}` },
  });
  expect(response.status).toBe(200);
  const text = await response.text();
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** The tables that have rows of tenants; a table that is partitioned stands for its partitions. */
export async function tablesOfTenants(database: TestDatabase): Promise<string[]> {
  const rows = await database.query<{ name: string }>(
    `select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1`,
  );
  return rows.map(({ name }) => name);
}

/** Every row of a tenant as text, by table. */
export async function rowsOf(database: TestDatabase, tenant: string): Promise<Record<string, string[]>> {
  const tables = await tablesOfTenants(database);
  const all = await Promise.all(
    tables.map(async (table) => {
      const rows = await database.query<{ row: string }>(
        `select to_jsonb(t)::text as row from ${table} t where tenant_id = $1 order by 1`,
        [tenant],
      );
      return [table, rows.map(({ row }) => row)] as const;
    }),
  );
  return Object.fromEntries(all);
}

/** Runs SQL in a transaction that stays open, as somebody else than the service. Ends it when called. */
export async function holding(
  database: TestDatabase,
  sql: string,
): Promise<(end?: 'commit' | 'rollback') => Promise<void>> {
  const client = new pg.Client({ connectionString: database.url, application_name: 'holder' });
  // The database of a test that fails is dropped under it.
  client.on('error', () => undefined);
  await client.connect();
  await client.query(`begin; ${sql}`).catch(async (error: unknown) => {
    await client.end();
    throw error;
  });
  return async (end = 'rollback') => {
    await client.query(end);
    await client.end();
  };
}

/** Resolves when a statement of the service that is like this waits for a lock. */
export const untilHeld = (database: TestDatabase, like: string): Promise<void> =>
  eventually(async () => {
    const rows = await database.query(
      `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
       and application_name like 'tidings %' and query ilike $1`,
      [`%${like}%`],
    );
    expect(rows).not.toEqual([]);
  });
