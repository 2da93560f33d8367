import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { AppendStore } from '../../src/log/append.store.ts';
import { IdempotencyRecords } from '../../src/log/idempotency.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { holding } from '../support/privacy.ts';
import { openPools, type TestPools } from '../support/pools.ts';

let database: TestDatabase;
let pools: TestPools;
beforeAll(async () => {
  database = await createDatabase();
  pools = openPools(database);
});
afterAll(async () => {
  await pools.end();
  await database.drop();
});

const [acme, globex] = [tenantIdSchema.parse('acme'), tenantIdSchema.parse('globex')];
const keyOf = (n: number) => ({ publisher: 'billing', key: `key-${n}`, fingerprint: Buffer.from('body') });

describe('keys that wait to be looked up', () => {
  test('are a thousand of a tenant at most: more are refused, and no other tenant is', async () => {
    const keys = new IdempotencyRecords(new AppendStore(pools.tenant));
    const release = await holding(database, 'lock table idempotency_keys in access exclusive mode');
    const asked = [acme, globex].map((tenant) =>
      Promise.allSettled(
        Array.from({ length: tenant === acme ? 1_001 : 1 }, (_, n) => keys.stored(tenant, keyOf(n))),
      ),
    );
    await release();
    const [ofAcme = [], ofGlobex = []] = await Promise.all(asked);
    const unused = { status: 'fulfilled', value: undefined };
    expect(ofAcme.pop()).toMatchObject({
      status: 'rejected',
      reason: { code: 'overloaded', headers: { 'retry-after': '1' } },
    });
    expect([...ofAcme, ...ofGlobex]).toEqual(Array.from({ length: 1_001 }, () => unused));
    await expect(keys.stored(acme, keyOf(1_000))).resolves.toBeUndefined();
  });
});
