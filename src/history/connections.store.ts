import { Injectable } from '@nestjs/common';
import { HistoryPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import { lives } from '../cluster/nodes.ts';
import type { Position } from '../core/position.ts';
import { type Statement } from '../postgres/pool.ts';

/** A stream that was or is open. */
export interface ConnectionRecord {
  readonly connectionId: string;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly node: string;
  readonly since: Date;
  /** Null while it is open. */
  readonly until: Date | null;
  /** Where it started; how far it got once it has ended. */
  readonly position: Position;
  readonly reason: string | null;
  readonly topics: readonly string[];
  readonly place: ConnectionPlace;
}

/** Which connections: open now, or open at some time in [since, until), ms since 1970. */
export type Period = 'now' | { readonly since: number | undefined; readonly until: number | undefined };

/** Where a listing goes on: the start of a connection as the database has it, in microseconds, and its id. */
export type ConnectionPlace = readonly [since: string, connectionId: string];

export interface ConnectionPage {
  readonly items: readonly ConnectionRecord[];
  /** The last connection that was read; undefined: there are no more. */
  readonly reached: ConnectionPlace | undefined;
}

/*
 * Reads $5 connections, newest start first, however many of them are in the period. A connection without an end is open
 * while its node lives. If the node has died, it ended when the node was last seen; if the node has started again since,
 * it ended at that start. Ends are compared as they are shown, in milliseconds.
 */
const connections = (name: string, which: string): Statement => ({
  name,
  text: `
with scanned as materialized (
  select * from connections
  where tenant_id = $1 and since < $2 and (since, connection_id) < ($3::timestamptz, $4::uuid) ${which}
  order by since desc, connection_id desc limit $5
)
select s.connection_id as "connectionId", s.user_id as "user", s.device_id as device, s.node, s.since, s.position, s.topics,
  e.until, case when e.until is not null then coalesce(s.reason, 'node-lost') end as reason,
  (e.until is null or date_trunc('milliseconds', e.until) > $6::timestamptz) and ($7 or e.until is null) is true as shown,
  to_char(s.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "sinceExact"
from scanned s
left join lateral (select n.started_at, n.seen_at from nodes n where n.node = s.node) n on true
cross join lateral (
  select case
    when s.until is not null then s.until
    when n.seen_at is null then s.since
    when n.started_at > s.since then greatest(s.since, n.started_at)
    when not (${lives('n')}) then greatest(s.since, n.seen_at)
  end as until
) e
order by s.since desc, s.connection_id desc`,
});

const STATEMENTS = {
  now: connections('connections_now', 'and until is null'),
  nowOfUser: connections('connections_now_of_user', 'and until is null and user_id = $8'),
  then: connections('connections_then', ''),
  thenOfUser: connections('connections_then_of_user', 'and user_id = $8'),
};

const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

type Row = Omit<ConnectionRecord, 'place'> & { shown: boolean; sinceExact: string };

/** Who is connected, and who was. */
@Injectable()
export class ConnectionsStore {
  constructor(private readonly pool: HistoryPool) {}

  /** Reads the next `scan` connections after `after`, newest start first. The page has those that are in the period. */
  async page(
    tenantId: TenantId,
    user: UserId | undefined,
    period: Period,
    after: ConnectionPlace | undefined,
    scan: number,
  ): Promise<ConnectionPage> {
    const { since, until } = period === 'now' ? { since: undefined, until: undefined } : period;
    const [afterSince, afterId] = after ?? ['infinity', LAST_ID];
    const values = [
      until === undefined ? 'infinity' : new Date(until).toISOString(),
      afterSince,
      afterId,
      scan,
      since === undefined ? '-infinity' : new Date(since).toISOString(),
      period !== 'now',
    ];
    const { now, nowOfUser, then, thenOfUser } = STATEMENTS;
    const rows =
      user === undefined
        ? await this.pool.rows<Row>(tenantId, period === 'now' ? now : then, values)
        : await this.pool.rows<Row>(tenantId, period === 'now' ? nowOfUser : thenOfUser, [...values, user]);
    const records = rows.map(({ shown, sinceExact, ...row }) => ({
      ...row,
      shown,
      place: [sinceExact, row.connectionId] as const,
    }));
    return {
      items: records.filter(({ shown }) => shown),
      reached: rows.length < scan ? undefined : records.at(-1)?.place,
    };
  }
}
