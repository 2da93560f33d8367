import type { MigrationInterface, QueryRunner } from 'typeorm';
import { enclose } from './0003-row-level-security.ts';

/** Erasures: of a user's data, and of a whole tenant. docs/adr/0007-erasure-is-a-row.md tells why they are rows. */
export class Privacy1700000000005 implements MigrationInterface {
  name = 'Privacy1700000000005';

  async up(runner: QueryRunner): Promise<void> {
    // 'digest' is SHA-256 of tenant and user, and empty for the whole tenant: what is done knows the user by it alone.
    // 'heard': the nodes that have nothing of it in memory any more. 'worker': the process that is at it.
    // 'position', 'erased_at': what was published, and what streams did, up to here is what goes.
    await runner.query(`
      create table erasures (
        tenant_id text collate "C" not null,
        erasure_id uuid not null,
        digest bytea not null,
        user_id text collate "C",
        ordered_by text not null,
        created_at timestamptz not null default clock_timestamp(),
        heard text[] not null default '{}',
        worker uuid not null,
        touched_at timestamptz not null default clock_timestamp(),
        position bigint,
        erased_at timestamptz,
        erased jsonb not null default '{}',
        done_at timestamptz,
        expires_at timestamptz,
        transaction xid8 not null default pg_current_xact_id(),
        constraint erasures_pkey primary key (tenant_id, erasure_id),
        constraint erasures_user_while_running check ((user_id is not null) = (done_at is null and digest <> ''))
      )`);
    await runner.query(
      `create unique index erasures_running on erasures (tenant_id, digest) where done_at is null`,
    );
    await runner.query(`create index erasures_by_digest on erasures (tenant_id, digest)`);
    await runner.query(`create index erasures_by_transaction on erasures (transaction)`);
    await enclose(runner, 'erasures');

    // 'last_head': where the log of a deleted tenant ended. One that is made anew goes on from there.
    await runner.query(`
      alter table tenants
        drop constraint tenants_status_known,
        add constraint tenants_status_known check (status in ('active', 'suspended', 'deleting', 'deleted')),
        add column last_head bigint not null default 0`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table erasures`);
    await runner.query(`update tenants set status = 'suspended' where status in ('deleting', 'deleted')`);
    await runner.query(`
      alter table tenants
        drop column last_head,
        drop constraint tenants_status_known,
        add constraint tenants_status_known check (status in ('active', 'suspended'))`);
  }
}
