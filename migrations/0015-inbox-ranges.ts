import type { MigrationInterface, QueryRunner } from 'typeorm';
import { withBriefLocks } from './brief-locks.ts';

/** Where statements of an inbox may begin to read, and which revision they are past. */
export class InboxRanges1700000000015 implements MigrationInterface {
  name = 'InboxRanges1700000000015';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    // No revision of an inbox is below 'inbox_revision': behind a restore, clients know some that the database does not.
    await runner.query(`alter table tenant_logs add column inbox_revision bigint not null default 0`);
    // Between them are a user's marks that say unread or unarchived; null: none does.
    await runner.query(`alter table inbox_users add column back_from bigint, add column back_to bigint`);
    // The policies hold for the owner, too, and show no row where no tenant is named.
    for (const table of ['inbox_users', 'inbox_marks'])
      await runner.query(`alter table ${table} no force row level security`);
    await runner.query(`
      update inbox_users u set back_from = back.first, back_to = back.last
      from (
        select tenant_id, user_id, min(position) as first, max(position) as last
        from inbox_marks where not read or not archived group by tenant_id, user_id
      ) back
      where u.tenant_id = back.tenant_id and u.user_id = back.user_id`);
    for (const table of ['inbox_users', 'inbox_marks'])
      await runner.query(`alter table ${table} force row level security`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table inbox_users drop column back_from, drop column back_to`);
    await runner.query(`alter table tenant_logs drop column inbox_revision`);
  }
}
