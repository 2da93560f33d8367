import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { partitionName, PARTITIONED, rangeCovering, type Partitioned } from '../../src/log/partitions.ts';
import { asPosition } from '../../src/core/position.ts';
import { RetentionStore, SUMMED_AT_ONCE } from '../../src/maintenance/retention.store.ts';
import { SessionsStore } from '../../src/maintenance/round.store.ts';
import { daysAgo, OldLog } from '../support/maintenance.ts';

let log: OldLog;
beforeEach(async () => {
  log = await OldLog.open();
});
afterEach(async () => {
  await log.close();
});

const named = (days: number, table: Partitioned = 'notifications') =>
  partitionName(table, rangeCovering(daysAgo(days), 24));

async function partitionsFor(...days: number[]): Promise<void> {
  const { partitions } = log.node();
  for (const day of days) await partitions.ensureCovering(daysAgo(day));
}

/** What a round asks and does, one statement at a time. */
function statements() {
  const store = new RetentionStore(
    async ({ text }, values) => await log.database.query(text, [...(values ?? [])]),
  );
  return {
    store,
    due: async () =>
      (await store.due('', 10, 30)).flatMap(({ floor, ...rest }) =>
        floor === null ? [] : [{ ...rest, floor }],
      ),
  };
}

describe('the floor', () => {
  test('is the newest notification that its tenant lost, by its own kept days, and stays where nothing is lost', async () => {
    const ages = [70, 50, 40, 35, 30.01, 29.99, 20, 5];
    const positions = new Map(ages.map((days) => [days, daysAgo(days)]));
    await partitionsFor(...ages);
    await log.tenant('default');
    await log.tenant('short', { keptDays: 10 });
    await log.tenant('long', { keptDays: 60 });
    await log.tenant('recent');
    for (const position of positions.values()) {
      for (const tenant of ['default', 'short', 'long']) await log.notification(tenant, position);
    }
    await log.notification('recent', daysAgo(29.99));

    expect(await log.node().maintenance.runOnce()).toMatchObject({ floorsRaised: 3, failed: [] });
    expect(await log.floor('default')).toBe(positions.get(30.01));
    expect(await log.floor('short')).toBe(positions.get(20));
    expect(await log.floor('long')).toBe(positions.get(70));
    expect(await log.floor('recent')).toBe(0);
    // Each had one byte of data, which is not kept for its tenant any more.
    expect(
      await log.database.query('select tenant_id as id, removed_bytes as bytes from tenant_logs order by 1'),
    ).toEqual([
      { id: 'default', bytes: 5 },
      { id: 'long', bytes: 1 },
      { id: 'recent', bytes: 0 },
      { id: 'short', bytes: 7 },
    ]);
    // Nothing that the tenant that keeps longest may still read is gone.
    expect(await log.database.query(`select from notifications where tenant_id = 'long'`)).toHaveLength(
      ages.length - 1,
    );
  });

  test('gives no byte back that an erasure gave back since they were summed up', async () => {
    await partitionsFor(40);
    await log.tenant('acme');
    const lost = daysAgo(40);
    await log.notification('acme', lost);
    const { store, due } = statements();
    const before = await due();
    await log.database.query('update tenant_logs set removed_bytes = removed_bytes + 1');
    expect([before.map(({ bytes }) => bytes), [...(await store.raiseFree(before))]]).toEqual([[1], []]);
    expect(await log.floor('acme')).toBe(0);
    expect([...(await store.raiseFree(await due()))]).toEqual(['acme']);
    expect(await log.floor('acme')).toBe(lost);
  });

  test('of a tenant that loses very much rises bit by bit, each with what goes up to there', async () => {
    await partitionsFor(40);
    const lost = 2 * SUMMED_AT_ONCE + 5;
    const from = daysAgo(40);
    await log.tenant('acme');
    await log.tenant('other');
    await log.notification('other', from);
    await log.database.query(
      `insert into notifications (tenant_id, position, id, type, data, size, publisher)
       select 'acme', $1::bigint + n, gen_random_uuid(), 'x', '1', 1, 'p' from generate_series(1, $2::int) n`,
      [from, lost],
    );
    expect(await statements().due()).toMatchObject([
      { tenantId: 'acme', floor: from + SUMMED_AT_ONCE, bytes: SUMMED_AT_ONCE, more: true },
      { tenantId: 'other', floor: from, bytes: 1, more: false },
    ]);
    expect(await log.node().maintenance.runOnce()).toMatchObject({ floorsRaised: 2, failed: [] });
    expect(await log.floor('acme')).toBe(from + lost);
    expect(
      await log.database.query('select tenant_id as id, removed_bytes as bytes from tenant_logs order by 1'),
    ).toEqual([
      { id: 'acme', bytes: lost },
      { id: 'other', bytes: 1 },
    ]);
  });

  test('is not lowered when a tenant keeps longer from now on, and a second round finds nothing to do', async () => {
    await partitionsFor(40, 35);
    await log.tenant('acme');
    const lost = daysAgo(35);
    await log.notification('acme', daysAgo(40));
    await log.notification('acme', lost);
    const { maintenance } = log.node();
    expect(await maintenance.runOnce()).toMatchObject({ worked: true, floorsRaised: 1, failed: [] });
    await log.database.query('update tenants set kept_days = 38');
    expect(await maintenance.runOnce()).toMatchObject({ worked: true, floorsRaised: 0, failed: [] });
    expect(await log.floor('acme')).toBe(lost);
  });

  test('rises for every tenant, also when there are more than one statement takes', async () => {
    await partitionsFor(40);
    const position = daysAgo(40);
    await log.database.query(
      `with t as (insert into tenant_logs (tenant_id, head) select 't' || n, $1 from generate_series(1, 1203) n returning tenant_id)
       insert into notifications (tenant_id, position, id, type, data, size, publisher)
       select tenant_id, $1, gen_random_uuid(), 'x', '1', 1, 'p' from t`,
      [position],
    );
    expect(await log.node().maintenance.runOnce()).toMatchObject({ floorsRaised: 1203, failed: [] });
    expect(await log.database.query('select from tenant_logs where floor <> $1', [position])).toEqual([]);
    expect(await log.partitionsOf('notifications')).not.toContain(named(40));
  });

  test('of a busy stream is waited for without holding up any other, and its partition stays until it has risen', async () => {
    await partitionsFor(40);
    for (const tenant of ['a', 'b', 'c']) {
      await log.tenant(tenant);
      await log.notification(tenant, daysAgo(40));
    }
    const publisher = await log.client();
    await publisher.query('begin');
    await publisher.query(`select from tenant_logs where tenant_id = 'b' for update`);
    const { maintenance } = log.node();
    const round = maintenance.runOnce();
    await log.waiting('tenant_logs s set floor');
    await log.database.query(
      `set lock_timeout = 100; update tenant_logs set head = head + 1 where tenant_id in ('a', 'c')`,
    );
    expect(await round).toMatchObject({ floorsRaised: 2, failed: ['floor', 'drop'] });
    expect(await log.partitionsOf('notifications')).toContain(named(40));

    await publisher.query('rollback');
    expect(await maintenance.runOnce()).toMatchObject({ floorsRaised: 1, failed: [] });
    expect(await log.partitionsOf('notifications')).not.toContain(named(40));
  });
});

describe('partitions below every retention', () => {
  test('go, of all tables, and those that hold anything younger stay', async () => {
    await partitionsFor(40, 31.5, 30, 29, 0);
    expect(await log.node({ PARTITIONS_AHEAD: 1 }).maintenance.runOnce()).toMatchObject({
      partitionsDropped: 2 * PARTITIONED.length,
      failed: [],
    });
    for (const table of PARTITIONED) {
      expect(await log.partitionsOf(table)).toEqual([30, 29, 0, -1].map((days) => named(days, table)));
      expect(await log.hasTable(named(40, table))).toBe(false);
    }
  });

  test('stay as long as one tenant keeps them', async () => {
    await partitionsFor(40, 70);
    await log.tenant('long', { keptDays: 60 });
    await log.tenant('default');
    await log.notification('long', daysAgo(40));
    await log.notification('default', daysAgo(40));
    await log.node().maintenance.runOnce();
    expect(await log.partitionsOf('notifications')).toContain(named(40));
    expect(await log.partitionsOf('notifications')).not.toContain(named(70));
    expect(await log.floor('long')).toBe(0);
    expect(await log.floor('default')).toBeGreaterThan(0);
  });

  test('keep what was sent, confirmed and marked as long as they keep notifications', async () => {
    await partitionsFor(40);
    // Its floor could not be raised.
    await log.tenant('held');
    await log.notification('held', daysAgo(40));
    const holder = await log.client();
    await holder.query('begin');
    await holder.query(`select from tenant_logs where tenant_id = 'held' for update`);
    const { maintenance } = log.node();
    expect(await maintenance.runOnce()).toMatchObject({ partitionsDropped: 0, failed: ['floor', 'drop'] });
    for (const table of PARTITIONED) expect(await log.partitionsOf(table)).toContain(named(40, table));
    await holder.query('rollback');
    expect(await maintenance.runOnce()).toMatchObject({ partitionsDropped: PARTITIONED.length, failed: [] });
  });

  test('stay when all tenants keep shorter than the setting', async () => {
    await partitionsFor(20);
    await log.tenant('short', { keptDays: 5 });
    await log.node().maintenance.runOnce();
    expect(await log.partitionsOf('notifications')).toContain(named(20));
  });
});

test('a partition that an operator detached stays', async () => {
  await partitionsFor(40, 45);
  await log.database.query(`alter table acks detach partition ${named(45, 'acks')}`);
  expect(await log.node().maintenance.runOnce()).toMatchObject({
    partitionsDropped: 2 * PARTITIONED.length - 1,
    failed: [],
  });
  expect(await log.hasTable(named(45, 'acks'))).toBe(true);
});

describe('beside traffic', () => {
  test('publishes go on while retention waits for a reader that stays open, and the next round finishes', async () => {
    await partitionsFor(40, 0);
    await log.tenant('acme');
    const reader = await log.client();
    await reader.query('begin isolation level repeatable read');
    await reader.query('select count(*) from notifications');
    const { maintenance, metrics } = log.node();
    const round = { over: false };
    const done = maintenance.runOnce().finally(() => {
      round.over = true;
    });
    let published = 0;
    for (let position = daysAgo(0); !round.over; position = asPosition(position + 1)) {
      await log.notification('acme', position);
      published += 1;
    }
    expect(await done).toMatchObject({ worked: true, failed: ['drop'] });
    // They go on between many tries.
    expect(published).toBeGreaterThan(3);
    expect(await metrics.registry.getSingleMetricAsString('tidings_maintenance_failures_total')).toContain(
      'step="drop"} 1',
    );

    // And wait with each for as long as that waits for its lock.
    await log.database.query(`
      create table patience (lock_timeout text);
      create function note_patience() returns event_trigger language plpgsql security definer as $$
      begin insert into public.patience values (current_setting('lock_timeout')); end $$;
      create event trigger note_patience on ddl_command_start when tag in ('ALTER TABLE') execute function note_patience()`);
    await reader.query('rollback');
    expect(await maintenance.runOnce()).toMatchObject({ failed: [] });
    expect(await log.hasTable(named(40))).toBe(false);
    expect(await log.database.query('select distinct lock_timeout from patience')).toEqual([
      { lock_timeout: '50ms' },
    ]);
    expect(await log.database.query('select count(*) as n from notifications')).toEqual([{ n: published }]);
  });

  test('a round is skipped while another node is at it, which is counted, and its gauges are set all the same', async () => {
    const other = await log.client();
    await other.query('select pg_advisory_lock(7469003)');
    await partitionsFor(0, -1, -2, 40);
    await log.database.query(`insert into tenant_logs (tenant_id, head) values ('acme', $1)`, [daysAgo(-1)]);
    const { maintenance, metrics } = log.node();
    expect(await maintenance.runOnce()).toMatchObject({ worked: false, partitionsDropped: 0, failed: [] });
    expect(await log.partitionsOf('notifications')).toContain(named(40));
    const value = async (name: string) =>
      Number((await metrics.registry.getSingleMetricAsString(name)).split(' ').at(-1));
    const rounds = async () => {
      const { values } = await metrics.maintenanceRounds.get();
      return Object.fromEntries(values.map(({ labels, value: count }) => [labels.result, count]));
    };
    expect(await rounds()).toEqual({ done: 0, skipped: 1, failed: 0 });
    expect(await value('tidings_maintenance_done_timestamp_seconds')).toBe(0);
    expect(await value('tidings_partitions_ahead')).toBe(1);
    expect(await value('tidings_head_ahead_of_clock_seconds')).toBeGreaterThan(86_000);
    await other.query('select pg_advisory_unlock(7469003)');
    expect(await maintenance.runOnce()).toMatchObject({
      worked: true,
      partitionsDropped: PARTITIONED.length,
    });
    expect(await rounds()).toEqual({ done: 1, skipped: 1, failed: 0 });
    expect(await value('tidings_maintenance_done_timestamp_seconds')).toBeGreaterThan(
      Date.now() / 1_000 - 86_400,
    );
  });

  test('a node that finds another one at work between two of its own statements leaves the rest of its round to it', async () => {
    await partitionsFor(40);
    const reader = await log.client();
    await reader.query('begin');
    await reader.query('select count(*) from notifications');
    const { maintenance } = log.node();
    const round = maintenance.runOnce();
    await log.waiting('drop_partition');
    const other = await log.client();
    // Gets the lock as soon as the statement that waits has given up, and keeps it.
    await other.query('select pg_advisory_lock(7469003)');
    expect(await round).toMatchObject({ worked: true, partitionsDropped: 0, connectionsForgotten: 0 });
    await reader.query('rollback');
    expect(await log.hasTable(named(40))).toBe(true);
    await other.query('select pg_advisory_unlock(7469003)');
    expect(await maintenance.runOnce()).toMatchObject({ partitionsDropped: PARTITIONED.length, failed: [] });
  });

  test('a shutdown breaks off a round that waits, and counts no failure', async () => {
    await partitionsFor(40);
    const reader = await log.client();
    await reader.query('begin isolation level repeatable read');
    await reader.query('select count(*) from notifications');
    const tries = jest.spyOn(RetentionStore.prototype, 'drop');
    const { maintenance } = log.node();
    const round = maintenance.runOnce();
    await log.waiting('drop_partition');
    const before = tries.mock.calls.length;
    await maintenance.onModuleDestroy();
    // The one that was about to begin, of twenty for each partition.
    expect(tries.mock.calls.length).toBeLessThanOrEqual(before + 1);
    tries.mockRestore();
    expect(await round).toMatchObject({ worked: true, failed: [] });
  });

  test('a shutdown breaks off nothing in a session that has the lock of rounds no longer', async () => {
    const watch = new SessionsStore(log.node().pool);
    const blocker = await log.client();
    const session = await log.client(log.database.urls.crossTenant);
    const { rows } = await session.query<{ pid: number }>('select pg_backend_pid() as pid');
    const pid = rows[0]?.pid ?? 0;
    const waiting = async () => {
      await blocker.query('select pg_advisory_lock(1)');
      const statement = session.query('select pg_advisory_xact_lock(1) as waits');
      // Somebody listens when it fails.
      statement.catch(() => undefined);
      expect(await log.waiting('as waits')).toBe(pid);
      return { statement };
    };
    const others = await waiting();
    await watch.cancel(pid, 7469003);
    await blocker.query('select pg_advisory_unlock(1)');
    expect(await others.statement).toMatchObject({ rowCount: 1 });

    await session.query('begin; select pg_advisory_xact_lock(7469003)');
    const ours = await waiting();
    await watch.cancel(pid, 7469003);
    await expect(ours.statement).rejects.toMatchObject({ code: '57014' });
  });
});
