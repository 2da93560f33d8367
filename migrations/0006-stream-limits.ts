import type { MigrationInterface, QueryRunner } from 'typeorm';
import { enclose } from './0003-row-level-security.ts';

/** What the limits on streams and devices are kept by (docs/adr/0010-limits-on-streams.md). */
export class StreamLimits1700000000006 implements MigrationInterface {
  name = 'StreamLimits1700000000006';

  async up(runner: QueryRunner): Promise<void> {
    // The numbers of a user's devices, in the order in which they were made: two nodes that make one at the same time
    // take the same number, so that one of them has to look again. Null: made before there were numbers.
    await runner.query(`alter table devices add column ordinal integer`);
    await runner.query(`create unique index devices_ordinal_unique on devices (tenant_id, user_id, ordinal)`);

    // How many streams a tenant has on each node.
    await runner.query(`
      create table connection_counts (
        tenant_id text collate "C" not null,
        node text not null,
        connections integer not null,
        constraint connection_counts_pkey primary key (tenant_id, node),
        constraint connection_counts_positive check (connections > 0)
      ) with (fillfactor = 50)`);
    await enclose(runner, 'connection_counts');

    // Of one user, the newest first, however many he had before.
    await runner.query(`
      create index connections_open_of_user on connections (tenant_id, user_id, since, connection_id)
      where until is null`);

    await runner.query(`
      alter table stream_orders
        drop constraint stream_orders_kind_known,
        add constraint stream_orders_kind_known check (kind in ('close', 'disconnect', 'renew', 'recount'))`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`delete from stream_orders where kind = 'recount'`);
    await runner.query(`
      alter table stream_orders
        drop constraint stream_orders_kind_known,
        add constraint stream_orders_kind_known check (kind in ('close', 'disconnect', 'renew'))`);
    await runner.query(`drop index connections_open_of_user`);
    await runner.query(`drop table connection_counts`);
    await runner.query(`alter table devices drop column ordinal`);
  }
}
