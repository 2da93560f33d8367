import type { MigrationInterface, QueryRunner } from 'typeorm';
import { withBriefLocks } from './brief-locks.ts';

/**
 * Where the log of a tenant begins: nothing was ever stored at or before it, and nothing will be. 0 for the tenants that
 * there are, which is true of every log: what they acknowledge is bounded by the partitions that there are.
 */
export class Beginnings1700000000011 implements MigrationInterface {
  name = 'Beginnings1700000000011';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    await runner.query(`alter table streams add column beginning bigint not null default 0`);
    // As src/core/position.ts makes them: milliseconds since 2020 x 4096.
    await runner.query(`
      create function position_at(at timestamptz) returns bigint
      language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
        select greatest(0, floor(extract(epoch from at) * 1000 - ${Date.UTC(2020, 0, 1)})::bigint * 4096)
      $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table streams drop column beginning`);
    await runner.query(`drop function position_at`);
  }
}
