import { expect, test } from '@jest/globals';
import { AuditStore } from '../../src/audit/audit.store.ts';
import { TicketsStore } from '../../src/auth/tickets.ts';
import { ChangeFeedStore } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { IssuersStore } from '../../src/auth/issuers.ts';
import { RevocationsStore } from '../../src/auth/revocations.ts';
import { OpenConnectionsStore } from '../../src/delivery/open-connections.store.ts';
import { StreamCommandsStore } from '../../src/delivery/stream-commands.ts';
import { TenantsStore } from '../../src/tenants/tenants.ts';
import { ReceiptsBench, userId } from '../support/receipts.ts';
import { scannedWhole } from '../support/plans.ts';

const ID = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';

/** Ten thousand rows of a hundred tenants in each table. */
const ROWS = [
  `insert into tenants (tenant_id) select 't-' || n from generate_series(0, 9999) n`,
  `insert into issuers (issuer_id, iss, definition) select gen_random_uuid(), n::text, '{}' from generate_series(1, 10000) n`,
  `insert into revocations (tenant_id, revocation_id, kind, subject, created_at, expires_at)
   select 't-' || n % 100, gen_random_uuid(), 'token', n::text, now() - n * interval '1 s', now() + interval '1 d' from generate_series(1, 10000) n`,
  `insert into stream_commands (tenant_id, order_id, kind, user_id, expires_at)
   select 't-' || n % 100, gen_random_uuid(), 'disconnect', n::text, now() + interval '1 d' from generate_series(1, 10000) n`,
  `insert into stream_tickets (tenant_id, hash, principal, expires_at)
   select 't-' || n % 100, sha256(n::text::bytea), '{}', now() + interval '1 d' from generate_series(1, 10000) n`,
  `insert into audit_log (tenant_id, audit_id, actor_subject, action, target)
   select 't-' || n % 100, gen_random_uuid(), 's', 'user.disconnect', n::text from generate_series(1, 10000) n`,
  `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, position)
   select 't-' || n % 100, gen_random_uuid(), 'u-' || n % 997, 'd', 'n', now() - n * interval '1 s', 1 from generate_series(1, 10000) n`,
  `insert into erasures (tenant_id, erasure_id, digest, ordered_by, worker, erased_at, done_at)
   select 't-' || n % 100, gen_random_uuid(), sha256(n::text::bytea), '{}', gen_random_uuid(), now(), now() from generate_series(1, 10000) n`,
  `insert into connection_counts (tenant_id, node, connections) select 't-' || n, 'n', 1 from generate_series(1, 10000) n`,
  'analyze',
];

test('what is asked of revocations, tickets, streams, acts and tenants is asked by ranges of keys that name the tenant', async () => {
  const bench = await ReceiptsBench.open();
  try {
    for (const sql of ROWS) await bench.database.query(sql);
    const { tenant: pool, engine, ran } = bench.node().pools;
    const tenant = tenantIdSchema.parse('t-7');
    await new RevocationsStore(engine, pool).page(tenant, undefined, 51);
    const tickets = new TicketsStore(pool, engine);
    const ticket = { user: userId('u'), principal: '{}', tokenExpiresAt: Date.now() + 60_000 };
    await tickets.keep(tenant, [{ ...ticket, hash: Buffer.from('h') }], 30);
    await tickets.take(tenant, [Buffer.from('h'), Buffer.from('i')]);
    const connections = new OpenConnectionsStore(engine, pool);
    await connections.find(tenant, ID);
    const all = { action: undefined, since: undefined, until: undefined };
    await new AuditStore(pool).page(tenant, all, undefined, 51);
    await new TenantsStore(engine, engine, pool).find(tenant);
    await connections.exchange('n', [{ tenantId: tenant, connections: 1 }], [tenant]);
    await connections.newestOfTenant(tenant, 5, 'n', 10);
    await connections.crowded(
      ['u-1', 'u-2'].map((user) => ({ tenantId: tenant, user: userId(user), most: 5 })),
    );
    expect(ran).toHaveLength(9);
    for (const each of ran) {
      const { statement } = each;
      const scanned = await scannedWhole(bench.database, each);
      // There are as many nodes as there are processes, and they belong to no tenant.
      expect([statement.name, scanned.filter((scan) => !scan.endsWith(' on nodes'))]).toEqual([
        statement.name,
        [],
      ]);
    }
  } finally {
    await bench.close();
  }
});

test('a look at what changed reads by the transaction, however much there is', async () => {
  const bench = await ReceiptsBench.open();
  try {
    for (const sql of ROWS) await bench.database.query(sql);
    const { tenant: pool, engine, ran } = bench.node().pools;
    const [, next] = (await new ChangeFeedStore(engine).snapshot()).snapshot.split(':', 2);
    // What other databases of the server have under way would have a look read all that was written meanwhile.
    const snapshot = `${next}:${next}:`;
    ran.length = 0;
    await new IssuersStore(engine, engine).changedSince(snapshot);
    await new RevocationsStore(engine, pool).since(snapshot);
    await new StreamCommandsStore(pool, engine).since(snapshot);
    await new TenantsStore(engine, engine, pool).changed(snapshot);
    expect(ran).toHaveLength(4);
    for (const { statement, values } of ran) {
      const plan = await bench.database.query<{ 'QUERY PLAN': string }>(`explain ${statement.text}`, values);
      const text = plan.map((row) => row['QUERY PLAN']).join('\n');
      expect([statement.name, text]).toEqual([
        statement.name,
        expect.stringMatching(/Index Cond: \(\(transaction >= /),
      ]);
      expect(text).not.toContain('Seq Scan');
    }
  } finally {
    await bench.close();
  }
});
