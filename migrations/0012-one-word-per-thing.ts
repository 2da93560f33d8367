import type { MigrationInterface, QueryRunner } from 'typeorm';
import { withBriefLocks } from './brief-locks.ts';

/** What has which name from now on. Constraints and indexes are named after their table. */
const RENAMED = [
  ['table streams', 'tenant_logs'],
  ['index streams_pkey', 'tenant_logs_pkey'],
  ['table stream_orders', 'stream_commands'],
  ['index stream_orders_pkey', 'stream_commands_pkey'],
  ['index stream_orders_by_transaction', 'stream_commands_by_transaction'],
  ['index stream_orders_by_end', 'stream_commands_by_end'],
] as const;

const COLUMNS = [
  ['sends', 'level', 'width_class'],
  ['acks', 'level', 'width_class'],
] as const;

/**
 * One word per thing, as docs/reference/glossary.md lists them: the row of a tenant's log was called a stream, which is what a
 * client holds; what open streams are told are commands; an interval has the class of its width.
 *
 * A version that knows the old names cannot work beside one that knows these.
 */
export class OneWordPerThing1700000000012 implements MigrationInterface {
  name = 'OneWordPerThing1700000000012';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    for (const [old, now] of RENAMED) await runner.query(`alter ${old} rename to ${now}`);
    for (const [table, old, now] of COLUMNS)
      await runner.query(`alter table ${table} rename column ${old} to ${now}`);
    // One that is found again by whoever needs it: the old word was 'recount'.
    await runner.query(`delete from stream_commands where kind = 'recount'`);
    await runner.query(`
      alter table stream_commands
        drop constraint stream_orders_kind_known,
        add constraint stream_commands_kind_known check (kind in ('close', 'disconnect', 'renew', 'reconcile'))`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`delete from stream_commands where kind = 'reconcile'`);
    await runner.query(`
      alter table stream_commands
        drop constraint stream_commands_kind_known,
        add constraint stream_orders_kind_known check (kind in ('close', 'disconnect', 'renew', 'recount'))`);
    for (const [table, old, now] of COLUMNS)
      await runner.query(`alter table ${table} rename column ${now} to ${old}`);
    for (const [old, now] of RENAMED) {
      const [kind, name = ''] = old.split(' ');
      await runner.query(`alter ${kind} ${now} rename to ${name}`);
    }
  }
}
