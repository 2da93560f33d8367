import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { PARTITIONED, partitionName, rangeCovering } from '../../src/log/partitions.ts';
import { positionOfTime } from '../../src/core/position.ts';
import { eventually } from '../support/eventually.ts';
import { engaged } from '../support/inbox.ts';
import { daysAgo, OldLog } from '../support/maintenance.ts';

const HOUR = 3_600_000;
const at = (iso: string) => positionOfTime(Date.parse(iso));

let log: OldLog;
beforeEach(async () => {
  log = await OldLog.open();
});
afterEach(async () => {
  await log.close();
});

/** `notifications_2026_11_22` for a day counted from today, UTC. */
const daily = (table: string, days: number) =>
  `${table}_${new Date(Date.now() + days * 24 * HOUR).toISOString().slice(0, 10).replaceAll('-', '_')}`;

describe('partitions ahead', () => {
  test('are the current one and as many more as the setting says, of every partitioned table', async () => {
    await log.node({ PARTITIONS_AHEAD: 2 }).partitions.ensureAhead();
    for (const table of PARTITIONED) {
      expect(await log.partitionsOf(table)).toEqual([0, 1, 2].map((days) => daily(table, days)));
    }
  });

  test('are also made for a head that lies ahead of the clock, without giving up those of the clock', async () => {
    await log.database.query(
      `insert into tenant_logs (tenant_id, head) values ('behind', 5), ('early', $1)`,
      [daysAgo(-40)],
    );
    await log.node({ PARTITIONS_AHEAD: 1 }).partitions.ensureAhead();
    expect(await log.partitionsOf('notifications')).toEqual(
      [0, 1, 40, 41].map((days) => daily('notifications', days)),
    );
  });

  test('are found made by whoever comes second, on the same node or another', async () => {
    const nodes = [log.node(), log.node(), log.node()];
    await Promise.all(
      nodes.flatMap(({ partitions }) => [
        partitions.ensureAhead(),
        partitions.ensureAhead(),
        partitions.ensureCovering(daysAgo(0)),
      ]),
    );
    await nodes[0]?.partitions.ensureAhead();
    expect(await log.partitionsOf('notifications')).toEqual(
      [0, 1, 2, 3].map((days) => daily('notifications', days)),
    );
  });
});

describe('the partition of a position', () => {
  test('takes rows of all tables at that position, even one that is long past', async () => {
    const position = daysAgo(400);
    await log.node().partitions.ensureCovering(position);
    await log.tenant('acme');
    await log.notification('acme', position);
    await log.database.query(
      `insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
       values ('acme', 'u', 'd', gen_random_uuid(), 0, $1, 16, now(), true)`,
      [position],
    );
    await log.database.query(
      `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume) values ('acme', 'u', 'd', 0, $1, 16, false)`,
      [position],
    );
    await log.database.query(
      `insert into inbox_marks (tenant_id, user_id, position, read, read_revision) values ('acme', 'u', $1, true, 1)`,
      [position],
    );
    await engaged(log.database, 'acme', { user: 'u', kind: 'read', upTo: position });
    for (const table of PARTITIONED) expect(await log.partitionsOf(table)).toEqual([daily(table, -400)]);
  });

  test('has the indexes and checks of its table', async () => {
    await log.node().partitions.ensureCovering(daysAgo(0));
    const indexes = await log.database.query(`select indexdef from pg_indexes where tablename = $1`, [
      daily('notifications', 0),
    ]);
    expect(indexes).toHaveLength(4);
    await expect(
      log.database.query(
        `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher)
         values ('acme', $1, gen_random_uuid(), 'u', 't', 'x', '1', 1, 'p')`,
        [daysAgo(0)],
      ),
    ).rejects.toThrow(/notifications_one_target/);
  });

  test('is cut at multiples of the width and named by its beginning', () => {
    expect(partitionName('sends', rangeCovering(at('2026-11-22T23:59:59.999Z'), 24))).toBe(
      'sends_2026_11_22',
    );
    expect(partitionName('sends', rangeCovering(at('2026-11-23T00:00:00.000Z'), 24))).toBe(
      'sends_2026_11_23',
    );
    expect(partitionName('acks', rangeCovering(at('2026-11-22T13:00:00.000Z'), 6))).toBe(
      'acks_2026_11_22_12',
    );
    const range = rangeCovering(at('2026-11-22T13:00:00.000Z'), 7);
    expect(rangeCovering(range.from, 7)).toEqual(range);
    expect(rangeCovering(range.end, 7).from).toBe(range.end);
  });
});

test('where a notification can be stored, so can what was sent and confirmed of it', async () => {
  const holder = await log.client();
  await holder.query('begin');
  await holder.query('lock table acks in access exclusive mode');
  const made = log.node().partitions.ensureCovering(daysAgo(0));
  await log.waiting('create_partition');
  expect(await log.partitionsOf('notifications')).toEqual([]);
  await holder.query('rollback');
  await made;
  for (const table of PARTITIONED) expect(await log.partitionsOf(table)).toEqual([daily(table, 0)]);
});

describe('the width of partitions', () => {
  test('that is another one is refused with the width to go back to, and nothing is made', async () => {
    await log.node({ PARTITION_HOURS: '24' }).partitions.ensureAhead();
    const before = await log.partitionsOf('notifications');
    await expect(log.node({ PARTITION_HOURS: '48' }).partitions.ensureAhead()).rejects.toThrow(
      /set PARTITION_HOURS back to 24/,
    );
    await expect(log.node({ PARTITION_HOURS: '12' }).partitions.ensureCovering(daysAgo(0))).rejects.toThrow(
      /set PARTITION_HOURS back to 24/,
    );
    expect(await log.partitionsOf('notifications')).toEqual(before);
  });
});

describe('beside traffic', () => {
  test('a partition is made while a reader and a writer keep their transactions open, and neither waits', async () => {
    const node = log.node();
    await node.partitions.ensureCovering(daysAgo(0));
    await log.tenant('acme');
    const [reader, writer] = [await log.client(), await log.client()];
    await reader.query('begin isolation level repeatable read');
    await reader.query('select count(*) from notifications');
    await writer.query('begin');
    const insert = `insert into notifications (tenant_id, position, id, type, data, size, publisher) values ('acme', $1, gen_random_uuid(), 'x', '1', 1, 'p')`;
    await writer.query(insert, [daysAgo(0)]);

    await node.partitions.ensureAhead();
    await writer.query(insert, [daysAgo(0) + 1]);
    await reader.query('select count(*) from notifications');
    expect(await log.partitionsOf('notifications')).toHaveLength(4);
  });

  test('a lock that is in the way is waited for only briefly at a time, and tried again', async () => {
    const holder = await log.client();
    await holder.query('begin');
    await holder.query('lock table acks in access exclusive mode');
    const done = log.node().partitions.ensureCovering(daysAgo(0));
    const begun = new Set<string>();
    await eventually(async () => {
      const waiting = await log.database.query<{ start: string }>(
        `select xact_start::text as start from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
      );
      for (const { start } of waiting) begun.add(start);
      // The second attempt waits: the first one was given up, and who queued behind it went on.
      expect(begun.size).toBe(2);
    });
    await holder.query('rollback');
    await done;
    expect(await log.partitionsOf('acks')).toEqual([daily('acks', 0)]);
  });
});
