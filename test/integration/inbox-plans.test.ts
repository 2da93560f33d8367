import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { randomUUIDv7 } from 'node:crypto';
import { asPosition, POSITIONS_PER_MS } from '../../src/core/position.ts';
import { FILTERS, InboxStore } from '../../src/inbox/inbox.store.ts';
import { PARTITIONED } from '../../src/log/partitions.ts';
import { explainGeneric, scannedWhole, type PlanNode } from '../support/plans.ts';
import type { Ran } from '../support/pools.ts';
import { forgetStatements } from '../support/statement-log.ts';
import { ReceiptsBench, topic, userId } from '../support/receipts.ts';

const DAY = 86_400_000 * POSITIONS_PER_MS;
const DAYS = 30;
const HEAD = asPosition(DAYS * DAY - 1);
/** Rows of `rich` alone. */
const RICH = 30_000;

/*
 * A month of partitions. `rich` has read nothing of a great deal, `marked` half of theirs, each by itself. Nobody has done
 * anything with what the other thousand have.
 */
const ROWS = [
  `insert into tenant_logs (tenant_id, head) select 't-' || n, ${HEAD} from generate_series(0, 1999) n`,
  `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at)
   select 't-' || n % 3, n * (${HEAD} / 60000), gen_random_uuid(), case when n % 5 > 0 then 'u-' || n % 1009 end,
     case when n % 5 = 0 and n % 25 > 0 then 'topic-' || n % 7 end, 't', '1', 1, 'p', case when n % 11 = 0 then now() + interval '1 day' end
   from generate_series(1, 60000) n`,
  `insert into notifications (tenant_id, position, id, user_id, type, data, size, publisher)
   select 't-1', n * (${HEAD} / ${RICH}) + 1, gen_random_uuid(), case when n % 10 = 0 then 'marked' else 'rich' end, 't', '1', 1, 'p'
   from generate_series(1, ${RICH} - 1) n`,
  `insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, archived_up_to, revision, changes_since)
   select 't-' || n % 3, 'u-' || n, 0, ${HEAD} / 2, ${HEAD} / 2, ${HEAD} / 4, 1, 1 from generate_series(0, 3026) n
   union all select 't-1', name, 0, 0, 0, 0, 1, 1 from (values ('rich'), ('marked')) v (name)`,
  `insert into inbox_marks (tenant_id, user_id, position, read, read_revision)
   select tenant_id, user_id, position, position % 4 > 0, 1 from notifications
   where (user_id = 'marked' and position % 2 = 0) or (tenant_id <> 't-1' and user_id is not null)`,
  `insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class)
   select t.tenant_id, 'u-' || n, 'read', false, day * ${DAY}, (day + 1) * ${DAY} - 1, 9
   from (values ('t-0'), ('t-1')) t (tenant_id), generate_series(0, 299) n, generate_series(0, ${DAYS - 1}) day`,
  `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, at, by_resume)
   select 't-1', 'u-' || n, 'phone', day * ${DAY}, (day + 1) * ${DAY} - 1, 9, now(), false
   from generate_series(0, 299) n, generate_series(0, ${DAYS - 1}) day`,
  `insert into devices (tenant_id, user_id, device_id, cursor) select 't-1', 'u-' || n, 'phone', 0 from generate_series(0, 5000) n`,
  `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker, erased_at, done_at)
   select 't-' || n % 100, gen_random_uuid(), sha256(n::text::bytea), '{}', gen_random_uuid(), now(), now() from generate_series(1, 5000) n`,
  'vacuum (analyze) notifications, inbox_users, inbox_marks, engagements, devices, erasures, tenant_logs, acks',
];

let bench: ReceiptsBench;
let ran: Ran[];
let store: InboxStore;
beforeAll(async () => {
  bench = await ReceiptsBench.open();
  const { pools, partitions } = bench.node();
  ran = pools.ran;
  store = new InboxStore(pools.tenant, partitions);
  await makePartitions(0, DAYS);
  for (const sql of ROWS) await bench.database.query(sql);
});
afterAll(async () => {
  await forgetStatements(bench.database.url);
  await bench.close();
});

/** By one statement: one by one, as a node makes them, takes seconds. */
async function makePartitions(from: number, end: number): Promise<void> {
  await bench.database.query(
    `select create_partition(made.parent, made.parent || '_' || day, day * ${DAY}, (day + 1) * ${DAY})
     from unnest($1::text[]) as made (parent), generate_series($2::bigint, $3::bigint - 1) day`,
    [PARTITIONED, from, end],
  );
}

const TENANT = 't-1' as Parameters<InboxStore['begin']>[0];
const reader = (user: string) => ({ user: userId(user), topics: [topic('topic-1'), topic('topic-2')] });
const page = { type: undefined, before: asPosition(HEAD + 1), limit: 20 };

test('whatever is asked of inboxes is asked by ranges of keys that name the tenant, also with a month of partitions', async () => {
  const readers = Array.from({ length: 50 }, (_, n) => reader(`u-${3 * n + 1}`));
  await store.begin(TENANT, [{ user: userId('new') }, { user: userId('u-7') }]);
  await store.snapshots(TENANT, readers);
  await store.revisions(
    TENANT,
    readers.map(({ user }) => user),
  );
  for (const filter of FILTERS) await store.list(TENANT, reader('u-4'), { ...page, filter });
  await store.mark(
    TENANT,
    readers.map((each) => ({
      ...each,
      seenUpTo: HEAD,
      readUpTo: asPosition(HEAD - DAY),
      archivedUpTo: asPosition(HEAD - 5 * DAY),
      items: [{ id: randomUUIDv7(), read: false }],
      revision: undefined,
    })),
  );
  const names = [...new Set(ran.map(({ statement }) => statement.name))];
  expect(names).toEqual([
    'begin_inboxes',
    'inbox_snapshots',
    'inbox_revisions',
    ...FILTERS.map((filter) => `inbox_list_of_${filter}`),
    'lock_inboxes',
    'mark_inboxes',
  ]);
  for (const each of ran) {
    const { name } = each.statement;
    expect({ name, scanned: await scannedWhole(bench.database, each) }).toEqual({ name, scanned: [] });
  }
});

/** Rows of tables that a step and those below it have read. */
function rowsRead(step: PlanNode): number {
  const below = (step.Plans ?? []).map(rowsRead).reduce((sum, rows) => sum + rows, 0);
  if (step['Relation Name'] === undefined) return below;
  const removed = (step['Rows Removed by Filter'] ?? 0) + (step['Rows Removed by Index Recheck'] ?? 0);
  return below + (step['Actual Loops'] ?? 0) * ((step['Actual Rows'] ?? 0) + removed);
}

/** Those that a step and those below it have, whether they were read or not. */
const tablesOf = (step: PlanNode): string[] => [
  ...(step['Relation Name'] === undefined ? [] : [step['Relation Name']]),
  ...(step.Plans ?? []).flatMap(tablesOf),
];
const isPartition = (table: string): boolean => /_\d+$/.test(table);

/** What its statements read. */
async function readBy(ask: () => Promise<unknown>): Promise<number> {
  ran.length = 0;
  await ask();
  let rows = 0;
  for (const each of ran) rows += rowsRead(await explainGeneric(bench.database, each));
  return rows;
}

test('a count looks at no more than 10,000 rows of a user and as many marks, and what is for everyone once for all', async () => {
  // Days to come, which are known to be empty: because of them the planner would rather read all there is and sort it.
  await makePartitions(DAYS, DAYS + 3);
  await bench.database.query('analyze notifications_30, notifications_31, notifications_32');
  const rich = await readBy(() => store.snapshots(TENANT, [reader('rich')]));
  expect(rich).toBeGreaterThan(10_000);
  expect(rich).toBeLessThan(10_000 + 3 * 2_001 + 100);
  const marked = await readBy(() => store.snapshots(TENANT, [reader('marked')]));
  // Their own, their marks, and what is shared: no row is looked up for a mark.
  expect(marked).toBeLessThan(RICH / 10 + RICH / 20 + 3 * 2_001 + 100);
  const few = Array.from({ length: 50 }, (_, n) => reader(`u-${3 * n + 1}`));
  const one = await readBy(() => store.snapshots(TENANT, few.slice(0, 1)));
  const fifty = await readBy(() => store.snapshots(TENANT, few));
  expect(fifty - one).toBeLessThan(50 * 40);
});

test('of a month of partitions those are opened that may have something new', async () => {
  const yesterday = asPosition(HEAD - DAY);
  const up = {
    seenUpTo: yesterday,
    readUpTo: yesterday,
    archivedUpTo: undefined,
    items: [],
    revision: undefined,
  };
  await store.mark(TENANT, [{ ...reader('u-4'), ...up }]);
  ran.length = 0;
  await store.snapshots(TENANT, [reader('u-4')]);
  await store.list(TENANT, reader('u-4'), { ...page, filter: 'unread' });
  for (const each of ran) {
    const opened = new Set(tablesOf(await explainGeneric(bench.database, each)).filter(isPartition));
    // Of notifications and of marks: the days since then, and three days for a page.
    expect(opened.size).toBeLessThanOrEqual(2 * 5);
  }
});

test('a page of 20 looks at the newest few of each range, whatever the user has', async () => {
  for (const user of ['rich', 'marked', 'u-4'])
    for (const filter of FILTERS) {
      const rows = await readBy(() => store.list(TENANT, reader(user), { ...page, filter }));
      expect({ user, filter, rows: rows < 1_000 || rows }).toEqual({ user, filter, rows: true });
    }
});
