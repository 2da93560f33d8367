import { expect, test } from '@jest/globals';
import pg from 'pg';
import { post, type StoredAnswer } from '../support/api.ts';
import { startService } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { serviceToken } from '../support/tokens.ts';

/* What is answered and then killed: test/chaos/p2-durable-first.test.ts. */

test('no 201 leaves before the commit', async () => {
  const service = await startService();
  const url = `${service.url}/v1/notifications`;
  const notification = { to: { user: 'a' }, type: 't', data: 1 };
  await post(url, serviceToken(), notification);
  const client = new pg.Client({ connectionString: service.database.url });
  // When this test fails it leaves the session to the end of the database.
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(`select from tenant_logs where tenant_id = 'acme' for update`);
  let answered = false;
  const answer = post<StoredAnswer>(url, serviceToken(), notification).finally(() => {
    answered = true;
  });
  await eventually(async () => {
    const waiting = await service.database.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'tidings append' and datname = current_database()`,
    );
    expect(waiting).toHaveLength(1);
  });
  expect(answered).toBe(false);
  await client.query('commit');
  const { status, body } = await answer;
  expect(status).toBe(201);
  // Another session sees it at once.
  const { rows } = await client.query('select from notifications where tenant_id = $1 and id = $2', [
    'acme',
    body.id,
  ]);
  expect(rows).toHaveLength(1);
  await client.end();
  await service.close();
});
