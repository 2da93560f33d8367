import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The tables whose rows belong to tenants. A partition has no policy and no rights of its own, so that nobody reaches
 * it but through its table.
 */
const OF_TENANTS = [
  'tenants',
  'streams',
  'notifications',
  'idempotency_keys',
  'devices',
  'connections',
  'sends',
  'acks',
  'revocations',
  'stream_orders',
  'stream_tickets',
  'audit_log',
];

/**
 * Tenant isolation in the database itself: a login sees the rows of the tenant that `tidings.tenant` names for
 * the transaction, and none without it. `nullif`, since after a transaction that named one the setting is empty and not null. Forced, so that it
 * holds for the owner too. What the cross-tenant role sees beyond that is granted with its privileges (src/postgres/privileges.ts).
 */
export async function enclose(runner: QueryRunner, table: string): Promise<void> {
  await runner.query(`alter table ${table} enable row level security, force row level security`);
  const own = `tenant_id = nullif(current_setting('tidings.tenant', true), '')`;
  await runner.query(`create policy of_tenant on ${table} using (${own}) with check (${own})`);
}

export class RowLevelSecurity1700000000003 implements MigrationInterface {
  name = 'RowLevelSecurity1700000000003';

  async up(runner: QueryRunner): Promise<void> {
    for (const table of OF_TENANTS) await enclose(runner, table);

    // Which logins have which rights, so that rights are granted once and not at every start. Names are no secret: any
    // login may ask whether it is one of them.
    await runner.query(`
      create table database_logins (
        purpose text not null,
        login text not null,
        rights text not null,
        constraint database_logins_pkey primary key (purpose)
      )`);
    await runner.query(`grant select on database_logins to public`);

    // Partitions belong to the owner; the cross-tenant role has them made and dropped, and can do nothing else with them.
    // The name is the table's with digits behind it, so that no other table can be attached or dropped.
    await runner.query(`
      create function partitioned_table(name text) returns text
      language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
      declare
        parent text := (regexp_match(name, '^(notifications|sends|acks)(?:_[0-9]+)+$'))[1];
      begin
        if parent is null then
          raise exception '% is not the name of a partition', name using errcode = 'invalid_parameter_value';
        end if;
        return parent;
      end $$`);

    // 'create table … partition of' would take a lock that conflicts with every reader; attaching takes none that does.
    await runner.query(`
      create function create_partition(parent text, name text, first bigint, past bigint) returns void
      language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
      begin
        if public.partitioned_table(name) <> parent then
          raise exception '% is no partition of %', name, parent using errcode = 'invalid_parameter_value';
        end if;
        execute format('create table public.%I (like public.%I including all)', name, parent);
        execute format('alter table public.%I enable row level security', name);
        execute format('alter table public.%I attach partition public.%I for values from (%s) to (%s)', parent, name, first, past);
      end $$`);

    // docs/adr/0009-partitions-without-their-owner.md has the reasons for the locks and their times.
    await runner.query(`
      create function drop_partition(name text) returns void
      language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
      declare
        parent text := public.partitioned_table(name);
      begin
        execute format('lock table only public.%I in share update exclusive mode', name);
        set local lock_timeout = '50ms';
        execute format('lock table only public.%I in access exclusive mode', parent);
        execute format('alter table public.%I detach partition public.%I', parent, name);
        execute format('drop table public.%I', name);
      end $$`);

    await runner.query(
      `revoke all on function create_partition(text, text, bigint, bigint), drop_partition(text) from public`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop function create_partition, drop_partition, partitioned_table`);
    await runner.query(`drop table database_logins`);
    for (const table of OF_TENANTS) {
      await runner.query(`drop policy if exists of_engine on ${table}`);
      await runner.query(`drop policy of_tenant on ${table}`);
      await runner.query(`alter table ${table} no force row level security, disable row level security`);
    }
  }
}
