import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Whose token: issuers, revocations, tickets, orders to open streams, and the record of administrative acts.
 *
 * `transaction` is the transaction that wrote the row last. Nodes read what changed by it (src/cluster): a time or a
 * sequence would become visible out of order, and a node would skip the slower transaction for ever.
 */
export class IssuersAndRevocations1700000000002 implements MigrationInterface {
  name = 'IssuersAndRevocations1700000000002';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table tenants
        add column cors_origins text[] collate "C" not null default '{}',
        add column updated_at timestamptz not null default now(),
        add column transaction xid8 not null default pg_current_xact_id()`);
    await runner.query(`create index tenants_by_transaction on tenants (transaction)`);

    // An issuer belongs to no tenant: it says for which tenants it may speak.
    await runner.query(`
      create table issuers (
        issuer_id uuid not null,
        iss text collate "C" not null,
        name text,
        status text not null default 'active',
        definition jsonb not null,
        sealed_secret bytea,
        revoked_before timestamptz,
        version bigint not null default 1,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        transaction xid8 not null default pg_current_xact_id(),
        constraint issuers_pkey primary key (issuer_id),
        constraint issuers_status_known check (status in ('active', 'disabled', 'deleted'))
      )`);
    await runner.query(`create unique index issuers_iss_unique on issuers (iss) where status <> 'deleted'`);
    await runner.query(`create index issuers_by_transaction on issuers (transaction)`);

    // 'subject': the jti of one token, or a user, all of whose tokens issued before 'issued_before' are meant.
    await runner.query(`
      create table revocations (
        tenant_id text collate "C" not null,
        revocation_id uuid not null,
        kind text not null,
        subject text collate "C" not null,
        issued_before timestamptz,
        created_at timestamptz not null default clock_timestamp(),
        expires_at timestamptz not null,
        transaction xid8 not null default pg_current_xact_id(),
        constraint revocations_pkey primary key (tenant_id, revocation_id),
        constraint revocations_kind_known check (kind in ('token', 'user')),
        constraint revocations_user_has_instant check ((kind = 'user') = (issued_before is not null))
      )`);
    await runner.query(`create index revocations_by_transaction on revocations (transaction)`);
    await runner.query(
      `create index revocations_by_time on revocations (tenant_id, created_at, revocation_id)`,
    );
    await runner.query(`create index revocations_by_end on revocations (expires_at)`);

    // What open streams are told, through whichever node holds them. 'renewed' is what a new token grants; never the token.
    await runner.query(`
      create table stream_orders (
        tenant_id text collate "C" not null,
        order_id uuid not null,
        kind text not null,
        user_id text collate "C",
        connection_id uuid,
        renewed text,
        at timestamptz not null default clock_timestamp(),
        expires_at timestamptz not null,
        transaction xid8 not null default pg_current_xact_id(),
        constraint stream_orders_pkey primary key (tenant_id, order_id),
        constraint stream_orders_kind_known check (kind in ('close', 'disconnect', 'renew'))
      )`);
    await runner.query(`create index stream_orders_by_transaction on stream_orders (transaction)`);
    await runner.query(`create index stream_orders_by_end on stream_orders (expires_at)`);

    // Whoever reads this table cannot open a stream: it holds SHA-256 of tickets that live for seconds.
    await runner.query(`
      create table stream_tickets (
        tenant_id text collate "C" not null,
        hash bytea not null,
        principal text not null,
        expires_at timestamptz not null,
        constraint stream_tickets_pkey primary key (tenant_id, hash)
      )`);
    await runner.query(`create index stream_tickets_by_end on stream_tickets (expires_at)`);

    // 'tenant_id' is the tenant that the act concerns; for what concerns no tenant, that of the actor.
    await runner.query(`
      create table audit_log (
        tenant_id text collate "C" not null,
        audit_id uuid not null,
        at timestamptz not null default clock_timestamp(),
        actor_tenant text collate "C",
        actor_subject text collate "C" not null,
        actor_issuer text collate "C",
        remote_address text,
        request_id text,
        action text not null,
        target text not null,
        before text,
        after text,
        constraint audit_log_pkey primary key (tenant_id, audit_id)
      )`);
    await runner.query(`
      create function audit_log_is_append_only() returns trigger language plpgsql as $$
      begin
        raise exception 'the audit log is append-only' using errcode = 'insufficient_privilege';
      end $$`);
    await runner.query(`
      create trigger audit_log_append_only before update or delete or truncate on audit_log
      for each statement execute function audit_log_is_append_only()`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table audit_log, stream_tickets, stream_orders, revocations, issuers`);
    await runner.query(`drop function audit_log_is_append_only`);
    await runner.query(
      `alter table tenants drop column cors_origins, drop column updated_at, drop column transaction`,
    );
  }
}
