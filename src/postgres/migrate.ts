import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { DataSource } from 'typeorm';
import { migrations } from '../../migrations/migrations.ts';
import { dataSourceOptions, withConnection } from './connection.ts';
import { errorCode } from './errors.ts';
import { grantPrivileges, revokeFromPublic } from './privileges.ts';
import { ensureRoles, type DatabaseUrls } from './roles.ts';
import { WITHOUT_TIMEOUTS } from './session-settings.ts';
import { StartError } from '../core/errors.ts';

/** Key of an advisory lock, the same on every node. */
const MIGRATION_LOCK = 7_469_001;

/** How often a migration tries to lock a table that others use (migrations/brief-locks.ts), and the pauses between, in ms. */
const ATTEMPTS = 5;
const PAUSE_MS = 1_000;
const LOCK_NOT_AVAILABLE = '55P03';

/**
 * Brings the tables up to date and returns the names of the migrations that ran, in order. Creates the service role and the
 * cross-tenant role if they are missing, and grants them their privileges.
 *
 * TypeORM takes no lock, and of two nodes that start together one would fail. So we take an advisory lock: the second node
 * waits, and then finds nothing to do. The lock belongs to a transaction on a connection of its own, because behind a
 * pooler a lock of a session would stay on the pooler's connection. An erasure waits for the transactions of connections
 * whose name begins with "tidings"; this one writes nothing, so its name does not.
 *
 * @throws StartError if the owner may not do that
 */
export async function migrate(urls: DatabaseUrls & { readonly owner: string }): Promise<string[]> {
  return await withConnection({ url: urls.owner, name: 'migration lock of tidings' }, async (guard) => {
    await guard.query(`begin; ${WITHOUT_TIMEOUTS}; select pg_advisory_xact_lock(${MIGRATION_LOCK})`);
    const ran = await withConnection({ url: urls.owner, name: 'tidings migrate' }, (owner) =>
      migrateLocked(owner, urls),
    );
    await guard.query('commit');
    return ran;
  });
}

async function migrateLocked(
  owner: pg.Client,
  urls: DatabaseUrls & { readonly owner: string },
): Promise<string[]> {
  await checkSchema(owner);
  await ensureRoles(owner, urls);
  const missing = await missingMigrations(urls.owner);
  const source = await createDataSource(urls.owner).initialize();
  try {
    await runMigrations(source);
    await grantPrivileges(owner, urls);
    await revokeFromPublic(owner);
    return missing;
  } finally {
    await source.destroy();
  }
}

/** The data source of the migrations. It is not connected yet. */
export function createDataSource(url: string): DataSource {
  return new DataSource({
    ...dataSourceOptions({ url, name: 'tidings migrate' }),
    poolSize: 1,
    migrations,
    // One transaction each: a migration that fails leaves those before it in place, and itself no trace.
    migrationsTransactionMode: 'each',
    migrationsTableName: 'migrations',
  });
}

/** A migration that could not lock a table was rolled back, and those before it are done: the next attempt begins with it. */
async function runMigrations(source: DataSource): Promise<void> {
  for (let attempt = 1; ; attempt += 1)
    try {
      await source.runMigrations();
      return;
    } catch (cause) {
      if (errorCode(cause) !== LOCK_NOT_AVAILABLE) throw cause;
      if (attempt === ATTEMPTS)
        throw new StartError(
          'A table cannot be changed while others hold it: migrate again when the backup (pg_dump) or the long transaction is over; pg_stat_activity and pg_locks show it. Nodes that are at work go on.',
          { cause },
        );
      await sleep(PAUSE_MS);
    }
}

/** The names of migrations that have not run, in order. @param url of the cross-tenant role or the owner */
export async function missingMigrations(url: string): Promise<string[]> {
  const all = migrations.map(({ name }) => name);
  return await withConnection({ url, name: 'tidings migration check' }, async (client) => {
    const { rows } = await client.query<{ name: string }>('select name from migrations');
    const ran = new Set(rows.map(({ name }) => name));
    return all.filter((name) => !ran.has(name));
  }).catch((error: unknown) => {
    // There is no such table, or this role may not read it: nothing has been migrated for it yet.
    if (!['42P01', '42501'].includes(errorCode(error) ?? '')) throw error;
    return all;
  });
}

/** Policies, privileges and functions name the schema of the tables, so that nothing else can take their place. */
async function checkSchema(owner: pg.Client): Promise<void> {
  const { rows } = await owner.query<{ schema: string | null }>('select current_schema() as schema');
  const schema = rows[0]?.schema ?? 'none';
  if (schema !== 'public')
    throw new StartError(
      `The tables belong into the schema public, and the login of DATABASE_OWNER_URL would make them in ${schema}: let it use and create in public.`,
    );
}
