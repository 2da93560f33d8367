import { Injectable } from '@nestjs/common';
import { HistoryPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import { timeOfPosition } from '../core/position.ts';
import {
  ackOf,
  containing,
  containingOfUser,
  engagementsOf,
  engagementsWith,
  isInInbox,
  LOG_HEAD,
} from './deliveries.store.ts';
import {
  confirms,
  ENGAGEMENTS,
  type Engaged,
  type Engagement,
  engages,
  type LogEntry,
} from './delivery-status.ts';
import { type Statement } from '../postgres/pool.ts';

/** Intervals of each kind that are read for one timeline. */
const MAX_INTERVALS = 10_000;

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
const SENT = sent('timeline_sent', containing('sends', '$2::bigint', SENT_COLUMNS));
const SENT_TO_USER = sent('timeline_sent_to_user', containingOfUser('$2::bigint', SENT_COLUMNS, '$5'));

const CONFIRMED: Statement = {
  name: 'timeline_confirmed',
  text: `
select i.user_id as "user", i.device_id as device, i.at, i.by_resume as "byResume",
  $4::text is null or $4 = any(i.topics) as addressed
from ${LOG_HEAD}
cross join lateral ${containing('acks', '$2::bigint', 'i.user_id, i.device_id, i.at, i.by_resume, i.topics')} i
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

const KINDS = `(values ${ENGAGEMENTS.map((kind) => `('${kind}')`).join(', ')}) as k (kind)`;

const ENGAGED: Statement = {
  name: 'timeline_engaged',
  text: `
select k.kind, i.user_id as "user", i.at, i.single,
  coalesce(($4::text is null or $4 = any(i.topics)) and (i.single or ${isInInbox('i.user_id', '$2')}), false) as addressed
from ${LOG_HEAD} cross join ${KINDS}
cross join lateral (
  select i.* from ${engagementsWith('$2::bigint', 'k.kind', 'i.user_id, i.at, i.single, i.topics')} i
  limit $3
) i`,
};

const ENGAGED_OF_USER: Statement = {
  name: 'timeline_engaged_of_user',
  text: `
select k.kind, $3::text as "user", e.at, e.single, true as addressed
from ${KINDS} cross join lateral (${engagementsOf('$3', 'k.kind', '$2')}) e
where e.from_position < $2`,
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

interface EngagedRow extends Engaged {
  kind: Engagement;
  user: UserId;
  addressed: boolean;
}

/** Reads what is recorded of one notification. */
@Injectable()
export class TimelineStore {
  constructor(private readonly pool: HistoryPool) {}

  async deliveries(tenantId: TenantId, { to, position, inbox }: LogEntry): Promise<Deliveries> {
    const values = [position, MAX_INTERVALS, 'topic' in to ? to.topic : null];
    // What came after the expiry counts only if the notification had been sent before. So that is read last.
    const engaged = !inbox
      ? []
      : 'user' in to
        ? await this.pool.rows<EngagedRow>(tenantId, ENGAGED_OF_USER, [position, to.user])
        : await this.pool.rows<EngagedRow>(tenantId, ENGAGED, values);
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
      engagements: engaged.filter(({ addressed }) => addressed),
      more: [acks, sends, ...Map.groupBy(engaged, ({ kind }) => kind).values()].some(
        ({ length }) => length >= MAX_INTERVALS,
      ),
    };
  }
}

/** What is recorded of one notification; with `more` there is more than was read. */
interface Deliveries {
  readonly sends: readonly {
    readonly user: string;
    readonly device: string;
    readonly connection: string;
    /** Null if the connection was not recorded. */
    readonly node: string | null;
    readonly at: Date;
    readonly replayed: boolean;
  }[];
  readonly acks: readonly {
    readonly user: string;
    readonly device: string;
    readonly at: Date;
    readonly byResume: boolean;
  }[];
  readonly engagements: readonly (Engaged & { readonly kind: Engagement; readonly user: string })[];
  readonly more: boolean;
}

type TimelineEvent = 'accepted' | 'sent' | 'replayed' | 'delivered' | Engagement | 'expired';

interface TimelineEntry {
  readonly event: TimelineEvent;
  readonly at: string;
  readonly publisher?: string;
  readonly user?: string;
  readonly device?: string;
  readonly connectionId?: string;
  readonly node?: string | null;
  readonly by?: 'ack' | 'resume';
}

/** By which entries are sorted: the time, the rank of the event among those of the same time, and of whom it is. */
type TimelineKey = readonly [at: number, rank: number, user: string, device: string, connection: string];

export const keyOf = (entry: TimelineEntry): TimelineKey => [
  Date.parse(entry.at),
  RANK[entry.event],
  entry.user ?? '',
  entry.device ?? '',
  entry.connectionId ?? '',
];

const RANK: Record<TimelineEvent, number> = {
  accepted: 0,
  sent: 1,
  replayed: 1,
  delivered: 2,
  seen: 3,
  read: 4,
  archived: 5,
  expired: 6,
};

export function compareKeys(a: TimelineKey, b: TimelineKey): number {
  return (
    a[0] - b[0] ||
    a[1] - b[1] ||
    compareText(a[2], b[2]) ||
    compareText(a[3], b[3]) ||
    compareText(a[4], b[4])
  );
}

const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/**
 * What happened to a notification, in order. The recorded times may be out of order, since the time of an interval is that
 * of its last notification, and nodes have clocks of their own. So nothing is shown before the notification was accepted,
 * and what was first sent to a device is not shown after the device confirmed it. What a user did again is shown once.
 */
export function timelineOf(entry: LogEntry, { sends, acks, engagements }: Deliveries): TimelineEntry[] {
  const accepted = timeOfPosition(entry.position);
  const timeOf = (at: Date) => Math.max(at.getTime(), accepted);
  const deviceOf = ({ user, device }: { user: string; device: string }) => `${device} ${user}`;
  const sentTo = Map.groupBy(sends, deviceOf);
  const confirmed = acks.filter((ack) => confirms(entry, ack.at, sentTo.get(deviceOf(ack))?.length ?? 0));
  const confirmedAt = new Map(confirmed.map((ack) => [deviceOf(ack), timeOf(ack.at)]));

  const entries: TimelineEntry[] = [{ event: 'accepted', at: iso(accepted), publisher: entry.publisher }];
  for (const [key, ofDevice] of sentTo) {
    const byTime = ofDevice.toSorted((a, b) => a.at.getTime() - b.at.getTime());
    byTime.forEach(({ user, device, connection: connectionId, node, at, replayed }, index) => {
      const time = index === 0 ? Math.min(timeOf(at), confirmedAt.get(key) ?? Infinity) : timeOf(at);
      entries.push({
        event: replayed ? 'replayed' : 'sent',
        at: iso(time),
        user,
        device,
        connectionId,
        node,
      });
    });
  }
  for (const { user, device, at, byResume } of confirmed) {
    entries.push({ event: 'delivered', at: iso(timeOf(at)), user, device, by: byResume ? 'resume' : 'ack' });
  }
  const reached = new Set([...sends, ...confirmed].map(({ user }) => user));
  const engaged = engagements.filter((each) => engages(entry, each, reached.has(each.user)));
  for (const same of Map.groupBy(engaged, ({ kind, user }) => `${kind} ${user}`).values()) {
    const { kind, user, at } = same.reduce((first, each) => (each.at < first.at ? each : first));
    entries.push({ event: kind, at: iso(timeOf(at)), user });
  }
  if (entry.expired && entry.expiresAt !== null)
    entries.push({ event: 'expired', at: iso(timeOf(entry.expiresAt)) });
  return entries.sort((a, b) => compareKeys(keyOf(a), keyOf(b)));
}

const iso = (ms: number): string => new Date(ms).toISOString();
