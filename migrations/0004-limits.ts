import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What a tenant may use (src/core/limits.ts). */
export class Limits1700000000004 implements MigrationInterface {
  name = 'Limits1700000000004';

  async up(runner: QueryRunner): Promise<void> {
    // One value and not a column for each: it is read and written as a whole, no statement looks into it, and while
    // versions are mixed an older node neither trips over a limit that it does not know nor takes it away.
    await runner.query(`
      alter table tenants
        add column limits jsonb not null default '{}',
        add constraint tenants_limits_object check (jsonb_typeof(limits) = 'object')`);

    // The account of the tenant, charged by the append itself (docs/adr/0006): notifications that are not paid off yet, and
    // when that was so. What is kept is the difference of two sums, of which appends write the one and retention the other.
    await runner.query(`
      alter table streams
        add column spent double precision not null default 0,
        add column spent_at timestamptz not null default now(),
        add column appended_bytes bigint not null default 0,
        add column removed_bytes bigint not null default 0`);
    // Of every tenant: for a moment row-level security does not bind the owner.
    for (const table of ['streams', 'notifications'])
      await runner.query(`alter table ${table} no force row level security`);
    await runner.query(`
      update streams s set appended_bytes = coalesce(
        (select sum(size) from notifications n where n.tenant_id = s.tenant_id and n.position > s.floor), 0)`);
    for (const table of ['streams', 'notifications'])
      await runner.query(`alter table ${table} force row level security`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table streams
        drop column spent, drop column spent_at, drop column appended_bytes, drop column removed_bytes`);
    await runner.query(`alter table tenants drop column limits`);
  }
}
