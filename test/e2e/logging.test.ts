import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { describeError, parseTraceparent } from '../../src/telemetry/logging.ts';
import { startService, type Service } from '../support/app.ts';
import { post } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

interface Line {
  level: string;
  msg: string;
  requestId?: string;
  [field: string]: unknown;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const TRACE = '0af7651916cd43dd8448eb211c80319c';

describe('the log', () => {
  let service: Service;
  const written: string[] = [];
  const lines = (): Line[] => written.map((line) => JSON.parse(line) as Line);
  const lineOf = (requestId: string) =>
    eventually(() => {
      const [line, ...more] = lines().filter(
        (each) => each.msg === 'request' && each.requestId === requestId,
      );
      if (line === undefined) throw new Error(`no line for ${requestId}`);
      expect(more).toEqual([]);
      return line;
    });

  beforeAll(async () => {
    service = await startService(
      { LOG_LEVEL: 'debug', NODE_NAME: 'node-7' },
      { logs: { write: (line: string) => void written.push(line) } },
    );
  });
  beforeEach(() => {
    written.length = 0;
  });
  afterAll(() => service.close());

  test('has one line of JSON for a request: who asked for what, and how it went', async () => {
    const { status, headers } = await post(
      `${service.url}/v1/notifications`,
      serviceToken({ tenant: 'acme', client: 'billing' }),
      { to: { user: 'u-1' }, type: 'a', data: 1 },
      { 'x-request-id': 'checkout-17.a_b', traceparent: `00-${TRACE}-b7ad6b7169203331-01` },
    );
    expect(status).toBe(201);
    expect(headers.get('x-request-id')).toBe('checkout-17.a_b');
    expect(await lineOf('checkout-17.a_b')).toEqual({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      node: 'node-7',
      requestId: 'checkout-17.a_b',
      traceId: TRACE,
      method: 'POST',
      route: '/v1/notifications',
      status: 201,
      milliseconds: expect.any(Number),
      tenant: 'acme',
      subject: 'billing',
      msg: 'request',
    });
  });

  test('never holds payloads, tokens, query values, cookies or keys', async () => {
    const token = serviceToken();
    const body = { to: { user: 'seen-user' }, type: 'a', data: { secret: 'seen-data' } };
    const headers = { cookie: 'session=seen-cookie', 'idempotency-key': 'seen-key' };
    await post(`${service.url}/v1/notifications`, token, body, headers);
    await post(`${service.url}/v1/notifications?note=seen-query`, token, body, headers);
    await post(`${service.url}/v1/notifications?access_token=seen-token`, token, body, headers);
    await post(`${service.url}/v1/notifications`, token, '{"to": seen-broken', headers);
    await fetch(`${service.url}/nowhere?note=seen-query`, {
      headers: { authorization: 'Bearer seen-token' },
    });
    await fetch(`${service.url}/nowhere/last`, { headers: { 'x-request-id': 'last' } });
    expect(await lineOf('last')).toMatchObject({ path: '/nowhere/last', status: 404 });
    expect(
      lines()
        .filter(({ msg }) => msg === 'request')
        .map(({ status }) => status),
    ).toEqual([201, 400, 400, 400, 404, 404]);
    const text = written.join('');
    expect(text).not.toContain('seen');
    expect(text).not.toContain(token.slice(-20));
  });

  test.each([
    ['is malformed', 'GET', '/health/live', { 'x-request-id': 'two words' }, 200],
    ['is too long', 'GET', '/health/live', { 'x-request-id': 'x'.repeat(129) }, 200],
    ['is absent where nothing is found', 'GET', '/nowhere', {}, 404],
    [
      'is absent where no token came',
      'POST',
      '/v1/notifications',
      { 'content-type': 'application/json' },
      401,
    ],
  ])('knows a request whose id %s by a new one', async (_, method, path, headers, status) => {
    const body = method === 'POST' ? { body: '{}' } : {};
    const response = await fetch(`${service.url}${path}`, { method, headers, ...body });
    expect(response.status).toBe(status);
    const id = response.headers.get('x-request-id') ?? '';
    expect(id).toMatch(UUID);
    expect(await lineOf(id)).toMatchObject({ status });
  });

  test('holds probes at debug', async () => {
    for (const path of ['/health/live', '/health/ready', '/metrics']) {
      const id = path.replaceAll('/', '.');
      await (await fetch(`${service.url}${path}`, { headers: { 'x-request-id': id } })).text();
      expect(await lineOf(id)).toMatchObject({ level: 'debug', route: path });
    }
  });

  test('says that a caller left before the answer', async () => {
    const arrived = once(service.app.getHttpServer(), 'request');
    const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
    socket.write(
      [
        'POST /v1/notifications HTTP/1.1',
        'host: tidings',
        `authorization: Bearer ${serviceToken({ tenant: 'left' })}`,
        'content-type: application/json',
        'content-length: 100',
        'x-request-id: left',
        '\r\n{"to":',
      ].join('\r\n'),
    );
    await arrived;
    socket.destroy();
    const line = await lineOf('left');
    expect(line).toMatchObject({ route: '/v1/notifications', aborted: true });
    expect(line).not.toHaveProperty('status');
  });

  test('has no line of a request for a stream, whose opening and end are its own events', async () => {
    const stream = await StreamClient.open(service.url, userToken(), {
      headers: { 'x-request-id': 'stream-1' },
    });
    expect(stream.response.headers['x-request-id']).toBe('stream-1');
    await stream.untilEvent('caught-up');
    await stream.cut();
    await (await fetch(`${service.url}/health/live`, { headers: { 'x-request-id': 'after' } })).text();
    await lineOf('after');
    expect(lines().filter(({ msg, requestId }) => msg === 'request' && requestId === 'stream-1')).toEqual([]);
    expect(lines().filter(({ level }) => level === 'error' || level === 'warn')).toEqual([]);
  });
});

test('an error is logged with its causes, and without the row that it tripped over', () => {
  const cause = Object.assign(new Error('duplicate key'), {
    code: '23505',
    detail: 'Key (user)=(seen) exists.',
  });
  expect(describeError(new Error('not stored', { cause }))).toEqual({
    type: 'Error',
    message: 'not stored',
    stack: expect.stringContaining('not stored'),
    cause: { type: 'Error', message: 'duplicate key', code: '23505', stack: expect.any(String) },
  });
});

describe('a traceparent', () => {
  test.each([
    [`00-${TRACE}-b7ad6b7169203331-01`, TRACE],
    [`cc-${TRACE}-b7ad6b7169203331-01-what-comes-later`, TRACE],
    [`00-${TRACE}-b7ad6b7169203331-01-more`, undefined],
    [`ff-${TRACE}-b7ad6b7169203331-01`, undefined],
    [`00-${'0'.repeat(32)}-b7ad6b7169203331-01`, undefined],
    [`00-${TRACE}-${'0'.repeat(16)}-01`, undefined],
    [`00-${TRACE.toUpperCase()}-b7ad6b7169203331-01`, undefined],
    ['nonsense', undefined],
    [undefined, undefined],
  ])('%s has the trace-id %s', (header, traceId) => {
    expect(parseTraceparent(header)?.traceId).toBe(traceId);
  });
});
