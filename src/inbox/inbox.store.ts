import { Injectable } from '@nestjs/common';
import type { TenantId, Topic, UserId } from '../core/identifiers.ts';
import { recipientOf, type Recipient } from '../core/notification.ts';
import {
  asPosition,
  positionOfTime,
  POSITIONS_PER_MS,
  START,
  timeOfPosition,
  type Position,
} from '../core/position.ts';
import { Partitions } from '../log/partitions.ts';
import { beingErased } from '../postgres/erased.ts';
import { ClientPool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import { CLASS_WIDTHS, withinPartitions } from '../receipts/intervals.ts';
import { COUNTED, MOST_CHANGES, type ItemMark, type Snapshot } from './snapshot.ts';

/** Whose inbox it is. The topics of the token in hand say what is in it. */
export interface InboxReader {
  readonly user: UserId;
  readonly topics: readonly Topic[];
}

/** What a user says at once. Watermarks count before items. */
export interface Marking extends InboxReader {
  readonly seenUpTo: Position | undefined;
  readonly readUpTo: Position | undefined;
  readonly archivedUpTo: Position | undefined;
  readonly items: readonly ItemMark[];
  /** Of the inbox that the user looked at: what was said of single notifications since then stays. Undefined: nothing does. */
  readonly revision: Position | undefined;
}

const WATERMARKS = ['seenUpTo', 'readUpTo', 'archivedUpTo'] as const;

/** Nothing has been published at these yet, and nothing was stored. */
export interface Ahead {
  readonly ahead: readonly (typeof WATERMARKS)[number][];
}

export interface Stored {
  /** It said something new. */
  readonly changed: boolean;
  /** Ids that are not in this inbox. */
  readonly unknown: readonly string[];
}

/** `being_erased`: the data of the user is being erased. */
export type Marked = Ahead | 'being_erased' | Stored;

/**
 * What is asked of inboxes is mostly about the last days, and a statement takes its time for every partition that it may
 * read, whether anything of it is read or not: the price would grow with the retention. So each begins from a position so far
 * back, and says whether that was enough.
 */
const RECENT = 3 * 86_400_000 * POSITIONS_PER_MS;
/** A head of a log may be so far ahead of this node's clock before a statement has to be told. */
const AHEAD = 3_600_000 * POSITIONS_PER_MS;

/** Rows of a user's own that are looked at for a count, and as many marks. */
const LOOKS = 10_000;
/** Rows of each topic, and of everyone's, that are looked at. They are read once for all who ask. */
const SHARED_LOOKS = 2 * COUNTED;

/** What is told of single notifications is kept for so long, in positions. */
const CHANGES_KEPT = 10_000 * POSITIONS_PER_MS;

/** A condition of statements: an inbox shows the notification `t`. `at`: SQL of a timestamptz. */
const isShown = (at: string): string => `t.inbox and (t.expires_at is null or t.expires_at > ${at})`;

/** And it is in that of `r`, who has `since` and `topics`. */
const isIn = (r: string, at: string): string => `${isShown(at)}
      and (t.user_id = ${r}.user_id
        or (t.user_id is null and t.position > ${r}.since and (t.topic is null or t.topic = any(${r}.topics))))`;

/** Above which position everything is that matters to an inbox `u` from `from` on, with the marks below it. */
const startOf = (from: string): string =>
  `least(${from}, case when u.back_to > log.floor then greatest(u.back_from - 1, log.floor) end)`;

/** Moves of one watermark do not overlap: no other than the first that ends at or behind `m` can cover it. */
const coveringEngagement = (kind: 'read' | 'archived', condition: string): string => `
    select e.from_position, e.at from engagements e
    where ${condition} and e.tenant_id = $1 and e.user_id = $2 and e.kind = '${kind}' and not e.single and e.to_position > $8 and e.to_position >= m.position
    order by e.to_position limit 1`;

/*
 * The inbox of a user begins when it is first asked for, and what was before counts as read and seen: what was confirmed on
 * some device, and all that was there before inboxes were. What is for topics or everyone begins there, too; for those who
 * have confirmed nothing with the head, or with the head of their stream when it was opened.
 */
const BEGIN: Statement = {
  name: 'begin_inboxes',
  text: `
with asked as materialized (
  select a.user_id collate "C" as user_id, min(a.head) as head
  from json_to_recordset($2) as a (user_id text, head bigint)
  where not ${beingErased('a.user_id')}
  group by 1
), log as materialized (
  select coalesce(max(head), 0) as head, coalesce(max(inbox_beginning), 0) as beginning from tenant_logs where tenant_id = $1
), begun as materialized (
  select a.user_id, coalesce(acked.up_to, least(a.head, log.head)) as since,
    greatest(acked.up_to, log.beginning) as up_to, position_at(clock_timestamp()) as revision
  from asked a cross join log
  left join lateral (
    select max(newest.to_position) as up_to from devices d
    cross join lateral (
      select to_position from acks
      where tenant_id = $1 and user_id = d.user_id and device_id = d.device_id
      order by to_position desc limit 1
    ) newest
    where d.tenant_id = $1 and d.user_id = a.user_id
  ) acked on true
)
insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
select $1, user_id, since, up_to, up_to, revision, revision from begun order by user_id
on conflict do nothing`,
};

/*
 * Marks are a transaction of two statements. The first takes the rows of the users, in the order of their key, and waits for
 * whoever has them; only the next one sees what those left. As one statement it would count with what it had seen before it
 * waited.
 */
const LOCK: Statement = {
  name: 'lock_inboxes',
  text: `
with asked as materialized (
  select distinct a.user_id collate "C" as user_id from unnest($2::text[]) as a (user_id)
)
select a.user_id as "user", ${beingErased('a.user_id')} as held,
  coalesce((select head from tenant_logs where tenant_id = $1), 0) as head
from (select user_id from asked order by user_id) a
cross join lateral (
  select from inbox_users u where u.tenant_id = $1 and u.user_id = a.user_id for update
) locked`,
};

/*
 * What users say, each of another one. Watermarks come first: they move up only, and overrule what was said of single
 * notifications at or below them, on their own axis, until the revision that the caller knew. Then items: what is said anew
 * is stored, what is so already changes nothing.
 *
 * - A mark that a watermark overrules is kept with its new value, since it says something of the other axis, too.
 * - 'reload': a watermark met marks that contradict it, so that it does not say by itself how single notifications are now.
 * - Marks and users are looked for one by one ('offset 0', 'any'): the planner does not know how few there are in a call, and
 *   would read those of the whole tenant.
 * - Intervals end where a partition does (src/receipts/intervals.ts); 'seen_end' and the like are where.
 */
const MARK: Statement = {
  name: 'mark_inboxes',
  text: `
with asked as materialized (
  select a.n, a.user_id collate "C" as user_id, a.topics, a.seen, a.read, a.archived, a.known, a.items,
    a.seen_end, a.read_end, a.archived_end
  from json_to_recordset($2) as a (n int, user_id text, topics text[], seen bigint, read bigint, archived bigint, known bigint,
    items json, seen_end bigint, read_end bigint, archived_end bigint)
), log as materialized (
  select coalesce(max(floor), 0) as floor, coalesce(max(beginning), 0) as beginning, coalesce(max(inbox_revision), 0) as revision,
    clock_timestamp() as at
  from tenant_logs where tenant_id = $1
), before as materialized (
  select a.*, u.since, u.seen_up_to, u.read_up_to, u.archived_up_to, u.revision, u.changes, u.changes_since,
    greatest(u.seen_up_to, a.seen) as seen_now, greatest(u.read_up_to, a.read) as read_now,
    greatest(u.archived_up_to, a.archived) as archived_now,
    greatest(u.revision + 1, log.revision + 1, position_at(clock_timestamp())) as next
  from asked a cross join log
  cross join lateral (select * from inbox_users u where u.tenant_id = $1 and u.user_id = a.user_id offset 0) u
), covered as materialized (
  select b.n, m.position,
    coalesce(m.position <= b.read and not m.read and m.read_revision <= b.known, false) as reads,
    coalesce(m.position <= b.archived and not m.archived and m.archived_revision <= b.known, false) as archives
  from before b
  cross join lateral (
    select * from inbox_marks m
    where m.tenant_id = $1 and m.user_id = b.user_id and (not m.read or not m.archived) and m.position <= greatest(b.read, b.archived)
    offset 0
  ) m
  where (m.position <= b.read and not m.read) or (m.position <= b.archived and not m.archived)
), item as materialized (
  select b.n, i.id, i.read, i.archived, found.position
  from before b cross join log
  cross join lateral json_to_recordset(b.items) as i (id uuid, read boolean, archived boolean)
  left join lateral (
    select t.position from notifications t
    where t.tenant_id = $1 and t.id = i.id and t.position > log.floor and ${isIn('b', 'log.at')}
    offset 0
  ) found on true
), said as materialized (
  select i.n, i.position, i.id,
    case when i.read is distinct from state.read and not (i.read and state.read is null and i.position <= b.read_now) then i.read end as read,
    case when i.archived is distinct from state.archived and not (i.archived and state.archived is null and i.position <= b.archived_now) then i.archived end as archived
  from item i join before b on b.n = i.n
  left join lateral (
    select * from inbox_marks m where m.tenant_id = $1 and m.user_id = b.user_id and m.position = i.position offset 0
  ) m on true
  left join covered c on c.n = i.n and c.position = i.position
  cross join lateral (
    select case when c.reads then true else m.read end as read, case when c.archives then true else m.archived end as archived
  ) state
  where i.position is not null
), mark as materialized (
  select n, position, s.id, coalesce(s.read, case when c.reads then true end) as read,
    coalesce(s.archived, case when c.archives then true end) as archived
  from (select * from said where read is not null or archived is not null) s
  full join (select * from covered where reads or archives) c using (n, position)
), outcome as materialized (
  select b.*, coalesce(m.said, '[]') as said,
    (b.seen_now, b.read_now, b.archived_now) <> (b.seen_up_to, b.read_up_to, b.archived_up_to) or m.n is not null as is_changed,
    exists (select from covered c where c.n = b.n) as reload
  from before b
  left join (
    select n, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', id, 'read', read, 'archived', archived))) filter (where id is not null) as said
    from mark group by n
  ) m on m.n = b.n
), marked as (
  insert into inbox_marks as old (tenant_id, user_id, position, read, read_revision, archived, archived_revision)
  select $1, b.user_id, m.position, m.read, case when m.read is not null then b.next end,
    m.archived, case when m.archived is not null then b.next end
  from mark m join before b on b.n = m.n order by b.user_id, m.position
  on conflict (tenant_id, user_id, position) do update
  set read = coalesce(excluded.read, old.read), read_revision = coalesce(excluded.read_revision, old.read_revision),
    archived = coalesce(excluded.archived, old.archived),
    archived_revision = coalesce(excluded.archived_revision, old.archived_revision)
), engaged as (
  insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class, at, topics)
  select $1, user_id, kind, single, first, last, width_bucket(last - first - 1, $3::bigint[]), (select at from log), topics
  from (
    select b.user_id, b.topics, moved.kind, false as single, greatest(moved.first, log.beginning) as first, moved.last
    from before b cross join log
    cross join lateral (values
      ('seen', b.seen_up_to, case when b.seen_now > b.seen_up_to then b.seen_end end),
      ('read', b.read_up_to, case when b.read_now > b.read_up_to then b.read_end end),
      ('archived', b.archived_up_to, case when b.archived_now > b.archived_up_to then b.archived_end end)
    ) as moved (kind, first, last)
    where moved.last > log.floor
    union all
    select b.user_id, b.topics, single.kind, true, m.position - 1, m.position
    from mark m join before b on b.n = m.n
    cross join lateral (values ('read', m.read), ('archived', m.archived)) as single (kind, value)
    where single.value
  ) e
  where first < last
  order by user_id, kind, single, last
  on conflict do nothing
), moved as (
  update inbox_users u set seen_up_to = o.seen_now, read_up_to = o.read_now, archived_up_to = o.archived_now, revision = o.next,
    back_from = case when u.back_to > log.floor then least(u.back_from, back.first) else back.first end,
    back_to = greatest(u.back_to, back.last),
    changes = case when o.reload then '[]' else kept.changes end,
    changes_since = case when o.reload then o.next else greatest(o.changes_since, kept.dropped) end
  from log cross join outcome o
  cross join lateral (
    select min(m.position) as first, max(m.position) as last from mark m where m.n = o.n and (not m.read or not m.archived)
  ) back
  cross join lateral (
    select coalesce(jsonb_agg(c.change order by c.ordinal) filter (where c.kept), '[]') as changes,
      max((c.change ->> 'revision')::bigint) filter (where not c.kept) as dropped
    from (
      select change, ordinal, (change ->> 'revision')::bigint > o.next - ${CHANGES_KEPT}
          and row_number() over (order by ordinal desc) <= ${MOST_CHANGES} as kept
      from jsonb_array_elements(o.changes || (
        select coalesce(jsonb_agg(s || jsonb_build_object('revision', o.next)), '[]') from jsonb_array_elements(o.said) s
      )) with ordinality as c (change, ordinal)
    ) c
  ) kept
  where u.tenant_id = $1 and u.user_id = any(array(select user_id from outcome where is_changed)) and u.user_id = o.user_id
)
select o.n, o.is_changed as changed, array(select i.id from item i where i.n = o.n and i.position is null) as unknown
from outcome o order by o.n`,
};

/*
 * Counts the inboxes of many users of a tenant at once: thousands come back in the same second.
 *
 * - Only what is above both watermarks is counted row by row. 'unread_from' and 'unseen_from' are where these begin; since what
 *   is read is seen, the second is never below the first.
 * - What is for topics and everyone is read once, as one array for each address; how many of them are above somebody's
 *   watermark is a binary search. 'soonest' is when the first of those from here on expires.
 * - Marks correct that: each adds what it is, less what it was counted as. Those below the watermarks are found by the index
 *   of the few that contradict one. Whether one above is of what was counted for the user is a binary search, too: to look
 *   for each in the log took 190 ms for 10,000 of them.
 * - Only what is between $3 and $6 is read, and only those are counted of whom nothing else matters. 'start' says from where
 *   the others want it. Partitions beyond are left out before the statement begins, which takes most of its time.
 * - How many rows are looked at comes as $4 and $5: by a number that it knows the planner would rather sort all there are.
 * - In the order "topic desc, position desc" the index of topics gives what is for everyone from its newest end: 'topic is
 *   null' alone says nothing about the order to the planner.
 */
const SNAPSHOT: Statement = {
  name: 'inbox_snapshots',
  text: `
with asked as materialized (
  select a.n, a.user_id collate "C" as user_id, a.topics from json_to_recordset($2) as a (n int, user_id text, topics text[])
), log as materialized (
  select coalesce(max(head), 0) as head, coalesce(max(floor), 0) as floor, coalesce(max(inbox_revision), 0) as revision, now() as at
  from tenant_logs where tenant_id = $1
), known as materialized (
  select a.n, a.topics, u.*, ${startOf('w.unread_from')} as start, w.unread_from,
    greatest(u.seen_up_to, u.archived_up_to, log.floor) as unseen_from
  from asked a cross join log
  cross join lateral (select * from inbox_users u where u.tenant_id = $1 and u.user_id = a.user_id offset 0) u
  cross join lateral (select greatest(u.read_up_to, u.archived_up_to, log.floor) as unread_from) w
), reader as materialized (
  select k.* from known k cross join log where k.start >= $3 and log.head < $6
), own as materialized (
  select r.*, o.unread, o.unseen, o.expiry, o.cut, o.positions
  from reader r cross join log
  cross join lateral (
    select count(*) filter (where t.counts) as unread, count(*) filter (where t.counts and t.position > r.unseen_from) as unseen,
      min(t.expires_at) filter (where t.counts) as expiry, count(*) > ${LOOKS} as cut,
      coalesce(array_agg(t.position order by t.position) filter (where t.counts), '{}') as positions
    from (
      select t.position, t.expires_at, ${isShown('log.at')} as counts
      from notifications t
      where t.tenant_id = $1 and t.position > $3 and t.position < $6 and t.user_id = r.user_id and t.position > r.unread_from and t.position <= log.head
      order by t.position desc limit $4
    ) t
  ) o
), address as materialized (
  select coalesce(a.topic, '') as key, a.topic, min(greatest(a.unread_from, a.since)) as lowest
  from (
    select t.topic collate "C" as topic, r.unread_from, r.since from reader r cross join lateral unnest(r.topics) as t (topic)
    union all
    select null, unread_from, since from reader
  ) a
  group by a.topic
), shared as materialized (
  select a.key, coalesce(array_agg(t.position order by t.position) filter (where t.counts), '{}') as positions,
    array_agg(t.soonest order by t.position) filter (where t.counts) as soonest,
    case when count(*) > ${SHARED_LOOKS} then min(t.position) else 0 end as looked_from
  from address a cross join log
  cross join lateral (
    select t.position, t.counts, min(t.expires_at) filter (where t.counts) over (order by t.position desc) as soonest
    from (
      select t.position, t.expires_at, ${isShown('log.at')} as counts
      from (
        (select t.position, t.expires_at, t.inbox from notifications t
        where t.tenant_id = $1 and t.position > $3 and t.position < $6 and t.user_id is null and t.topic = a.topic and t.position > a.lowest and t.position <= log.head
        order by t.position desc limit $5)
        union all
        (select t.position, t.expires_at, t.inbox from notifications t
        where a.topic is null and t.tenant_id = $1 and t.position > $3 and t.position < $6 and t.user_id is null and t.topic is null
          and t.position > a.lowest and t.position <= log.head
        order by t.topic desc, t.position desc limit $5)
      ) t
    ) t
  ) t
  group by a.key
), of_all as materialized (
  select r.n, sum(cardinality(s.positions) - width_bucket(greatest(r.unread_from, r.since), s.positions)) as unread,
    sum(cardinality(s.positions) - width_bucket(greatest(r.unseen_from, r.since), s.positions)) as unseen,
    min(s.soonest[width_bucket(greatest(r.unread_from, r.since), s.positions) + 1]) as expiry,
    bool_or(greatest(r.unread_from, r.since) < s.looked_from) as cut
  from reader r
  cross join lateral (select t.topic as key from unnest(r.topics) as t (topic) union all select '') a
  join shared s on s.key = a.key
  group by r.n
), said as materialized (
  select r.n, r.user_id, r.topics, r.since, m.position, m.position <= r.unread_from as below, s.unread or s.unseen as is_new,
    s.unread::int - (m.position > r.unread_from)::int as unread, s.unseen::int - (m.position > r.unseen_from)::int as unseen,
    coalesce(r.positions[width_bucket(m.position, r.positions)] = m.position, false) as own
  from own r cross join log
  cross join lateral (
    (select m.position, m.read, m.archived from inbox_marks m
    where m.tenant_id = $1 and m.position > $3 and m.position < $6 and m.user_id = r.user_id and m.position > r.unread_from and m.position <= log.head
    order by m.position desc limit $4)
    union all
    (select m.position, m.read, m.archived from inbox_marks m
    where m.tenant_id = $1 and m.position > $3 and m.position < $6 and m.user_id = r.user_id and (not m.read or not m.archived)
      and m.position <= r.unread_from and m.position > log.floor
    order by m.position desc limit $4)
  ) m
  cross join lateral (
    select not k.archived and not coalesce(m.read, m.position <= r.read_up_to) as unread,
      not k.archived and m.read is null and m.position > r.seen_up_to as unseen
    from (select coalesce(m.archived, m.position <= r.archived_up_to) as archived) k
  ) s
), marked as materialized (
  select s.n, sum(s.unread) filter (where s.is_in) as unread, sum(s.unseen) filter (where s.is_in) as unseen,
    min(s.expires_at) filter (where s.is_new) as expiry, count(*) > ${LOOKS} as cut
  from (
    select s.n, s.unread, s.unseen, s.is_new, true as is_in, null::timestamptz as expires_at from said s where s.own
    union all
    select s.n, s.unread, s.unseen, s.is_new, t.position is not null, t.expires_at
    from said s cross join log
    left join lateral (
      select t.position, t.expires_at from notifications t
      where t.tenant_id = $1 and t.position > $3 and t.position < $6 and t.position = s.position and ${isIn('s', 'log.at')} and (t.user_id is null or s.below)
      offset 0
    ) t on true
    where not s.own
  ) s
  group by s.n
)
select k.n, k.start, c.unread, c.unseen, c.exact, r.seen_up_to as "seenUpTo", r.read_up_to as "readUpTo",
  r.archived_up_to as "archivedUpTo", log.head as position, greatest(r.revision, log.revision) as revision, (extract(epoch from log.at) * 1000)::float8 as at,
  (extract(epoch from least(r.expiry, of_all.expiry, marked.expiry)) * 1000)::float8 as "nextExpiry",
  coalesce(of_all.expiry <= least(r.expiry, marked.expiry, of_all.expiry), false) as "nextExpiryIsShared",
  r.changes, greatest(r.changes_since, log.revision) as "changesSince", log.floor
from known k cross join log
left join own r on r.n = k.n
left join of_all on of_all.n = r.n
left join marked on marked.n = r.n
cross join lateral (
  select greatest(0, r.unread + coalesce(of_all.unread, 0) + coalesce(marked.unread, 0)) as unread,
    greatest(0, r.unseen + coalesce(of_all.unseen, 0) + coalesce(marked.unseen, 0)) as unseen
) total
cross join lateral (
  select least(${COUNTED}, total.unread)::int as unread, least(${COUNTED}, total.unseen)::int as unseen,
    greatest(total.unread, total.unseen) <= ${COUNTED}
      and not (r.cut or coalesce(of_all.cut, false) or coalesce(marked.cut, false)) as exact
) c`,
};

/** What a list shows. */
export const FILTERS = ['all', 'unread', 'unseen', 'archived'] as const;
export type Filter = (typeof FILTERS)[number];

/** Rows of the log that are looked through for a page, at most. */
const LIST_LOOKS = 1_000;
/** And at first, for each item that was asked for. */
const LIST_FIRST_LOOKS = 3;
/** Bytes of `data` of one page. The first item is returned whatever its size. */
const LIST_BYTES = 2 * 1024 * 1024;

/** Of SQL: of `reader` what it lists by watermarks, then the marks that contradict these, and which of both it shows. */
interface Listed {
  readonly above?: string;
  readonly upTo?: string;
  readonly marks?: string;
  readonly shows: string;
  /** It shows some that were read, some that are archived; when that was is looked for. */
  readonly read?: true;
  readonly archived?: true;
}

const LISTED: Readonly<Record<Filter, Listed>> = {
  all: { shows: 'not s.archived', read: true },
  unread: {
    above: 'u.read_up_to, u.archived_up_to',
    marks: '(not m.read or not m.archived) and m.position > log.floor and m.position <= r.lowest',
    shows: 'not s.archived and not s.read',
  },
  unseen: {
    above: 'u.seen_up_to, u.archived_up_to',
    marks: '(not m.read or not m.archived) and m.position > log.floor and m.position <= r.lowest',
    shows: 'not s.archived and not s.seen',
  },
  archived: {
    upTo: 'u.archived_up_to',
    marks: 'm.archived and m.position > greatest(r.archived_up_to, log.floor) and m.position <= log.head',
    shows: 's.archived',
    read: true,
    archived: true,
  },
};

/*
 * One page of the list of one user, newest first. `candidate` is what may be on it: ranges of the indexes of the user, of
 * each topic and of everyone, bounded by the watermarks where the filter allows that, and the marks that contradict these.
 * Each is read from its newest end and no further than the page may look, so that together they are complete down to the
 * oldest of the newest `$6`.
 *
 * Only what is between $8 and $5 is read. Below 'start' there is nothing that the page could show.
 *
 * Each filter has a statement of its own, since every partition of every table that a statement may read takes its time, also
 * where nothing is read of it; and all of a candidate is read at once, because to look for each by its position is slower.
 *
 * When a watermark covered it, an engagement says; what was there before the inbox counts as read when it was published.
 */
const listOf = (filter: Filter): Statement => {
  const { above, upTo, marks, shows, read, archived } = LISTED[filter];
  const columns = `t.position, t.id, t.user_id, t.topic, t.type, t.data, t.size, t.expires_at`;
  const shown = `${columns}, ${isShown('log.at')} as shown`;
  const contradicting = `
    union all
    select m.position, t.id, t.user_id, t.topic, t.type, t.data, t.size, t.expires_at, t.position is not null from (
      select m.position from inbox_marks m
      where m.tenant_id = $1 and m.position > $8 and m.position < $5 and m.user_id = r.user_id and ${marks}
      order by m.position desc limit $6
    ) m
    left join lateral (
      select ${columns} from notifications t
      where t.tenant_id = $1 and t.position > $8 and t.position < $5 and t.position = m.position and ${isIn('r', 'log.at')}
      offset 0
    ) t on true`;
  const coveredAt = (kind: 'read' | 'archived') =>
    `left join lateral (${coveringEngagement(kind, `m.${kind} and m.${kind}_revision is null`)}) ${kind}_by on ${kind}_by.from_position < m.position`;
  return {
    name: `inbox_list_of_${filter}`,
    text: `
with log as materialized (
  select coalesce(max(head), 0) as head, coalesce(max(floor), 0) as floor, now() as at from tenant_logs where tenant_id = $1
), reader as materialized (
  select u.*, $3::text[] as topics, l.lowest, ${marks === undefined ? 'l.lowest' : startOf('l.lowest')} as start,
    least(${upTo ?? 'log.head'}, log.head, $5::bigint - 1) as highest
  from log cross join inbox_users u
  cross join lateral (select ${above === undefined ? 'log.floor' : `greatest(${above}, log.floor)`} as lowest) l
  where u.tenant_id = $1 and u.user_id = $2
), candidate as materialized (
  select c.* from log cross join reader r cross join lateral (
    (select ${shown} from notifications t
    where t.tenant_id = $1 and t.position > $8 and t.position < $5 and t.user_id = r.user_id and t.position > r.lowest and t.position <= r.highest
    order by t.position desc limit $6)
    union all
    (select s.* from unnest(r.topics) as a (topic) cross join lateral (
      select ${shown} from notifications t
      where t.tenant_id = $1 and t.position > $8 and t.position < $5 and t.user_id is null and t.topic = a.topic
        and t.position > greatest(r.lowest, r.since) and t.position <= r.highest
      order by t.position desc limit $6
    ) s)
    union all
    (select ${shown} from notifications t
    where t.tenant_id = $1 and t.position > $8 and t.position < $5 and t.user_id is null and t.topic is null
      and t.position > greatest(r.lowest, r.since) and t.position <= r.highest
    order by t.topic desc, t.position desc limit $6)${marks === undefined ? '' : contradicting}
  ) c
  order by c.position desc limit $6
), matching as materialized (
  select c.*, s.seen, s.read, s.archived, m.read_revision, m.archived_revision,
    sum(c.size) over (order by c.position desc) - c.size as bytes_before
  from reader r cross join candidate c
  left join inbox_marks m on m.tenant_id = $1 and m.position > $8 and m.position < $5 and m.user_id = r.user_id and m.position = c.position
  cross join lateral (
    select c.position <= r.seen_up_to or m.read is not null as seen,
      coalesce(m.read, c.position <= r.read_up_to) as read, coalesce(m.archived, c.position <= r.archived_up_to) as archived
  ) s
  where c.shown and ${shows} and ($4::text is null or starts_with(c.type, $4))
  order by c.position desc limit $7
), summary as materialized (
  select (select min(position) from candidate) as reached, (select count(*) from candidate)::int as looked,
    (select count(*) from matching)::int as matched, (select start from reader) as start
)
select s.start, s.reached, s.looked, s.matched, m.position, m.seen, m.id, m.user_id, m.topic, m.type, m.data, m.expires_at,
  case when m.read then coalesce(m.read_revision, 0) end as "readRevision", ${read ? 'read_by.at' : 'null::timestamptz'} as "readAt",
  case when m.archived then coalesce(m.archived_revision, 0) end as "archivedRevision",
  ${archived ? 'archived_by.at' : 'null::timestamptz'} as "archivedAt"
from summary s
left join matching m on m.bytes_before < ${LIST_BYTES}
${read ? coveredAt('read') : ''}
${archived ? coveredAt('archived') : ''}
order by m.position desc`,
  };
};

const LIST: Readonly<Record<Filter, Statement>> = {
  all: listOf('all'),
  unread: listOf('unread'),
  unseen: listOf('unseen'),
  archived: listOf('archived'),
};

interface ListRow extends Record<string, unknown> {
  readonly start: Position | null;
  readonly reached: Position | null;
  readonly looked: number;
  readonly matched: number;
  readonly position: Position | null;
  readonly seen: boolean;
  readonly id: string;
  readonly user_id: UserId | null;
  readonly topic: Topic | null;
  readonly type: string;
  readonly data: string;
  readonly expires_at: Date | null;
  readonly readRevision: Position | null;
  readonly readAt: Date | null;
  readonly archivedRevision: Position | null;
  readonly archivedAt: Date | null;
}

/** A notification as its user has it. */
export interface InboxItem {
  readonly id: string;
  readonly position: Position;
  readonly to: Recipient;
  readonly type: string;
  /** JSON text. */
  readonly data: string;
  readonly expiresAt: Date | null;
  readonly seen: boolean;
  /** Null: it is not. */
  readonly readAt: Date | null;
  readonly archivedAt: Date | null;
}

export interface InboxSelection {
  readonly filter: Filter;
  /** How types begin. */
  readonly type: string | undefined;
  /** Only what is below it. */
  readonly before: Position;
  readonly limit: number;
}

export interface InboxPage {
  readonly items: readonly InboxItem[];
  /** The next page is below this; undefined: there is none. */
  readonly next: Position | undefined;
}

interface SnapshotRow extends Snapshot, Record<string, unknown> {
  readonly n: number;
  readonly start: Position;
}

const REVISIONS: Statement = {
  name: 'inbox_revisions',
  text: `
select log.floor, u.user_id as "user", greatest(u.revision, log.revision) as revision
from (select coalesce(max(floor), 0) as floor, coalesce(max(inbox_revision), 0) as revision from tenant_logs where tenant_id = $1) log
left join inbox_users u on u.tenant_id = $1 and u.user_id = any($2::text[])`,
};

/** The SQL of what users have seen, read and archived, and of how much is left. */
@Injectable()
export class InboxStore {
  constructor(
    private readonly pool: ClientPool,
    private readonly partitions: Partitions,
  ) {}

  /**
   * The inboxes in numbers, in the order of `readers`; undefined: the user has none yet (see `begin`).
   * Whoever was told something after a commit has it in here when this was called after that.
   */
  async snapshots(tenantId: TenantId, readers: readonly InboxReader[]): Promise<(Snapshot | undefined)[]> {
    const found = new Map<number, Snapshot>();
    let asked = readers.map(({ user, topics }, n) => ({ n, user_id: user, topics }));
    const now = positionOfTime(Date.now());
    for (let range = { from: now - RECENT, to: now + AHEAD }; asked.length > 0;) {
      const { from, to } = range;
      const values = [JSON.stringify(asked), from, LOOKS + 1, SHARED_LOOKS + 1, to];
      const rows = await this.pool.rows<SnapshotRow>(tenantId, SNAPSHOT, values);
      const further = new Set<number>();
      for (const { n, start, ...snapshot } of rows) {
        if (start >= from && snapshot.position < to) found.set(n, snapshot);
        else further.add(n);
        range = { from: Math.min(range.from, start), to: Math.max(range.to, snapshot.position + AHEAD) };
      }
      asked = asked.filter(({ n }) => further.has(n));
    }
    return readers.map((_, n) => found.get(n));
  }

  /** Begins inboxes that there are not yet. `head`: of the log when the user's stream was opened. Those who are being erased get none. */
  async begin(
    tenantId: TenantId,
    users: readonly { readonly user: UserId; readonly head?: Position | undefined }[],
  ): Promise<void> {
    const asked = users.map(({ user, head }) => ({ user_id: user, head }));
    await this.pool.rows(tenantId, BEGIN, [JSON.stringify(asked)]);
  }

  /** The revisions of those of the users who have an inbox, and up to where nothing of the log is kept any more. */
  async revisions(
    tenantId: TenantId,
    users: readonly UserId[],
  ): Promise<{ readonly floor: Position; readonly revisions: ReadonlyMap<UserId, Position> }> {
    const rows = await this.pool.rows<{ floor: Position; user: UserId | null; revision: Position | null }>(
      tenantId,
      REVISIONS,
      [users],
    );
    return {
      floor: rows[0]?.floor ?? START,
      revisions: new Map(
        rows.flatMap(({ user, revision }) => (user === null || revision === null ? [] : [[user, revision]])),
      ),
    };
  }

  /** A page of the list of one user. It may be short, even empty, while `next` is set. */
  async list(tenantId: TenantId, reader: InboxReader, selection: InboxSelection): Promise<InboxPage> {
    // Most pages are found among the newest; only where much is left out it takes a look at more, or further back.
    let looks = Math.min(LIST_LOOKS, LIST_FIRST_LOOKS * selection.limit);
    let from = asPosition(Math.max(0, Math.min(selection.before, positionOfTime(Date.now())) - RECENT));
    for (;;) {
      const { page, isFull, start } = await this.#list(tenantId, reader, selection, looks, from);
      if (isFull || (start >= from && (page.next === undefined || looks === LIST_LOOKS))) return page;
      if (page.next !== undefined) looks = LIST_LOOKS;
      if (start < from) from = start;
    }
  }

  /**
   * @param from only what is above it
   * @returns `isFull`: nothing more can be on the page; `start`: what could be is above
   */
  async #list(
    tenantId: TenantId,
    reader: InboxReader,
    { filter, type, before, limit }: InboxSelection,
    looks: number,
    from: Position,
  ): Promise<{ page: InboxPage; isFull: boolean; start: Position }> {
    const rows = await this.pool.rows<ListRow>(tenantId, LIST[filter], [
      reader.user,
      reader.topics,
      type ?? null,
      before,
      looks,
      limit,
      from,
    ]);
    const items = rows.flatMap((row) => (row.position === null ? [] : [itemOf(row, row.position)]));
    const { reached = null, looked = 0, matched = 0, start = null } = rows[0] ?? {};
    // Cut by the limit, or by bytes: it goes on below the last item; else below what was looked through.
    const isFull = items.length === limit || items.length < matched;
    const next = isFull ? items.at(-1)?.position : looked < looks ? undefined : (reached ?? undefined);
    return { page: { items, next }, isFull, start: start ?? from };
  }

  /** Stores what users say, each in its turn. The results are in the order of `markings`, and on disk when this returns. */
  async mark(tenantId: TenantId, markings: readonly Marking[]): Promise<(Marked | 'no_inbox')[]> {
    // What no position covers cannot be stored, but stands for what is kept below it.
    const ends = markings.flatMap(({ seenUpTo, readUpTo, archivedUpTo }) => [
      laterOf(seenUpTo, readUpTo),
      readUpTo,
      archivedUpTo,
    ]);
    const named = ends.filter((end) => end !== undefined);
    return await withinPartitions(this.partitions, 'engagements', named, (stored) => {
      const left = stored.values();
      const storedEnds = ends.map((end) => (end === undefined ? undefined : left.next().value));
      return this.pool.transaction(tenantId, (run) => this.#mark(run, tenantId, markings, storedEnds));
    });
  }

  async #mark(
    run: RunOfTenant,
    tenantId: TenantId,
    markings: readonly Marking[],
    ends: readonly (Position | undefined)[],
  ): Promise<(Marked | 'no_inbox')[]> {
    const locked = new Map(
      (
        await run<{ user: UserId; held: boolean; head: Position }>(tenantId, LOCK, [
          markings.map(({ user }) => user),
        ])
      ).map((row) => [row.user, row]),
    );
    const results: (Marked | 'no_inbox')[] = markings.map(() => 'no_inbox');
    const waiting: { n: number; marking: Marking }[] = [];
    for (const [n, marking] of markings.entries()) {
      const inbox = locked.get(marking.user);
      if (inbox === undefined) continue;
      const ahead = WATERMARKS.filter((name) => (marking[name] ?? START) > inbox.head);
      if (inbox.held) results[n] = 'being_erased';
      else if (ahead.length > 0) results[n] = { ahead };
      else waiting.push({ n, marking });
    }
    // What one user says twice is said one after the other.
    while (waiting.length > 0) {
      const users = new Set<UserId>();
      const round = waiting.filter(({ marking: { user } }) => !users.has(user) && users.add(user));
      for (const each of round) waiting.splice(waiting.indexOf(each), 1);
      const asked = round.map(({ n, marking }) => ({
        n,
        user_id: marking.user,
        topics: marking.topics,
        seen: laterOf(marking.seenUpTo, marking.readUpTo),
        read: marking.readUpTo,
        archived: marking.archivedUpTo,
        known: marking.revision ?? Number.MAX_SAFE_INTEGER,
        items: marking.items,
        seen_end: ends[3 * n],
        read_end: ends[3 * n + 1],
        archived_end: ends[3 * n + 2],
      }));
      const rows = await run<{ n: number; changed: boolean; unknown: string[] }>(tenantId, MARK, [
        JSON.stringify(asked),
        CLASS_WIDTHS,
      ]);
      for (const { n, changed, unknown } of rows) results[n] = { changed, unknown };
    }
    return results;
  }
}

function itemOf(row: ListRow, position: Position): InboxItem {
  const { id, type, data, expires_at: expiresAt, seen } = row;
  const timeOf = (revision: Position | null, at: Date | null): Date | null =>
    revision === null ? null : (at ?? new Date(timeOfPosition(revision === 0 ? position : revision)));
  return {
    id,
    position,
    to: recipientOf(row),
    type,
    data,
    expiresAt,
    seen,
    readAt: timeOf(row.readRevision, row.readAt),
    archivedAt: timeOf(row.archivedRevision, row.archivedAt),
  };
}

const laterOf = (one: Position | undefined, other: Position | undefined): Position | undefined =>
  one === undefined || (other !== undefined && other > one) ? other : one;
