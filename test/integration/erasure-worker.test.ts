import { expect, test } from '@jest/globals';
import type { RunOfTenant } from '../../src/postgres/tenant-pool.ts';
import { digestOf, type TenantId, type UserId } from '../../src/core/identifiers.ts';
import { asPosition, positionOfTime } from '../../src/core/position.ts';
import { WHOLE_TENANT, type Erasure } from '../../src/privacy/erasure.ts';
import { ErasureRegistryStore } from '../../src/privacy/erasure-registry.ts';
import { ErasureWorkerStore } from '../../src/privacy/erasure-worker.ts';
import { ReceiptsBench, userId } from '../support/receipts.ts';

const SLOW = '0190a000-0000-7000-8000-00000000000a';
const OTHER = '0190a000-0000-7000-8000-00000000000b';

/** An erasure that has just begun, of a user or of the whole tenant. */
async function begin(
  store: ErasureRegistryStore,
  run: RunOfTenant,
  tenantId: TenantId,
  user?: UserId,
): Promise<Erasure> {
  const begun = await store.begin(run, tenantId, user, '{}', SLOW);
  return {
    tenantId,
    id: String(begun?.id),
    digest: user === undefined ? WHOLE_TENANT : digestOf(tenantId, user),
    user: user ?? null,
    worker: SLOW,
    position: null,
    erasedAt: null,
    emptied: false,
    done: false,
  };
}

test('a process that was given up for dead does nothing more to an erasure that another has taken over', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const { tenant: pool, engine } = bench.node().pools;
    const tenantId = await bench.tenant({ head: 1 });
    const user = userId('alice');
    const run: RunOfTenant = (...statement) => pool.rows(...statement);
    const store = new ErasureRegistryStore(pool, engine);
    const erasure = await begin(store, run, tenantId, user);
    await bench.database.query(
      `insert into devices (tenant_id, user_id, device_id, cursor) values ($1, $2, 'phone', 0)`,
      [tenantId, user],
    );
    const devices = async () => (await bench.database.query('select device_id from devices')).length;

    expect(await store.claim(erasure, OTHER)).toBe(false);
    await bench.database.query(`update erasures set touched_at = touched_at - interval '1 minute'`);
    expect(await store.claim(erasure, OTHER)).toBe(true);

    const upTo = asPosition(positionOfTime(Date.now()));
    for (const step of new ErasureWorkerStore(pool).steps(erasure, SLOW, upTo))
      expect(await step(undefined)).toBeUndefined();
    expect(await store.touch(erasure, SLOW)).toBeUndefined();
    expect(await store.cut(erasure, SLOW)).toBeUndefined();
    expect(await store.finish(run, erasure, SLOW)).toBeUndefined();
    expect(await devices()).toBe(1);

    for (const step of new ErasureWorkerStore(pool).steps(erasure, OTHER, upTo))
      expect(await step(undefined)).toBeDefined();
    expect(await devices()).toBe(0);
  } finally {
    await bench.close();
  }
});

test('a tenant whose end is ordered once more while it comes makes neither wait for the other', async () => {
  const bench = await ReceiptsBench.open();
  try {
    const { tenant: pool, engine } = bench.node().pools;
    const tenantId = await bench.tenant({ head: 1 });
    await bench.database.query('insert into tenants (tenant_id) values ($1)', [tenantId]);
    const run: RunOfTenant = (...statement) => pool.rows(...statement);
    const store = new ErasureRegistryStore(pool, engine);
    const erasure = await begin(store, run, tenantId);
    /** Orders it again, as an administrator does, while that step wants the tenant. */
    const orderedDuring = async <Result>(step: () => Promise<Result>): Promise<Result> => {
      const order = await bench.hold('select from tenants where tenant_id = $1 for update', [tenantId]);
      const stepped = step();
      await order.waiting();
      const again: RunOfTenant = async (tenant, { text }, values = []) =>
        (await order.query(text, [tenant, ...values])) as never;
      expect(await store.begin(again, tenantId, undefined, '{}', OTHER)).toEqual({
        id: erasure.id,
        joined: true,
      });
      await order.commit();
      return await stepped;
    };

    expect(await orderedDuring(() => store.cut(erasure, SLOW))).toBe(1);
    const finished = orderedDuring(() =>
      pool.transaction(tenantId, (within) => store.finish(within, erasure, SLOW)),
    );
    expect(await finished).toMatchObject({ orderedBy: {} });
  } finally {
    await bench.close();
  }
});
