import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { TenantPool } from '../../src/database/tenant-pool.ts';
import { tenantIdSchema } from '../../src/identifiers.ts';
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
  text: `select generic_plans::int as generic, custom_plans::int as custom from pg_prepared_statements
    where name = 'one' and $1::text is not null`,
};

test.each([
  [true, { generic: 7, custom: 0 }],
  [undefined, { generic: 2, custom: 5 }],
])(
  'a statement is planned once for all values where that is asked for: %s',
  async (genericPlans, expected) => {
    const pool = new TenantPool({
      // Not of the service: its statements name a tenant, or the run fails.
      url: database.url,
      name: 'test',
      connections: 1,
      connectTimeoutMs: 5_000,
      statementTimeoutMs: 5_000,
      preparedStatements: true,
      ...(genericPlans === undefined ? {} : { genericPlans }),
    });
    try {
      for (let n = 0; n < 7; n += 1) await pool.rows(acme, ONE);
      expect(await pool.rows(acme, PLANS)).toEqual([expected]);
    } finally {
      await pool.end();
    }
  },
);
