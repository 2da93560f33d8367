import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish } from '../../support/api.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { expectRefused, traces } from './refused.ts';
import {
  ACME,
  claims,
  es256,
  GLOBEX,
  hs256,
  INITECH,
  INITECH_SECRET,
  jws,
  KEYS,
  KID,
  rs256,
  serviceClaims,
  setStage,
  UMBRELLA,
  type Stage,
} from './stage.ts';

/* The registration of an issuer says for whom its tokens speak; no claim widens that (RFC 8725 §3.8, §3.12). */

let stage: Stage;
beforeAll(async () => {
  stage = await setStage();
});
afterAll(async () => {
  await stage.close();
});

/* What their providers sign, whatever it is. */
const byAcme = (payload: unknown) => jws({ alg: 'RS256', kid: KID }, payload, rs256(KEYS.acme.privateKey));
const byGlobex = (payload: unknown) =>
  jws({ alg: 'ES256', kid: KID }, payload, es256(KEYS.globex.privateKey));
const byInitech = (payload: unknown) => jws({ alg: 'HS256' }, payload, hs256(INITECH_SECRET));
const byUmbrella = (payload: unknown) =>
  jws({ alg: 'ES256', kid: KID, typ: 'at+jwt' }, payload, es256(KEYS.umbrella.privateKey));

const note = (data: unknown) => ({ to: { everyone: true }, type: 't', data });

describe('an issuer that may name some tenants', () => {
  test.each(['globex', 'globex-eu'])('speaks for %s', async (tenant) => {
    await publish(stage.url, byGlobex(serviceClaims(GLOBEX, { tenant_id: tenant })), note(1));
  });

  const foreign = 'may not speak';
  const malformed = '`tenant_id`';
  test.each<[string, unknown, string]>([
    ['of another issuer', 'acme', foreign],
    ['of nobody', 'mallory-corp', foreign],
    ['in capitals', 'GLOBEX', foreign],
    ['with a capital', 'Globex', foreign],
    ['with a dot behind', 'globex.', foreign],
    ['with a dot before', '.globex', foreign],
    ['with a dash behind', 'globex-', foreign],
    ['that begins like one', 'globex-e', foreign],
    ['with zero for o', 'gl0bex', foreign],
    ['that every object has', 'constructor', foreign],
    ['that is a prototype', '__proto__', foreign],
    ['in a list', ['globex'], malformed],
    ['in a list with another', ['globex', 'acme'], malformed],
    ['in an object', { globex: true }, malformed],
    ['in an object of the same name', { tenant_id: 'globex' }, malformed],
    ['like a string object', { 0: 'g', length: 6 }, malformed],
    ['with a comma', 'globex,acme', malformed],
    ['with a space between', 'globex acme', malformed],
    ['with a space behind', 'globex ', malformed],
    ['with a space before', ' globex', malformed],
    ['with a line end', 'globex\n', malformed],
    ['with a carriage return', 'globex\r', malformed],
    ['with NUL', 'globex\u0000', malformed],
    ['with NUL and another', 'globex\u0000acme', malformed],
    ['with a line separator', 'globex\u2028', malformed],
    ['with a space of no width', 'glo\u200bbex', malformed],
    ['with a soft hyphen', 'glo\u00adbex', malformed],
    ['with a mark that turns the direction', '\u202eglobex', malformed],
    ['with a Cyrillic letter', 'glob\u0435x', malformed],
    ['with a script g', '\u0261lobex', malformed],
    ['in full width', '\uff47\uff4c\uff4f\uff42\uff45\uff58', malformed],
    ['with a combining mark', 'globe\u0301x', malformed],
    ['with a dot that is none', 'globex\u3002', malformed],
    ['with a long s', 'globe\u017f', malformed],
    ['as a path', 'globex/../acme', malformed],
    ['percent-encoded', '%67lobex', malformed],
    ['as a wildcard', '*', malformed],
    ['as SQL', "globex' or '1'='1", malformed],
    ['of 65 characters', 'globex'.padEnd(65, 'x'), malformed],
    ['without characters', '', malformed],
    ['that is null', null, malformed],
    ['that is true', true, malformed],
    ['that is a number', 0, malformed],
    ['that is absent', undefined, malformed],
  ])('does not speak for a tenant %s', async (_, tenant, detail) => {
    await expectRefused(stage, byGlobex(serviceClaims(GLOBEX, { tenant_id: tenant })), { detail });
  });

  test.each<[string, object]>([
    [
      'under other names',
      { tenant: 'globex', tenantId: 'globex', tenants: ['globex'], tid: 'globex', org_id: 'globex' },
    ],
    ['as its subject', { sub: 'globex' }],
    ['in the issuer', { 'iss/tenant_id': 'globex' }],
    ['as a pointer', { '/tenant_id': 'globex' }],
    ['in capitals', { TENANT_ID: 'globex' }],
  ])('is not taken for one that it names %s', async (_, change) => {
    await expectRefused(stage, byGlobex(serviceClaims(GLOBEX, change)), { detail: malformed });
  });

  test('is not taken for one that stands in a prototype', async () => {
    const payload = `${JSON.stringify(serviceClaims(GLOBEX)).slice(0, -1)},"__proto__":{"tenant_id":"globex"}}`;
    await expectRefused(stage, byGlobex(payload), { detail: malformed });
    expect({}).not.toHaveProperty('tenant_id');
  });
});

describe('an issuer of one tenant', () => {
  test.each<[string, unknown]>([
    ['another tenant', 'globex'],
    ['several tenants', ['globex', 'acme']],
    ['an object', { tenant_id: 'globex' }],
    ['what is no tenant', 'globex/../acme'],
    ['null', null],
  ])('speaks for that one although its token names %s', async (_, tenant) => {
    const token = byInitech(serviceClaims(INITECH, { tenant_id: tenant, tenants: ['globex'] }));
    const { id } = await publish(stage.url, token, note('of initech'));
    expect(await stage.database.query('select tenant_id from notifications where id = $1', [id])).toEqual([
      { tenant_id: 'initech' },
    ]);
    const others = serviceToken({ tenant: 'globex', scope: 'history:read' });
    expect(await get(`${stage.url}/v1/notifications/${id}`, others)).toMatchObject({ status: 404 });
    const { body } = await get<{ items: unknown[] }>(`${stage.url}/v1/notifications?limit=200`, token);
    const stored = await stage.database.query(`select id from notifications where tenant_id = 'initech'`);
    expect(body.items).toHaveLength(stored.length);
  });

  test('is not heard of by a stream of the tenant that its token names', async () => {
    const stream = await StreamClient.open(stage.url, userToken({ tenant: 'globex', user: 'alice' }));
    await stream.untilEvent('caught-up');
    await publish(stage.url, byInitech(serviceClaims(INITECH, { tenant_id: 'globex' })), note('a forgery'));
    await publish(stage.url, serviceToken({ tenant: 'globex' }), note('the end'));
    await stream.until(() => stream.notifications.some(({ data }) => data === 'the end'), 'the end');
    expect(stream.notifications.map(({ data }) => data)).not.toContain('a forgery');
    await stream.cut();
  });
});

describe('tenants that look alike', () => {
  test.each([
    'Acme',
    'ACME',
    'acme.',
    '.acme',
    'acme-',
    'acme_',
    'a.cme',
    'acme0',
    'acrne',
    '__proto__',
    'constructor',
  ])('are two: %s sees nothing of acme', async (tenant) => {
    const { id } = await publish(stage.url, serviceToken({ tenant: 'acme' }), note('for acme'));
    await publish(stage.url, serviceToken({ tenant }), note(`for ${tenant}`));
    const reader = serviceToken({ tenant, scope: 'history:read' });
    expect(await get(`${stage.url}/v1/notifications/${id}`, reader)).toMatchObject({ status: 404 });
    const { body } = await get<{ items: { data: unknown }[] }>(`${stage.url}/v1/notifications`, reader);
    expect(body.items.map(({ data }) => data)).toEqual([`for ${tenant}`]);
    const stream = await StreamClient.open(stage.url, userToken({ tenant }), { query: { from: 'earliest' } });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ data }) => data)).toEqual([`for ${tenant}`]);
    await stream.cut();
  });
});

describe('users that look alike', () => {
  const tenant = 'oscorp';
  const zoe = 'Zo\u00eb';
  test.each<[string, string]>([
    ['the other normal form', 'Zoe\u0308'],
    ['other capitals', 'zo\u00eb'],
    ['no accent', 'Zoe'],
    ['a space behind', 'Zo\u00eb '],
    ['a space before', ' Zo\u00eb'],
    ['a space of no width', 'Zo\u200b\u00eb'],
    ['a byte order mark', '\ufeffZo\u00eb'],
    ['a Cyrillic letter', 'Z\u043e\u00eb'],
    ['full width', '\uff3ao\u00eb'],
    ['a dot behind', 'Zo\u00eb.'],
    ['a variation selector', 'Zo\u00eb\ufe0f'],
  ])('are two: with %s', async (_, other) => {
    const stream = await StreamClient.open(stage.url, userToken({ tenant, user: other }));
    await stream.untilEvent('caught-up');
    await publish(stage.url, serviceToken({ tenant }), {
      to: { user: zoe },
      type: 't',
      data: 'for Zo\u00eb',
    });
    await publish(stage.url, serviceToken({ tenant }), {
      to: { user: other },
      type: 't',
      data: 'for the other',
    });
    await stream.until(() => stream.notifications.some(({ data }) => data === 'for the other'), 'its own');
    expect(stream.notifications.map(({ data }) => data)).toEqual(['for the other']);
    await stream.cut();
  });

  test.each([`${zoe}\u0000`, `${zoe}\n`, `\u007f${zoe}`, `${zoe}\u0085`, `${zoe}\ud800`])(
    'by what no text may have are none: %j',
    async (sub) => {
      await expectRefused(stage, byAcme(serviceClaims(ACME, { sub })), { detail: '`sub`' });
    },
  );
});

describe('a scope that the issuer is not registered for', () => {
  test.each<[string, string, object]>([
    ['alone', 'tenants:admin', { scope: 'tenants:admin' }],
    ['beside one that it is', 'tenants:admin', { scope: 'history:read tenants:admin' }],
    ['in a list', 'operations:write', { scope: ['operations:write'] }],
    ['twice', 'tenants:admin', { scope: 'tenants:admin tenants:admin' }],
    ['between many spaces', 'tenants:admin', { scope: '   tenants:admin   ' }],
  ])('spoils the token: %s', async (_, scope, change) => {
    await expectRefused(stage, byAcme(claims(ACME, change)), {
      detail: `not registered for the scope ${scope}`,
    });
  });

  test('spoils it where the scopes are nested, too', async () => {
    const token = byUmbrella(claims(UMBRELLA, { realm: { roles: ['history:read', 'tenants:admin'] } }));
    await expectRefused(stage, token, { detail: 'not registered for the scope tenants:admin' });
  });

  test.each<[string, unknown]>([
    ['a list in a list', [['tenants:admin']]],
    ['an object', { 'tenants:admin': true }],
    ['an object that looks like a list', { 0: 'tenants:admin', length: 1 }],
    ['a number', 7],
    ['null', null],
    ['a list with a number', ['history:read', 7]],
  ])('is not found in %s, and the token is refused', async (_, scope) => {
    await expectRefused(stage, byAcme(claims(ACME, { scope })), { detail: '`scope`' });
  });
});

describe('a right that stands where nobody looks', () => {
  const doors = [
    ['POST', '/v1/notifications', JSON.stringify(note(1))],
    ['GET', '/v1/notifications', undefined],
    ['GET', '/v1/connections', undefined],
  ] as const;

  async function expectNoRight(token: string): Promise<void> {
    const before = await traces(stage.database);
    for (const [method, path, body] of doors) {
      const answer =
        method === 'GET' ? await get(stage.url + path, token) : await post(stage.url + path, token, body);
      expect(answer).toMatchObject({ status: 403, body: { code: 'scope_missing' } });
    }
    expect(await traces(stage.database)).toEqual(before);
  }

  test.each<[string, object]>([
    [
      'another claim',
      { scp: ['history:read'], roles: ['history:read'], permissions: 'notifications:publish' },
    ],
    ['a claim in capitals', { SCOPE: 'history:read notifications:publish' }],
    ['a pointer', { '/scope': 'history:read notifications:publish' }],
    ['the audience', { aud: ['tidings', 'history:read', 'notifications:publish'] }],
    ['the topics', { topics: ['history:read', 'notifications:publish'] }],
    ['other capitals', { scope: 'History:Read Notifications:Publish' }],
    ['full width', { scope: 'history\uff1aread notifications\uff1apublish' }],
    ['a wildcard', { scope: '* history:* notifications:*' }],
    ['one word with a comma', { scope: 'history:read,notifications:publish' }],
    ['one word with a line end', { scope: 'history:read\nnotifications:publish' }],
    ['one word with NUL', { scope: 'history:read\u0000 notifications:publish\u0000' }],
  ])('is none: %s', async (_, change) => {
    await expectNoRight(byAcme(claims(ACME, change)));
  });

  test.each<[string, object]>([
    ['the name that others use', { scope: 'history:read notifications:publish' }],
    [
      'a claim that is called like the pointer',
      { '/realm/roles': ['history:read', 'notifications:publish'] },
    ],
    ['a claim with a dot', { 'realm.roles': ['history:read', 'notifications:publish'] }],
    ['a list in place of the object', { realm: [{ roles: ['history:read'] }] }],
    ['text in place of the object', { realm: 'roles' }],
    ['a prototype', { realm: JSON.parse('{"__proto__":{"roles":["history:read"]}}') as unknown }],
  ])('is none for an issuer with nested claims: %s', async (_, change) => {
    await expectNoRight(byUmbrella(claims(UMBRELLA, change)));
  });

  test('is none in a prototype', async () => {
    const payload = `${JSON.stringify(claims(ACME)).slice(0, -1)},"__proto__":{"scope":"history:read notifications:publish"}}`;
    await expectNoRight(byAcme(payload));
    expect({}).not.toHaveProperty('scope');
  });
});

test('topics are names: none stands for others', async () => {
  const topics = ['*', '#', 'everyone', '__proto__', 'constructor', 'news.*', 'NEWS', 'news/', 'user:bob'];
  const stream = await StreamClient.open(stage.url, byAcme(claims(ACME, { topics })));
  await stream.untilEvent('caught-up');
  for (const to of [{ topic: 'news' }, { topic: 'news.sport' }, { user: 'bob' }]) {
    await publish(stage.url, serviceToken(), { to, type: 't', data: 'for others' });
  }
  await publish(stage.url, serviceToken(), { to: { topic: 'NEWS' }, type: 't', data: 'the end' });
  await stream.until(() => stream.notifications.some(({ data }) => data === 'the end'), 'the end');
  expect(stream.notifications.map(({ data }) => data)).not.toContain('for others');
  await stream.cut();
});

test('the tenant of an answer is that of the token, wherever a request names another', async () => {
  const token = byAcme(serviceClaims(ACME));
  const before = await traces(stage.database);
  for (const name of ['tenant', 'tenant_id', 'tenantId', 'iss']) {
    const query = await post(`${stage.url}/v1/notifications?${name}=globex`, token, note(1));
    const body = await post(`${stage.url}/v1/notifications`, token, { ...note(1), [name]: 'globex' });
    const address = await post(`${stage.url}/v1/notifications`, token, {
      ...note(1),
      to: { everyone: true, [name]: 'globex' },
    });
    for (const answer of [query, body, address]) {
      expect(answer).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
    }
  }
  expect(await traces(stage.database)).toEqual(before);
});
