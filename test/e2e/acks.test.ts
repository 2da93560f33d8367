import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { positionOfTime } from '../../src/core/position.ts';
import { SERVICE_SCOPES } from '../../src/core/scopes.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken, type UserTokenOptions } from '../support/tokens.ts';

let service: Service;
let users = 0;

beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

const acknowledge = async (token: string, body: unknown) => await post(`${service.url}/v1/acks`, token, body);
const send = async (user: string, data: unknown) =>
  await publish(service.url, serviceToken(), { to: { user }, type: 't', data });

/** Somebody whom no other test knows. */
function someone(): { user: string; token: (options?: UserTokenOptions) => string } {
  users += 1;
  const user = `user-${users}`;
  return { user, token: (options) => userToken({ user, ...options }) };
}

/** What the device of a token gets when it comes back without a position. */
async function undelivered(token: string, query: Record<string, string> = {}): Promise<unknown[]> {
  const stream = await StreamClient.open(service.url, token, { query });
  await stream.untilEvent('caught-up');
  await stream.cut();
  return stream.notifications.map(({ data }) => data);
}

describe('an acknowledgement', () => {
  test('is answered 204 without a body, and what it confirms does not come again', async () => {
    const { user, token } = someone();
    expect(await undelivered(token())).toEqual([]);
    const sent = [await send(user, 1), await send(user, 2), await send(user, 3)];
    expect(await undelivered(token())).toEqual([1, 2, 3]);
    const answer = await acknowledge(token(), { upTo: sent[1]?.position });
    expect([answer.status, answer.body]).toEqual([204, {}]);
    expect(await undelivered(token())).toEqual([3]);
    // Again, and further back: nothing changes.
    expect((await acknowledge(token(), { upTo: sent[1]?.position })).status).toBe(204);
    expect((await acknowledge(token(), { upTo: sent[0]?.position })).status).toBe(204);
    expect(await undelivered(token())).toEqual([3]);
  });

  test('is for the device that it names, and for "default" without a name', async () => {
    const { user, token } = someone();
    for (const device of ['default', 'tablet']) await undelivered(token(), { device });
    const { position } = await send(user, 1);
    await acknowledge(token(), { upTo: position, device: 'tablet' });
    expect(await undelivered(token(), { device: 'tablet' })).toEqual([]);
    expect(await undelivered(token())).toEqual([1]);
    await acknowledge(token(), { upTo: position });
    expect(await undelivered(token())).toEqual([]);
  });

  test('is for the device of the token, whatever the body says', async () => {
    const { user, token } = someone();
    for (const device of ['phone', 'tablet']) await undelivered(token({ device }));
    const { position } = await send(user, 1);
    expect((await acknowledge(token({ device: 'phone' }), { upTo: position, device: 'tablet' })).status).toBe(
      204,
    );
    expect(await undelivered(token({ device: 'phone' }))).toEqual([]);
    expect(await undelivered(token({ device: 'tablet' }))).toEqual([1]);
  });

  test('of one user leaves the device of another, and of another tenant, as it was', async () => {
    const { user, token } = someone();
    await undelivered(token());
    const { position } = await send(user, 1);
    await undelivered(someone().token());
    expect((await acknowledge(someone().token(), { upTo: position })).status).toBe(404);
    await undelivered(token({ tenant: 'globex' }));
    await acknowledge(token({ tenant: 'globex' }), { upTo: position });
    expect(await undelivered(token())).toEqual([1]);
  });
});

describe('refused', () => {
  test('is a position that nothing was published at', async () => {
    const { user, token } = someone();
    await undelivered(token());
    const { position } = await send(user, 1);
    expect(await acknowledge(token(), { upTo: String(Number(position) + 1) })).toMatchObject({
      status: 400,
      body: {
        code: 'position_unknown',
        type: '/docs/errors#position_unknown',
        errors: [{ pointer: '/upTo' }],
      },
    });
    expect(await undelivered(token())).toEqual([1]);
  });

  test('is a device that never opened a stream', async () => {
    const { user, token } = someone();
    const { position } = await send(user, 1);
    expect(await acknowledge(token(), { upTo: position })).toMatchObject({
      status: 404,
      body: { code: 'device_unknown' },
    });
  });

  test.each([
    ['no position', {}, '/upTo'],
    ['a number', { upTo: 5 }, '/upTo'],
    ['null', { upTo: null }, '/upTo'],
    ['an empty string', { upTo: '' }, '/upTo'],
    ['a leading zero', { upTo: '007' }, '/upTo'],
    ['a sign', { upTo: '-1' }, '/upTo'],
    ['space around', { upTo: ' 5' }, '/upTo'],
    ['more than 53 bits', { upTo: '9007199254740992' }, '/upTo'],
    ['a fraction', { upTo: '5.0' }, '/upTo'],
    ['a device that is none', { upTo: '5', device: 'a b' }, '/device'],
    ['a device of null', { upTo: '5', device: null }, '/device'],
    ['a field that is not known', { upTo: '5', user: 'bob' }, '/user'],
    ['an array', ['5'], ''],
  ])('is a body with %s', async (_, body, pointer) => {
    expect(await acknowledge(userToken(), body)).toMatchObject({
      status: 400,
      body: { code: 'validation_failed', errors: [{ pointer }] },
    });
  });

  test('is a query', async () => {
    const answer = await post(`${service.url}/v1/acks?device=phone`, userToken(), { upTo: '5' });
    expect(answer).toMatchObject({
      status: 400,
      body: { code: 'validation_failed', errors: [{ pointer: '/device' }] },
    });
  });

  test.each(SERVICE_SCOPES)('is a token with the scope %s', async (scope) => {
    expect(await acknowledge(serviceToken({ scope }), { upTo: '5' })).toMatchObject({
      status: 403,
      body: { code: 'not_for_services' },
    });
  });

  test('is a request without a token', async () => {
    const response = await fetch(`${service.url}/v1/acks`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"upTo":"5"}',
    });
    expect(response.status).toBe(401);
    expect(response.headers.get('www-authenticate')).toMatch(/^Bearer/);
  });
});

test('many devices that acknowledge at once are all answered, and all of it is stored', async () => {
  const { position } = await publish(service.url, serviceToken(), {
    to: { everyone: true },
    type: 't',
    data: 1,
  });
  const crowd = Array.from({ length: 50 }, () => someone());
  await Promise.all(crowd.map(async ({ token }) => await undelivered(token())));
  const answers = await Promise.all(
    crowd.map(async ({ token }) => await acknowledge(token({ topics: ['news'] }), { upTo: position })),
  );
  expect(answers.map(({ status }) => status)).toEqual(crowd.map(() => 204));
  const rows = await service.database.query(
    `select 1 from acks where tenant_id = 'acme' and to_position = $1 and not by_resume and topics = '{news}' and user_id = any($2)`,
    [position, crowd.map(({ user }) => user)],
  );
  expect(rows).toHaveLength(crowd.length);
});

test('positions of any day since 2020, acknowledged or resumed at, make no tables and lose nobody anything', async () => {
  const { user, token } = someone();
  const tables = async () =>
    await service.database.query(
      `select oid::regclass::text as name from pg_class where relispartition order by 1`,
    );
  await undelivered(token());
  const first = await send(user, 'first');
  const before = await tables();
  for (let year = 2020; year < 2026; year += 1) {
    const long = String(positionOfTime(Date.UTC(year, 5, 1)));
    expect((await acknowledge(token(), { upTo: long })).status).toBe(204);
    const stream = await StreamClient.open(service.url, token(), { lastEventId: long });
    await stream.untilEvent('caught-up');
    expect(stream.named('sync')).toMatchObject([{ resume: 'exact', from: long }]);
    expect(stream.notifications.at(-1)).toMatchObject({ data: 'first' });
    await stream.cut();
  }
  expect(await tables()).toEqual(before);
  // Nor is anything confirmed that lies before the tenant's log begins, not even today.
  const [{ beginning } = { beginning: 0 }] = await service.database.query<{ beginning: number }>(
    `select beginning from tenant_logs where tenant_id = 'acme'`,
  );
  expect(beginning).toBeGreaterThan(positionOfTime(Date.UTC(2026, 0)));
  expect((await acknowledge(token(), { upTo: String(beginning) })).status).toBe(204);
  expect(await service.database.query('select from acks where user_id = $1', [user])).toEqual([]);
  expect((await acknowledge(token(), { upTo: first.position })).status).toBe(204);
  expect(
    await service.database.query('select from_position, to_position from acks where user_id = $1', [user]),
  ).toEqual([{ from_position: beginning, to_position: Number(first.position) }]);
  expect(await undelivered(token())).toEqual([]);
});
