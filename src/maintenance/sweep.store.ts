import type { Pool, Statement } from '../postgres/pool.ts';
import { sqlTimeOf } from '../log/partitions.store.ts';

/** How many rows of one tenant went in a statement. */
export interface Swept {
  readonly tenantId: string;
  readonly gone: number;
}

/** A node that was silent for this long is gone; it reports every few seconds. */
const NODE_SILENCE_SECONDS = 60;

/*
 * Maintenance works across tenants; so do the statements of this file. Each takes a bounded number of rows and skips
 * those that somebody is working on. The rows are locked before they go, which tests them once more: a device that
 * comes back meanwhile is no longer idle, and stays.
 */
const KEYS: Statement = {
  name: 'sweep_idempotency_keys',
  text: `
with gone as (
  delete from idempotency_keys where ctid = any (array(
    select ctid from idempotency_keys where created_at < now() - make_interval(hours => $1) limit $2 for update skip locked))
  returning 1
)
select count(*)::int as gone from gone`,
};

/* A revocation outlives the last of its tokens by far more than the clock difference that is forgiven. */
const ended = (
  table: 'erasures' | 'revocations' | 'stream_commands' | 'stream_tickets',
  grace: string,
): Statement => ({
  name: `sweep_${table}`,
  text: `
with gone as (
  delete from ${table} where ctid = any (array(
    select ctid from ${table} where expires_at < now() - interval '${grace}' limit $1 for update skip locked))
  returning 1
)
select count(*)::int as gone from gone`,
});
const REVOCATIONS = ended('revocations', '1 hour');
const STREAM_COMMANDS = ended('stream_commands', '0');
const STREAM_TICKETS = ended('stream_tickets', '0');
const ERASURES = ended('erasures', '0');

/*
 * A device that is idle and at or past the floor still has a claim on what follows its cursor. One that was seen since
 * the time of the floor may stand in the history of something that is kept, and history finds it through this row.
 */
const DEVICES: Statement = {
  name: 'sweep_devices',
  text: `
with page as materialized (
  select tenant_id, floor from tenant_logs where tenant_id > $1 order by tenant_id limit $2
), idle as materialized (
  select d.* from page cross join lateral (
    select tenant_id, user_id, device_id from devices
    where tenant_id = page.tenant_id and cursor < page.floor
      and last_seen_at < least(now() - make_interval(days => $3), ${sqlTimeOf('page.floor')})
    limit $4 for update skip locked) d
), gone as (
  delete from devices d using idle
  where d.tenant_id = idle.tenant_id and d.user_id = idle.user_id and d.device_id = idle.device_id
  returning d.tenant_id
)
select page.tenant_id as "tenantId", count(gone.tenant_id)::int as gone
from page left join gone on gone.tenant_id = page.tenant_id
group by page.tenant_id order by page.tenant_id`,
};

/* What ended before the cutoff began before it, so the index on the beginning finds it. */
const CONNECTIONS: Statement = {
  name: 'sweep_connections',
  text: `
with page as materialized (
  select s.tenant_id, now() - make_interval(days => coalesce(t.kept_days, $3)) as cutoff
  from (select tenant_id from tenant_logs where tenant_id > $1 order by tenant_id limit $2) s
  left join tenants t on t.tenant_id = s.tenant_id
), ended as materialized (
  select c.* from page cross join lateral (
    select tenant_id, connection_id from connections
    where tenant_id = page.tenant_id and since < page.cutoff and until < page.cutoff
    limit $4 for update skip locked) c
), gone as (
  delete from connections c using ended
  where c.tenant_id = ended.tenant_id and c.connection_id = ended.connection_id
  returning c.tenant_id
)
select page.tenant_id as "tenantId", count(gone.tenant_id)::int as gone
from page left join gone on gone.tenant_id = page.tenant_id
group by page.tenant_id order by page.tenant_id`,
};

/*
 * The last sign of life of the node is the last at which its connections are known to have been open. One that began
 * before its node did belongs to an earlier process of that name, which cannot have it open any more.
 */
const LOST: Statement = {
  name: 'end_lost_connections',
  text: `
with lost as materialized (
  select c.tenant_id, c.connection_id,
    case when c.since < n.started_at then n.started_at else greatest(c.since, n.seen_at) end as last
  from connections c left join nodes n on n.node = c.node
  where c.until is null
    and (c.since < n.started_at or coalesce(n.seen_at, c.since) < now() - make_interval(secs => ${NODE_SILENCE_SECONDS}))
  limit $1 for update of c skip locked
), ended as (
  update connections c set until = lost.last, reason = 'node-lost' from lost
  where c.tenant_id = lost.tenant_id and c.connection_id = lost.connection_id
  returning 1
)
select count(*)::int as gone from ended`,
};

const NODES: Statement = {
  name: 'sweep_nodes',
  text: `
with gone as (
  delete from nodes n where n.seen_at < now() - interval '1 day'
    and not exists (select from connections c where c.node = n.node and c.until is null)
  returning node
), counts as (
  delete from connection_counts c using gone where c.node = gone.node
)
select count(*)::int as gone from gone`,
};

/** The SQL of the sweeps, on the connection of a round. Every method returns how many rows it took, at most `limit`. */
export class SweepStore {
  constructor(private readonly run: Pool['rows']) {}

  async idempotencyKeys(olderThanHours: number, limit: number): Promise<number> {
    return await this.#count(KEYS, [olderThanHours, limit]);
  }

  async revocations(limit: number): Promise<number> {
    return await this.#count(REVOCATIONS, [limit]);
  }

  async streamOrders(limit: number): Promise<number> {
    return await this.#count(STREAM_COMMANDS, [limit]);
  }

  async streamTickets(limit: number): Promise<number> {
    return await this.#count(STREAM_TICKETS, [limit]);
  }

  async erasures(limit: number): Promise<number> {
    return await this.#count(ERASURES, [limit]);
  }

  /** For a page of tenants by key, at most `limit` devices of each. */
  async devices(after: string, tenants: number, idleDays: number, limit: number): Promise<Swept[]> {
    return await this.run<Swept & Record<string, unknown>>(DEVICES, [after, tenants, idleDays, limit]);
  }

  /** For a page of tenants by key, at most `limit` connections of each. */
  async endedConnections(after: string, tenants: number, keptDays: number, limit: number): Promise<Swept[]> {
    return await this.run<Swept & Record<string, unknown>>(CONNECTIONS, [after, tenants, keptDays, limit]);
  }

  /** Writes the end of connections whose node died without a word. */
  async lostConnections(limit: number): Promise<number> {
    return await this.#count(LOST, [limit]);
  }

  async nodes(): Promise<number> {
    return await this.#count(NODES, []);
  }

  async #count(statement: Statement, values: readonly unknown[]): Promise<number> {
    const [row] = await this.run<{ gone: number }>(statement, values);
    return row?.gone ?? 0;
  }
}
