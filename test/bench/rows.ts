import pg from 'pg';
import { CLASS_WIDTHS } from '../../src/receipts/intervals.ts';
import {
  PARTITIONED,
  partitionName,
  type Range,
  rangeAfter,
  rangeCovering,
  sqlTimeOf,
} from '../../src/log/partitions.ts';
import { asPosition, positionOfTime, POSITIONS_PER_MS, type Position } from '../../src/core/position.ts';

/*
 * A log that was written over weeks, and what receipts know of it, by statements over sets: published one by one, ten
 * million notifications would take an hour. Everything but ids follows from the number of a row, so that two logs differ in
 * their size alone: a device that comes back misses the same number of notifications in each.
 */

/** Less than what is kept, so that retention leaves it alone. */
const KEPT_MS = 28 * 86_400_000;
/** The default of PARTITION_HOURS. */
const PARTITION_HOURS = 24;
const ROWS_AT_ONCE = 500_000;
const USERS_AT_ONCE = 20_000;
const BYTES = 120;
/** How often each device was there in these weeks. */
const VISITS = 10;

/** Two crowds of this many users, each of whom has so many notifications of their own. */
export const COMERS = 100;
export const MISSED = 20;
/** What has gone to everyone, and as much to the topic `rare`, in a log of any size. */
const SHARED = 20;
/** What the users `far-0`, `far-1`, ... have not got yet, who have been away for as long as anything is kept. */
export const MISSED_OF_ALL = MISSED + 2 * SHARED;

/** A log of one tenant: row n of `rows`, from 1, is at floor + n × stride. */
export interface Log {
  readonly tenant: string;
  readonly rows: number;
  readonly floor: Position;
  readonly stride: number;
  readonly head: Position;
  /** The users `late-0`, `late-1`, ... have got everything up to here. */
  readonly beforeLate: Position;
  /** There are `user-0`, `user-1`, ... The first of a hundred have a quarter of what goes to users. */
  readonly users: number;
  /** There are `topic-0`, `topic-1`, ... of about twenty notifications each, and `news`, which has as many as all of them. */
  readonly topics: number;
}

/** @param rows a multiple of 2,000 from 10,000 on */
export function logOf(rows: number): Log {
  const stride = Math.floor((KEPT_MS * POSITIONS_PER_MS) / rows);
  const head = positionOfTime(Date.now());
  return {
    tenant: `log-${rows}`,
    rows,
    floor: asPosition(head - rows * stride),
    stride,
    head,
    beforeLate: asPosition(head - COMERS * MISSED * stride),
    users: rows / 100,
    topics: rows / 2_000,
  };
}

/*
 * The last rows are those that `late-…` missed; before them every `step`th is one that `far-…` missed, and what lies at
 * multiples of a hundred steps and right behind goes to everyone and to `rare`. Of the others one in a hundred goes to `news`,
 * one to another topic, a quarter to the few users who get the most, and the rest to all users by chance.
 */
const NOTIFICATIONS = `
insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at)
select $1, position, uuidv7(),
  case
    when late then 'late-' || n % ${COMERS}
    when n % step = 1 then 'far-' || n / step % ${COMERS}
    when n % (step * 100) in (0, step) or n % 100 in (50, 51) then null
    when n % 4 = 0 then 'user-' || n / 4 % greatest($6 / 100, 1)
    else 'user-' || (hashint8(n) & 2147483647) % $6
  end,
  case
    when late or n % step = 1 or n % (step * 100) = 0 then null
    when n % (step * 100) = step then 'rare'
    when n % 100 = 50 then 'news'
    when n % 100 = 51 then 'topic-' || n / 100 % $7
  end,
  case
    when n % (step * 20) = 7 then 'incident.opened'
    else (array['order.shipped', 'order.paid', 'message.received', 'task.assigned', 'report.ready'])[1 + (hashint8(n) & 1023) % 5]
  end,
  '{"text":"' || rpad(n::text, ${BYTES - 11}, 'x') || '"}', ${BYTES}, 'bench',
  case when n % 10 = 3 and not late and n % step > 1 then ${sqlTimeOf('position')} + interval '1 hour' end
from (
  select n, $2::bigint + n * $3::bigint as position, n > $8 - ${COMERS * MISSED} as late,
    ($8 - ${COMERS * MISSED}) / ${COMERS * MISSED} as step, $6::bigint, $7::bigint
  from (select $8::bigint as rows) l, generate_series($4::bigint, $5::bigint) n
) row`;

/*
 * Three of four users have a phone, one of eight a laptop too. Each device was there ten times, and each time was sent what it
 * had missed: two of three confirmed it. So there is one interval for about ten notifications of a user. Devices that are
 * always there have one for each, but what covers a notification is no more rows for that.
 */
const VISITS_OF_USERS = `
with device as (
  select u, d.* from generate_series($4::bigint, $5::bigint) u
  cross join lateral (
    select 'phone' as device_id, 1 as ordinal where u % 4 <> 3 union all select 'laptop', 2 where u % 8 = 0
  ) d
), visit as materialized (
  select 'user-' || u as user_id, device_id, ordinal, u % 3 <> 0 as confirms, array['news', 'topic-' || u % $6::bigint] as topics,
    gen_random_uuid() as connection_id, nth, place.upto,
    case when nth = 1 then $2::bigint else place.upto - $3::bigint end as after
  from device
  cross join generate_series(1, ${VISITS}) nth
  cross join lateral (
    select $2::bigint + (nth - 1) * $3::bigint + (hashtext(device_id || u) & 1023) * $3::bigint / 1024 + 1 as upto
  ) place
), known as (
  insert into devices (tenant_id, user_id, device_id, cursor, topics, last_seen_at, ordinal)
  select $1, user_id, device_id, case when confirms then upto else $2::bigint end, topics, ${sqlTimeOf('upto')}, ordinal
  from visit where nth = ${VISITS}
), connected as (
  insert into connections (tenant_id, connection_id, user_id, device_id, node, topics, since, until, position, reason)
  select $1, connection_id, user_id, device_id, 'bench', topics, ${sqlTimeOf('upto')}, ${sqlTimeOf('upto')} + interval '10 minutes', upto, 'client'
  from visit
), sent as (
  insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
  select $1, user_id, device_id, connection_id, after, upto, width_bucket(upto - after - 1, $7::bigint[]), ${sqlTimeOf('upto')}, true
  from visit
)
insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, at, by_resume, topics)
select $1, user_id, device_id, after, upto, width_bucket(upto - after - 1, $7::bigint[]), ${sqlTimeOf('upto')}, false, topics
from visit where confirms`;

const COMERS_DEVICES = `
insert into devices (tenant_id, user_id, device_id, cursor, topics, ordinal)
select $1, c.name || '-' || n, 'phone', c.cursor, array['rare'], 1
from (values ('late', $2::bigint), ('far', $3::bigint)) c (name, cursor), generate_series(0, ${COMERS - 1}) n`;

/**
 * Writes the log and its receipts, by the login of the superuser. As after weeks of running, the tables have been vacuumed and
 * are on disk: otherwise both would be done while something is measured.
 */
export async function fill(databaseUrl: string, log: Log, report: (line: string) => void): Promise<void> {
  const { tenant, rows, floor, stride, head, users, topics } = log;
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await makePartitions(client, floor, head);
    await client.query(
      `insert into tenant_logs (tenant_id, head, floor, appended_bytes) values ($1, $2, $3, $4::bigint)`,
      [tenant, head, floor, rows * BYTES],
    );
    await inSteps(1, rows, ROWS_AT_ONCE, async (from, to) => {
      await client.query(NOTIFICATIONS, [tenant, floor, stride, from, to, users, topics, rows]);
      report(`${to} of ${rows} rows in the log`);
    });
    const width = Math.floor((head - floor) / VISITS);
    await inSteps(0, users - 1, USERS_AT_ONCE, async (from, to) => {
      await client.query(VISITS_OF_USERS, [tenant, floor, width, from, to, topics, CLASS_WIDTHS]);
      report(`the receipts of ${to + 1} of ${users} users`);
    });
    await client.query(COMERS_DEVICES, [tenant, log.beforeLate, floor]);
    await client.query(`vacuum (analyze) notifications, sends, acks, connections, devices, tenant_logs`);
    await client.query('checkpoint');
    report('vacuumed and on disk');
  } finally {
    await client.end();
  }
}

export async function makePartitions(client: pg.Client, first: Position, last: Position): Promise<void> {
  for (
    let range: Range = rangeCovering(first, PARTITION_HOURS);
    range.from <= last;
    range = rangeAfter(range)
  )
    for (const table of PARTITIONED)
      await client.query(`select create_partition($1, $2, $3, $4) where to_regclass($2) is null`, [
        table,
        partitionName(table, range),
        range.from,
        range.end,
      ]);
}

async function inSteps(
  first: number,
  last: number,
  atOnce: number,
  step: (from: number, to: number) => Promise<void>,
): Promise<void> {
  for (let from = first; from <= last; from += atOnce) await step(from, Math.min(last, from + atOnce - 1));
}
