import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { covering, hadTopic, LOG_HEAD } from './covering.ts';
import type { Counts, LogEntry } from './delivery-status.ts';

/** Devices of a broadcast are counted up to here. */
const COUNTED_DEVICES = 10_000;

/**
 * Intervals of each kind that are looked at for one broadcast, those of the narrowest width first. A glance is enough
 * for most. One interval is mostly one device, so that a look shows when there are more devices than are counted.
 * Where several streams of a device, or devices without the topic, use it up before that, a long look is left; it may
 * take a tenth of a second. Of a topic each stream is looked at too, which may not have had it: in a list it gets a short look.
 */
const LOOKS = { glance: 100, short: 600, look: 1.25 * COUNTED_DEVICES, long: 4 * COUNTED_DEVICES } as const;

export type Look = keyof typeof LOOKS;

/** What an interval of what was sent costs, in intervals: of a topic its stream is looked at too. */
const SENT_COSTS = { everyone: 1, topic: 3 } as const;

/** How many rows of `rows` there are for each position. */
const counted = (rows: string): string =>
  `(select position, count(*)::int as n from ${rows} group by position)`;

/*
 * A look at a stream for each interval would be most of the work, and the same streams cover one notification after the
 * other: each is looked at once. What is compared is compared in hashed sub-selects (`in` beside `or`), whatever the planner
 * believes about the number of rows.
 */
const COUNTS: Statement = {
  name: 'history_counts',
  text: `
with asked as materialized (
  select * from unnest($2::bigint[], $3::text[], $4::timestamptz[]) as p (position, topic, expires_at)
), covered as materialized (
  select p.position, p.topic, i.* from ${LOG_HEAD} cross join asked p
  cross join lateral (
    select i.* from ${covering('sends', 'p.position', 'i.user_id, i.device_id, i.connection_id')} i limit $5
  ) i
), following as materialized (
  select s.connection_id, s.topic from (select distinct connection_id, topic from covered where topic is not null) s
  where ${hadTopic('s.connection_id', 's.topic')}
), sent as materialized (
  select distinct position, user_id, device_id from covered
  where topic is null or (connection_id, topic) in (select connection_id, topic from following)
), confirmed as materialized (
  select p.position, p.topic, p.expires_at, i.* from ${LOG_HEAD} cross join asked p
  cross join lateral (
    select i.* from ${covering('acks', 'p.position', 'i.user_id, i.device_id, i.at, i.topics')} i limit $5
  ) i
), delivered as materialized (
  select distinct position, user_id, device_id from confirmed
  where (topic is null or topic = any(topics)) and (
    expires_at is null or at < expires_at
    or (position, user_id, device_id) in (select position, user_id, device_id from sent)
  )
)
select position, coalesce(s.n, 0) as sent, coalesce(d.n, 0) as delivered, coalesce(v.n, 0) as covered, coalesce(f.n, 0) as confirmed
from asked
left join ${counted('sent')} s using (position)
left join ${counted('delivered')} d using (position)
left join ${counted('covered')} v using (position)
left join ${counted('confirmed')} f using (position)`,
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
  /** What it took, in intervals that were looked at. */
  readonly cost: number;
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
    look: Look,
  ): Promise<Map<Position, Counted>> {
    const limit = LOOKS[look];
    const rows = await this.pool.rows<Row>(tenantId, COUNTS, [
      entries.map(({ position }) => position),
      entries.map(({ to }) => ('topic' in to ? to.topic : null)),
      entries.map(({ expiresAt }) => expiresAt?.toISOString() ?? null),
      limit,
    ]);
    const topics = new Set(entries.filter(({ to }) => 'topic' in to).map(({ position }) => position));
    const costOf = ({ position }: Row) => (topics.has(position) ? SENT_COSTS.topic : SENT_COSTS.everyone);
    return new Map(rows.map((row) => [row.position, countedOf(row, limit, costOf(row))]));
  }
}

function countedOf({ sent, delivered, covered, confirmed }: Row, limit: number, sentCosts: number): Counted {
  const cut = { sent: covered >= limit, delivered: confirmed >= limit };
  return {
    counts: {
      sent: Math.min(sent, COUNTED_DEVICES),
      delivered: Math.min(delivered, COUNTED_DEVICES),
      more: cut.sent || cut.delivered || sent > COUNTED_DEVICES || delivered > COUNTED_DEVICES,
    },
    cost: covered * sentCosts + confirmed,
    open: (cut.sent && sent <= COUNTED_DEVICES) || (cut.delivered && delivered <= COUNTED_DEVICES),
    certain: delivered > 0 || (!cut.delivered && (sent > 0 || !cut.sent)),
  };
}
