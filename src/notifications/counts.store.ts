import { Injectable } from '@nestjs/common';
import type { Statement } from '../database/pool.ts';
import { HistoryPool } from '../database/pools.ts';
import type { TenantId } from '../identifiers.ts';
import type { Position } from '../log/position.ts';
import { covering, hadTopic, STREAM } from './covering.ts';
import type { Counts, LogEntry } from './delivery-status.ts';

/** Devices of a broadcast are counted up to here. */
const COUNTED_DEVICES = 10_000;

/**
 * Intervals of each kind that are looked at for one broadcast, those of the narrowest width first. A glance is enough
 * for most. One interval is mostly one device, so that a look shows when there are more devices than are counted.
 * Where several streams of a device, or devices without the topic, use it up before that, a long look is left; it may
 * take a tenth of a second.
 */
const LOOKS = { glance: 100, look: 1.25 * COUNTED_DEVICES, long: 4 * COUNTED_DEVICES } as const;

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

interface Row {
  position: Position;
  sent: number;
  delivered: number;
  covered: number;
  confirmed: number;
}

export interface Counted {
  readonly counts: Counts;
  /** Intervals that were looked at. */
  readonly intervals: number;
  /** A longer look could find more devices, and there are not yet more than are counted. */
  readonly open: boolean;
  /** Whether it was sent and delivered at all would not change by a longer look. */
  readonly certain: boolean;
}

/** How many devices broadcasts reached. */
@Injectable()
export class CountsStore {
  constructor(private readonly pool: HistoryPool) {}

  /** Counts the devices of notifications to topics and to everyone, by position. */
  async counts(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    look: keyof typeof LOOKS,
  ): Promise<Map<Position, Counted>> {
    const limit = LOOKS[look];
    const rows = await this.pool.rows<Row>(tenantId, COUNTS, [
      entries.map(({ position }) => position),
      entries.map(({ to }) => ('topic' in to ? to.topic : null)),
      entries.map(({ expiresAt }) => expiresAt?.toISOString() ?? null),
      limit,
    ]);
    return new Map(rows.map((row) => [row.position, countedOf(row, limit)]));
  }
}

function countedOf({ sent, delivered, covered, confirmed }: Row, limit: number): Counted {
  const cut = { sent: covered >= limit, delivered: confirmed >= limit };
  return {
    counts: {
      sent: Math.min(sent, COUNTED_DEVICES),
      delivered: Math.min(delivered, COUNTED_DEVICES),
      more: cut.sent || cut.delivered || sent > COUNTED_DEVICES || delivered > COUNTED_DEVICES,
    },
    intervals: covered + confirmed,
    open: (cut.sent && sent <= COUNTED_DEVICES) || (cut.delivered && delivered <= COUNTED_DEVICES),
    certain: delivered > 0 || (!cut.delivered && (sent > 0 || !cut.sent)),
  };
}
