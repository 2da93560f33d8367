import { randomUUID } from 'node:crypto';
import { expect, test } from '@jest/globals';
import type { RunOfTenant } from '../../src/postgres/tenant-pool.ts';
import { digestOf, tenantIdSchema } from '../../src/core/identifiers.ts';
import { asPosition, positionOfTime } from '../../src/core/position.ts';
import { WHOLE_TENANT, type Erasure } from '../../src/privacy/erasure.ts';
import { ErasureRegistryStore } from '../../src/privacy/erasure-registry.ts';
import { ErasureWorkerStore } from '../../src/privacy/erasure-worker.ts';
import { ExportStore } from '../../src/privacy/export.store.ts';
import { ReceiptsBench, userId, type ReceiptsNode } from '../support/receipts.ts';
import { explain, scannedWhole, type PlanNode } from '../support/plans.ts';

const DAY_MS = 86_400_000;
const WORKER = '0190a000-0000-7000-8000-00000000000a';

/** Ten thousand rows of a hundred tenants in each table, those that are partitioned over three days. */
async function crowd(bench: ReceiptsBench, { partitions }: ReceiptsNode): Promise<void> {
  const now = Date.now();
  const days = [2, 1, 0].map((ago) => positionOfTime(now - ago * DAY_MS));
  for (const day of days) await partitions.ensureCovering(day);
  const each = `from generate_series(1, 10000) n, unnest($1::bigint[]) day`;
  const partitioned = [
    `insert into notifications (tenant_id, position, id, user_id, type, data, size, publisher)
     select 't-' || n % 100, day - n, gen_random_uuid(), 'u-' || n % 50, 't', '1', 1, 'p' ${each}`,
    `insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
     select 't-' || n % 100, 'u-' || n % 50, 'd', gen_random_uuid(), day - n - 1, day - n, n % 4, now(), false ${each}`,
    `insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume)
     select 't-' || n % 100, 'u-' || n % 50, 'd', day - n - 1, day - n, 0, false ${each}`,
    `insert into inbox_marks (tenant_id, user_id, position, read, read_revision)
     select 't-' || n % 100, 'u-' || n % 50, day - n, true, 1 ${each}`,
    `insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class)
     select 't-' || n % 100, 'u-' || n % 50, 'read', true, day - n - 1, day - n, 0 ${each}`,
  ];
  for (const sql of partitioned) await bench.database.query(sql, [days]);
  const plain = [
    `insert into tenants (tenant_id) select 't-' || n from generate_series(0, 9999) n`,
    `insert into tenant_logs (tenant_id, head) select 't-' || n, ${days[2]} from generate_series(0, 9999) n`,
    `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids)
     select 't-' || n % 100, 'p', n::text, '', ${days[2]} - n, array[gen_random_uuid()] from generate_series(1, 10000) n`,
    `insert into devices (tenant_id, user_id, device_id, cursor) select 't-' || n % 100, 'u-' || n, 'd', 0 from generate_series(1, 10000) n`,
    `insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
     select 't-' || n % 100, 'u-' || n, 0, 0, 0, 1, 1 from generate_series(1, 10000) n`,
    `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
     select 't-' || n % 100, gen_random_uuid(), 'u-' || n % 50, 'd', 'n', now() - n * interval '1 s', 1 from generate_series(1, 10000) n`,
    `insert into connection_counts (tenant_id, node, connections) select 't-' || n % 100, n, 1 from generate_series(1, 10000) n`,
    `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
     select 't-' || n % 100, gen_random_uuid(), 'token', n::text, now() + interval '1 d' from generate_series(1, 10000) n`,
    `insert into stream_commands (tenant_id, order_id, kind, user_id, expires_at)
     select 't-' || n % 100, gen_random_uuid(), 'disconnect', n::text, now() + interval '1 d' from generate_series(1, 10000) n`,
    `insert into stream_tickets (tenant_id, hash, principal, expires_at)
     select 't-' || n % 100, sha256(n::text::bytea), '{}', now() + interval '1 d' from generate_series(1, 10000) n`,
    `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker, erased_at, done_at)
     select 't-' || n % 100, gen_random_uuid(), sha256(n::text::bytea), '{}', gen_random_uuid(), now(), now() from generate_series(1, 10000) n`,
  ];
  for (const sql of plain) await bench.database.query(sql);
  await bench.database.query('analyze');
}

async function expectRanges(bench: ReceiptsBench, { pools }: ReceiptsNode): Promise<void> {
  for (const ran of pools.ran) {
    const { statement } = ran;
    const scanned = await scannedWhole(bench.database, ran);
    // There are as many nodes as there are processes, and they belong to no tenant.
    expect([statement.name, scanned.filter((scan) => !scan.endsWith(' on nodes'))]).toEqual([
      statement.name,
      [],
    ]);
  }
}

test('what is erased and what is exported is found by ranges of keys that name the tenant', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const node = bench.node();
    await crowd(bench, node);
    const { tenant: pool, engine, ran } = node.pools;
    const tenantId = tenantIdSchema.parse('t-7');
    const user = userId('u-7');
    const upTo = asPosition(positionOfTime(Date.now()));
    const store = new ErasureRegistryStore(pool, engine);
    const run: RunOfTenant = (...statement) => pool.rows(...statement);
    for (const digest of [digestOf(tenantId, user), WHOLE_TENANT]) {
      const whole = digest === WHOLE_TENANT;
      const begun = await store.begin(run, tenantId, whole ? undefined : user, '{}', WORKER);
      const erasure: Erasure = {
        tenantId,
        id: String(begun?.id),
        digest,
        user: whole ? null : user,
        worker: WORKER,
        position: null,
        erasedAt: null,
        emptied: false,
        done: false,
      };
      await store.find(tenantId, erasure.id);
      expect(await store.claim(erasure, WORKER)).toBe(true);
      expect(await store.touch(erasure, WORKER)).toEqual([]);
      await store.markPurged(erasure, 'node');
      expect(await store.cut(erasure, WORKER)).toBeGreaterThan(0);
      for (const step of new ErasureWorkerStore(pool).steps(erasure, WORKER, upTo))
        expect(await step(undefined)).toBeDefined();
      expect(await store.markEmptied(erasure, WORKER)).toBe(true);
      expect(await store.finish(run, erasure, WORKER)).toBeDefined();
      expect(await store.finish(run, erasure, WORKER)).toBeUndefined();
    }
    for await (const page of new ExportStore(pool).rest(tenantId, user)) expect(page).toBeDefined();
    expect(ran.length).toBeGreaterThan(35);
    await expectRanges(bench, node);
  } finally {
    await bench.close();
  }
});

/** Rows of this table that the steps of a plan have read. */
const rowsRead = (step: PlanNode, table: string): number =>
  (step['Relation Name']?.startsWith(table) === true && step['Node Type'] !== 'ModifyTable'
    ? ((step['Actual Rows'] ?? 0) + (step['Rows Removed by Filter'] ?? 0)) * (step['Actual Loops'] ?? 1)
    : 0) + (step.Plans ?? []).reduce((sum, inner) => sum + rowsRead(inner, table), 0);

test('the answer to a key costs a look into the log, however much the user has in it', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const { pools, partitions } = bench.node();
    const tenantId = await bench.tenant({ head: 1 });
    const user = userId('alice');
    const day = positionOfTime(Date.now());
    await partitions.ensureCovering(day);
    const notifications = 20_000;
    const base = day - 2 * notifications;
    await bench.database.query(
      `insert into notifications (tenant_id, position, id, user_id, type, data, size, publisher)
       select $1, $2::bigint + n, gen_random_uuid(), case when n % 2 = 0 then 'alice' else 'bob' end, 't', '1', 1, 'p'
       from generate_series(1, $3::int) n`,
      [tenantId, base, notifications],
    );
    // Answers to batches of two, one for each of them, and the last ones to bob alone.
    await bench.database.query(
      `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids)
       select $1, 'p', lpad(n::text, 6, '0'), '', $2::bigint + 2 * n + 1,
         case when n < 300 then array[gen_random_uuid(), gen_random_uuid()] else array[gen_random_uuid()] end
       from generate_series(1, 400) n`,
      [tenantId, base],
    );
    await bench.database.query('analyze');
    const store = new ErasureRegistryStore(pools.tenant, pools.engine);
    const run: RunOfTenant = (...statement) => pools.tenant.rows(...statement);
    const begun = await store.begin(run, tenantId, user, '{}', WORKER);
    const common = {
      tenantId,
      id: String(begun?.id),
      digest: digestOf(tenantId, user),
      user,
      worker: WORKER,
    };
    const erasure: Erasure = { ...common, position: null, erasedAt: null, emptied: false, done: false };
    const [answers] = new ErasureWorkerStore(pools.tenant).steps(erasure, WORKER, asPosition(day));
    pools.ran.length = 0;
    expect(await answers?.(undefined)).toEqual({ gone: 299, next: undefined });
    const [count] = await bench.database.query<{ first: number; second: number }>(
      `select count(*) filter (where ids[1] = '00000000-0000-0000-0000-000000000000')::int as first,
         count(*) filter (where ids[2] = '00000000-0000-0000-0000-000000000000')::int as second from idempotency_keys`,
    );
    expect(count).toEqual({ first: 0, second: 299 });
    const [ran] = pools.ran;
    if (ran === undefined) throw new Error('nothing was run');
    const plan = await explain(bench.database, ran, ['analyze']);
    expect(rowsRead(plan, 'notifications')).toBeLessThan(2_000);
    expect(rowsRead(plan, 'idempotency_keys')).toBeLessThan(2_000);
  } finally {
    await bench.close();
  }
});

test('a process that is not at work on an erasure (any more) erases nothing', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const { tenant: pool, engine } = bench.node().pools;
    const tenantId = await bench.tenant();
    const user = userId('alice');
    await bench.setCursor(tenantId, user, 'phone', 1);
    const store = new ErasureRegistryStore(pool, engine);
    const run: RunOfTenant = (...statement) => pool.rows(...statement);
    const begun = await store.begin(run, tenantId, user, '{}', WORKER);
    const digest = digestOf(tenantId, user);
    const common = { tenantId, id: String(begun?.id), digest, user, worker: WORKER };
    const erasure: Erasure = { ...common, position: null, erasedAt: null, emptied: false, done: false };
    const other = randomUUID();
    expect(await store.claim(erasure, other)).toBe(false);
    expect(await store.touch(erasure, other)).toBeUndefined();
    expect(await store.markEmptied(erasure, other)).toBe(false);
    expect(await store.cut(erasure, other)).toBeUndefined();
    for (const step of new ErasureWorkerStore(pool).steps(erasure, other, asPosition(100)))
      expect(await step(undefined)).toBeUndefined();
    expect(await store.finish(run, erasure, other)).toBeUndefined();
    expect(await bench.cursor(tenantId, user, 'phone')).toBe(1);

    // The one that was at it has not been heard of for a while.
    await bench.database.query(`update erasures set touched_at = now() - interval '6 seconds'`);
    expect(await store.claim(erasure, other)).toBe(true);
    expect(await store.touch(erasure, WORKER)).toBeUndefined();
    expect(await store.cut(erasure, other)).toBe(100);
    for (const step of new ErasureWorkerStore(pool).steps(erasure, WORKER, asPosition(100)))
      expect(await step(undefined)).toBeUndefined();
    expect(await bench.cursor(tenantId, user, 'phone')).toBe(1);
    for (const step of new ErasureWorkerStore(pool).steps(erasure, other, asPosition(100)))
      expect(await step(undefined)).toMatchObject({ next: undefined });
    expect(await bench.cursor(tenantId, user, 'phone')).toBeUndefined();
  } finally {
    await bench.close();
  }
});
