import type { QueryRunner } from 'typeorm';

/**
 * For what takes a table from everybody for a moment: it waits behind a backup or a long query, and all reads and writes of
 * the nodes that are at work would wait behind it. So it waits shortly, and `migrate` asks again after a pause. Longer than
 * PostgreSQL's `deadlock_timeout` (1 s), after which an autovacuum that is in the way gives in.
 */
export async function withBriefLocks(runner: QueryRunner): Promise<void> {
  await runner.query(`set local lock_timeout = '2s'`);
}
