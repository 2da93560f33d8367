import { Injectable } from '@nestjs/common';
import { ClientPool, CrossTenantPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import { isOpen, lives } from '../cluster/nodes.ts';
import { type Statement } from '../postgres/pool.ts';

/** A stream that is open. */
interface OpenConnection {
  readonly connectionId: string;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly node: string;
  readonly since: Date;
}

/*
 * A stream whose topics were renewed goes on with another record; its client and older listings know it by the first.
 */
const FIND: Statement = {
  name: 'find_open_connection',
  text: `
select m.connection_id as "connectionId", m.user_id as "user", m.device_id as device, m.node, m.since
from connections m
where m.tenant_id = $1 and m.connection_id = $2 and exists (
  select from connections c
  where c.tenant_id = $1 and c.user_id = m.user_id and c.device_id = m.device_id and c.node = m.node
    and (c.connection_id = m.connection_id or m.reason = 'renewed' and c.since >= m.until)
    and ${isOpen('c')}
)`,
};

/** A stream that has to go, by the id of its record in history. */
interface Excess {
  readonly user: UserId;
  readonly connectionId: string;
}

/** How many streams a user may have. */
interface Allowance {
  readonly tenantId: TenantId;
  readonly user: UserId;
  readonly most: number;
}

interface OpenStream {
  readonly connectionId: string;
  readonly node: string;
}

/** The streams of a user, by the id of their record in history, the newest first. */
export interface CrowdedUser extends Allowance {
  readonly streams: readonly OpenStream[];
}

/** How many streams a tenant has somewhere. */
interface Count {
  readonly tenantId: TenantId;
  readonly connections: number;
}

/* Of all tenants at once, since what a tenant has on a node is known to that node alone. */
const EXCHANGE: Statement = {
  name: 'exchange_connection_counts',
  text: `
with present as (
  insert into connection_counts (tenant_id, node, connections)
  select tenant_id, $1, connections from unnest($2::text[], $3::int[]) as c (tenant_id, connections) where connections > 0
  on conflict (tenant_id, node) do update set connections = excluded.connections
), gone as (
  delete from connection_counts c using unnest($2::text[], $3::int[]) as e (tenant_id, connections)
  where e.connections = 0 and c.tenant_id = e.tenant_id and c.node = $1
)
select c.tenant_id as "tenantId", sum(c.connections)::int as connections
from connection_counts c join nodes n on n.node = c.node
where c.tenant_id = any($4::text[]) and c.node <> $1 and ${lives('n')}
group by c.tenant_id`,
};

const LEAVE: Statement = {
  name: 'leave_connection_counts',
  text: `delete from connection_counts where node = $1`,
};

/*
 * The rows have one order, and what goes is at its end. What a node does not see yet can only make that end longer: so
 * each may act on what it sees, whenever it looks, and none takes what another would have left.
 */
const NEWEST_OF_TENANT: Statement = {
  name: 'newest_connections_of_tenant',
  text: `
select user_id as "user", connection_id as "connectionId"
from (
  select c.user_id, c.connection_id, c.node, c.since from connections c
  where c.tenant_id = $1 and ${isOpen('c')}
  order by c.since, c.connection_id offset $2
) newest
where node = $3 order by since desc, connection_id desc limit $4`,
};

/* The same from the other end, for all users at once of whom streams have opened, whatever their tenants. */
const CROWDED: Statement = {
  name: 'crowded_users',
  text: `
select u.tenant_id as "tenantId", u.user_id as "user", u.most, o.connection_id as "connectionId", o.node
from unnest($1::text[], $2::text[], $3::int[]) as u (tenant_id, user_id, most)
cross join lateral (
  select c.connection_id, c.node, c.since, count(*) over () as streams from connections c
  where c.tenant_id = u.tenant_id and c.user_id = u.user_id and ${isOpen('c')}
) o
where o.streams > u.most
order by o.since desc, o.connection_id desc`,
};

/** Which streams are open, on whichever node. A stream of the last moments (RECEIPTS_FLUSH_MS) is not there yet. */
@Injectable()
export class OpenConnectionsStore {
  constructor(
    private readonly crossTenant: CrossTenantPool,
    private readonly pool: ClientPool,
  ) {}

  /** Undefined: no such stream is open in the tenant. */
  async find(tenantId: TenantId, connectionId: string): Promise<OpenConnection | undefined> {
    const [row] = await this.pool.rows<OpenConnection & Record<string, unknown>>(tenantId, FIND, [
      connectionId,
    ]);
    return row;
  }

  /** Tells the other nodes how many streams tenants have on this one now, and hears how many they have of those that are asked about. */
  async exchange(node: string, here: readonly Count[], asked: readonly TenantId[]): Promise<Count[]> {
    return await this.crossTenant.rows<Count & Record<string, unknown>>(EXCHANGE, [
      node,
      here.map(({ tenantId }) => tenantId),
      here.map(({ connections }) => connections),
      asked,
    ]);
  }

  /** The node has no streams (any more). */
  async leave(node: string): Promise<void> {
    await this.crossTenant.rows(LEAVE, [node]);
  }

  /** Of the streams of this node those that came when the tenant had `most` already; the newest first, `limit` of them. */
  async newestOfTenant(tenantId: TenantId, most: number, node: string, limit: number): Promise<Excess[]> {
    return await this.pool.rows<Excess & Record<string, unknown>>(tenantId, NEWEST_OF_TENANT, [
      most,
      node,
      limit,
    ]);
  }

  /** Those of the users who have more streams than they may. */
  async crowded(users: readonly Allowance[]): Promise<CrowdedUser[]> {
    const rows = await this.crossTenant.rows<Allowance & OpenStream & Record<string, unknown>>(CROWDED, [
      users.map(({ tenantId }) => tenantId),
      users.map(({ user }) => user),
      users.map(({ most }) => most),
    ]);
    const crowds = new Map<string, Allowance & { readonly streams: OpenStream[] }>();
    for (const { tenantId, user, most, connectionId, node } of rows) {
      const key = `${tenantId} ${user}`;
      const crowd = crowds.get(key) ?? { tenantId, user, most, streams: [] };
      crowd.streams.push({ connectionId, node });
      crowds.set(key, crowd);
    }
    return [...crowds.values()];
  }
}
