import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { adminOf, call, KeyIssuer, type Page, type ProblemBody } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';
import { sign } from '../support/tokens.ts';

interface Issuer {
  id: string;
  iss: string;
  status: string;
  version: number;
  updatedAt: string;
  revokedBefore: string | null;
}

const SECRET = 'correct horse battery staple, and some more of it';
const UNKNOWN = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';
const admin = adminOf('ops');

let service: Service;
let count = 0;
beforeAll(async () => {
  service = await startService({ ISSUER_SECRETS_KEY: 'the key of the tests, longer than thirty-two bytes' });
});
afterAll(() => service.close());

const at = (path = '') => `${service.url}/v1/issuers${path}`;
const register = <Body = Issuer>(body: unknown, token = admin) => call<Body>('POST', at(), token, body);
const change = <Body = Issuer>(id: string, body: unknown) => call<Body>('PATCH', at(`/${id}`), admin, body);
const provider = () => new KeyIssuer(`https://id-${(count += 1)}.example`);
const acts = async (id: string) =>
  await service.database.query<{
    tenant_id: string;
    action: string;
    before: string | null;
    after: string | null;
  }>(`select tenant_id, action, before, after from audit_log where target = $1 order by at`, [id]);

/** What a token may read: 200 if it is taken. */
const statusOf = async (token: string) => (await call('GET', `${service.url}/v1/audit`, token)).status;
const reader = { sub: 'reader', scope: 'history:read' };

describe('an issuer', () => {
  test('is registered, shown, and its tokens are taken at once for its tenant alone', async () => {
    const idp = provider();
    expect(await statusOf(idp.token(reader))).toBe(401);
    const { status, headers, body } = await register(idp.registration({ tenants: ['acme'], name: 'Acme' }));
    expect([status, headers.get('location')]).toEqual([201, `/v1/issuers/${body.id}`]);
    expect(body).toEqual({
      id: expect.any(String),
      iss: idp.iss,
      name: 'Acme',
      status: 'active',
      jwksUrl: null,
      keys: idp.jwks,
      hasSecret: false,
      algorithms: ['ES256'],
      audiences: ['tidings'],
      tenant: null,
      tenants: ['acme'],
      claims: { tenant: 'tenant_id', user: 'sub', topics: 'topics', device: 'device', scopes: ['scope'] },
      scopes: ['notifications:publish', 'history:read'],
      requireAtJwt: false,
      revokedBefore: null,
      version: 1,
      createdAt: expect.any(String),
      updatedAt: expect.any(String),
    });
    expect((await call('GET', at(`/${body.id}`), admin)).body).toEqual(body);
    expect(await statusOf(idp.token({ ...reader, tenant_id: 'acme' }))).toBe(200);
    expect(await statusOf(idp.token({ ...reader, tenant_id: 'globex' }))).toBe(401);
  });

  test('is registered once, also by many at once', async () => {
    const registration = provider().registration({ tenant: 'acme' });
    const answers = await Promise.all(Array.from({ length: 6 }, () => register<ProblemBody>(registration)));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(5);
    expect(answers.find(({ status }) => status === 409)?.body.code).toBe('issuer_exists');
  });

  test('is not registered in place of the issuer of the settings, nor renamed to it', async () => {
    const { iss: _, ...rest } = provider().registration({ tenant: 'acme' });
    const refused = { status: 409, body: { code: 'issuer_exists' } };
    expect(await register({ iss: 'tidings', ...rest })).toMatchObject(refused);
    const { body } = await register(provider().registration({ tenant: 'acme' }));
    expect(await change(body.id, { iss: 'tidings' })).toMatchObject(refused);
  });

  test('does not take the name of another, and a refused change leaves nothing behind', async () => {
    const first = provider();
    await register(first.registration({ tenant: 'acme' }));
    const { body } = await register(provider().registration({ tenant: 'acme' }));
    expect(await change(body.id, { iss: first.iss, status: 'disabled' })).toMatchObject({
      status: 409,
      body: { code: 'issuer_exists' },
    });
    expect((await call('GET', at(`/${body.id}`), admin)).body).toEqual(body);
    expect((await acts(body.id)).map(({ action }) => action)).toEqual(['issuer.create']);
  });

  test('is left alone by a patch that changes nothing', async () => {
    const idp = provider();
    const { body } = await register(idp.registration({ tenant: 'acme', claims: { topics: '/a/b' } }));
    for (const patch of [
      {},
      { status: 'active', name: null },
      { keys: idp.jwks },
      { claims: { topics: '/a/b' } },
    ])
      expect(await change(body.id, patch)).toMatchObject({ status: 200, body: { ...body } });
    expect(await acts(body.id)).toHaveLength(1);
  });

  test('is disabled and enabled, and has its older tokens revoked', async () => {
    const idp = provider();
    const { body } = await register(idp.registration({ tenant: 'acme' }));
    const now = Math.floor(Date.now() / 1000);
    const token = idp.token({ ...reader, iat: now - 10 });
    expect((await change(body.id, { status: 'disabled' })).body).toMatchObject({
      status: 'disabled',
      version: 2,
    });
    expect(await statusOf(token)).toBe(401);
    await change(body.id, { status: 'active' });
    expect(await statusOf(token)).toBe(200);
    const revokedBefore = new Date((now - 5) * 1000).toISOString();
    expect((await change(body.id, { revokedBefore })).body).toMatchObject({ revokedBefore, version: 4 });
    expect(await statusOf(token)).toBe(401);
    expect(await statusOf(idp.token(reader))).toBe(200);
    expect((await change(body.id, { revokedBefore: null })).body.revokedBefore).toBeNull();
    expect(await statusOf(token)).toBe(200);
  });

  test('that is removed is gone, with its tokens, and its name is free again', async () => {
    const idp = provider();
    const { body } = await register(idp.registration({ tenant: 'acme' }));
    const removed = await call('DELETE', at(`/${body.id}`), admin);
    expect([removed.status, removed.body]).toEqual([204, {}]);
    expect(await statusOf(idp.token(reader))).toBe(401);
    for (const answer of [
      await call('GET', at(`/${body.id}`), admin),
      await call('DELETE', at(`/${body.id}`), admin),
      await change(body.id, { status: 'active' }),
    ])
      expect(answer).toMatchObject({ status: 404, body: { code: 'not_found' } });
    expect((await acts(body.id)).map(({ action }) => action)).toEqual(['issuer.create', 'issuer.delete']);
    const again = await register(idp.registration({ tenant: 'acme' }));
    expect(again.status).toBe(201);
    expect(again.body.id).not.toBe(body.id);
    expect(await statusOf(idp.token(reader))).toBe(200);
  });

  test.each([UNKNOWN, 'environment', 'tidings', '%27%20or%201%3D1'])(
    'that is none is not found: %s',
    async (id) => {
      const answers = [
        await call('GET', at(`/${id}`), admin),
        await call('PATCH', at(`/${id}`), admin, { status: 'disabled' }),
        await call('DELETE', at(`/${id}`), admin),
      ];
      for (const { status, body } of answers)
        expect([status, body]).toEqual([
          404,
          expect.objectContaining({ code: 'not_found', detail: 'No issuer has this id.' }),
        ]);
    },
  );
});

describe('what is done to an issuer is recorded', () => {
  test('in the tenant of whoever did it, with what was and what is', async () => {
    const { body } = await register(provider().registration({ tenant: 'acme' }));
    const { body: changed } = await change(body.id, { scopes: [] });
    await call('DELETE', at(`/${body.id}`), admin);
    const rows = (await acts(body.id)).map(({ before, after, ...row }) => ({
      ...row,
      before: JSON.parse(before ?? 'null') as unknown,
      after: JSON.parse(after ?? 'null') as unknown,
    }));
    expect(rows).toEqual([
      { tenant_id: 'ops', action: 'issuer.create', before: null, after: body },
      { tenant_id: 'ops', action: 'issuer.update', before: body, after: changed },
      { tenant_id: 'ops', action: 'issuer.delete', before: changed, after: null },
    ]);
  });

  test('and its secret is nowhere: not in answers, not in the record, not readable in the database', async () => {
    const iss = `https://id-${(count += 1)}.example`;
    const answers: unknown[] = [];
    const { status, body } = await register({ iss, secret: SECRET, audiences: ['tidings'], tenant: 'acme' });
    expect([status, body]).toEqual([
      201,
      expect.objectContaining({ hasSecret: true, algorithms: ['HS256'] }),
    ]);
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss, aud: 'tidings', iat: now, exp: now + 3_600, ...reader };
    expect(await statusOf(sign(claims, { alg: 'HS256', typ: 'JWT' }, SECRET))).toBe(200);

    const next = `${SECRET}, renewed`;
    const { body: changed } = await change(body.id, { secret: next });
    expect(changed.version).toBe(2);
    expect(await statusOf(sign(claims, { alg: 'HS256', typ: 'JWT' }, SECRET))).toBe(401);
    expect(await statusOf(sign(claims, { alg: 'HS256', typ: 'JWT' }, next))).toBe(200);
    // The same secret again cannot be told from a new one, and counts as one.
    expect((await change(body.id, { secret: next })).body.version).toBe(3);
    await register({ iss: `${iss}/short`, secret: 'short, correct horse', audiences: ['a'], tenant: 'acme' });
    const refused = await register({
      iss: `${iss}/x`,
      secret: SECRET,
      jwksUrl: 'https://x.example',
      audiences: ['a'],
      tenant: 'acme',
    });
    expect(refused.status).toBe(400);

    const list = await call('GET', at('?limit=200'), admin);
    answers.push(body, changed, refused.body, list.body, await acts(body.id));
    answers.push(
      await service.database.query(
        `select to_json(i) as row, encode(sealed_secret, 'escape') as sealed from issuers i`,
      ),
    );
    const text = JSON.stringify(answers);
    for (const hidden of [
      'correct horse',
      Buffer.from(SECRET).toString('base64').slice(0, 20),
      Buffer.from(SECRET).toString('hex').slice(0, 20),
    ])
      expect(text).not.toContain(hidden);
    expect(text).toContain(iss);
  });
});

describe('what is wrong with an issuer is told where it is wrong', () => {
  const good = () => provider().registration({ tenant: 'acme' });

  test.each<[string, Record<string, unknown>, string]>([
    ['no audience', { audiences: undefined }, '/audiences'],
    ['an unknown member', { colour: 'red' }, '/colour'],
    ['a tenant that is none', { tenant: 'a/b' }, '/tenant'],
    ['one tenant and several', { tenants: ['acme'] }, '/tenant'],
    ['two sources of keys', { jwksUrl: 'https://x.example/keys' }, '/keys'],
    ['an unknown scope', { scopes: ['everything'] }, '/scopes/0'],
    ['an unknown algorithm', { algorithms: ['none'] }, '/algorithms/0'],
    ['a secret algorithm with public keys', { algorithms: ['HS256'] }, '/algorithms'],
    ['a bad pointer', { claims: { tenant: '/a~2' } }, '/claims/tenant'],
  ])('%s', async (_, fault, pointer) => {
    const { status, body } = await register<ProblemBody>({ ...good(), ...fault });
    expect([status, body.errors?.map((each) => each.pointer)]).toEqual([
      400,
      expect.arrayContaining([pointer]),
    ]);
  });

  test.each<[Record<string, unknown>, string]>([
    [{ audiences: null }, '/audiences'],
    [{ status: 'deleted' }, '/status'],
    [{ tenant: null }, '/tenant'],
    [{ revokedBefore: '9999-01-01T00:00:00Z' }, '/revokedBefore'],
    [{ id: UNKNOWN }, '/id'],
  ])('in a patch, too: %j', async (patch, pointer) => {
    const { body } = await register(good());
    const answer = await change<ProblemBody>(body.id, patch);
    expect([answer.status, answer.body.errors?.map((each) => each.pointer)]).toEqual([400, [pointer]]);
    expect(await acts(body.id)).toHaveLength(1);
  });

  test('a secret that this service cannot keep', async () => {
    const bare = await startService({}, { database: service.database });
    try {
      const registration = { iss: 'https://bare.example', secret: SECRET, audiences: ['a'], tenant: 'acme' };
      const { status, body } = await call<ProblemBody>('POST', `${bare.url}/v1/issuers`, admin, registration);
      expect([status, body.errors]).toEqual([
        400,
        [{ pointer: '/secret', detail: expect.stringMatching(/ISSUER_SECRETS_KEY/) }],
      ]);
    } finally {
      await bare.close();
    }
  });
});

test('the list of issuers gives each one exactly once, whatever is registered meanwhile', async () => {
  const before = await Promise.all(
    Array.from({ length: 5 }, () => register(provider().registration({ tenant: 'acme' }))),
  );
  const seen: string[] = [];
  let cursor: string | null = null;
  for (let n = 0; ; n += 1) {
    const query: string = cursor === null ? '' : `&cursor=${cursor}`;
    const { body }: { body: Page<Issuer> } = await call<Page<Issuer>>('GET', at(`?limit=3${query}`), admin);
    seen.push(...body.items.map(({ id }) => id));
    cursor = body.nextCursor;
    if (cursor === null) break;
    if (n < 3) await register(provider().registration({ tenant: 'acme' }));
  }
  expect(new Set(seen).size).toBe(seen.length);
  expect(seen).toEqual(expect.arrayContaining(before.map(({ body }) => body.id)));
});
