import type { MigrationInterface, QueryRunner } from 'typeorm';
import { enclose } from './0003-row-level-security.ts';
import { withBriefLocks } from './brief-locks.ts';

/** What is partitioned by position, before and from now on. */
const PARTITIONED = {
  before: 'notifications|sends|acks',
  now: 'notifications|sends|acks|inbox_marks|engagements',
};

/** Checks the name of a partition, as in 0003: the name is the table's with digits behind it. */
const partitionedTable = (tables: string): string => `
  create or replace function partitioned_table(name text) returns text
  language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
  declare
    parent text := (regexp_match(name, '^(${tables})(?:_[0-9]+)+$'))[1];
  begin
    if parent is null then
      raise exception '% is not the name of a partition', name using errcode = 'invalid_parameter_value';
    end if;
    return parent;
  end $$`;

/** What users have seen, read and archived. docs/explanation/inbox.md tells how. */
export class Inbox1700000000014 implements MigrationInterface {
  name = 'Inbox1700000000014';

  async up(runner: QueryRunner): Promise<void> {
    await withBriefLocks(runner);
    // One row per user: how far the user has seen, read and archived, whatever the number of notifications. 'since': what is
    // for topics and for everyone begins behind it. 'changes': what the last calls changed of single notifications, and
    // since which revision that is all of it. A hot row, so half of each page stays free (HOT).
    await runner.query(`
      create table inbox_users (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        since bigint not null,
        seen_up_to bigint not null,
        read_up_to bigint not null,
        archived_up_to bigint not null default 0,
        revision bigint not null,
        changes jsonb not null default '[]',
        changes_since bigint not null,
        constraint inbox_users_pkey primary key (tenant_id, user_id),
        constraint inbox_users_read_is_seen check (read_up_to <= seen_up_to)
      ) with (fillfactor = 50)`);

    // What was said of a single notification of a user. Null: the row of the user says it. 'read_revision' and
    // 'archived_revision': the user's revision when the column beside it was set, which holds the time, too.
    await runner.query(`
      create table inbox_marks (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        position bigint not null,
        read boolean,
        read_revision bigint,
        archived boolean,
        archived_revision bigint,
        constraint inbox_marks_pkey primary key (tenant_id, user_id, position),
        constraint inbox_marks_not_empty check (read is not null or archived is not null)
      ) partition by range (position)`);
    await runner.query(
      `create index inbox_marks_back on inbox_marks (tenant_id, user_id, position) where not read or not archived`,
    );
    await runner.query(
      `create index inbox_marks_archived on inbox_marks (tenant_id, user_id, position) where archived`,
    );

    // What a user saw, read or archived, and when: all that was for the user, for everyone or for these topics in
    // (from_position, to_position]. 'single': one notification; else all up to there. Inserted and never changed, so that
    // what was read stays so in history when it is marked as unread.
    await runner.query(`
      create table engagements (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        kind text collate "C" not null,
        single boolean not null,
        from_position bigint not null,
        to_position bigint not null,
        width_class smallint not null,
        at timestamptz not null default clock_timestamp(),
        topics text[] collate "C" not null default '{}',
        constraint engagements_pkey primary key (tenant_id, user_id, kind, single, to_position),
        constraint engagements_kind_known check (kind in ('seen', 'read', 'archived')),
        constraint engagements_not_empty check (from_position < to_position)
      ) partition by range (to_position)`);
    await runner.query(
      `create index engagements_by_class on engagements (tenant_id, kind, single, width_class, to_position)`,
    );
    for (const table of ['inbox_users', 'inbox_marks', 'engagements']) await enclose(runner, table);
    await runner.query(partitionedTable(PARTITIONED.now));
    // What is in the log already can be marked, too.
    await runner.query(`
      select create_partition(made.parent, replace(c.relname, 'notifications', made.parent), b.bounds[1]::bigint, b.bounds[2]::bigint)
      from unnest(array['inbox_marks', 'engagements']) as made (parent)
      cross join pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      cross join lateral (
        select regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') as bounds
      ) b
      where i.inhparent = 'notifications'::regclass and b.bounds is not null`);

    // Last, since from here on everybody waits.
    // What was there before inboxes were counts as seen and read: nobody is shown it as new.
    await runner.query(`alter table tenant_logs add column inbox_beginning bigint not null default 0`);
    // The policies hold for the owner, too, and show no row where no tenant is named.
    await runner.query(`alter table tenant_logs no force row level security`);
    await runner.query(`update tenant_logs set inbox_beginning = head`);
    await runner.query(`alter table tenant_logs force row level security`);
    // False: a signal for the app, which no inbox shows.
    await runner.query(`alter table notifications add column inbox boolean not null default true`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table engagements, inbox_marks, inbox_users`);
    await runner.query(partitionedTable(PARTITIONED.before));
    await runner.query(`alter table notifications drop column inbox`);
    await runner.query(`alter table tenant_logs drop column inbox_beginning`);
  }
}
