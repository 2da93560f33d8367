import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { ProblemBody } from '../support/admin.ts';
import { post } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { serviceToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

const PUBLISH = 'notifications:publish';
const plain = serviceToken({ scope: PUBLISH });
const broadcaster = serviceToken({ scope: `${PUBLISH} notifications:broadcast` });
const news = (scope = PUBLISH) => serviceToken({ scope, claims: { topics: ['news'] } });

const item = (to: object) => ({ to, type: 't', data: 1 });
const single = (token: string, to: object, headers = {}) =>
  post<ProblemBody>(`${service.url}/v1/notifications`, token, item(to), headers);
const batch = (token: string, targets: object[], headers = {}) =>
  post<ProblemBody>(
    `${service.url}/v1/notifications/batch`,
    token,
    { notifications: targets.map(item) },
    headers,
  );
const stored = async () =>
  (await service.database.query<{ n: number }>(`select count(*)::int as n from notifications`))[0]?.n;

describe('everyone', () => {
  test('is published to with the scope for it, beside the one for publishing', async () => {
    expect((await single(broadcaster, { everyone: true })).status).toBe(201);
    expect((await batch(broadcaster, [{ user: 'u' }, { everyone: true }])).status).toBe(201);
  });

  test('is refused without it, in any place of a request, and nothing is stored', async () => {
    const before = await stored();
    const { status, headers, body } = await single(plain, { everyone: true });
    expect([status, body.code, headers.get('www-authenticate')]).toEqual([
      403,
      'scope_missing',
      expect.stringContaining('scope="notifications:broadcast"'),
    ]);
    expect(body.errors).toEqual([{ pointer: '/to/everyone', detail: expect.any(String) }]);
    const many = await batch(plain, [
      { user: 'u' },
      { everyone: true },
      { topic: 'news' },
      { everyone: true },
    ]);
    expect([many.status, many.body.errors?.map(({ pointer }) => pointer)]).toEqual([
      403,
      ['/notifications/1/to/everyone', '/notifications/3/to/everyone'],
    ]);
    expect(await stored()).toBe(before);
  });

  test('takes both scopes: the one alone publishes nothing', async () => {
    const only = serviceToken({ scope: 'notifications:broadcast' });
    for (const to of [{ everyone: true }, { user: 'u' }])
      expect(await single(only, to)).toMatchObject({ status: 403, body: { code: 'scope_missing' } });
  });

  test('is refused also when the key was used with the scope', async () => {
    const key = { 'idempotency-key': 'with-the-scope' };
    expect((await single(broadcaster, { everyone: true }, key)).status).toBe(201);
    expect((await single(plain, { everyone: true }, key)).status).toBe(403);
  });
});

describe('a service whose token has topics', () => {
  test('publishes to them, to users, and with the scope to everyone', async () => {
    expect((await single(news(), { topic: 'news' })).status).toBe(201);
    expect((await batch(news(), [{ topic: 'news' }, { user: 'u' }, { users: ['a', 'b'] }])).status).toBe(201);
    expect((await single(news(`${PUBLISH} notifications:broadcast`), { everyone: true })).status).toBe(201);
  });

  test.each(['New', 'newsletter', 'NEWS', 'news '])('publishes to no other: %j', async (topic) => {
    const before = await stored();
    expect(await single(news(), { topic })).toMatchObject({
      status: 403,
      body: { code: 'topic_forbidden', errors: [{ pointer: '/to/topic' }] },
    });
    const many = await batch(news(), [{ topic: 'news' }, { topic }, { user: 'u' }, { topic }]);
    expect([many.status, many.body.errors?.map(({ pointer }) => pointer)]).toEqual([
      403,
      ['/notifications/1/to/topic', '/notifications/3/to/topic'],
    ]);
    expect(await stored()).toBe(before);
  });

  test('publishes to none when the list is empty, and to all without one', async () => {
    const none = serviceToken({ scope: PUBLISH, claims: { topics: [] } });
    expect(await single(none, { topic: 'news' })).toMatchObject({ status: 403 });
    expect((await single(none, { user: 'u' })).status).toBe(201);
    expect((await single(plain, { topic: 'anything' })).status).toBe(201);
  });
});
