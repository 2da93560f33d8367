import pg from 'pg';
import { sqlTimeOf } from '../../src/log/partitions.ts';
import { type Log, logOf, makePartitions } from './rows.ts';

/*
 * A million notifications of one tenant, written over weeks, and what users have said of them. Beside ten thousand users
 * who are much the same there are a few with a great deal of one thing.
 */

const ROWS = 1_000_000;
const USERS = 10_000;
/** `user-0`, `user-1`, ... have read all but what came in the last tenth of the time. */
const UNREAD = 0.1;
/** Has this many notifications of their own, none of them read. */
const RICH = 100_000;
/** Has this many, each of them read by itself. */
const MARKED = 10_000;
const ROWS_AT_ONCE = 250_000;

export const inboxLog = (): Log => ({ ...logOf(ROWS), tenant: 'inboxes', users: USERS });

/* 3,000 are for everyone, one in a hundred for a topic of a few, and the rest for single users. */
const NOTIFICATIONS = `
insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at)
select $1, position, uuidv7(),
  case
    when n % 333 = 0 or n % 100 = 50 then null
    when n % ${ROWS / RICH} = 1 then 'rich'
    when n % ${ROWS / MARKED} = 2 then 'marked'
    else 'user-' || (hashint8(n) & 2147483647) % ${USERS}
  end,
  case when n % 333 <> 0 and n % 100 = 50 then 'topic-' || n / 100 % 50 end,
  (array['order.shipped', 'order.paid', 'message.received', 'task.assigned', 'report.ready'])[1 + (hashint8(n) & 1023) % 5],
  '{"text":"' || rpad(n::text, 109, 'x') || '"}', 120, 'bench',
  case when n % 10 = 3 then ${sqlTimeOf('position')} + interval '7 days' end
from (select n, $2::bigint + n * $3::bigint as position from generate_series($4::bigint, $5::bigint) n) row`;

/* 'direct' begins now, so that nothing but their own counts; 'wide' is a user who has read nothing. */
const INBOXES = `
insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
select $1, name, since, up_to, up_to, 1, 1
from (
  select 'user-' || n, $2::bigint, $3::bigint from generate_series(0, ${USERS - 1}) n
  union all values ('direct', $4::bigint, $2::bigint), ('wide', $2, $2), ('rich', $2, $2), ('marked', $2, $2)
) as u (name, since, up_to)`;

const DIRECT = `
update notifications set user_id = 'direct' where tenant_id = $1 and user_id in ('user-1', 'user-2')`;

const MARKS = `
insert into inbox_marks (tenant_id, user_id, position, read, read_revision)
select tenant_id, user_id, position, true, 1 from notifications where tenant_id = $1 and user_id = 'marked'`;

/** Writes them, by the login of the superuser; they are vacuumed and on disk, as after weeks of running. */
export async function fillInboxes(databaseUrl: string, report: (line: string) => void): Promise<Log> {
  const log = inboxLog();
  const { tenant, rows, floor, stride, head } = log;
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await makePartitions(client, floor, head);
    await client.query('insert into tenant_logs (tenant_id, head, floor) values ($1, $2, $3)', [
      tenant,
      head,
      floor,
    ]);
    for (let from = 1; from <= rows; from += ROWS_AT_ONCE)
      await client.query(NOTIFICATIONS, [tenant, floor, stride, from, from + ROWS_AT_ONCE - 1]);
    const read = Math.floor(head - (head - floor) * UNREAD);
    await client.query(INBOXES, [tenant, floor, read, head]);
    await client.query(DIRECT, [tenant]);
    await client.query(MARKS, [tenant]);
    await client.query('vacuum (analyze) notifications, inbox_users, inbox_marks, engagements, tenant_logs');
    await client.query('checkpoint');
    report(`${rows} rows, vacuumed and on disk`);
    return log;
  } finally {
    await client.end();
  }
}
