import { Injectable } from '@nestjs/common';
import { HistoryPool, type Statement } from '../database/pool.ts';
import type { DeviceId, TenantId, UserId } from '../identifiers.ts';
import { covering, hadTopic, STREAM } from './covering.ts';
import { COUNTED_INTERVALS } from './deliveries.store.ts';
import type { LogEntry } from './delivery-status.ts';
import type { Deliveries } from './timeline.ts';

/*
 * The intervals of one notification, one by one. `covering` and the limit come first and the topic after them: a topic
 * of few in a tenant of many cannot make this look at more than a broadcast does.
 */
const sent = (name: string, target: string): Statement => ({
  name,
  text: `
select i.user_id as "user", i.device_id as device, i.connection_id as connection, i.at, i.replayed, c.node
from (
  select i.* from ${STREAM}
  cross join lateral ${covering('sends', '$2::bigint', 'i.user_id, i.device_id, i.connection_id, i.at, i.replayed', target)} i
  limit $3
) i
left join lateral (
  select c.node from connections c where c.tenant_id = $1 and c.connection_id = i.connection_id
) c on true
where $4::text is null or ${hadTopic('i.connection_id', '$4')}`,
});

const confirmed = (name: string, target: string): Statement => ({
  name,
  text: `
select i.user_id as "user", i.device_id as device, i.at, i.by_resume as "byResume"
from (
  select i.* from ${STREAM}
  cross join lateral ${covering('acks', '$2::bigint', 'i.user_id, i.device_id, i.at, i.by_resume, i.topics', target)} i
  limit $3
) i
where $4::text is null or $4 = any(i.topics)`,
});

const SENT = sent('timeline_sent', '');
const SENT_TO_USER = sent('timeline_sent_to_user', 'and i.user_id = $5');
const CONFIRMED = confirmed('timeline_confirmed', '');

/* There is no index on the width classes of one user's acknowledgements; each device is one look. */
const CONFIRMED_BY_USER: Statement = {
  name: 'timeline_confirmed_by_user',
  text: `
select d.user_id as "user", d.device_id as device, a.at, a.by_resume as "byResume"
from (select user_id, device_id from devices where tenant_id = $1 and user_id = $3) d
cross join lateral (
  select a.at, a.from_position, a.by_resume from acks a
  where a.tenant_id = $1 and a.user_id = d.user_id and a.device_id = d.device_id and a.to_position >= $2
  order by a.to_position limit 1
) a
where a.from_position < $2`,
};

interface SentRow {
  user: UserId;
  device: DeviceId;
  connection: string;
  at: Date;
  replayed: boolean;
  node: string | null;
}

interface ConfirmedRow {
  user: UserId;
  device: DeviceId;
  at: Date;
  byResume: boolean;
}

/** Everything that the ledger recorded of one notification. */
@Injectable()
export class TimelineStore {
  constructor(private readonly pool: HistoryPool) {}

  async deliveries(tenantId: TenantId, { to, position }: LogEntry): Promise<Deliveries> {
    // In this order: a late acknowledgement counts by what was sent before it.
    if ('user' in to) {
      const acks = await this.pool.rows<ConfirmedRow>(CONFIRMED_BY_USER, [tenantId, position, to.user]);
      const sends = await this.pool.rows<SentRow>(SENT_TO_USER, [
        tenantId,
        position,
        COUNTED_INTERVALS,
        null,
        to.user,
      ]);
      return { sends, acks, more: sends.length >= COUNTED_INTERVALS };
    }
    const values = [tenantId, position, COUNTED_INTERVALS, 'topic' in to ? to.topic : null];
    const acks = await this.pool.rows<ConfirmedRow>(CONFIRMED, values);
    const sends = await this.pool.rows<SentRow>(SENT, values);
    return { sends, acks, more: Math.max(sends.length, acks.length) >= COUNTED_INTERVALS };
  }
}
