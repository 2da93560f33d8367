import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Maintenance } from '../../src/maintenance/maintenance.ts';
import { call, operatorOf, readerOf } from '../support/admin.ts';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { makeHostile } from '../support/hostile-settings.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

/* Settings that somebody made for the database, for other programs, decide nothing of what the service stores. */

let database: TestDatabase;
let service: Service;
beforeAll(async () => {
  database = await createDatabase();
  await makeHostile(database, 'database');
  service = await startService({}, { database });
});
afterAll(async () => {
  await service.close();
  await database.drop();
});

/** 400 is an acknowledgement of nothing: the token was taken. */
const statusOf = async ({ url }: Service, token: string) =>
  (await call('POST', `${url}/v1/acks`, token, {})).status;

test('a revocation that was answered holds, on the node that took it and on one that starts later', async () => {
  const old = userToken({
    tenant: 'revoking',
    user: 'bob',
    claims: { iat: Math.floor(Date.now() / 1_000) - 60 },
  });
  const single = userToken({ tenant: 'revoking', user: 'carol', claims: { jti: 'leaked' } });
  expect(await statusOf(service, old)).toBe(400);
  expect(await statusOf(service, single)).toBe(400);
  const operator = operatorOf('revoking');
  const issuedBefore = new Date(Date.now() - 1_000).toISOString();
  const answers = [
    await call('POST', `${service.url}/v1/revocations`, operator, { user: 'bob', issuedBefore }),
    await call('POST', `${service.url}/v1/revocations`, operator, { token: { jti: 'leaked' } }),
  ];
  expect(answers).toMatchObject([
    { status: 201, body: { user: 'bob', issuedBefore } },
    { status: 201, body: { jti: 'leaked' } },
  ]);
  const later = await startService({}, { database });
  for (const node of [service, later]) {
    expect(await statusOf(node, old)).toBe(401);
    expect(await statusOf(node, single)).toBe(401);
  }
  await later.close();
});

test('partitions are made ahead', async () => {
  expect(await service.app.get(Maintenance).runOnce()).toMatchObject({ worked: true, failed: [] });
  const [ahead] = await database.query(
    `select count(*) as n from pg_inherits where inhparent = 'public.notifications'::regclass`,
  );
  expect(ahead?.['n']).toBeGreaterThan(1);
});

test('what is published is delivered, confirmed and remembered, with its times', async () => {
  const stream = await StreamClient.open(service.url, userToken());
  await stream.untilEvent('caught-up');
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const data = { number: 0.1234567890123457, nothing: null, text: String.raw`C:\new\'x'` };
  const { id, position, createdAt } = await publish(service.url, serviceToken(), {
    to: { user: 'alice' },
    type: 'test',
    data,
    expiresAt,
  });
  await stream.untilNotifications(1);
  expect(stream.notifications).toMatchObject([{ id, position, createdAt, expiresAt, data }]);
  expect((await call('POST', `${service.url}/v1/acks`, userToken(), { upTo: position })).status).toBeLessThan(
    300,
  );
  const { body } = await call('GET', `${service.url}/v1/notifications?user=alice`, readerOf('acme'));
  expect(body).toMatchObject({ items: [{ id, createdAt, expiresAt }] });
  const devices = await call('GET', `${service.url}/v1/notifications/${id}/devices`, readerOf('acme'));
  expect(devices.body).toMatchObject({ items: [{ deliveredAt: expect.stringMatching(/^\d{4}-.*Z$/) }] });
  await stream.cut();
});
