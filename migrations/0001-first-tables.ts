import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The tables of the log and the ledger. docs/reference/tables.md tells what each is for. */
export class FirstTables1700000000001 implements MigrationInterface {
  name = 'FirstTables1700000000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table tenants (
        tenant_id text collate "C" not null,
        name text,
        status text not null default 'active',
        kept_days integer,
        created_at timestamptz not null default now(),
        constraint tenants_pkey primary key (tenant_id),
        constraint tenants_status_known check (status in ('active', 'suspended')),
        constraint tenants_kept_days_positive check (kept_days > 0)
      )`);

    // 'abandoned': appends that were given up with their connection and must not be stored when they arrive late.
    // One hot row per tenant: half of each page stays free, so that every new version lands beside the old one (HOT).
    await runner.query(`
      create table streams (
        tenant_id text collate "C" not null,
        head bigint not null default 0,
        floor bigint not null default 0,
        abandoned uuid[] not null default '{}',
        constraint streams_pkey primary key (tenant_id)
      ) with (fillfactor = 50)`);

    // 'data' is text: it is passed on byte for byte, which jsonb would not do, and was checked before it came here.
    await runner.query(`
      create table notifications (
        tenant_id text collate "C" not null,
        position bigint not null,
        id uuid not null,
        user_id text collate "C",
        topic text collate "C",
        type text collate "C" not null,
        data text collate "C" not null,
        size integer not null,
        publisher text collate "C" not null,
        expires_at timestamptz,
        trace text,
        constraint notifications_pkey primary key (tenant_id, position),
        constraint notifications_one_target check (user_id is null or topic is null)
      ) partition by range (position)`);
    await runner.query(
      `create index notifications_of_user on notifications (tenant_id, user_id, position) where user_id is not null`,
    );
    await runner.query(
      `create index notifications_of_topic on notifications (tenant_id, topic, position) where user_id is null`,
    );
    await runner.query(`create index notifications_by_id on notifications (tenant_id, id)`);

    await runner.query(`
      create table idempotency_keys (
        tenant_id text collate "C" not null,
        publisher text collate "C" not null,
        key text collate "C" not null,
        fingerprint bytea not null,
        first_position bigint not null,
        ids uuid[] not null,
        created_at timestamptz not null default clock_timestamp(),
        constraint idempotency_keys_pkey primary key (tenant_id, publisher, key)
      )`);
    await runner.query(`create index idempotency_keys_by_age on idempotency_keys using brin (created_at)`);

    await runner.query(`
      create table devices (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        device_id text collate "C" not null,
        cursor bigint not null,
        topics text[] collate "C" not null default '{}',
        last_seen_at timestamptz not null default now(),
        constraint devices_pkey primary key (tenant_id, user_id, device_id)
      ) with (fillfactor = 70)`);

    await runner.query(`
      create table connections (
        tenant_id text collate "C" not null,
        connection_id uuid not null,
        user_id text collate "C" not null,
        device_id text collate "C" not null,
        node text not null,
        topics text[] collate "C" not null default '{}',
        since timestamptz not null,
        until timestamptz,
        position bigint not null,
        reason text,
        constraint connections_pkey primary key (tenant_id, connection_id)
      ) with (fillfactor = 70)`);
    await runner.query(`create index connections_of_user on connections (tenant_id, user_id, since)`);
    await runner.query(`create index connections_by_time on connections (tenant_id, since)`);
    await runner.query(`create index connections_open on connections (tenant_id, since) where until is null`);

    // A node that dies without a word leaves connections without an end; the last sign of life of the node is their end.
    await runner.query(`
      create table nodes (
        node text not null,
        started_at timestamptz not null default now(),
        seen_at timestamptz not null default now(),
        constraint nodes_pkey primary key (node)
      )`);

    // Everything addressed to the device in (from_position, to_position] was written to that connection by 'at'.
    // 'level' is the interval's width class (src/receipts/intervals.ts): what covers a position is a short range in each level.
    await runner.query(`
      create table sends (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        device_id text collate "C" not null,
        connection_id uuid not null,
        from_position bigint not null,
        to_position bigint not null,
        level smallint not null,
        at timestamptz not null,
        replayed boolean not null,
        constraint sends_pkey primary key (tenant_id, user_id, level, to_position, device_id, connection_id),
        constraint sends_not_empty check (from_position < to_position)
      ) partition by range (to_position)`);
    // For broadcasts: whom did an interval of this width class reach? docs/adr/0003-interval-ledger-indexes.md has the measurements.
    await runner.query(`create index sends_by_level on sends (tenant_id, level, to_position)`);

    // The device confirmed what was addressed to it, by user, by everyone or by these topics, in (from_position, to_position].
    await runner.query(`
      create table acks (
        tenant_id text collate "C" not null,
        user_id text collate "C" not null,
        device_id text collate "C" not null,
        from_position bigint not null,
        to_position bigint not null,
        level smallint not null,
        at timestamptz not null default clock_timestamp(),
        by_resume boolean not null,
        topics text[] collate "C" not null default '{}',
        constraint acks_pkey primary key (tenant_id, user_id, device_id, to_position),
        constraint acks_not_empty check (from_position < to_position)
      ) partition by range (to_position)`);
    await runner.query(`create index acks_by_level on acks (tenant_id, level, to_position)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(
      `drop table acks, sends, nodes, connections, devices, idempotency_keys, notifications, streams, tenants`,
    );
  }
}
