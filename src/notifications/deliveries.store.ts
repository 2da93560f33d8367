import { Injectable } from '@nestjs/common';
import { HistoryPool, type Statement } from '../database/pool.ts';
import type { DeviceId, TenantId, UserId } from '../identifiers.ts';
import type { Position } from '../log/position.ts';
import { ackOf, covering, hadTopic, STREAM } from './covering.ts';
import {
  inOrder,
  confirms,
  receiptsOf,
  type Counts,
  type LogEntry,
  type Receipt,
} from './delivery-status.ts';

/** Devices of a broadcast are counted up to here. */
const COUNTED_DEVICES = 10_000;
/** Intervals that are looked at for it: enough for four streams of every device that is counted. */
export const COUNTED_INTERVALS = 4 * COUNTED_DEVICES;

const SENT_TO_USERS: Statement = {
  name: 'history_sent_to_users',
  text: `
select p.position, p.user_id as "user", i.device_id as device, count(*)::int as sends,
  min(i.at) as "firstSentAt", max(i.at) as "lastSentAt"
from ${STREAM}
cross join unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral ${covering('sends', 'p.position', 'i.device_id, i.at', 'and i.user_id = p.user_id')} i
group by 1, 2, 3`,
};

const CONFIRMED_BY_USERS: Statement = {
  name: 'history_confirmed_by_users',
  text: `
select p.position, p.user_id as "user", d.device_id as device, a.at
from unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral (
  select d.device_id from devices d where d.tenant_id = $1 and d.user_id = p.user_id offset 0
) d
cross join lateral (${ackOf('p.user_id', 'd.device_id', 'p.position')}) a
where a.from_position < p.position`,
};

const COUNTS: Statement = {
  name: 'history_counts',
  text: `
select p.position, t.* from ${STREAM}
cross join unnest($2::bigint[], $3::text[], $4::timestamptz[]) as p (position, topic, expires_at)
cross join lateral (
  with covered as materialized (
    select i.* from ${covering('sends', 'p.position', 'i.user_id, i.device_id, i.connection_id')} i limit $5
  ), sent as materialized (
    select distinct user_id, device_id from covered where p.topic is null or ${hadTopic('covered.connection_id', 'p.topic')}
  ), confirmed as materialized (
    select i.* from ${covering('acks', 'p.position', 'i.user_id, i.device_id, i.at, i.topics')} i limit $5
  ), delivered as materialized (
    select distinct user_id, device_id from confirmed
    where (p.topic is null or p.topic = any(topics))
      and (p.expires_at is null or at < p.expires_at or (user_id, device_id) in (select user_id, device_id from sent))
  )
  select (select count(*) from sent)::int as sent, (select count(*) from delivered)::int as delivered,
    (select count(*) from covered)::int as covered, (select count(*) from confirmed)::int as confirmed
) t`,
};

/* Devices in the order of their key, each with what the ledger has of it: a page costs the same however many follow. */
const deviceRows = (name: string, target: string): Statement => ({
  name,
  text: `
select d.user_id as "user", d.device_id as device, s.*, a.at as "deliveredAt"
from ${STREAM}
cross join (
  select user_id, device_id from devices
  where tenant_id = $1 and (user_id, device_id) > ($5, $6) ${target}
  order by user_id, device_id limit $4
) d
left join lateral (
  select count(*)::int as sends, min(i.at) as "firstSentAt", max(i.at) as "lastSentAt"
  from ${covering('sends', '$2::bigint', 'i.at, i.connection_id', 'and i.user_id = d.user_id and i.device_id = d.device_id')} i
  where $3::text is null or ${hadTopic('i.connection_id', '$3')}
) s on true
left join lateral (${ackOf('d.user_id', 'd.device_id', '$2')}) a
  on a.from_position < $2 and ($3::text is null or $3 = any(a.topics))
order by d.user_id, d.device_id`,
});

const DEVICES = deviceRows('history_devices', '');
const DEVICES_OF_USER = deviceRows('history_devices_of_user', 'and user_id = $7');

/** What was looked at for the counts, beside them. */
export interface Counted extends Counts {
  readonly intervals: number;
}

export interface DevicePage {
  readonly receipts: readonly Receipt[];
  /** The last device that was looked at; undefined: there are no more. */
  readonly reached: { readonly user: string; readonly device: string } | undefined;
}

/** What the ledger says about notifications: which device each was written to, and which confirmed it. */
@Injectable()
export class DeliveriesStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The receipts of notifications to single users, by position. */
  async ofUsers(tenantId: TenantId, entries: readonly LogEntry[]): Promise<Map<Position, Receipt[]>> {
    const own = entries.flatMap((entry) => ('user' in entry.to ? [{ entry, user: entry.to.user }] : []));
    if (own.length === 0) return new Map();
    const values = [tenantId, own.map(({ user }) => user), own.map(({ entry }) => entry.position)];
    // In this order: a late acknowledgement counts by what was sent before it.
    const confirmed = await this.pool.rows<{ position: Position; user: UserId; device: DeviceId; at: Date }>(
      CONFIRMED_BY_USERS,
      values,
    );
    const sent = await this.pool.rows<{ position: Position } & Omit<Receipt, 'deliveredAt'>>(
      SENT_TO_USERS,
      values,
    );
    const confirmedAt = Map.groupBy(confirmed, ({ position }) => position);
    const sentAt = Map.groupBy(sent, ({ position }) => position);
    return new Map(
      own.map(({ entry }) => [
        entry.position,
        receiptsOf(
          entry,
          (sentAt.get(entry.position) ?? []).map(withoutPosition),
          confirmedAt.get(entry.position) ?? [],
        ),
      ]),
    );
  }

  /** Counts the devices of broadcasts, looking at no more than `limit` intervals of each kind for each. */
  async counts(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    limit: number,
  ): Promise<Map<Position, Counted>> {
    interface Row {
      position: Position;
      sent: number;
      delivered: number;
      covered: number;
      confirmed: number;
    }
    const rows = await this.pool.rows<Row>(COUNTS, [
      tenantId,
      entries.map(({ position }) => position),
      entries.map(({ to }) => ('topic' in to ? to.topic : null)),
      entries.map(({ expiresAt }) => expiresAt?.toISOString() ?? null),
      limit,
    ]);
    return new Map(
      rows.map(({ position, sent, delivered, covered, confirmed }) => [
        position,
        {
          sent: Math.min(sent, COUNTED_DEVICES),
          delivered: Math.min(delivered, COUNTED_DEVICES),
          more: Math.max(sent, delivered) > COUNTED_DEVICES || Math.max(covered, confirmed) >= limit,
          intervals: covered + confirmed,
        },
      ]),
    );
  }

  /** Looks at the next `limit` devices after `after` that may have the notification. */
  async devices(
    tenantId: TenantId,
    entry: LogEntry,
    after: readonly [user: string, device: string],
    limit: number,
  ): Promise<DevicePage> {
    const { to, position } = entry;
    const values = [tenantId, position, 'topic' in to ? to.topic : null, limit, ...after];
    const rows =
      'user' in to
        ? await this.pool.rows<Receipt>(DEVICES_OF_USER, [...values, to.user])
        : await this.pool.rows<Receipt>(DEVICES, values);
    const receipts = rows
      .map((row) =>
        row.deliveredAt !== null && confirms(entry, row.deliveredAt, row.sends)
          ? row
          : { ...row, deliveredAt: null },
      )
      .filter(({ sends, deliveredAt }) => sends > 0 || deliveredAt !== null)
      .map((row) => inOrder(position, row));
    return { receipts, reached: rows.length < limit ? undefined : rows.at(-1) };
  }
}

function withoutPosition({
  position: _,
  ...receipt
}: { position: Position } & Omit<Receipt, 'deliveredAt'>): Omit<Receipt, 'deliveredAt'> {
  return receipt;
}
