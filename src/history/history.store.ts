import { Injectable } from '@nestjs/common';
import { HistoryPool } from '../postgres/pools.ts';
import type { TenantId, Topic, UserId } from '../core/identifiers.ts';
import type { Recipient } from '../core/notification.ts';
import type { Position } from '../core/position.ts';
import type { LogEntry } from './delivery-status.ts';
import { type Statement } from '../postgres/pool.ts';

export interface Selection {
  readonly user?: UserId | undefined;
  readonly topic?: Topic | undefined;
  readonly type?: string | undefined;
  /** First position that may be shown. */
  readonly first: Position;
}

/** What one bounded scan of the log found, newest first. */
export interface Scan {
  readonly entries: readonly LogEntry[];
  /** Rows that were read. */
  readonly scanned: number;
  /** All rows at or above this position have been read; undefined: there are none below. */
  readonly reached: Position | undefined;
}

export interface ScanLimits {
  /** Rows that are read. */
  readonly scan: number;
  /** Rows that are returned. */
  readonly rows: number;
  /** Bytes of `data` that are returned. The first row is returned whatever its size. */
  readonly bytes: number;
}

const COLUMNS = `n.position, n.id, n.user_id, n.topic, n.type, n.data, n.publisher, n.expires_at,
  coalesce(n.expires_at <= clock_timestamp(), false) as expired`;

/*
 * Reads $4 rows from the newest end of a range of one index, however many of them the filter on `type` leaves. `data` is
 * read last, by key, and only of the rows that are returned. The floor is read by the same statement, so that nothing is
 * shown that retention has already taken away.
 */
const select = (name: string, target: string): Statement => ({
  name,
  text: `
with scanned as materialized (
  select position, type, size from notifications
  where tenant_id = $1 and position < $3 ${target}
    and position >= (select greatest($2::bigint, floor + 1) from tenant_logs where tenant_id = $1)
  order by position desc limit $4
), matching as materialized (
  select position, sum(size) over (order by position desc) - size as bytes_before
  from scanned where $7::text is null or type = $7
  order by position desc limit $5
), summary as materialized (
  select min(position) as reached, count(*)::int as scanned,
    (count(*) filter (where $7::text is null or type = $7))::int as matched
  from scanned
)
select s.reached, s.scanned, s.matched, n.*
from summary s
left join lateral (
  select n.* from matching m
  cross join lateral (
    select ${COLUMNS} from notifications n where n.tenant_id = $1 and n.position = m.position offset 0
  ) n
  where m.bytes_before < $6
) n on true
order by n.position desc`,
});

const SELECT_ANY = select('history_any', '');
const SELECT_OF_USER = select('history_of_user', 'and user_id = $8');
const SELECT_OF_TOPIC = select('history_of_topic', 'and topic = $8 and user_id is null');

const FIND: Statement = {
  name: 'history_find',
  text: `
select ${COLUMNS} from notifications n
where n.tenant_id = $1 and n.id = $2
  and n.position > (select floor from tenant_logs where tenant_id = $1)`,
};

interface Row {
  position: Position;
  id: string;
  user_id: UserId | null;
  topic: Topic | null;
  type: string;
  data: string;
  publisher: string;
  expires_at: Date | null;
  expired: boolean;
}

type ScanRow = { reached: Position | null; scanned: number; matched: number } & (Row | { position: null });

/** Reads the log of a tenant backwards. */
@Injectable()
export class HistoryStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The entries of `selection` below `before`, newest first, within `limits`. */
  async scan(tenantId: TenantId, selection: Selection, before: Position, limits: ScanLimits): Promise<Scan> {
    const { user, topic, type, first } = selection;
    const values = [first, before, limits.scan, limits.rows, limits.bytes, type ?? null];
    const target = user ?? topic;
    const statement =
      user !== undefined ? SELECT_OF_USER : topic !== undefined ? SELECT_OF_TOPIC : SELECT_ANY;
    const rows = await this.pool.rows<ScanRow>(
      tenantId,
      statement,
      target === undefined ? values : [...values, target],
    );
    const entries = rows.flatMap((row) => (row.position === null ? [] : [entryOf(row)]));
    const { scanned = 0, matched = 0, reached = null } = rows[0] ?? {};
    const cut = entries.length < matched;
    if (!cut && scanned < limits.scan) return { entries, scanned, reached: undefined };
    return { entries, scanned, reached: (cut ? entries.at(-1)?.position : reached) ?? undefined };
  }

  /** @param id a UUID */
  async find(tenantId: TenantId, id: string): Promise<LogEntry | undefined> {
    const [row] = await this.pool.rows<Row>(tenantId, FIND, [id]);
    return row === undefined ? undefined : entryOf(row);
  }
}

function entryOf(row: Row): LogEntry {
  const { position, id, type, data, publisher, expires_at: expiresAt, expired } = row;
  return { position, id, to: recipientOf(row), type, data, publisher, expiresAt, expired };
}

function recipientOf({ user_id: user, topic }: Row): Recipient {
  if (user !== null) return { user };
  return topic === null ? { everyone: true } : { topic };
}
