import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import { ackOf, covering, coveringOfUser, LOG_HEAD } from './covering.ts';
import type { LogEntry } from './delivery-status.ts';
import type { Deliveries } from './timeline.ts';

/** Intervals of each kind that are looked at for one timeline. */
const LOOKED = 10_000;

const sent = (name: string, intervals: string): Statement => ({
  name,
  text: `
select i.user_id as "user", i.device_id as device, i.connection_id as connection, i.at, i.replayed, c.node,
  $4::text is null or coalesce($4 = any(c.topics), false) as addressed
from (select i.* from ${LOG_HEAD} cross join lateral ${intervals} i limit $3) i
left join lateral (
  select c.node, c.topics from connections c where c.tenant_id = $1 and c.connection_id = i.connection_id offset 0
) c on true`,
});

const SENT_COLUMNS = 'i.user_id, i.device_id, i.connection_id, i.at, i.replayed';
const SENT = sent('timeline_sent', covering('sends', '$2::bigint', SENT_COLUMNS));
const SENT_TO_USER = sent('timeline_sent_to_user', coveringOfUser('$2::bigint', SENT_COLUMNS, '$5'));

const CONFIRMED: Statement = {
  name: 'timeline_confirmed',
  text: `
select i.user_id as "user", i.device_id as device, i.at, i.by_resume as "byResume",
  $4::text is null or $4 = any(i.topics) as addressed
from ${LOG_HEAD}
cross join lateral ${covering('acks', '$2::bigint', 'i.user_id, i.device_id, i.at, i.by_resume, i.topics')} i
limit $3`,
};

const CONFIRMED_BY_USER: Statement = {
  name: 'timeline_confirmed_by_user',
  text: `
select d.user_id as "user", d.device_id as device, a.at, a.by_resume as "byResume", true as addressed
from (select user_id, device_id from devices where tenant_id = $1 and user_id = $3) d
cross join lateral (${ackOf('d.user_id', 'd.device_id', '$2')}) a
where a.from_position < $2`,
};

interface SentRow {
  user: UserId;
  device: DeviceId;
  connection: string;
  at: Date;
  replayed: boolean;
  node: string | null;
  addressed: boolean;
}

interface ConfirmedRow {
  user: UserId;
  device: DeviceId;
  at: Date;
  byResume: boolean;
  addressed: boolean;
}

/** Everything that the ledger recorded of one notification. */
@Injectable()
export class TimelineStore {
  constructor(private readonly pool: HistoryPool) {}

  async deliveries(tenantId: TenantId, { to, position }: LogEntry): Promise<Deliveries> {
    const values = [position, LOOKED, 'topic' in to ? to.topic : null];
    // In this order: a late acknowledgement counts by what was sent before it.
    const [acks, sends] =
      'user' in to
        ? [
            await this.pool.rows<ConfirmedRow>(tenantId, CONFIRMED_BY_USER, [position, to.user]),
            await this.pool.rows<SentRow>(tenantId, SENT_TO_USER, [...values, to.user]),
          ]
        : [
            await this.pool.rows<ConfirmedRow>(tenantId, CONFIRMED, values),
            await this.pool.rows<SentRow>(tenantId, SENT, values),
          ];
    return {
      acks: acks.filter(({ addressed }) => addressed),
      sends: sends.filter(({ addressed }) => addressed),
      more: acks.length >= LOOKED || sends.length >= LOOKED,
    };
  }
}
