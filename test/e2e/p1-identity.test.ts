import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Operations } from '../../src/openapi/document.ts';
import { post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

const publisher = serviceToken({ tenant: 'acme' });
const hello = (to: Record<string, unknown>, data: unknown = 'hello') => ({ to, type: 't', data });

const END = 'the end of what a test is about';

/** What a stream got, up to a last notification that is sent to everyone of its tenant. */
async function dataUpToNow(stream: StreamClient, token = publisher): Promise<unknown[]> {
  const { id: last } = await publish(service.url, token, hello({ everyone: true }, END));
  await stream.until(() => stream.notifications.some(({ id }) => id === last), 'the end');
  return stream.notifications.map(({ data }) => data).filter((data) => data !== END);
}

describe('whose stream it is', () => {
  test('follows from the token: the same name in another tenant is another person', async () => {
    const user = 'same-name';
    const here = await StreamClient.open(service.url, userToken({ tenant: 'acme', user }));
    const there = await StreamClient.open(service.url, userToken({ tenant: 'globex', user }));
    await here.untilEvent('caught-up');
    await there.untilEvent('caught-up');
    await publish(service.url, publisher, hello({ user }, 'for acme'));
    await publish(service.url, serviceToken({ tenant: 'globex' }), hello({ user }, 'for globex'));
    await publish(service.url, publisher, hello({ user: 'Same-name' }, 'for another'));
    expect(await dataUpToNow(here)).toEqual(['for acme']);
    expect(await dataUpToNow(there, serviceToken({ tenant: 'globex' }))).toEqual(['for globex']);
    await here.cut();
    await there.cut();
  });

  test.each([
    'tenant',
    'tenant_id',
    'tenantId',
    'user',
    'user_id',
    'userId',
    'sub',
    'topics',
    'topic',
    'scope',
  ])('cannot be said by the query parameter %s', async (name) => {
    const tenant = `said-${name}`;
    const token = serviceToken({ tenant });
    await publish(service.url, token, { to: { user: 'bob' }, type: 't', data: 1 });
    await publish(service.url, token, { to: { topic: 'bob' }, type: 't', data: 1 });
    const own = await publish(service.url, token, { to: { user: 'alice' }, type: 't', data: 1 });
    const stream = await StreamClient.open(service.url, userToken({ tenant }), { query: { [name]: 'bob' } });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ id }) => id)).toEqual([own.id]);
    await stream.cut();
  });

  test('is not changed by any header', async () => {
    const headers = {
      'x-tenant-id': 'globex',
      'x-tenant': 'globex',
      'x-user-id': 'bob',
      'x-user': 'bob',
      'x-forwarded-user': 'bob',
      'x-authenticated-user': 'bob',
      'x-original-url': '/v1/stream?user=bob',
      'x-topics': 'secrets',
      cookie: 'user=bob; tenant=globex; token=x',
      forwarded: 'for=bob',
    };
    const stream = await StreamClient.open(service.url, userToken({ user: 'carol' }), { headers });
    await stream.untilEvent('caught-up');
    await publish(service.url, publisher, hello({ user: 'bob' }, 'for bob'));
    await publish(service.url, publisher, hello({ topic: 'secrets' }, 'for the initiated'));
    await publish(service.url, serviceToken({ tenant: 'globex' }), hello({ everyone: true }, 'for globex'));
    await publish(service.url, publisher, hello({ user: 'carol' }, 'for carol'));
    expect(await dataUpToNow(stream)).toEqual(['for carol']);
    await stream.cut();
  });

  test.each(['/v1/stream/bob', '/v1/globex/stream', '/v1/tenants/globex/stream', '/v1/users/bob/stream'])(
    'cannot be said by the path %s',
    async (path) => {
      const response = await fetch(service.url + path, {
        headers: { authorization: `Bearer ${userToken()}` },
      });
      expect(response.status).toBe(404);
    },
  );

  test('gets the topics of the token and no others', async () => {
    const stream = await StreamClient.open(
      service.url,
      userToken({ user: 'reader', topics: ['news', 'Sport'] }),
    );
    await stream.untilEvent('caught-up');
    for (const topic of ['sport', 'news', 'new', 'news ', 'Sport']) {
      await publish(service.url, publisher, hello({ topic }, topic));
    }
    expect(await dataUpToNow(stream)).toEqual(['news', 'Sport']);
    await stream.cut();
  });

  test('belongs to the device that the token names, whatever the query says', async () => {
    const token = userToken({ user: 'tied', device: 'phone' });
    const stream = await StreamClient.open(service.url, token, { query: { device: 'tablet' } });
    expect(await stream.untilEvent('sync')).toMatchObject({ device: 'phone' });
    await stream.cut();
  });

  test('a service cannot open one, even in the name of a user', async () => {
    const stream = await StreamClient.open(service.url, serviceToken({ client: 'alice' }));
    await stream.closed;
    expect({ status: stream.status, body: JSON.parse(stream.raw) }).toMatchObject({
      status: 403,
      body: { code: 'not_for_services' },
    });
  });
});

describe('in whose name something is published', () => {
  const stored = (type: string) =>
    service.database.query('select tenant_id, publisher from notifications where type = $1', [type]);

  test('follows from the token', async () => {
    const token = serviceToken({ tenant: 'initech', client: 'reports' });
    const answer = await post(
      `${service.url}/v1/notifications`,
      token,
      { to: { user: 'x' }, type: 'p1.plain', data: 1 },
      {
        'x-tenant-id': 'globex',
        'x-client-id': 'billing',
      },
    );
    expect(answer.status).toBe(201);
    expect(await stored('p1.plain')).toEqual([{ tenant_id: 'initech', publisher: 'reports' }]);
  });

  test.each([
    ['tenant', { tenant: 'globex' }],
    ['tenant_id', { tenant_id: 'globex' }],
    ['tenantId', { tenantId: 'globex' }],
    ['publisher', { publisher: 'billing' }],
    ['sub', { sub: 'billing' }],
    ['to/tenant', { to: { user: 'x', tenant: 'globex' } }],
    ['to/tenant_id', { to: { user: 'x', tenant_id: 'globex' } }],
  ])('cannot be said by the field %s of the body', async (pointer, field) => {
    const notification = { to: { user: 'x' }, type: 'p1.field', data: 1, ...field };
    const single = await post(`${service.url}/v1/notifications`, publisher, notification);
    const batch = await post(`${service.url}/v1/notifications/batch`, publisher, {
      notifications: [notification],
    });
    expect(single).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
    expect(JSON.stringify(single.body['errors'])).toContain(`/${pointer}"`);
    expect(batch).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
    expect(await stored('p1.field')).toEqual([]);
  });

  test.each(['tenant', 'tenant_id', 'user'])('cannot be said by the query parameter %s', async (name) => {
    const url = `${service.url}/v1/notifications?${name}=globex`;
    const answer = await post(url, publisher, { to: { user: 'x' }, type: 'p1.query', data: 1 });
    expect(answer).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
    expect(await stored('p1.query')).toEqual([]);
  });

  test('is nobody without a scope for it', async () => {
    const answer = await post(`${service.url}/v1/notifications`, userToken(), {
      to: { user: 'x' },
      type: 'p1.user',
      data: 1,
    });
    expect(answer).toMatchObject({ status: 403, body: { code: 'scope_missing' } });
    expect(await stored('p1.user')).toEqual([]);
  });
});

describe('in whose name something is acknowledged', () => {
  async function connectOnce(token: string): Promise<void> {
    const stream = await StreamClient.open(service.url, token);
    await stream.untilEvent('caught-up');
    await stream.cut();
  }

  const cursors = async (user: string) => {
    const rows = await service.database.query<{ device: string; cursor: number }>(
      `select tenant_id || '/' || device_id as device, cursor from devices where user_id = $1`,
      [user],
    );
    return Object.fromEntries(rows.map(({ device, cursor }) => [device, cursor]));
  };

  test('follows from the token: neither the namesake next door nor another device is moved', async () => {
    const user = 'reader-of-two';
    const phone = userToken({ tenant: 'acme', user, device: 'phone' });
    for (const token of [
      phone,
      userToken({ tenant: 'acme', user, device: 'tablet' }),
      userToken({ tenant: 'globex', user }),
    ]) {
      await connectOnce(token);
    }
    const before = await cursors(user);
    const { position } = await publish(service.url, publisher, hello({ user }));
    const answer = await post(
      `${service.url}/v1/acks`,
      phone,
      { upTo: position, device: 'tablet' },
      { 'x-tenant-id': 'globex' },
    );
    expect(answer.status).toBe(204);
    expect(await cursors(user)).toEqual({ ...before, 'acme/phone': Number(position) });
  });

  test.each(['tenant', 'tenant_id', 'user', 'userId', 'sub'])(
    'cannot be said by the field %s of the body',
    async (name) => {
      const { position } = await publish(service.url, publisher, hello({ user: 'bob' }));
      const answer = await post(`${service.url}/v1/acks`, userToken(), { upTo: position, [name]: 'bob' });
      expect(answer).toMatchObject({ status: 400, body: { errors: [{ pointer: `/${name}` }] } });
    },
  );
});

describe('without a token', () => {
  test('everything is closed that does not say that it is open', async () => {
    const closed = service.app.get(Operations).all.filter(({ access }) => access.kind !== 'public');
    expect(closed.map(({ method, path }) => `${method} ${path}`)).toContain('get /v1/stream');
    for (const { method, path } of closed) {
      for (const body of method === 'get' ? [undefined] : [undefined, '{}']) {
        const response = await fetch(service.url + path.replaceAll(/\{\w+\}/g, 'x'), {
          method: method.toUpperCase(),
          ...(body === undefined ? {} : { body, headers: { 'content-type': 'application/json' } }),
        });
        expect([method, path, response.status, await response.json()]).toMatchObject([
          method,
          path,
          401,
          { code: 'token_missing' },
        ]);
        expect(response.headers.get('www-authenticate')).toMatch(/^Bearer /);
      }
    }
  });

  test.each(['/health/live', '/health/ready', '/metrics'])('GET %s is open', async (path) => {
    const response = await fetch(service.url + path);
    await response.text();
    expect(response.status).toBe(200);
  });
});

test('a token in the URL opens nothing, and nothing of it is logged', async () => {
  const lines: string[] = [];
  const logs = { write: (line: string) => void lines.push(line) };
  const talkative = await startService({ LOG_LEVEL: 'trace' }, { logs });
  try {
    const token = userToken();
    for (const path of ['/v1/stream', '/health/live', '/nowhere']) {
      const response = await fetch(`${talkative.url}${path}?access_token=${token}`);
      expect(response.status).toBe(400);
      expect(await response.text()).not.toContain(token);
    }
    await fetch(`${talkative.url}/v1/acks`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}` },
    });
    expect(lines.join('')).toContain('/nowhere');
    for (const part of token.split('.')) expect(lines.join('')).not.toContain(part);
  } finally {
    await talkative.close();
  }
});
