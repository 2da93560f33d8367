import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { adminOf, call, type Page, type ProblemBody } from '../support/admin.ts';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { serviceToken } from '../support/tokens.ts';

interface Tenant {
  id: string;
  name: string | null;
  status: string;
  keptDays: number | null;
  corsOrigins: string[];
  limits: Record<string, number | null>;
  createdAt: string;
  updatedAt: string;
}

const admin = adminOf('ops');
const TIME = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(() => service.close());

const at = (path = '') => `${service.url}/v1/tenants${path}`;
const create = <Body = Tenant>(body: unknown) => call<Body>('POST', at(), admin, body);
const change = <Body = Tenant>(id: string, body: unknown) => call<Body>('PATCH', at(`/${id}`), admin, body);
const find = async (id: string) => (await call<Tenant>('GET', at(`/${id}`), admin)).body;
const recorded = async (id: string) =>
  await service.database.query<{ action: string; before: string | null; after: string | null }>(
    `select action, before, after from audit_log where tenant_id = $1 order by at`,
    [id],
  );

describe('a tenant', () => {
  test('is registered, found, and can be published to', async () => {
    const settings = { name: 'Acme Ltd.', keptDays: 90, corsOrigins: ['https://app.acme.example'] };
    const { status, headers, body } = await create({ id: 'acme', ...settings });
    expect([status, headers.get('location'), headers.get('cache-control')]).toEqual([
      201,
      '/v1/tenants/acme',
      'no-store',
    ]);
    expect(body).toEqual({
      id: 'acme',
      status: 'active',
      ...settings,
      limits: NO_LIMITS,
      createdAt: TIME,
      updatedAt: TIME,
    });
    expect(await find('acme')).toEqual(body);
    await publish(service.url, serviceToken({ tenant: 'acme' }), { to: { user: 'u' }, type: 't', data: 1 });
  });

  test('is registered once, also by many at once, and not when it is there already', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => create<ProblemBody>({ id: 'once' })));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(7);
    expect(answers.find(({ status }) => status === 409)?.body.code).toBe('tenant_exists');
    expect(await recorded('once')).toHaveLength(1);
    await publish(service.url, serviceToken({ tenant: 'by-itself' }), {
      to: { user: 'u' },
      type: 't',
      data: 1,
    });
    expect((await create({ id: 'by-itself' })).status).toBe(409);
    expect(await recorded('by-itself')).toEqual([]);
  });

  test('is changed member by member: what is absent stays, null takes away', async () => {
    await create({ id: 'patched', name: 'Before', keptDays: 7, corsOrigins: ['https://a.example'] });
    expect((await change('patched', { name: 'After' })).body).toMatchObject({
      name: 'After',
      keptDays: 7,
      corsOrigins: ['https://a.example'],
      status: 'active',
    });
    const { status, body } = await change('patched', { name: null, keptDays: null, corsOrigins: null });
    expect([status, body]).toEqual([
      200,
      { ...(await find('patched')), name: null, keptDays: null, corsOrigins: [] },
    ]);
    expect(body.updatedAt > body.createdAt).toBe(true);
  });

  test('has limits of its own, changed limit by limit, and each change is recorded', async () => {
    const { status, body } = await create({
      id: 'limited',
      limits: { burst: 50, devicesPerUser: 3, connections: null },
    });
    expect([status, body.limits]).toEqual([201, { ...NO_LIMITS, burst: 50, devicesPerUser: 3 }]);
    const changed = await change('limited', {
      limits: { burst: null, topicsPerToken: 0, devicesPerUser: 4 },
    });
    expect(changed.body.limits).toEqual({ ...NO_LIMITS, topicsPerToken: 0, devicesPerUser: 4 });
    expect(await find('limited')).toEqual(changed.body);
    expect((await change('limited', { name: 'Limited' })).body.limits).toEqual(changed.body.limits);
    expect((await change('limited', { limits: null })).body.limits).toEqual(NO_LIMITS);
    const shown = (await recorded('limited')).map(({ after }): unknown => JSON.parse(after ?? '').limits);
    expect(shown).toEqual([body.limits, changed.body.limits, changed.body.limits, NO_LIMITS]);
  });

  test('keeps the limits that a newer version gave it, through a change by this one', async () => {
    await create({ id: 'newer' });
    await service.database.query(
      `update tenants set limits = '{"wattsPerUser": 9, "burst": 5, "dataBytes": "1 KiB"}' where tenant_id = 'newer'`,
    );
    expect((await find('newer')).limits).toEqual({ ...NO_LIMITS, burst: 5 });
    await change('newer', { limits: { burst: 6, connections: 2 } });
    expect(await service.database.query(`select limits from tenants where tenant_id = 'newer'`)).toEqual([
      { limits: { wattsPerUser: 9, burst: 6, connections: 2 } },
    ]);
  });

  test('is left alone by a patch that changes nothing', async () => {
    const { body: made } = await create({ id: 'same', keptDays: 7 });
    for (const patch of [
      {},
      { keptDays: 7, status: 'active' },
      { name: null, corsOrigins: [] },
      { limits: null },
      { limits: {} },
      { limits: { burst: null } },
    ])
      expect(await change('same', patch)).toMatchObject({ status: 200, body: made });
    expect((await recorded('same')).map(({ action }) => action)).toEqual(['tenant.create']);
  });

  test('is changed by many at once one after the other, each seeing what the one before left', async () => {
    await create({ id: 'busy' });
    await Promise.all(Array.from({ length: 12 }, (_, n) => change('busy', { name: `name ${n}` })));
    const acts = (await recorded('busy')).slice(1);
    expect(acts).toHaveLength(12);
    const links = new Map(acts.map(({ before, after }) => [before, after]));
    let reached = (await recorded('busy'))[0]?.after ?? null;
    for (let n = 0; n < 12; n += 1) reached = links.get(reached) ?? null;
    expect(reached).not.toBeNull();
    expect(JSON.parse(reached ?? '')).toEqual(await find('busy'));
  });

  test('is suspended and resumed, and its requests with it', async () => {
    await create({ id: 'naughty' });
    const publisher = serviceToken({ tenant: 'naughty' });
    const attempt = () =>
      call<ProblemBody>('POST', `${service.url}/v1/notifications`, publisher, {
        to: { user: 'u' },
        type: 't',
        data: 1,
      });
    expect((await change('naughty', { status: 'suspended' })).body.status).toBe('suspended');
    expect(await attempt()).toMatchObject({ status: 403, body: { code: 'tenant_suspended' } });
    await change('naughty', { status: 'active' });
    expect((await attempt()).status).toBe(201);
  });

  test.each(['nobody', 'no%20tenant', '%00', 'x'.repeat(65)])('that is none is not found: %s', async (id) => {
    const answers = [
      await call('GET', at(`/${id}`), admin),
      await call('PATCH', at(`/${id}`), admin, { name: 'x' }),
      await call('GET', at(`/${id}/audit`), admin),
    ];
    for (const { status, body } of answers)
      expect([status, body]).toEqual([
        404,
        expect.objectContaining({ code: 'not_found', detail: 'No tenant has this id.' }),
      ]);
  });
});

describe('what is wrong with a tenant is told where it is wrong', () => {
  const wellFormed = { id: 'faulty' };

  test.each<[unknown, string, RegExp]>([
    [{}, '/id', /is required/],
    [{ id: 'a/b' }, '/id', /1 to 64 characters/],
    [{ ...wellFormed, colour: 1 }, '/colour', /not known/],
    [{ ...wellFormed, status: 'suspended' }, '/status', /not known/],
    [{ ...wellFormed, name: '' }, '/name', /./],
    [{ ...wellFormed, name: 'a\u0000' }, '/name', /control characters/],
    [{ ...wellFormed, name: 'x'.repeat(201) }, '/name', /200/],
    [{ ...wellFormed, keptDays: 0 }, '/keptDays', />=1/],
    [{ ...wellFormed, keptDays: 3651 }, '/keptDays', /<=3650/],
    [{ ...wellFormed, keptDays: 1.5 }, '/keptDays', /int/],
    [{ ...wellFormed, limits: [] }, '/limits', /object/],
    [{ ...wellFormed, limits: { watts: 1 } }, '/limits/watts', /not known/],
    [{ ...wellFormed, limits: { burst: 0 } }, '/limits/burst', />=1/],
    [{ ...wellFormed, limits: { burst: 1.5 } }, '/limits/burst', /int/],
    [{ ...wellFormed, limits: { topicsPerToken: 1_001 } }, '/limits/topicsPerToken', /<=1000/],
    // What one request may hold here, below what any limit may be.
    [{ ...wellFormed, limits: { dataBytes: 8_388_609 } }, '/limits/dataBytes', /at most 8388608/],
    [{ ...wellFormed, corsOrigins: 'https://a.example' }, '/corsOrigins', /array/],
    [{ ...wellFormed, corsOrigins: ['https://a.example', 'https://a.example'] }, '/corsOrigins', /twice/],
    [
      { ...wellFormed, corsOrigins: Array.from({ length: 101 }, (_, n) => `https://a${n}.example`) },
      '/corsOrigins',
      /<=100/,
    ],
  ])('%j', async (body, pointer, detail) => {
    const answer = await create<ProblemBody>(body);
    expect([answer.status, answer.body.code]).toEqual([400, 'validation_failed']);
    expect(answer.body.errors).toContainEqual({ pointer, detail: expect.stringMatching(detail) });
  });

  test.each<[string, RegExp]>([
    ['*', /without a wildcard/],
    ['https://*.acme.example', /without a wildcard/],
    ['null', /nobody in particular/],
    ['acme.example', /an origin such as/],
    ['', /an origin such as/],
    ['https://app.acme.example/', /they write https:\/\/app\.acme\.example$/],
    ['https://app.acme.example/path', /they write/],
    ['https://App.Acme.example', /they write https:\/\/app\.acme\.example$/],
    ['https://app.acme.example:443', /they write https:\/\/app\.acme\.example$/],
    ['https://user@app.acme.example', /they write/],
    ['https://münchen.example', /they write https:\/\/xn--mnchen-3ya\.example$/],
    ['http://app.acme.example', /http:\/\/ for localhost/],
    ['http://127.evil.example', /http:\/\/ for localhost/],
    ['file:///etc/passwd', /begins with https/],
    ['javascript:alert(1)', /begins with https/],
    [' https://app.acme.example', /they write/],
  ])('an origin that no browser sends: %s', async (origin, detail) => {
    const { status, body } = await create<ProblemBody>({
      ...wellFormed,
      corsOrigins: ['https://good.example', origin],
    });
    expect([status, body.errors]).toEqual([
      400,
      [{ pointer: '/corsOrigins/1', detail: expect.stringMatching(detail) }],
    ]);
  });

  test('and origins that browsers send are taken', async () => {
    const corsOrigins = [
      'https://app.acme.example',
      'https://app.acme.example:8443',
      'http://localhost:3000',
      'http://127.0.0.1',
      'http://[::1]:8080',
      'https://[2001:db8::1]',
      'https://xn--mnchen-3ya.example',
    ];
    expect((await create({ id: 'origins', corsOrigins })).body.corsOrigins).toEqual(corsOrigins);
  });

  test.each<[unknown, string]>([
    [{ status: null }, '/status'],
    [{ status: 'deleted' }, '/status'],
    [{ id: 'other' }, '/id'],
    [{ keptDays: '7' }, '/keptDays'],
    [{ limits: { connections: '7' } }, '/limits/connections'],
    [{ limits: { dataBytes: 8_388_609 } }, '/limits/dataBytes'],
    [{ corsOrigins: ['https://a.example/'] }, '/corsOrigins/0'],
  ])('in a patch, too: %j', async (patch, pointer) => {
    await create({ id: 'wrongly-patched' });
    const { status, body } = await change<ProblemBody>('wrongly-patched', patch);
    expect([status, body.errors]).toEqual([400, [{ pointer, detail: expect.any(String) }]]);
  });

  test('and nothing of it was registered or recorded', async () => {
    expect((await call('GET', at('/faulty'), admin)).status).toBe(404);
    expect(await recorded('faulty')).toEqual([]);
  });
});

describe('the list of tenants', () => {
  const page = async (query: string, token = admin) =>
    await call<Page<Tenant> & ProblemBody>('GET', at(`?${query}`), token);

  test('gives each one that was there exactly once, whatever is registered meanwhile', async () => {
    const ids = Array.from({ length: 9 }, (_, n) => `list-${n}`);
    for (const id of ids) await create({ id });
    const seen: string[] = [];
    let cursor: string | null = null;
    for (let n = 0; ; n += 1) {
      const { status, body }: Awaited<ReturnType<typeof page>> = await page(
        `limit=2${cursor === null ? '' : `&cursor=${cursor}`}`,
      );
      expect(status).toBe(200);
      expect(body.items.length).toBeLessThanOrEqual(2);
      seen.push(...body.items.map(({ id }) => id));
      cursor = body.nextCursor;
      if (cursor === null) break;
      // One before and one behind the place that was reached.
      await create({ id: `A-before-${n}` });
      if (n < 3) await create({ id: `zz-behind-${n}` });
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual(seen.toSorted());
    expect(seen.filter((id) => id.startsWith('list-'))).toEqual(ids);
    expect(seen.filter((id) => id.startsWith('zz-behind-'))).toHaveLength(3);
  });

  test('is filtered by status', async () => {
    await create({ id: 'dormant' });
    await change('dormant', { status: 'suspended' });
    expect((await page('status=suspended')).body.items.map(({ id }) => id)).toEqual(['dormant']);
    expect((await page('status=active&limit=200')).body.items.map(({ id }) => id)).not.toContain('dormant');
  });

  test('takes no cursor of another list, and no limit that is none', async () => {
    const { nextCursor } = (await page('limit=1')).body;
    const bad = [
      await page(`status=active&cursor=${nextCursor}`),
      await page(`cursor=${nextCursor}`, adminOf('other')),
      await page('cursor=nonsense'),
      await page('limit=0'),
      await page('limit=201'),
      await page('offset=1'),
    ];
    expect(bad.map(({ status, body }) => [status, body.errors?.[0]?.pointer])).toEqual([
      [400, '/cursor'],
      [400, '/cursor'],
      [400, '/cursor'],
      [400, '/limit'],
      [400, '/limit'],
      [400, '/offset'],
    ]);
  });
});
