import { Injectable } from '@nestjs/common';
import { HistoryPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import { type Position, POSITIONS_PER_MS } from '../core/position.ts';
import type { Statement } from '../postgres/pool.ts';
import { CLASS_WIDTHS } from '../receipts/intervals.ts';
import {
  type Confirmation,
  type Counts,
  type Engaged,
  type LogEntry,
  type Outcome,
  readAtOf,
  type Receipt,
  receiptsOf,
} from './delivery-status.ts';

/*
 * Pieces of SQL that find receipts and engagements: the intervals of `sends`, `acks` and `engagements` that contain the
 * position of a notification. An interval contains `x` if from_position < x <= to_position. `$1` is the tenant.
 */

const CLASSES = CLASS_WIDTHS.map((width, index) => `(${index}::smallint, ${width}::bigint)`).join(', ');

/**
 * The first width class whose intervals may reach over more than four days, and so over several partitions. A search by
 * class would read each of these partitions once for every such class.
 */
const WIDE = CLASS_WIDTHS.findIndex((width) => width > 4 * 86_400_000 * POSITIONS_PER_MS);

/** The head of the tenant's log, as `log.head`. The queries below need it beside them. */
export const LOG_HEAD = `(select head from tenant_logs where tenant_id = $1) as log`;

/**
 * SQL of the intervals of `table` that contain position `x`. They are searched by width class (src/receipts/intervals.ts):
 * in each class they end less than its width after `x`, which is a short index range. No interval ends behind the head, and
 * none is wider than the head. `offset 0` keeps the planner from making one join over the whole table of the ranges.
 *
 * @param x SQL of a bigint
 * @param columns of `i`, the interval
 * @param condition on `i`; empty, or begins with `and`
 */
export const containing = (
  table: 'sends' | 'acks' | 'engagements',
  x: string,
  columns: string,
  condition = '',
): string => `(${byWidthClass(table, x, columns, condition, CLASS_WIDTHS.length)})`;

/**
 * The same for what was sent to one user. A user has few wide intervals, so one search reads all of them, instead of one
 * search for each class and each partition between `x` and the head.
 *
 * @param user SQL of a text
 */
export const containingOfUser = (x: string, columns: string, user: string): string => {
  const ofUser = `and i.user_id = ${user}`;
  return `(
  ${byWidthClass('sends', x, columns, ofUser, WIDE)}
  union all
  (select ${columns} from sends i
  where i.tenant_id = $1 ${ofUser} and i.width_class >= ${WIDE}
    and i.to_position >= ${x} and i.to_position <= log.head and i.from_position < ${x}
  offset 0))`;
};

/**
 * @param condition on `i`; empty, or begins with `and`
 * @param classes how many width classes are searched, from the narrowest on
 */
const byWidthClass = (
  table: string,
  x: string,
  columns: string,
  condition: string,
  classes: number,
): string => `
  select i.* from (values ${CLASSES}) as w (class, width)
  cross join lateral (
    select ${columns} from ${table} i
    where i.tenant_id = $1 ${condition} and i.width_class = w.class
      and i.to_position >= ${x} and i.to_position < least(${x} + w.width, log.head + 1) and i.from_position < ${x}
    offset 0
  ) i
  where w.class < ${classes} and (w.class = 0 or w.width / 4 < log.head)`;

/**
 * SQL of the one acknowledgement of a device that may contain position `x`; it does if its `from_position` is below `x`.
 * Acknowledgements of a device do not overlap, so no other than the first that ends at or after `x` can contain it.
 */
export const ackOf = (user: string, device: string, x: string): string => `
  select a.at, a.from_position, a.by_resume, a.topics from acks a
  where a.tenant_id = $1 and a.user_id = ${user} and a.device_id = ${device} and a.to_position >= ${x}
  order by a.to_position limit 1`;

/**
 * SQL of the engagements of one kind of a user that may contain position `x`; one does if its `from_position` is below `x`.
 * There are two at most: that of the notification alone, and, since a watermark passes each position once, the first of the
 * others that ends at or after `x`.
 */
export const engagementsOf = (user: string, kind: string, x: string): string => `
  (select e.at, e.from_position, e.single from engagements e
  where e.tenant_id = $1 and e.user_id = ${user} and e.kind = ${kind} and e.single and e.to_position = ${x})
  union all
  (select e.at, e.from_position, e.single from engagements e
  where e.tenant_id = $1 and e.user_id = ${user} and e.kind = ${kind} and not e.single and e.to_position >= ${x}
  order by e.to_position limit 1)`;

/**
 * SQL of the engagements of one kind, of whomever, that contain position `x`: those of the notification alone, and those of
 * watermarks by width class. Apart, or those of all its neighbours within the narrowest class would be read.
 *
 * @param columns of `i`, the interval
 */
export const engagementsWith = (x: string, kind: string, columns: string): string => `(
  (select ${columns} from engagements i
  where i.tenant_id = $1 and i.kind = ${kind} and i.single and i.width_class = 0 and i.to_position = ${x})
  union all
  ${containing('engagements', x, columns, `and i.kind = ${kind} and not i.single`)})`;

/** SQL of whether a broadcast at `x` is in the inbox of a user: inboxes have those of before their beginning not. */
export const isInInbox = (user: string, x: string): string => `(
  select u.since < ${x} from inbox_users u where u.tenant_id = $1 and u.user_id = ${user})`;

/**
 * SQL of whether a connection had a topic; null if the connection was not recorded. A topic reaches the connections whose
 * token has it. This is a search by key, because of an `exists` the planner makes a hash of all connections of the tenant.
 */
const hadTopic = (connection: string, topic: string): string => `(
  select ${topic} = any(c.topics) from connections c where c.tenant_id = $1 and c.connection_id = ${connection})`;

const SENT_TO_USERS: Statement = {
  name: 'history_sent_to_users',
  text: `
select p.position, p.user_id as "user", i.device_id as device, count(*)::int as sends,
  min(i.at) as "firstSentAt", max(i.at) as "lastSentAt"
from ${LOG_HEAD}
cross join unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral ${containingOfUser('p.position', 'i.device_id, i.connection_id, i.at', 'p.user_id')} i
where $4::text is null or ${hadTopic('i.connection_id', '$4')}
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

const READ_BY_USERS: Statement = {
  name: 'history_read_by_users',
  text: `
select p.position, e.at, e.single
from unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral (${engagementsOf('p.user_id', `'read'`, 'p.position')}) e
where e.from_position < p.position`,
};

/* In the order of the key of devices, so that a page costs the same however many devices follow. */
const confirmedByDevices = (name: string, target: string): Statement => ({
  name,
  text: `
select d.user_id as "user", d.device_id as device, a.at
from (
  select user_id, device_id from devices
  where tenant_id = $1 and (user_id, device_id) > ($5, $6) ${target}
  order by user_id, device_id limit $4
) d
left join lateral (${ackOf('d.user_id', 'd.device_id', '$2')}) a
  on a.from_position < $2 and ($3::text is null or $3 = any(a.topics))
order by d.user_id, d.device_id`,
});

const CONFIRMED_BY_DEVICES = confirmedByDevices('history_devices', '');
const CONFIRMED_BY_DEVICES_OF_USER = confirmedByDevices('history_devices_of_user', 'and user_id = $7');

type Sent = Omit<Receipt, 'deliveredAt'>;
type MaybeConfirmed = Omit<Confirmation, 'at'> & { readonly at: Date | null };

interface DevicePage {
  readonly receipts: readonly Receipt[];
  /** The last device that was read; undefined: there are no more. */
  readonly reached: { readonly user: UserId; readonly device: DeviceId } | undefined;
}

/** The devices that a broadcast reached, and the users who read it, are counted up to this number. */
const COUNTED = 10_000;

/**
 * How many intervals of each kind are read to count the devices and users of one broadcast, those of the narrowest width first. The
 * estimate is enough for most broadcasts. Mostly one interval is one device, so `exact` shows whether there are more
 * devices than are counted. Only where a device has several connections, or many devices do not have the topic, the
 * limit may be reached before that; then `longest` is left, which may take a tenth of a second. A topic costs more, since
 * the connection of each interval is read too, so in a list it has a limit of its own.
 */
const COUNT_DEPTHS = {
  estimate: 100,
  topicInList: 600,
  exact: 1.25 * COUNTED,
  longest: 4 * COUNTED,
} as const;

export type CountDepth = keyof typeof COUNT_DEPTHS;

/** What one interval of what was sent costs. For a topic its connection is read too. */
const SEND_COSTS = { everyone: 1, topic: 3 } as const;
/** What one engagement costs: the inbox of its user is read too. */
const ENGAGEMENT_COST = 3;

/** How many rows `rows` has for each position. */
const perPosition = (rows: string): string =>
  `(select position, count(*)::int as n from ${rows} group by position)`;

/*
 * Several broadcasts have mostly the same connections, so each connection is read once (`had_topic`) and not once for each
 * interval, which would be most of the work. Comparisons stand in sub-selects that become hashes (`in` beside `or`),
 * whatever the planner believes about the number of rows.
 */
const COUNT: Statement = {
  name: 'history_counts',
  text: `
with asked as materialized (
  select * from unnest($2::bigint[], $3::text[], $4::timestamptz[], $5::boolean[]) as p (position, topic, expires_at, inbox)
), sends_read as materialized (
  select p.position, p.topic, i.* from ${LOG_HEAD} cross join asked p
  cross join lateral (
    select i.* from ${containing('sends', 'p.position', 'i.user_id, i.device_id, i.connection_id')} i limit $6
  ) i
), had_topic as materialized (
  select s.connection_id, s.topic from (select distinct connection_id, topic from sends_read where topic is not null) s
  where ${hadTopic('s.connection_id', 's.topic')}
), sent as materialized (
  select distinct position, user_id, device_id from sends_read
  where topic is null or (connection_id, topic) in (select connection_id, topic from had_topic)
), acks_read as materialized (
  select p.position, p.topic, p.expires_at, i.* from ${LOG_HEAD} cross join asked p
  cross join lateral (
    select i.* from ${containing('acks', 'p.position', 'i.user_id, i.device_id, i.at, i.topics')} i limit $6
  ) i
), delivered as materialized (
  select distinct position, user_id, device_id from acks_read
  where (topic is null or topic = any(topics)) and (
    expires_at is null or at < expires_at
    or (position, user_id, device_id) in (select position, user_id, device_id from sent)
  )
), engagements_read as materialized (
  select p.position, p.topic, p.expires_at, i.* from ${LOG_HEAD} cross join asked p
  cross join lateral (
    select i.* from ${engagementsWith('p.position', `'read'`, 'i.user_id, i.single, i.at, i.topics')} i limit $6
  ) i
  where p.inbox
), read as materialized (
  select distinct position, user_id from engagements_read e
  where (topic is null or topic = any(topics)) and (
    single or ${isInInbox('e.user_id', 'e.position')} and (
      expires_at is null or at < expires_at
      or (position, user_id) in (select position, user_id from sent union all select position, user_id from delivered)
    )
  )
)
select position, coalesce(s.n, 0) as sent, coalesce(d.n, 0) as delivered, coalesce(u.n, 0) as read,
  coalesce(r.n, 0) as "sendsRead", coalesce(a.n, 0) as "acksRead", coalesce(e.n, 0) as "engagementsRead"
from asked
left join ${perPosition('sent')} s using (position)
left join ${perPosition('delivered')} d using (position)
left join ${perPosition('read')} u using (position)
left join ${perPosition('sends_read')} r using (position)
left join ${perPosition('acks_read')} a using (position)
left join ${perPosition('engagements_read')} e using (position)`,
};

interface CountRow {
  position: Position;
  /** Devices. */
  sent: number;
  delivered: number;
  /** Users. */
  read: number;
  /** Intervals. */
  sendsRead: number;
  acksRead: number;
  engagementsRead: number;
}

export interface BroadcastCounts {
  readonly counts: Counts;
  /** What it cost to count, in intervals. */
  readonly cost: number;
  /** A greater depth could find more devices or users, and fewer were found than are counted at most. */
  readonly isCutShort: boolean;
  /** A greater depth would not change whether it was sent or delivered to anybody, or read by anybody, at all. */
  readonly statusIsCertain: boolean;
}

/**
 * To which devices notifications were written, which devices confirmed them, and who read them. What users read is read
 * before acknowledgements, and these before what was sent: after the expiry the former count only if the latter had happened.
 */
@Injectable()
export class DeliveriesStore {
  constructor(private readonly pool: HistoryPool) {}

  /** What became of those notifications that are to single users, by position. */
  async ofUsers(tenantId: TenantId, entries: readonly LogEntry[]): Promise<Map<Position, Outcome>> {
    const toUsers = entries.flatMap((entry) => ('user' in entry.to ? [{ entry, user: entry.to.user }] : []));
    if (toUsers.length === 0) return new Map();
    const users = toUsers.map(({ user }) => user);
    const positions = toUsers.map(({ entry }) => entry.position);
    const values = [users, positions];
    const inInbox = toUsers.filter(({ entry }) => entry.inbox);
    const read = Map.groupBy(
      await this.pool.rows<{ position: Position } & Engaged>(tenantId, READ_BY_USERS, [
        inInbox.map(({ user }) => user),
        inInbox.map(({ entry }) => entry.position),
      ]),
      ({ position }) => position,
    );
    const confirmed = Map.groupBy(
      await this.pool.rows<{ position: Position } & Confirmation>(tenantId, CONFIRMED_BY_USERS, values),
      ({ position }) => position,
    );
    const sent = await this.#sent(tenantId, users, positions, null);
    return new Map(
      toUsers.map(({ entry }) => {
        const { position } = entry;
        const devices = receiptsOf(entry, sent.get(position) ?? [], confirmed.get(position) ?? []);
        return [position, { readAt: readAtOf(entry, read.get(position) ?? [], devices), devices }];
      }),
    );
  }

  /** The receipts of the next `limit` devices after `after` that may have the notification. */
  async devices(
    tenantId: TenantId,
    entry: LogEntry,
    after: readonly [user: string, device: string],
    limit: number,
  ): Promise<DevicePage> {
    const { to, position } = entry;
    const topic = 'topic' in to ? to.topic : null;
    const values = [position, topic, limit, ...after];
    const devices =
      'user' in to
        ? await this.pool.rows<MaybeConfirmed>(tenantId, CONFIRMED_BY_DEVICES_OF_USER, [...values, to.user])
        : await this.pool.rows<MaybeConfirmed>(tenantId, CONFIRMED_BY_DEVICES, values);
    const users = [...new Set(devices.map(({ user }) => user))];
    const sent = await this.#sent(tenantId, users, Array<Position>(users.length).fill(position), topic);
    // Other devices of the same users are on other pages.
    const onPage = new Set(devices.map(({ user, device }) => `${device} ${user}`));
    const ofPage = (sent.get(position) ?? []).filter(({ user, device }) => onPage.has(`${device} ${user}`));
    const confirmed = devices.flatMap(({ at, ...device }) => (at === null ? [] : [{ ...device, at }]));
    return {
      receipts: receiptsOf(entry, ofPage, confirmed),
      reached: devices.length < limit ? undefined : devices.at(-1),
    };
  }

  /** How many devices notifications to topics and to everyone reached, and how many users read them, by position. */
  async counts(
    tenantId: TenantId,
    entries: readonly LogEntry[],
    depth: CountDepth,
  ): Promise<Map<Position, BroadcastCounts>> {
    const limit = COUNT_DEPTHS[depth];
    const rows = await this.pool.rows<CountRow>(tenantId, COUNT, [
      entries.map(({ position }) => position),
      entries.map(({ to }) => ('topic' in to ? to.topic : null)),
      entries.map(({ expiresAt }) => expiresAt?.toISOString() ?? null),
      entries.map(({ inbox }) => inbox),
      limit,
    ]);
    const topics = new Set(entries.filter(({ to }) => 'topic' in to).map(({ position }) => position));
    const costOf = ({ position }: CountRow) =>
      topics.has(position) ? SEND_COSTS.topic : SEND_COSTS.everyone;
    return new Map(rows.map((row) => [row.position, countsOf(row, limit, costOf(row))]));
  }

  /**
   * What was sent of each position to the devices of the user beside it. With a `topic` only what was sent to connections
   * that had it.
   */
  async #sent(
    tenantId: TenantId,
    users: readonly UserId[],
    positions: readonly Position[],
    topic: Topic | null,
  ): Promise<Map<Position, Sent[]>> {
    const rows = await this.pool.rows<{ position: Position } & Sent>(tenantId, SENT_TO_USERS, [
      users,
      positions,
      topic,
    ]);
    const sent = new Map<Position, Sent[]>();
    for (const { position, ...row } of rows) {
      const known = sent.get(position);
      if (known === undefined) sent.set(position, [row]);
      else known.push(row);
    }
    return sent;
  }
}

function countsOf(
  { sent, delivered, read, sendsRead, acksRead, engagementsRead }: CountRow,
  limit: number,
  sendCost: number,
): BroadcastCounts {
  const kinds = [
    { found: sent, cut: sendsRead >= limit },
    { found: delivered, cut: acksRead >= limit },
    { found: read, cut: engagementsRead >= limit },
  ];
  // What came after the expiry counts for those to whom it was sent, of whom there may be more.
  const isUnread =
    read === 0 && engagementsRead < limit && (engagementsRead === 0 || Math.max(sendsRead, acksRead) < limit);
  return {
    counts: {
      sent: Math.min(sent, COUNTED),
      delivered: Math.min(delivered, COUNTED),
      read: Math.min(read, COUNTED),
      more: kinds.some(({ found, cut }) => cut || found > COUNTED),
    },
    cost: sendsRead * sendCost + acksRead + engagementsRead * ENGAGEMENT_COST,
    isCutShort: kinds.some(({ found, cut }) => cut && found <= COUNTED),
    statusIsCertain:
      read > 0 || (isUnread && (delivered > 0 || (acksRead < limit && (sent > 0 || sendsRead < limit)))),
  };
}
