import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { adminOf, call, KeyIssuer, readerOf } from '../support/admin.ts';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';

/* Two nodes on one database. What one is told, the other does with its next look, which is less than a second away. */

const provider = new KeyIssuer('https://id.shared.example');

let one: Service;
let other: Service;
beforeAll(async () => {
  const settings = { TENANT_PROVISIONING: 'explicit' };
  one = await startService();
  other = await startService(settings, { database: one.database });
  // The tenant of the administrator and the readers.
  await one.database.query(`insert into tenants (tenant_id) values ('ops')`);
});
afterAll(async () => {
  await other.close();
  await one.close();
});

const admin = adminOf('ops');
/** The other node looks, and no more than once. */
const look = () => other.app.get(ChangeFeed).now();
const statusOn = async (node: Service, token: string) =>
  (await call('GET', `${node.url}/v1/audit`, token)).status;

test('a tenant that one node registers, suspends and resumes is so on the other by itself', async () => {
  expect(other.config.CHANGES_POLL_MS).toBeLessThan(1_000);
  const reader = readerOf('acme');
  expect(await statusOn(other, reader)).toBe(403);
  const patch = (status: string) => call('PATCH', `${one.url}/v1/tenants/acme`, admin, { status });

  expect((await call('POST', `${one.url}/v1/tenants`, admin, { id: 'acme' })).status).toBe(201);
  await eventually(async () => expect(await statusOn(other, reader)).toBe(200));
  await patch('suspended');
  expect(await statusOn(one, reader)).toBe(403);
  await eventually(async () => expect(await statusOn(other, reader)).toBe(403));
  await patch('active');
  expect(await statusOn(one, reader)).toBe(200);
  await eventually(async () => expect(await statusOn(other, reader)).toBe(200));
});

test('an issuer that one node registers, disables, enables and removes is so on the other with its next look', async () => {
  await call('POST', `${one.url}/v1/tenants`, admin, { id: 'shared' });
  const token = provider.token({ sub: 'reader', scope: 'history:read' });
  expect(await statusOn(one, token)).toBe(401);

  const { status, body } = await call<{ id: string }>(
    'POST',
    `${one.url}/v1/issuers`,
    admin,
    provider.registration({ tenant: 'shared' }),
  );
  expect(status).toBe(201);
  const at = `${one.url}/v1/issuers/${body.id}`;
  expect(await statusOn(one, token)).toBe(200);
  await look();
  expect(await statusOn(other, token)).toBe(200);

  for (const [change, expected] of [
    [() => call('PATCH', at, admin, { status: 'disabled' }), 401],
    [() => call('PATCH', at, admin, { status: 'active' }), 200],
    [() => call('DELETE', at, admin), 401],
  ] as const) {
    expect([200, 204]).toContain((await change()).status);
    expect(await statusOn(one, token)).toBe(expected);
    await look();
    expect(await statusOn(other, token)).toBe(expected);
  }
});

test('a tenant that one node was told about is known at once to a node that starts afterwards', async () => {
  await call('POST', `${one.url}/v1/tenants`, admin, { id: 'late' });
  await call('PATCH', `${one.url}/v1/tenants/late`, admin, { status: 'suspended' });
  const third = await startService({}, { database: one.database });
  try {
    expect(await statusOn(third, readerOf('late'))).toBe(403);
  } finally {
    await third.close();
  }
});
