import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { adminOf, call, operatorOf, readerOf, type Page, type ProblemBody } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';

interface Act {
  id: string;
  at: string;
  action: string;
  target: string;
  actor: Record<string, unknown>;
  remoteAddress: string | null;
  requestId: string | null;
  before: Record<string, unknown> | null;
  after: Record<string, unknown> | null;
}

const admin = adminOf('ops');

let service: Service;
let tenants = 0;
beforeAll(async () => {
  service = await startService({ TRUSTED_PROXIES: '127.0.0.1' });
});
afterAll(() => service.close());

async function newTenant() {
  const tenant = `audited-${(tenants += 1)}`;
  await call('POST', `${service.url}/v1/tenants`, admin, { id: tenant });
  return { tenant, operator: operatorOf(tenant), reader: readerOf(tenant) };
}

const own = async (token: string, query = '') =>
  (await call<Page<Act>>('GET', `${service.url}/v1/audit${query}`, token)).body;
const seenByAdmin = async (tenant: string, query = '') =>
  (await call<Page<Act>>('GET', `${service.url}/v1/tenants/${tenant}/audit${query}`, admin)).body;

describe('an administrative act', () => {
  test('is recorded: who, what, when, from where, before and after', async () => {
    const { tenant } = await newTenant();
    const headers = { 'x-request-id': 'ticket-4711', 'x-forwarded-for': '198.51.100.7' };
    const url = `${service.url}/v1/tenants/${tenant}`;
    const began = Date.now();
    const { body: after } = await call('PATCH', url, admin, { keptDays: 7 }, headers);
    const ended = Date.now();
    const { items } = await seenByAdmin(tenant);
    expect(items).toEqual([
      {
        id: expect.any(String),
        at: expect.stringMatching(/Z$/),
        action: 'tenant.update',
        target: tenant,
        actor: { kind: 'service', tenant: 'ops', subject: 'console', issuer: 'tidings' },
        remoteAddress: '198.51.100.7',
        requestId: 'ticket-4711',
        before: { ...after, keptDays: null, updatedAt: expect.any(String) },
        after,
      },
      expect.objectContaining({ action: 'tenant.create', remoteAddress: '127.0.0.1', before: null }),
    ]);
    // The clock is that of the database, on the same machine.
    const at = Date.parse(items[0]?.at ?? '');
    expect([at >= began, at <= ended]).toEqual([true, true]);
  });

  test('of somebody of another tenant is shown to the tenant concerned without that somebody', async () => {
    const { tenant, operator, reader } = await newTenant();
    await call('POST', `${service.url}/v1/users/alice/disconnect`, operator, undefined, {
      'x-request-id': 'mine',
    });
    const { items } = await own(reader);
    expect(items.map(({ action, actor, requestId }) => ({ action, actor, requestId }))).toEqual([
      {
        action: 'user.disconnect',
        actor: { kind: 'service', tenant, subject: 'operator', issuer: 'tidings' },
        requestId: 'mine',
      },
      { action: 'tenant.create', actor: { kind: 'administrator' }, requestId: null },
    ]);
    expect(items.map(({ remoteAddress }) => remoteAddress)).toEqual(['127.0.0.1', null]);
    expect(JSON.stringify(items[1])).not.toMatch(/ops|console|127\.0\.0\.1/);
  });

  test('is shown to no tenant that it does not concern', async () => {
    const { tenant } = await newTenant();
    const stranger = await newTenant();
    expect((await own(stranger.reader)).items.map(({ target }) => target)).toEqual([stranger.tenant]);
    expect((await own(readerOf('nobody'))).items).toEqual([]);
    expect((await own(readerOf('ops'))).items.map(({ target }) => target)).not.toContain(tenant);
  });

  test('that was refused is not recorded', async () => {
    const { tenant, operator, reader } = await newTenant();
    const url = `${service.url}/v1`;
    const refused = [
      await call('POST', `${url}/tenants`, admin, { id: tenant }),
      await call('PATCH', `${url}/tenants/${tenant}`, admin, { keptDays: -1 }),
      await call('PATCH', `${url}/tenants/${tenant}`, operator, { keptDays: 1 }),
      await call('POST', `${url}/revocations`, operator, { user: 'u', issuedBefore: '9998-01-01T00:00:00Z' }),
      await call('DELETE', `${url}/connections/019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70`, operator),
    ];
    expect(refused.map(({ status }) => status)).toEqual([409, 400, 403, 400, 404]);
    expect((await own(reader)).items.map(({ action }) => action)).toEqual(['tenant.create']);
  });

  test('that cannot be recorded does not happen', async () => {
    const { tenant } = await newTenant();
    await service.database.query(
      `alter table audit_log add constraint jam check (target <> '${tenant}') not valid`,
    );
    try {
      const url = `${service.url}/v1/tenants/${tenant}`;
      expect((await call('PATCH', url, admin, { status: 'suspended' })).status).toBe(500);
      expect((await call('GET', url, admin)).body).toMatchObject({ status: 'active' });
    } finally {
      await service.database.query('alter table audit_log drop constraint jam');
    }
  });
});

describe('the audit log is read', () => {
  test('newest first, in pages that newer acts do not shift', async () => {
    const { tenant, operator, reader } = await newTenant();
    const disconnect = (user: string) => call('POST', `${service.url}/v1/users/${user}/disconnect`, operator);
    for (const user of ['a', 'b', 'c', 'd']) await disconnect(user);
    const first = await own(reader, '?limit=2');
    await disconnect('e');
    const second = await own(reader, `?limit=2&cursor=${first.nextCursor}`);
    const third = await own(reader, `?limit=2&cursor=${second.nextCursor}`);
    const targets = [...first.items, ...second.items, ...third.items].map(({ target }) => target);
    expect([targets, third.nextCursor]).toEqual([['d', 'c', 'b', 'a', tenant], null]);
    expect((await seenByAdmin(tenant, '?limit=1')).items).toMatchObject([{ target: 'e' }]);
  });

  test('by action and by time', async () => {
    const { tenant, operator, reader } = await newTenant();
    await call('POST', `${service.url}/v1/users/alice/disconnect`, operator);
    const [newest] = (await own(reader)).items;
    const targets = async (query: string) => (await own(reader, query)).items.map(({ target }) => target);
    expect(await targets('?action=tenant.create')).toEqual([tenant]);
    expect(await targets(`?since=${newest?.at}`)).toEqual(['alice']);
    expect(await targets(`?until=${newest?.at}`)).toEqual([tenant]);
    expect(await targets('?since=1970-01-01T00:00:00Z&until=9999-12-31T23:59:59Z')).toHaveLength(2);
  });

  test.each(['action=all', 'since=yesterday', 'limit=500', 'tenant=acme', 'cursor=x'])(
    'with a query that is understood: %s',
    async (query) => {
      const { reader } = await newTenant();
      const { status, body } = await call<ProblemBody>('GET', `${service.url}/v1/audit?${query}`, reader);
      expect([status, body.errors?.[0]?.pointer]).toEqual([400, `/${query.split('=')[0]}`]);
    },
  );

  test('with the cursor of that tenant and no other', async () => {
    const [one, other] = [await newTenant(), await newTenant()];
    await call('POST', `${service.url}/v1/users/alice/disconnect`, one.operator);
    const { nextCursor } = await own(one.reader, '?limit=1');
    expect(nextCursor).not.toBeNull();
    for (const [url, token] of [
      [`/v1/audit?cursor=${nextCursor}`, other.reader],
      [`/v1/tenants/${one.tenant}/audit?cursor=${nextCursor}`, admin],
    ] as const)
      expect((await call('GET', `${service.url}${url}`, token)).status).toBe(400);
  });
});

test('an address that no trusted proxy vouches for is not believed', async () => {
  const bare = await startService({}, { database: service.database });
  try {
    const headers = { 'x-forwarded-for': '198.51.100.7' };
    await call('POST', `${bare.url}/v1/tenants`, admin, { id: 'forwarded' }, headers);
    expect((await seenByAdmin('forwarded')).items).toMatchObject([{ remoteAddress: '127.0.0.1' }]);
  } finally {
    await bare.close();
  }
});
