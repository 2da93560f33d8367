import type { QueryRunner } from 'typeorm';

/** Where a query runner has the time that its transactions may wait for a lock, in ms. */
export const LOCK_TIMEOUT = 'lockTimeoutMs';
const DEFAULT_MS = 2_000;

/**
 * For what takes a table from everybody for a moment: it waits behind a backup or a long query, and all reads and writes of
 * the nodes that are at work would wait behind it. So it waits shortly, and `migrate` asks again when that is over
 * (src/postgres/table-locks.ts).
 */
export async function withBriefLocks(runner: QueryRunner): Promise<void> {
  const told: unknown = runner.data[LOCK_TIMEOUT];
  const ms = typeof told === 'number' ? told : DEFAULT_MS;
  await runner.query(`set local lock_timeout = ${ms}`);
}

/**
 * An index on a table that is in use, made while others write to it. It needs no transaction, so it has a migration of its
 * own with `transaction = false`. What an attempt that failed left behind is invalid, and is made anew. A partitioned table
 * cannot have it so: there the index is made `on only` the table, concurrently on each partition, and attached.
 *
 * @param definition what follows the name: `on table (columns)`
 */
export async function createIndexConcurrently(
  runner: QueryRunner,
  name: string,
  definition: string,
): Promise<void> {
  await runner.query(`drop index concurrently if exists ${name}`);
  await runner.query(`create index concurrently ${name} ${definition}`);
}
