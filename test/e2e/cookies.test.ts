import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const EVERYWHERE = 'https://portal.example';
const ACME = 'https://app.acme.example';
const GLOBEX = 'https://app.globex.example';

let service: Service;
beforeAll(async () => {
  service = await startService({ CORS_ORIGINS: EVERYWHERE });
  for (const [tenant, origin] of [
    ['acme', ACME],
    ['globex', GLOBEX],
  ]) {
    await service.database.query('insert into tenants (tenant_id, cors_origins) values ($1, array[$2])', [
      tenant,
      origin,
    ]);
  }
  await service.app.get(ChangeFeed).now();
});
afterAll(async () => {
  await service.close();
});

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const cookie = (token: string) => ({ cookie: `theme=dark; __Host-tidings=${token}; lang=de` });
const stranger = userToken({ user: 'stranger' });
const SAME_ORIGIN = { 'sec-fetch-site': 'same-origin' };

interface Call {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
  readonly from?: Service;
}

async function call(path: string, { method = 'POST', headers = {}, body, from = service }: Call = {}) {
  const response = await fetch(`${from.url}${path}`, { method, headers, body: body ?? null });
  const text = await response.text();
  const problem = (text === '' ? {} : JSON.parse(text)) as {
    code?: string;
    detail?: string;
    errors?: unknown;
  };
  return { status: response.status, headers: response.headers, code: problem.code, problem, text };
}

const acknowledge = (headers: Record<string, string>) =>
  call('/v1/acks', { headers: { 'content-type': 'application/json', ...headers }, body: '{"upTo":"0"}' });

/** What the acknowledgement of a user is answered who was let in, and has never opened a stream. */
const LET_IN = { status: 404, code: 'device_unknown' };

/** A request with headers that `fetch` would join. */
async function statusOf(path: string, headers: string[]): Promise<number | undefined> {
  const { hostname, port } = new URL(service.url);
  return await new Promise((resolve, reject) => {
    const sent = request({ hostname, port, path, headers: ['Host', 'localhost', ...headers], agent: false });
    sent.on('error', reject).on('response', (response) => {
      resolve(response.statusCode);
      response.destroy();
    });
    sent.end();
  });
}

describe('POST /v1/session', () => {
  test('puts the token of a user into a cookie that no script, no other host and no http can have', async () => {
    const began = performance.now();
    const token = userToken({ expiresInSeconds: 600 });
    const { status, headers, text } = await call('/v1/session', { headers: bearer(token) });
    expect({ status, text }).toEqual({ status: 204, text: '' });
    expect(headers.get('cache-control')).toBe('no-store');
    const [pair, ...attributes] = headers.getSetCookie().join('\n').split('; ');
    expect(pair).toBe(`__Host-tidings=${token}`);
    expect(attributes.slice(1)).toEqual(['Path=/', 'Secure', 'HttpOnly', 'SameSite=Strict']);
    const maxAge = Number(/^Max-Age=(\d+)$/.exec(attributes[0] ?? '')?.[1]);
    expect(maxAge).toBeLessThanOrEqual(600);
    // As long as the token lives: less what has passed since, and what whole seconds leave out on both sides.
    expect(maxAge).toBeGreaterThanOrEqual(598 - (performance.now() - began) / 1_000);
  });

  test.each([
    ['lax', 'SameSite=Lax'],
    ['none', 'SameSite=None; Partitioned'],
  ])('marks the cookie as COOKIE_SAME_SITE=%s says, also when it removes it', async (setting, attributes) => {
    const other = await startService({ COOKIE_SAME_SITE: setting }, { database: service.database });
    try {
      const set = await call('/v1/session', { headers: bearer(userToken()), from: other });
      const removed = await call('/v1/session', { method: 'DELETE', from: other });
      for (const { headers } of [set, removed])
        expect(headers.getSetCookie()[0]).toMatch(new RegExp(`; HttpOnly; ${attributes}$`));
    } finally {
      await other.close();
    }
  });

  test('takes no service, no cookie alone, no expired token and nothing else', async () => {
    const headers = bearer(userToken());
    const json = { ...headers, 'content-type': 'application/json' };
    const refusals = await Promise.all([
      call('/v1/session', { headers: bearer(serviceToken()) }),
      call('/v1/session', { headers: { ...cookie(userToken()), ...SAME_ORIGIN } }),
      call('/v1/session', { headers: bearer(userToken({ expiresInSeconds: -1 })) }),
      call('/v1/session?days=30', { headers }),
      call('/v1/session', { headers: json, body: '{"days":30}' }),
    ]);
    expect(refusals.map(({ code }) => code)).toEqual([
      'not_for_services',
      'token_missing',
      'token_invalid',
      'validation_failed',
      'validation_failed',
    ]);
    for (const refused of refusals) expect(refused.headers.getSetCookie()).toEqual([]);
    expect((await call('/v1/session', { headers: json, body: '{}' })).status).toBe(204);
  });

  test('refuses a token that browsers would not keep, and says what to do', async () => {
    const roomFor = (bytes: number) => userToken({ claims: { note: 'x'.repeat(bytes) } });
    const sizeOf = (token: string) =>
      `__Host-tidings=${token}; Max-Age=3599; Path=/; Secure; HttpOnly; SameSite=Strict`.length;
    const [fits, exceeds] = [2_840, 2_860].map(roomFor);
    expect(sizeOf(fits ?? '')).toBeLessThanOrEqual(4_096);
    expect((await call('/v1/session', { headers: bearer(fits ?? '') })).status).toBe(204);
    expect(sizeOf(exceeds ?? '')).toBeGreaterThan(4_096);
    const { status, headers, problem } = await call('/v1/session', { headers: bearer(exceeds ?? '') });
    expect({ status, problem }).toMatchObject({
      status: 400,
      problem: {
        code: 'validation_failed',
        errors: [{ pointer: '/authorization', detail: expect.stringMatching(/4096.*ticket/) }],
      },
    });
    expect(headers.getSetCookie()).toEqual([]);
  });

  test('logs nobody in from the page of another tenant', async () => {
    const from = async (headers: Record<string, string>) => {
      const answer = await call('/v1/session', { headers: { ...bearer(userToken()), ...headers } });
      return [answer.status, answer.headers.getSetCookie().length];
    };
    expect(await from({ origin: ACME })).toEqual([204, 1]);
    expect(await from(SAME_ORIGIN)).toEqual([204, 1]);
    expect(await from({ origin: GLOBEX })).toEqual([403, 0]);
    expect(await from({ origin: 'null' })).toEqual([403, 0]);
  });
});

describe('DELETE /v1/session', () => {
  test.each<[string, Record<string, string>]>([
    ['a session', cookie(userToken())],
    ['one whose token has ended', cookie(userToken({ expiresInSeconds: -3600 }))],
    ['what is no token', cookie('rubbish')],
    ['two of them', { cookie: '__Host-tidings=a; __Host-tidings=b' }],
    ['none', {}],
  ])('removes %s', async (_, headers) => {
    const { status, headers: answered } = await call('/v1/session', {
      method: 'DELETE',
      headers: { ...headers, ...SAME_ORIGIN },
    });
    expect(status).toBe(204);
    expect(answered.getSetCookie()).toEqual([
      '__Host-tidings=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict',
    ]);
  });

  test('logs nobody out from the page of another tenant', async () => {
    const from = async (token: string, origin: string) => {
      const headers = { ...cookie(token), origin, 'sec-fetch-site': 'cross-site' };
      return (await call('/v1/session', { method: 'DELETE', headers })).status;
    };
    expect(await from(userToken(), ACME)).toBe(204);
    expect(await from(userToken(), GLOBEX)).toBe(403);
    // Whose it was is not known any more.
    expect(await from(userToken({ expiresInSeconds: -3600 }), GLOBEX)).toBe(204);
    expect(await from(userToken({ expiresInSeconds: -3600 }), 'https://evil.example')).toBe(403);
  });
});

describe('the session cookie', () => {
  test('opens the stream of its user, and confirms', async () => {
    const token = userToken({ user: 'carol', device: 'laptop' });
    const sent = await publish(service.url, serviceToken(), { to: { user: 'carol' }, type: 't', data: 1 });
    await publish(service.url, serviceToken(), { to: { user: 'dave' }, type: 't', data: 2 });
    const headers = { ...cookie(token), ...SAME_ORIGIN };
    const stream = await StreamClient.open(service.url, undefined, { headers });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ id }) => id)).toEqual([sent.id]);
    const { status } = await call('/v1/acks', {
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ upTo: sent.position }),
    });
    expect(status).toBe(204);
    await stream.cut();
  });

  const pages: [string, Record<string, string>][] = [
    ['no page', {}],
    ['the address bar', { 'sec-fetch-site': 'none' }],
    ['another host of this site', { 'sec-fetch-site': 'same-site' }],
    ['an unlisted page', { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' }],
    ['a page of another tenant', { 'sec-fetch-site': 'cross-site', origin: GLOBEX }],
    ['a sandboxed page', { 'sec-fetch-site': 'cross-site', origin: 'null' }],
  ];

  test.each(pages)('does not do for %s, neither to read nor to write', async (_, from) => {
    const headers = { ...cookie(userToken()), ...from };
    expect(await acknowledge(headers)).toMatchObject({ status: 403, code: 'origin_refused' });
    expect(await call('/v1/stream/tickets', { headers })).toMatchObject({
      status: 403,
      code: 'origin_refused',
    });
    const stream = await call('/v1/stream', { method: 'GET', headers });
    expect(stream).toMatchObject({ status: 403, code: 'origin_refused' });
  });

  test.each([ACME, EVERYWHERE])('does for a page of %s', async (origin) => {
    const headers = { ...cookie(stranger), origin, 'sec-fetch-site': 'cross-site' };
    expect(await acknowledge(headers)).toMatchObject(LET_IN);
  });

  test('never does where services call, whatever its token may', async () => {
    const headers = {
      ...cookie(serviceToken({ scope: 'notifications:publish notifications:broadcast history:read' })),
      ...SAME_ORIGIN,
    };
    expect(await call('/v1/notifications', { method: 'GET', headers })).toMatchObject({
      status: 401,
      code: 'token_missing',
    });
    const body = JSON.stringify({ to: { everyone: true }, type: 't', data: 1 });
    const json = { ...headers, 'content-type': 'application/json' };
    expect(await call('/v1/notifications', { headers: json, body })).toMatchObject({
      status: 401,
      code: 'token_missing',
    });
    expect(await acknowledge(headers)).toMatchObject({ status: 403, code: 'not_for_services' });
  });

  test('has to be the token of somebody who is logged in', async () => {
    for (const token of [
      'rubbish',
      userToken({ expiresInSeconds: -60 }),
      userToken({ secret: 'another secret, of more than thirty-two bytes' }),
    ]) {
      const refused = await acknowledge({ ...cookie(token), ...SAME_ORIGIN });
      expect(refused).toMatchObject({ status: 401, code: 'token_invalid' });
      expect(refused.headers.get('www-authenticate')).toMatch(/^Bearer /);
      expect(refused.text).not.toContain(token);
    }
  });

  test('is refused when there are two of them, and not taken for another of a name like it', async () => {
    const token = userToken();
    const own = `__Host-tidings=${token}`;
    const planted = `__Host-tidings=${userToken({ user: 'mallory' })}`;
    const site = ['Sec-Fetch-Site', 'same-origin'];
    const open = (...lines: string[]) =>
      statusOf('/v1/stream', [...site, ...lines.flatMap((line) => ['Cookie', line])]);
    expect(await open(own)).toBe(200);
    expect(await open('theme=dark', own)).toBe(200);
    expect(await open(`${own}; ${planted}`)).toBe(401);
    expect(await open(`${planted};${own}`)).toBe(401);
    expect(await open(own, planted)).toBe(401);
    expect(await open(own, own)).toBe(401);
    for (const name of ['__host-tidings', '__Host-tidings2', 'x__Host-tidings', 'tidings']) {
      expect(await open(`${own}; ${name}=${userToken({ user: 'mallory' })}`)).toBe(200);
      expect(await open(`${name}=${token}`)).toBe(401);
    }
  });
});

describe('a cookie and a bearer token together', () => {
  const both = (own: string, sent: string) =>
    acknowledge({ ...cookie(own), ...bearer(sent), ...SAME_ORIGIN });

  test('are refused when they are of two users', async () => {
    const conflict = { status: 401, code: 'credentials_conflict' };
    const alice = userToken({ user: 'alice' });
    expect(await both(alice, userToken({ user: 'bob' }))).toMatchObject(conflict);
    expect(await both(alice, userToken({ user: 'alice', tenant: 'globex' }))).toMatchObject(conflict);
    expect((await both(alice, userToken({ user: 'bob' }))).headers.get('www-authenticate')).toMatch(
      /^Bearer /,
    );
    expect(await both(alice, serviceToken())).toMatchObject(conflict);
  });

  test('have both to be valid', async () => {
    const ended = userToken({ expiresInSeconds: -60 });
    expect(await both(ended, userToken())).toMatchObject({ status: 401, code: 'token_invalid' });
    expect(await both(userToken(), ended)).toMatchObject({ status: 401, code: 'token_invalid' });
  });

  test('do when they are of one user, and then the page need not be known', async () => {
    const headers = { ...cookie(stranger), ...bearer(userToken({ user: 'stranger', topics: ['news'] })) };
    expect(await acknowledge(headers)).toMatchObject(LET_IN);
  });

  test('are refused when they are of two callers also where services call', async () => {
    const headers = { ...bearer(serviceToken({ scope: 'history:read' })), ...cookie(userToken()) };
    expect(await call('/v1/notifications', { method: 'GET', headers })).toMatchObject({
      status: 401,
      code: 'credentials_conflict',
    });
  });

  test('leave the cookie to do when the other header is for a proxy', async () => {
    const headers = { ...cookie(stranger), authorization: 'Basic c3RhZ2luZzpkb29y', ...SAME_ORIGIN };
    expect(await acknowledge(headers)).toMatchObject(LET_IN);
  });
});
