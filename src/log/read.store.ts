import { Injectable } from '@nestjs/common';
import { BacklogPool, CrossTenantPool } from '../postgres/pools.ts';
import type { TenantId, Topic, UserId } from '../core/identifiers.ts';
import { recipientOf, type Notification } from '../core/notification.ts';
import type { Position } from '../core/position.ts';
import { type Statement } from '../postgres/pool.ts';

/** Somebody who reads on: the notifications of `user` after `after`. */
export interface Reader {
  readonly user: UserId;
  readonly after: Position;
}

export interface PageLimits {
  readonly rows: number;
  readonly bytes: number;
}

/** A run of the log, complete in (after, upTo]. */
export interface Run {
  readonly notifications: readonly Notification[];
  readonly upTo: Position;
}

export interface BacklogPage {
  readonly head: Position;
  /** What is at or below this was taken away by retention. */
  readonly floor: Position;
  /** For each reader, in their order: what was addressed to the user alone. */
  readonly own: readonly Run[];
  /** What was addressed to everyone or to one of the topics, after the smallest `after`. */
  readonly shared: Run;
}

/** How far the log of a tenant reaches. */
export interface LogHead {
  readonly tenantId: TenantId;
  readonly head: Position;
}

interface Row {
  position: Position;
  id: string;
  user_id: UserId | null;
  topic: Topic | null;
  type: string;
  data: string;
  size: number;
  expires_at: number | null;
  inbox: boolean;
  trace: string | null;
}

const COLUMNS = `position, id, user_id, topic, type, data, size, (extract(epoch from expires_at) * 1000)::float8 as expires_at, inbox, trace`;

/*
 * One statement for many readers of a tenant.
 *
 * - Own notifications come by one index range per reader; those of topics and of everyone once for all readers, who
 *   are matched in memory. Read per reader, 25,000 rows came back for 154 different ones.
 * - A page is bounded in rows and in bytes (`size` is stored, so nothing is detoasted to be counted), and holds at
 *   least one row. `fetched` tells whether a page was cut: if it was, it is complete only up to its last row.
 * - Head and floor come from the same snapshot as the rows: nothing at or below this head can appear later, and
 *   what retention took is known to be missing.
 */
const BACKLOG: Statement = {
  name: 'backlog',
  text: `
with log as materialized (
  select head, floor from tenant_logs where tenant_id = $1
), own as (
  select r.n::int as reader, page.*
  from log, unnest($2::text[], $3::bigint[]) with ordinality as r (user_id, after, n)
  cross join lateral (
    select c.*, count(*) over () as fetched, sum(size) over (order by position) - size as bytes_before
    from (
      select ${COLUMNS} from notifications
      where tenant_id = $1 and user_id = r.user_id and position > greatest(r.after, log.floor) and position <= log.head
      order by position limit $4) c
  ) page
  where page.bytes_before < $5
), shared as (
  select 0 as reader, page.*
  from (
    select c.*, count(*) over () as fetched, sum(size) over (order by position) - size as bytes_before
    from (
      (select s.* from log, unnest($6::text[]) as t (name) cross join lateral (
        select ${COLUMNS} from notifications
        where tenant_id = $1 and user_id is null and topic = t.name and position > greatest($7, log.floor) and position <= log.head
        order by position limit $8) s)
      union all
      (select s.* from log cross join lateral (
        select ${COLUMNS} from notifications
        where tenant_id = $1 and user_id is null and topic is null and position > greatest($7, log.floor) and position <= log.head
        order by position limit $8) s)
      order by position limit $8) c
  ) page
  where page.bytes_before < $9
)
select log.head, log.floor, e.*
from log left join (select * from own union all select * from shared) e on true
order by e.position`,
};

/* Everything behind a position, whatever its address, for the tail of a tenant. */
const ALL_AFTER: Statement = {
  name: 'log_after',
  text: `
with log as materialized (select head from tenant_logs where tenant_id = $1)
select log.head, 0 as floor, page.*
from log left join (
  select 0 as reader, c.*, count(*) over () as fetched, sum(size) over (order by position) - size as bytes_before
  from (
    select n.* from log cross join lateral (
      select ${COLUMNS} from notifications
      where tenant_id = $1 and position > $2 and position <= log.head
      order by position limit $3) n) c
) page on page.bytes_before < $4
order by page.position`,
};

/* Of all tenants with streams on a node: the one question to the log that names several. */
const HEADS: Statement = {
  name: 'log_heads',
  text: `select tenant_id as "tenantId", head from tenant_logs where tenant_id = any($1::text[])`,
};

const NOW: Statement = {
  name: 'database_now',
  text: `select extract(epoch from clock_timestamp())::float8 * 1000 as now`,
};

type PageRow = Row & { head: Position; floor: Position; reader: number | null; fetched: number };

/** The SQL that reads the log for streams. */
@Injectable()
export class ReadStore {
  constructor(
    private readonly pool: BacklogPool,
    private readonly crossTenant: CrossTenantPool,
  ) {}

  /** Reads on for many readers at once. `topics` are those of all of them. */
  async backlog(
    tenantId: TenantId,
    readers: readonly Reader[],
    topics: readonly Topic[],
    own: PageLimits,
    shared: PageLimits,
  ): Promise<BacklogPage> {
    const after = Math.min(...readers.map((reader) => reader.after));
    const rows = await this.pool.rows<PageRow>(tenantId, BACKLOG, [
      readers.map(({ user }) => user),
      readers.map((reader) => reader.after),
      own.rows,
      own.bytes,
      topics,
      after,
      shared.rows,
      shared.bytes,
    ]);
    const [first] = rows;
    if (first === undefined) throw new Error(`tenant ${tenantId} has no log`);
    const { head, floor } = first;
    const byReader = Map.groupBy(rows, ({ reader }) => reader);
    return {
      head,
      floor,
      own: readers.map((_, index) => toRun(byReader.get(index + 1) ?? [], own.rows, head)),
      shared: toRun(byReader.get(0) ?? [], shared.rows, head),
    };
  }

  /** The log behind `after`, whatever its address, as far as the limits allow. */
  async allAfter(tenantId: TenantId, after: Position, limits: PageLimits): Promise<Run & { head: Position }> {
    const rows = await this.pool.rows<PageRow>(tenantId, ALL_AFTER, [after, limits.rows, limits.bytes]);
    const [first] = rows;
    if (first === undefined) throw new Error(`tenant ${tenantId} has no log`);
    const found = rows.filter(({ reader }) => reader !== null);
    return { head: first.head, ...toRun(found, limits.rows, first.head) };
  }

  /** The heads of these tenants. A tenant without a log is missing in the answer. */
  async heads(tenantIds: readonly TenantId[]): Promise<LogHead[]> {
    return await this.crossTenant.rows<LogHead & Record<string, unknown>>(HEADS, [tenantIds]);
  }

  /** The database's clock, ms since 1970. */
  async now(): Promise<number> {
    const [row] = await this.crossTenant.rows<{ now: number }>(NOW);
    return row?.now ?? Date.now();
  }
}

function toRun(rows: readonly PageRow[], limit: number, head: Position): Run {
  const last = rows.at(-1);
  const cut = last !== undefined && (last.fetched >= limit || rows.length < last.fetched);
  return { notifications: rows.map(toNotification), upTo: cut ? last.position : head };
}

function toNotification(row: Row): Notification {
  const { position, id, type, data, size, expires_at: expiresAt, inbox, trace } = row;
  return { position, id, to: recipientOf(row), type, data, size, expiresAt, inbox, trace };
}
