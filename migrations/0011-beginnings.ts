import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Where the log of a tenant begins: nothing was ever stored at or before it, and nothing will be. */
export class Beginnings1700000000011 implements MigrationInterface {
  name = 'Beginnings1700000000011';

  async up(runner: QueryRunner): Promise<void> {
    // As src/log/position.ts makes them: milliseconds since 2020 x 4096.
    await runner.query(`
      create function position_at(at timestamptz) returns bigint
      language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
        select greatest(0, floor(extract(epoch from at) * 1000 - ${Date.UTC(2020, 0, 1)})::bigint * 4096)
      $$`);
    await runner.query(`alter table streams add column beginning bigint not null default 0`);
    // Of every tenant: for a moment the owner is not bound by its own wall.
    const tables = ['streams', 'tenants', 'notifications'];
    for (const table of tables) await runner.query(`alter table ${table} no force row level security`);
    await runner.query(`
      update streams s set beginning = least(
        (select position_at(t.created_at) from tenants t where t.tenant_id = s.tenant_id),
        (select min(n.position) - 1 from notifications n where n.tenant_id = s.tenant_id))
      where exists (select from tenants t where t.tenant_id = s.tenant_id)`);
    for (const table of tables) await runner.query(`alter table ${table} force row level security`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table streams drop column beginning`);
    await runner.query(`drop function position_at`);
  }
}
