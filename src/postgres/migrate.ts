import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { DataSource, MigrationExecutor } from 'typeorm';
import { LOCK_TIMEOUT } from '../../migrations/brief-locks.ts';
import { migrations } from '../../migrations/migrations.ts';
import { dataSourceOptions, withConnection } from './connection.ts';
import { errorCode } from './errors.ts';
import { grantPrivileges, revokeFromPublic } from './privileges.ts';
import { ensureRoles, type DatabaseUrls } from './roles.ts';
import { WITHOUT_TIMEOUTS } from './session-settings.ts';
import { MIGRATING, withTableLocks, type LockPatience } from './table-locks.ts';
import { VERSION } from '../core/config.ts';
import { StartError } from '../core/errors.ts';

/** Key of an advisory lock, the same on every node. */
const MIGRATION_LOCK = 7_469_001;

/** How long a migration waits for tables that others hold, in ms. */
const PATIENCE_MS = 300_000;
/** How often it is looked whether another migration is over, in ms. */
const POLL_MS = 200;

const GUARD = 'migration lock of tidings';

/**
 * Brings the tables up to date and returns the names of the migrations that ran, in order. Creates the service role and the
 * cross-tenant role if they are missing, and grants them their privileges.
 *
 * TypeORM takes no lock, and of two nodes that start together one would fail. So we take an advisory lock: the second node
 * waits, and then finds nothing to do. The lock belongs to a transaction on a connection of its own, because behind a
 * pooler a lock of a session would stay on the pooler's connection. An erasure waits for the transactions of connections
 * whose name begins with "tidings"; this one writes nothing, so its name does not.
 *
 * @throws StartError if the owner may not do that, others hold a table for too long, or a newer version has migrated
 */
export async function migrate(
  urls: DatabaseUrls & { readonly owner: string },
  patience: Partial<LockPatience> = {},
): Promise<string[]> {
  const {
    report = () => undefined,
    stop = new AbortController().signal,
    patienceMs = PATIENCE_MS,
  } = patience;
  return await withConnection({ url: urls.owner, name: GUARD }, async (guard) => {
    await untilAlone(guard, report, stop);
    const ran = await withConnection({ url: urls.owner, name: MIGRATING }, (owner) =>
      withConnection({ url: urls.owner, name: 'watch over a migration of tidings' }, (watch) =>
        migrateLocked(owner, urls, (attempt) => withTableLocks(watch, { report, stop, patienceMs }, attempt)),
      ),
    );
    await guard.query('commit');
    return ran;
  });
}

/** Begins a transaction that has the lock of migrations. */
async function untilAlone(
  guard: pg.Client,
  report: LockPatience['report'],
  stop: AbortSignal,
): Promise<void> {
  for (let isTold = false; ; isTold = true) {
    await guard.query(`begin; ${WITHOUT_TIMEOUTS}`);
    const { rows: locks } = await guard.query<{ locked: boolean }>(
      `select pg_try_advisory_xact_lock(${MIGRATION_LOCK}) as locked`,
    );
    if (locks[0]?.locked === true) return;
    await guard.query('rollback');
    if (!isTold)
      report(`Another migration is under way (${await holderOfLock(guard)}); this one waits for it.`);
    await sleep(POLL_MS, undefined, { signal: stop });
  }
}

async function holderOfLock(guard: pg.Client): Promise<string> {
  const { rows } = await guard.query<{ pid: number; name: string; since: Date | null }>(
    `select l.pid, coalesce(a.application_name, '') as name, a.xact_start as since
     from pg_locks l left join pg_stat_activity a on a.pid = l.pid
     where l.locktype = 'advisory' and l.granted and l.classid = 0 and l.objid = ${MIGRATION_LOCK} and l.objsubid = 1
       and l.database = (select oid from pg_database where datname = current_database())`,
  );
  const [holder] = rows;
  if (holder === undefined) return 'and nearly over';
  const since = holder.since === null ? '' : `, since ${holder.since.toISOString()}`;
  return `process ${holder.pid}, "${holder.name}"${since}`;
}

async function migrateLocked(
  owner: pg.Client,
  urls: DatabaseUrls & { readonly owner: string },
  withLocks: (attempt: (lockTimeoutMs: number) => Promise<void>) => Promise<void>,
): Promise<string[]> {
  await checkSchema(owner);
  const missing = await missingMigrations(urls.owner);
  await ensureRoles(owner, urls);
  const source = await createDataSource(urls.owner).initialize();
  try {
    await withLocks((lockTimeoutMs) => runMigrations(source, lockTimeoutMs));
    await withLocks((lockTimeoutMs) => grantPrivileges(owner, urls, lockTimeoutMs));
    await revokeFromPublic(owner);
    return missing;
  } finally {
    await source.destroy();
  }
}

/** The data source of the migrations. It is not connected yet. */
export function createDataSource(url: string): DataSource {
  return new DataSource({
    ...dataSourceOptions({ url, name: MIGRATING }),
    poolSize: 1,
    migrations,
    migrationsTransactionMode: 'each',
    migrationsTableName: 'migrations',
  });
}

/** A migration that could not lock a table was rolled back, and those before it are done: the next attempt begins with it. */
async function runMigrations(source: DataSource, lockTimeoutMs: number): Promise<void> {
  const runner = source.createQueryRunner();
  runner.data = { [LOCK_TIMEOUT]: lockTimeoutMs };
  try {
    const executor = new MigrationExecutor(source, runner);
    // One transaction each: a migration that fails leaves those before it in place, and itself no trace.
    executor.transaction = 'each';
    await executor.executePendingMigrations();
  } finally {
    await runner.release();
  }
}

/**
 * The names of migrations that have not run, in order.
 *
 * @param url of the cross-tenant role or the owner
 * @throws StartError if migrations have run that this version does not know: what they made is not this version's to change
 */
export async function missingMigrations(url: string): Promise<string[]> {
  const all = migrations.map(({ name }) => name);
  const ran = await migrationsThatRan(url);
  const unknown = ran.filter((name) => !all.includes(name));
  if (unknown.length > 0)
    throw new StartError(
      `The tables were migrated by a newer version of Tidings: they have ${unknown.join(', ')}, which this one (${VERSION}) does not know. It changes nothing. Start the newer version; to go back to this one, restore a backup from before the migration (docs/how-to/backup-and-restore.md).`,
    );
  return all.filter((name) => !ran.includes(name));
}

async function migrationsThatRan(url: string): Promise<string[]> {
  return await withConnection({ url, name: 'tidings migration check' }, async (client) => {
    const { rows } = await client.query<{ name: string }>(
      'select name from migrations order by timestamp, id',
    );
    return rows.map(({ name }) => name);
  }).catch((error: unknown) => {
    // There is no such table, or this role may not read it: nothing has been migrated for it yet.
    if (!['42P01', '42501'].includes(errorCode(error) ?? '')) throw error;
    return [];
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
