import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { TenantPool } from '../../src/postgres/tenant-pool.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const acme = tenantIdSchema.parse('acme');
const ONE = { name: 'one', text: 'select $1::text as tenant' };
const PLANS = {
  name: 'plans',
  text: `select generic_plans::int as generic, custom_plans::int as custom, current_setting('jit') as jit from pg_prepared_statements
    where name = 'one' and $1::text is not null`,
};

test.each([
  [true, { generic: 7, custom: 0, jit: 'off' }],
  [undefined, { generic: 2, custom: 5, jit: 'on' }],
])(
  'a statement is planned once for all values where that is asked for, and not compiled; in a transaction, too: %s',
  async (genericPlans, expected) => {
    const pool = new TenantPool({
      // Not of the service: its statements name a tenant, or the run fails.
      url: database.url,
      name: 'test',
      connections: 1,
      connectTimeoutMs: 60_000,
      statementTimeoutMs: 60_000,
      preparedStatements: true,
      ...(genericPlans === undefined ? {} : { genericPlans }),
    });
    try {
      for (let n = 0; n < 3; n += 1) await pool.rows(acme, ONE);
      for (let n = 0; n < 4; n += 1) await pool.transaction(acme, (run) => run(acme, ONE));
      expect(await pool.rows(acme, PLANS)).toEqual([expected]);
    } finally {
      await pool.end();
    }
  },
);

test('a failure is the latest one, since the first, until something is stored, by whatever statement', async () => {
  await database.query(`create function fail(code text) returns void language plpgsql as $$
    begin raise exception 'it fails' using errcode = code; end $$`);
  const failing = (code: string) => ({
    name: `fail_${code}`,
    text: `select fail('${code}') where $1::text is not null`,
  });
  const pool = new TenantPool({
    url: database.url,
    name: 'test',
    connections: 1,
    connectTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    preparedStatements: true,
  });
  try {
    await expect(pool.rows(acme, failing('53100'))).rejects.toThrow('it fails');
    const first = pool.failure;
    expect(first).toMatchObject({ error: '53100' });
    await expect(pool.rows(acme, failing('58030'))).rejects.toThrow('it fails');
    const latest = { error: '58030', since: first?.since };
    expect(pool.failure).toEqual(latest);
    await pool.rows(acme, ONE);
    expect(pool.failure).toEqual(latest);
    await pool.rows(acme, { name: 'none', text: 'select where $1::text is null', stores: true });
    expect(pool.failure).toEqual(latest);
    await pool.rows(acme, { name: 'stored', text: 'select where $1::text is not null', stores: true });
    expect(pool.failure).toBeUndefined();
  } finally {
    await pool.end();
  }
});
