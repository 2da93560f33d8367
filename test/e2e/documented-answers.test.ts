import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Operation, Operations, problemSchema, problemsOf } from '../../src/openapi/document.ts';
import { startService, type Service } from '../support/app.ts';
import { get, publish } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { historyItemSchema } from '../../src/history/history.openapi.ts';
import { streamEvents } from '../../src/delivery/stream.openapi.ts';

/* What the service answers, held against what its documentation says that it answers. */

const PUBLISH = '/v1/notifications';
const item = { to: { user: 'alice' }, type: 'order.shipped', data: { n: 1 } };
const NOBODYS = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';
const publisher = serviceToken();
const operator = serviceToken({ client: 'ops', scope: 'history:read' });
const user = userToken();

let service: Service;
let operations: readonly Operation[];
beforeAll(async () => {
  service = await startService({ TOKEN_EXPIRY_NOTICE_SECONDS: 3_000 });
  operations = service.app.get(Operations).all;
});
afterAll(() => service.close());

interface Call {
  readonly method?: string;
  readonly token?: string;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
  /** In place of the parameters of the path, and the query. */
  readonly url?: string;
}

/** Calls a route of the documentation and checks status, headers and body against what it says. */
async function call(path: string, { method = 'get', token, headers = {}, body, url = path }: Call = {}) {
  const operation = operations.find((each) => each.path === path && each.method === method);
  if (operation === undefined) throw new Error(`${method} ${path} is not documented`);
  const response = await fetch(`${service.url}${url}`, {
    // The standard corrects the case of some methods, and PATCH is not among them.
    method: method.toUpperCase(),
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const { status } = response;
  const text = await response.text();
  expect(response.headers.get('x-request-id')).not.toBeNull();
  const mediaType = response.headers.get('content-type')?.split(';')[0];
  if (mediaType === 'application/problem+json') {
    const problem = problemSchema.parse(JSON.parse(text));
    expect({ ...problem, status }).toEqual(problem);
    expect(problemsOf(operation)).toContain(problem.code);
    if (status === 401) expect(response.headers.get('www-authenticate')).toMatch(/^Bearer /);
    if (status === 503) expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(0);
    return { status, headers: response.headers, code: problem.code, text };
  }
  const answer = operation.answers.find((each) => each.status === status);
  if (answer === undefined)
    throw new Error(`${method} ${path} answered ${status}, which is not documented: ${text}`);
  const content = answer.content?.find((each) => each.mediaType === mediaType);
  if (text !== '' && content === undefined)
    throw new Error(`${method} ${path} answered ${mediaType}, which is not documented`);
  if (content !== undefined && 'schema' in content) content.schema.parse(JSON.parse(text));
  return { status, headers: response.headers, code: undefined, text };
}

describe('an answer that went well is as documented', () => {
  test.each([
    ['one user', item],
    ['several users', { ...item, to: { users: ['a', 'b'] } }],
    ['a topic', { ...item, to: { topic: 'team:blue' }, ttlSeconds: 60 }],
    ['everyone', { ...item, to: { everyone: true } }],
    ['a user, as a signal', { ...item, inbox: false }],
  ])('to a publish for %s', async (_, body) => {
    const { status, headers } = await call(PUBLISH, { method: 'post', token: publisher, body });
    expect(status).toBe(201);
    if (!('users' in body.to))
      expect(headers.get('location')).toMatch(/^\/v1\/notifications\/[0-9a-f-]{36}$/);
  });

  test('to a batch, and to one that is repeated', async () => {
    const again = {
      method: 'post',
      token: publisher,
      headers: { 'idempotency-key': 'twice' },
      body: { notifications: [item, { ...item, to: { topic: 't' } }] },
    };
    const first = await call(`${PUBLISH}/batch`, again);
    expect([first.status, first.headers.get('idempotency-replayed')]).toEqual([201, null]);
    const second = await call(`${PUBLISH}/batch`, again);
    expect([second.status, second.headers.get('idempotency-replayed')]).toEqual([201, 'true']);
    expect(second.text).toBe(first.text);
  });

  test('to an acknowledgement', async () => {
    const stream = await StreamClient.open(service.url, user, { query: { device: 'acker' } });
    await stream.untilEvent('caught-up');
    await stream.cut();
    const { position } = await publish(service.url, publisher, item);
    const { status, text } = await call('/v1/acks', {
      method: 'post',
      token: user,
      body: { upTo: position, device: 'acker' },
    });
    expect([status, text]).toEqual([204, '']);
  });

  test('to every question about a notification, its devices and its connections', async () => {
    const reader = userToken({ user: 'looked-at', topics: ['team:red'] });
    const stream = await StreamClient.open(service.url, reader);
    await stream.untilEvent('caught-up');
    const own = await publish(service.url, publisher, { ...item, to: { user: 'looked-at' } });
    const broadcast = await publish(service.url, publisher, {
      ...item,
      to: { topic: 'team:red' },
      ttlSeconds: 600,
      inbox: false,
    });
    await stream.untilNotifications(2);
    await call('/v1/acks', { method: 'post', token: reader, body: { upTo: broadcast.position } });

    await eventually(async () => {
      const { text } = await call(`${PUBLISH}/{id}`, { token: operator, url: `${PUBLISH}/${own.id}` });
      expect(JSON.parse(text)).toMatchObject({ status: 'delivered', devices: [{ sends: 1 }] });
    });
    for (const [token, id] of [
      [operator, broadcast.id],
      [publisher, own.id],
    ] as const) {
      const url = `${PUBLISH}/${id}`;
      expect((await call(`${PUBLISH}/{id}`, { token, url })).status).toBe(200);
      expect((await call(`${PUBLISH}/{id}/devices`, { token, url: `${url}/devices?limit=1` })).status).toBe(
        200,
      );
      expect((await call(`${PUBLISH}/{id}/timeline`, { token, url: `${url}/timeline` })).status).toBe(200);
    }
    expect((await call(PUBLISH, { token: operator, url: `${PUBLISH}?limit=2` })).status).toBe(200);
    const connections = '/v1/connections';
    const now = await call(connections, { token: operator, url: `${connections}?user=looked-at` });
    expect(JSON.parse(now.text)).toMatchObject({ items: [{ user: 'looked-at', until: null }] });
    await stream.cut();
    await eventually(async () => {
      const url = `${connections}?user=looked-at&since=2020-01-01T00:00:00Z`;
      const { text } = await call(connections, { token: operator, url });
      expect(JSON.parse(text)).toMatchObject({
        items: [{ until: expect.any(String), reason: expect.any(String) }],
      });
    });
  });

  test('to a request for lines', async () => {
    const { headers, text } = await call(PUBLISH, {
      token: operator,
      headers: { accept: 'application/x-ndjson' },
    });
    expect(headers.get('content-type')).toMatch(/^application\/x-ndjson/);
    for (const line of text.trimEnd().split('\n')) historyItemSchema.parse(JSON.parse(line));
  });

  test('to everything about a session, tickets and renewals', async () => {
    const post = { method: 'post', token: user } as const;
    expect((await call('/v1/session', post)).status).toBe(204);
    expect((await call('/v1/session', { method: 'delete' })).status).toBe(204);
    expect((await call('/v1/stream/tickets', { ...post, body: { device: 'tv' } })).status).toBe(201);
    const stream = await StreamClient.open(service.url, user);
    const { connectionId } = await stream.untilEvent('sync');
    const body = { connectionId, token: userToken({ expiresInSeconds: 7200 }) };
    expect((await call('/v1/stream/renewals', { ...post, body })).status).toBe(202);
    await stream.cut();
  });

  test('to everything that administrators and operators do', async () => {
    const token = serviceToken({ client: 'root', scope: 'tenants:admin operations:write history:read' });
    const ok = async (method: string, path: string, body?: unknown, url?: string) => {
      const answer = await call(path, {
        method,
        token,
        ...(body === undefined ? {} : { body }),
        ...(url === undefined ? {} : { url }),
      });
      expect({ path, method, text: answer.text, status: answer.status }).toMatchObject({
        status: method === 'delete' || path.endsWith('disconnect') ? 204 : method === 'post' ? 201 : 200,
      });
      return answer.text === '' ? {} : (JSON.parse(answer.text) as Record<string, unknown>);
    };
    await ok('post', '/v1/tenants', { id: 'documented', name: 'Documented' });
    await ok('get', '/v1/tenants');
    const tenant = '/v1/tenants/documented';
    await ok('patch', '/v1/tenants/{id}', { status: 'suspended' }, tenant);
    await ok('get', '/v1/tenants/{id}', undefined, tenant);
    await ok('get', '/v1/tenants/{id}/audit', undefined, `${tenant}/audit`);
    const { id } = await ok('post', '/v1/issuers', {
      iss: 'https://id.documented.example/',
      jwksUrl: 'https://id.documented.example/jwks',
      audiences: ['tidings'],
      tenant: 'documented',
    });
    const issuer = `/v1/issuers/${String(id)}`;
    await ok('get', '/v1/issuers');
    await ok('patch', '/v1/issuers/{id}', { status: 'disabled' }, issuer);
    await ok('get', '/v1/issuers/{id}', undefined, issuer);
    await ok('delete', '/v1/issuers/{id}', undefined, issuer);
    await ok('post', '/v1/revocations', { user: 'gone' });
    await ok('post', '/v1/revocations', { token: { jti: 'lost' } });
    await ok('get', '/v1/revocations');
    await ok('post', '/v1/users/{id}/disconnect', undefined, '/v1/users/gone/disconnect');
    await ok('post', '/v1/users/disconnect', undefined, '/v1/users/disconnect?user=..');
    await ok('get', '/v1/audit');
    const stream = await StreamClient.open(service.url, userToken({ user: 'closed' }));
    const { connectionId } = await stream.untilEvent('sync');
    const path = `/v1/connections/${String(connectionId)}`;
    await eventually(async () =>
      expect((await get(`${service.url}/v1/connections?user=closed`, token)).body).toMatchObject({
        items: [{}],
      }),
    );
    await ok('delete', '/v1/connections/{id}', undefined, path);
    await stream.closed;
  });

  test('to everything about the data of a user, and to the end of a tenant', async () => {
    const token = serviceToken({ tenant: 'private', scope: 'tenants:admin operations:write history:read' });
    await publish(service.url, serviceToken({ tenant: 'private' }), { ...item, to: { user: 'u' } });
    const data = { token, url: '/v1/users/u/data' };
    expect((await call('/v1/users/{id}/data', data)).status).toBe(200);
    expect((await call('/v1/users/{id}/data', { ...data, method: 'delete' })).status).toBe(204);
    const [row] = await service.database.query<{ id: string }>('select erasure_id as id from erasures');
    const named = { token, url: '/v1/users/data?user=..' };
    expect((await call('/v1/users/data', named)).status).toBe(200);
    expect((await call('/v1/users/data', { ...named, method: 'delete' })).status).toBe(204);
    expect((await call('/v1/erasures/{id}', { token, url: `/v1/erasures/${row?.id}` })).status).toBe(200);
    const other = { ...data, url: `/v1/erasures/${NOBODYS}` };
    expect(await call('/v1/erasures/{id}', other)).toMatchObject({ status: 404, code: 'not_found' });
    const tenant = { method: 'delete', token, url: '/v1/tenants/private' };
    expect((await call('/v1/tenants/{id}', tenant)).status).toBe(204);
    expect(await call('/v1/tenants/{id}', tenant)).toMatchObject({ status: 403, code: 'tenant_unknown' });
  });

  test('to everything public that a GET without parameters asks for', async () => {
    const asked = operations.filter(
      ({ method, access, path }) => method === 'get' && access.kind === 'public' && !path.includes('{'),
    );
    expect(asked).not.toEqual([]);
    for (const { path } of asked) expect([path, (await call(path)).status]).toEqual([path, 200]);
  });
});

describe('an error is as documented', () => {
  const post = { method: 'post', token: publisher, body: item };

  test.each<[string, string, Call, number]>([
    ['token_missing', PUBLISH, { method: 'post', body: item }, 401],
    ['token_invalid', PUBLISH, { ...post, token: `${publisher}x` }, 401],
    ['scope_missing', PUBLISH, { ...post, token: operator }, 403],
    ['scope_missing', `${PUBLISH}/batch`, { ...post, token: user }, 403],
    ['token_in_query', PUBLISH, { ...post, url: `${PUBLISH}?access_token=x` }, 400],
    ['token_in_query', '/health/live', { url: '/health/live?token=x' }, 400],
    ['malformed_json', PUBLISH, { ...post, body: '{' }, 400],
    ['validation_failed', PUBLISH, { ...post, body: { ...item, extra: 1 } }, 400],
    ['validation_failed', `${PUBLISH}/batch`, { ...post, body: { notifications: [] } }, 400],
    ['unsupported_media_type', PUBLISH, { ...post, headers: { 'content-type': 'text/plain' } }, 415],
    ['body_too_large', PUBLISH, { ...post, body: { ...item, data: 'x'.repeat(9 * 1024 * 1024) } }, 413],
    ['not_for_services', '/v1/stream', { token: publisher }, 403],
    ['validation_failed', '/v1/stream', { token: user, url: '/v1/stream?from=nowhere' }, 400],
    [
      'position_unknown',
      '/v1/acks',
      { method: 'post', token: user, body: { upTo: '9007199254740991' } },
      400,
    ],
    [
      'device_unknown',
      '/v1/acks',
      { method: 'post', token: user, body: { upTo: '0', device: 'never-seen' } },
      404,
    ],
    ['not_found', `${PUBLISH}/{id}`, { token: operator, url: `${PUBLISH}/${NOBODYS}` }, 404],
    ['not_found', `${PUBLISH}/{id}/devices`, { token: operator, url: `${PUBLISH}/${NOBODYS}/devices` }, 404],
    [
      'not_found',
      `${PUBLISH}/{id}/timeline`,
      { token: publisher, url: `${PUBLISH}/${NOBODYS}/timeline` },
      404,
    ],
    ['scope_missing', PUBLISH, { token: publisher }, 403],
    ['scope_missing', '/v1/connections', { token: user }, 403],
    ['validation_failed', PUBLISH, { token: operator, url: `${PUBLISH}?limit=0` }, 400],
    ['not_found', '/docs/assets/{name}', { url: '/docs/assets/none' }, 404],
  ])('%s of %s', async (code, path, options, status) => {
    expect(await call(path, options)).toMatchObject({ code, status });
  });

  test('idempotency_mismatch of a publish', async () => {
    const headers = { 'idempotency-key': 'once' };
    await call(PUBLISH, { ...post, headers });
    const other = { ...item, data: 'other' };
    expect(await call(PUBLISH, { ...post, headers, body: other })).toMatchObject({
      code: 'idempotency_mismatch',
      status: 422,
    });
  });
});

test('the events of a stream are as documented, each of them known', async () => {
  const reader = userToken({ user: 'reader', topics: ['team:blue'] });
  await publish(service.url, publisher, { ...item, to: { user: 'reader' }, ttlSeconds: 600 });
  const stream = await StreamClient.open(service.url, reader);
  await publish(service.url, publisher, { ...item, to: { topic: 'team:blue' }, data: null });
  await publish(service.url, publisher, { ...item, to: { everyone: true }, data: [1, 'a', { b: null }] });
  await publish(service.url, publisher, { ...item, to: { user: 'reader' }, inbox: false });
  await stream.untilNotifications(4);
  // Less than TOKEN_EXPIRY_NOTICE_SECONDS.
  const closing = await StreamClient.open(service.url, userToken({ user: 'short', expiresInSeconds: 600 }));
  await closing.untilEvent('expiring');
  const operating = serviceToken({ client: 'root', scope: 'operations:write' });
  const path = '/v1/users/{id}/disconnect';
  await call(path, { method: 'post', token: operating, url: '/v1/users/short/disconnect' });
  await closing.untilEvent('bye');
  const seen = new Set<string>();
  for (const { event = 'message', data } of [...stream.events, ...closing.events]) {
    const schema = new Map(Object.entries(streamEvents)).get(event);
    if (schema === undefined) throw new Error(`the event ${event} is not documented`);
    schema.parse(JSON.parse(data));
    seen.add(event);
  }
  expect([...seen]).toEqual(expect.arrayContaining(['message', 'sync', 'caught-up', 'expiring', 'bye']));
  await stream.cut();
});
