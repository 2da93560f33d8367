import type { MigrationInterface, QueryRunner } from 'typeorm';

/** What a tenant may use (src/limits.ts). */
export class Limits1700000000004 implements MigrationInterface {
  name = 'Limits1700000000004';

  async up(runner: QueryRunner): Promise<void> {
    // One value and not a column for each: it is read and written as a whole, no statement looks into it, and while
    // versions are mixed an older node neither trips over a limit that it does not know nor takes it away.
    await runner.query(`
      alter table tenants
        add column limits jsonb not null default '{}',
        add constraint tenants_limits_object check (jsonb_typeof(limits) = 'object')`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table tenants drop column limits`);
  }
}
