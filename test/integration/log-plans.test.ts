import { randomUUIDv7 } from 'node:crypto';
import { expect, test } from '@jest/globals';
import { AppendStore } from '../../src/log/append.store.ts';
import { asPosition, positionOfTime } from '../../src/core/position.ts';
import { ReadStore } from '../../src/log/read.store.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { draft } from '../support/notifications.ts';
import { ReceiptsBench, topic, userId } from '../support/receipts.ts';
import { scannedWhole } from '../support/plans.ts';

const DAY_MS = 86_400_000;

test('the log is written and read by ranges of keys that name the tenant, and never as a whole', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const { pools, partitions } = bench.node();
    const now = Date.now();
    const days = [2, 1, 0].map((ago) => positionOfTime(now - ago * DAY_MS));
    for (const day of days) await partitions.ensureCovering(day);
    await bench.database.query(
      `insert into tenant_logs (tenant_id, head) select 't-' || n, $1 from generate_series(0, 1999) n`,
      [days[2]],
    );
    await bench.database.query(
      `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher)
       select 't-' || n % 100, day - n, gen_random_uuid(), case when n % 3 = 0 then 'u-' || n % 50 end,
         case when n % 3 = 1 then 'topic-' || n % 7 end, 't', '1', 1, 'p'
       from generate_series(1, 10000) n, unnest($1::bigint[]) day`,
      [days],
    );
    await bench.database.query(
      `insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids)
       select 't-' || n % 100, 'p', n::text, '', 1, '{}' from generate_series(1, 10000) n`,
    );
    await bench.database.query('analyze');

    const tenant = tenantIdSchema.parse('t-7');
    const append = new AppendStore(pools.tenant);
    const read = new ReadStore(pools.tenant, pools.engine);
    const idempotency = { publisher: 'p', key: 'new', fingerprint: Buffer.from('f') };
    await append.append(tenant, [{ publisher: 'p', drafts: [draft()], idempotency }], randomUUIDv7(), 100);
    await append.recall(tenant, [idempotency, { publisher: 'p', key: '7' }]);
    await new AppendStore(pools.tenant).usage(tenant);
    const readers = Array.from({ length: 20 }, (_, n) => ({ user: userId(`u-${n}`), after: asPosition(0) }));
    const limits = { rows: 200, bytes: 65_536 };
    await read.backlog(tenant, readers, [topic('topic-1'), topic('topic-2')], limits, limits);
    await read.allAfter(tenant, asPosition(0), limits);
    await read.heads([tenant]);

    expect(pools.ran.map(({ statement }) => statement.name)).toEqual([
      'append',
      'recall',
      'read_usage',
      'backlog',
      'log_after',
      'log_heads',
    ]);
    for (const ran of pools.ran) {
      const { name } = ran.statement;
      expect({ name, scanned: await scannedWhole(bench.database, ran) }).toEqual({ name, scanned: [] });
    }
  } finally {
    await bench.close();
  }
});
