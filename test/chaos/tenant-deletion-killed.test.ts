import { afterEach, beforeEach, expect, jest, test } from '@jest/globals';
import { adminOf, call } from '../support/admin.ts';
import { get, post, publish } from '../support/api.ts';
import { startService } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { holding, rowsOf, untilHeld } from '../support/privacy.ts';
import { startServiceProcess } from '../support/service-process.ts';
import { serviceToken } from '../support/tokens.ts';

const PATIENCE_MS = 60_000;
jest.setTimeout(5 * PATIENCE_MS);

const admin = adminOf('operations');
const of = (url: string) => `${url}/v1/tenants/acme`;

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await database.drop();
});

test('a deletion whose node is killed half-way is carried on by another node', async () => {
  const service = await startServiceProcess(database);
  const users = Array.from({ length: 1_000 }, (_, n) => `u-${n}`);
  for (let n = 0; n < 3; n += 1)
    await post(`${service.url}/v1/notifications`, serviceToken(), { to: { users }, type: 't', data: n });
  await publish(service.url, serviceToken({ tenant: 'globex' }), { to: { user: 'a' }, type: 't', data: 1 });
  const release = await holding(
    database,
    `select from notifications where position = (select position from notifications order by position offset 1500 limit 1) for update`,
  );
  void call('DELETE', of(service.url), admin).catch(() => undefined);
  await untilHeld(database, 'delete from notifications');
  await service.end();
  expect((await rowsOf(database, 'acme'))['notifications']).toHaveLength(2_000);
  await release();

  const other = await startService({ NODE_NAME: 'other' }, { database });
  await eventually(
    async () => expect((await get<{ status: string }>(of(other.url), admin)).body.status).toBe('deleted'),
    { within: PATIENCE_MS },
  );
  expect((await rowsOf(database, 'acme'))['notifications']).toEqual([]);
  expect((await rowsOf(database, 'globex'))['notifications']).toHaveLength(1);
  const records = await database.query<{ action: string }>('select action from audit_log order by at');
  expect(records.map(({ action }) => action)).toEqual(['tenant.delete', 'tenant.deleted']);
  await other.close();
});
