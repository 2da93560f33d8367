import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  deleteIssuer,
  patchIssuer,
  registerIssuer,
  revokeToken,
  revokeUser,
  setTenant,
} from '../support/acts.ts';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { KEY_SET_TIMING } from '../../src/auth/keys.ts';
import { get, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { issue, issuerKey, startKeyServer } from '../support/key-server.ts';
import { StreamClient } from '../support/stream-client.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const SECRET = 'a secret of a registered issuer, longer than 32 bytes';
const OTHER_SECRET = 'another secret of that issuer, longer than 32 bytes';

describe.each([0, 1, 20_000])('with TOKEN_CACHE_SIZE=%s', (TOKEN_CACHE_SIZE) => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({
      TOKEN_CACHE_SIZE,
      JWT_CLOCK_TOLERANCE_SECONDS: '0',
      ISSUER_SECRETS_KEY: 'the key that seals the secrets of issuers',
    });
  });
  afterAll(async () => {
    await service.close();
  });

  const reader = (tenant: string, claims: Record<string, unknown> = {}, secret?: string) =>
    serviceToken({
      tenant,
      client: 'reader',
      scope: 'history:read',
      claims,
      ...(secret === undefined ? {} : { secret }),
    });

  const ask = (token: string) =>
    get<{ items: { data: unknown }[]; code: string; detail: string }>(
      `${service.url}/v1/notifications`,
      token,
    );

  /** Asks twice, so that the second time the token can be remembered. */
  async function expectAccepted(token: string): Promise<void> {
    for (const _ of [1, 2]) expect((await ask(token)).status).toBe(200);
  }

  const refused = (detail: string | RegExp) => ({
    status: 401,
    body: { code: 'token_invalid', detail: expect.stringMatching(detail) },
  });

  test('a token is accepted until it ends, and not once after that', async () => {
    const clock = new TestClock();
    try {
      const exp = Math.floor(Date.now() / 1000) + 3_600;
      const token = reader('ending', { exp });
      await expectAccepted(token);
      clock.set(exp * 1000 - 1);
      await expectAccepted(token);
      clock.set(exp * 1000);
      for (const _ of [1, 2]) expect(await ask(token)).toMatchObject(refused(/has expired/));
    } finally {
      clock.restore();
    }
  });

  test('a token that was revoked is refused, and another one of the same caller is not', async () => {
    const token = reader('revoking', { jti: 'j-1', iat: Math.floor(Date.now() / 1000) - 60 });
    const other = reader('revoking', { jti: 'j-2' });
    await expectAccepted(token);
    await expectAccepted(other);
    await revokeToken(service, 'revoking', 'j-1');
    for (const _ of [1, 2]) expect(await ask(token)).toMatchObject(refused('The token was revoked.'));
    await expectAccepted(other);
  });

  test('a user whose tokens were revoked is refused with those, and not with a newer one', async () => {
    const now = Date.now();
    const at = (age: number) => ({ iat: Math.floor(now / 1000) - age });
    const [older, newer] = [reader('users', at(60)), reader('users', at(10))];
    await expectAccepted(older);
    await expectAccepted(newer);
    await revokeUser(service, 'users', 'reader', new Date(now - 30_000));
    expect(await ask(older)).toMatchObject(refused('The token was revoked.'));
    await expectAccepted(newer);
  });

  test('the tenant counts as it is now: suspended, and active again', async () => {
    const token = reader('standing');
    await expectAccepted(token);
    await setTenant(service, 'standing', { status: 'suspended' });
    for (const _ of [1, 2])
      expect(await ask(token)).toMatchObject({ status: 403, body: { code: 'tenant_suspended' } });
    await setTenant(service, 'standing', { status: 'active' });
    await expectAccepted(token);
  });

  test('a token with more topics than its tenant allows by now is refused, and the stream that it opened goes on', async () => {
    const limited = (topicsPerToken: number | null) =>
      setTenant(service, 'topical', { limits: { ...NO_LIMITS, topicsPerToken } });
    const [token, other] = ['topical', 'other'].map((tenant) => reader(tenant, { topics: ['a', 'b'] }));
    const of = userToken({ tenant: 'topical', topics: ['a', 'b'] });
    await limited(2);
    await expectAccepted(token ?? '');
    const stream = await StreamClient.open(service.url, of);
    await limited(1);
    for (const _ of [1, 2]) expect(await ask(token ?? '')).toMatchObject(refused(/more than 1 topics/));
    expect(await get(`${service.url}/v1/stream`, of)).toMatchObject({ status: 401 });
    await expectAccepted(other ?? '');
    await publish(service.url, serviceToken({ tenant: 'topical' }), {
      to: { topic: 'b' },
      type: 't',
      data: 1,
    });
    await stream.until(() => stream.notifications.length === 1, 'the notification');
    await stream.cut();
    await limited(null);
    await expectAccepted(token ?? '');
  });

  test.each<[string, object, object, RegExp]>([
    ['disabled', { status: 'disabled' }, { status: 'active' }, /issuer/],
    ['registered for another audience', { audiences: ['x'] }, { audiences: ['tidings'] }, /`aud`/],
    [
      'not registered for its scope any more',
      { scopes: [] },
      { scopes: ['history:read'] },
      /scope history:read/,
    ],
    ['given another secret', { secret: OTHER_SECRET }, { secret: SECRET }, /signature/],
    ['registered with another claim for users', { claims: { user: 'oid' } }, { claims: null }, /`oid`/],
    ['registered for another tenant', { tenants: ['x'] }, { tenants: ['issuing', 'x'] }, /may not speak/],
    ['made to use the type of RFC 9068', { requireAtJwt: true }, { requireAtJwt: null }, /`typ`/],
    [
      'cleared of all that it issued before now',
      { revokedBefore: new Date(Date.now() - 1_000).toISOString() },
      { revokedBefore: null },
      /not trusted with it any more/,
    ],
  ])(
    'a token of an issuer that was %s is refused, and good again when that is undone',
    async (name, patch, undo, why) => {
      const iss = `https://idp.example/${encodeURIComponent(name)}`;
      const id = await registerIssuer(service, {
        iss,
        secret: SECRET,
        audiences: ['tidings'],
        tenants: ['issuing', 'y'],
      });
      const token = reader('issuing', { iss, iat: Math.floor(Date.now() / 1000) - 60 }, SECRET);
      await expectAccepted(token);
      await patchIssuer(service, id, patch);
      for (const _ of [1, 2]) expect(await ask(token)).toMatchObject(refused(why));
      await patchIssuer(service, id, undo);
      await expectAccepted(token);
    },
  );

  test('a token speaks for whom its issuer stands for now, though another one had that name when it was first seen', async () => {
    const iss = 'https://idp.example/moves';
    for (const tenant of ['first', 'second'])
      await publish(service.url, serviceToken({ tenant }), {
        to: { everyone: true },
        type: 't',
        data: tenant,
      });
    const registration = { iss, secret: SECRET, audiences: ['tidings'] };
    const token = reader('first', { iss }, SECRET);
    const id = await registerIssuer(service, { ...registration, tenant: 'first' });
    await expectAccepted(token);
    expect((await ask(token)).body.items.map(({ data }) => data)).toEqual(['first']);
    await deleteIssuer(service, id);
    expect(await ask(token)).toMatchObject(refused(/`iss`/));
    await registerIssuer(service, { ...registration, tenant: 'second' });
    for (const _ of [1, 2]) expect((await ask(token)).body.items.map(({ data }) => data)).toEqual(['second']);
  });

  test('callers of many tenants, in whatever sequence and at once, see what is their own', async () => {
    const tenants = Array.from({ length: 10 }, (_, i) => `many-${i}`);
    for (const tenant of tenants)
      await publish(service.url, serviceToken({ tenant }), {
        to: { everyone: true },
        type: 't',
        data: tenant,
      });
    const tokens = new Map(tenants.map((tenant) => [tenant, reader(tenant)]));
    await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const tenant = tenants[(i * 7) % 10] ?? '';
        const { body } = await ask(tokens.get(tenant) ?? '');
        expect(body.items.map(({ data }) => data)).toEqual([tenant]);
      }),
    );
  });

  test('a stream opens by a token that is remembered, and not once that has ended', async () => {
    const clock = new TestClock();
    try {
      const exp = Math.floor(Date.now() / 1000) + 3_600;
      const token = userToken({ tenant: 'streaming', claims: { exp } });
      for (const _ of [1, 2]) {
        const stream = await StreamClient.open(service.url, token);
        await stream.untilEvent('sync');
        await stream.cut();
      }
      clock.set(exp * 1000);
      expect((await StreamClient.open(service.url, token)).status).toBe(401);
    } finally {
      clock.restore();
    }
  });
});

test('a token is remembered by as many as the setting says, the latest ones: the others need their key again', async () => {
  const usual = { ...KEY_SET_TIMING };
  const key = await issuerKey('ES256', 'key');
  const server = await startKeyServer([key.jwk]);
  const services: Service[] = [];
  try {
    // Every check of a signature asks for the keys.
    Object.assign(KEY_SET_TIMING, { maxAge: 0 });
    const settings = { JWKS_URL: server.url, JWKS_ALGORITHMS: 'ES256' };
    const start = async (TOKEN_CACHE_SIZE: number) => {
      const service = await startService({ ...settings, TOKEN_CACHE_SIZE });
      services.push(service);
      return service;
    };
    const [none, two, many] = [await start(0), await start(2), await start(20_000)];
    // Each has a signature of its own.
    const tokens = [await issue(key), await issue(key), await issue(key)];
    const status = async ({ url }: Service, token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      return (await fetch(`${url}/v1/session`, { method: 'POST', headers })).status;
    };
    const each = (service: Service) => Promise.all(tokens.map((token) => status(service, token)));
    for (const service of services)
      // Twice: what was checked while a node fetched its first keys is checked once more.
      for (const token of [...tokens, ...tokens]) expect(await status(service, token)).toBe(204);

    server.fault = (_, response) => response.writeHead(500).end();
    expect(await each(none)).toEqual([503, 503, 503]);
    expect(await each(two)).toEqual([503, 204, 204]);
    expect(await each(many)).toEqual([204, 204, 204]);
  } finally {
    Object.assign(KEY_SET_TIMING, usual);
    await Promise.all(services.map((service) => service.close()));
    await server.close();
  }
});
