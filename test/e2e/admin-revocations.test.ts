import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';
import { Revocations } from '../../src/auth/revocations.ts';
import { call, operatorOf, readerOf, type Page, type ProblemBody } from '../support/admin.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { userToken } from '../support/tokens.ts';

interface Revocation {
  id: string;
  kind: string;
  jti?: string;
  user?: string;
  issuedBefore?: string;
  createdAt: string;
  expiresAt: string;
}

const DAY = 86_400_000;
const UNKNOWN = '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70';

let service: Service;
let tenants = 0;
beforeAll(async () => {
  service = await startService({ MAX_TOKEN_LIFETIME_DAYS: '30', RECEIPTS_FLUSH_MS: 20 });
});
afterAll(() => service.close());

function newTenant() {
  const tenant = `revoking-${(tenants += 1)}`;
  return { tenant, operator: operatorOf(tenant), reader: readerOf(tenant) };
}

const at = (path = '') => `${service.url}/v1/revocations${path}`;
const revoke = <Body = Revocation>(token: string, body: unknown) => call<Body>('POST', at(), token, body);
const list = async (token: string, query = '') =>
  (await call<Page<Revocation>>('GET', at(query), token)).body;
const recorded = async (tenant: string) =>
  await service.database.query<{
    action: string;
    target: string;
    before: string | null;
    after: string | null;
  }>(`select action, target, before, after from audit_log where tenant_id = $1 order by at`, [tenant]);
/** 400 is an acknowledgement of nothing: the token was taken. */
const isTaken = async (token: string) =>
  (await call('POST', `${service.url}/v1/acks`, token, {})).status === 400;

describe('a revocation', () => {
  test('of a token refuses that one at once, for as long as the token would have lived', async () => {
    const { tenant, operator } = newTenant();
    const [one, other] = ['one', 'other'].map((jti) => userToken({ tenant, claims: { jti } })) as [
      string,
      string,
    ];
    const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
    const { status, body } = await revoke(operator, { token: { jti: 'one', expiresAt } });
    expect([status, body]).toEqual([
      201,
      { id: expect.any(String), kind: 'token', jti: 'one', createdAt: expect.any(String), expiresAt },
    ]);
    expect([await isTaken(one), await isTaken(other)]).toEqual([false, true]);
    expect(await isTaken(userToken({ tenant: 'another', claims: { jti: 'one' } }))).toBe(true);
    expect(await recorded(tenant)).toEqual([
      { action: 'revocation.create', target: body.id, before: null, after: JSON.stringify(body) },
    ]);
  });

  test('of a token whose end is not told is kept for the longest life of a token', async () => {
    const { body } = await revoke(newTenant().operator, { token: { jti: 'x' } });
    expect(Date.parse(body.expiresAt) - Date.parse(body.createdAt)).toBe(30 * DAY);
  });

  test('takes the place of those before it, and says all that they said', async () => {
    const { tenant, operator, reader } = newTenant();
    const soon = new Date(Date.now() + 3_600_000).toISOString();
    await revoke(operator, { token: { jti: 'x' } });
    const { body: longer } = await revoke(operator, { token: { jti: 'x' } });
    const { body: shorter } = await revoke(operator, { token: { jti: 'x', expiresAt: soon } });
    const issuedBefore = '2026-01-01T00:00:00Z';
    await revoke(operator, { user: 'x', issuedBefore });
    const { body: later } = await revoke(operator, { user: 'x' });
    const { body: earlier } = await revoke(operator, { user: 'x', issuedBefore });
    const { body: other } = await revoke(operator, { user: 'y' });
    const { items } = await list(reader);
    expect(items).toEqual([other, earlier, shorter]);
    expect(shorter.expiresAt).toBe(longer.expiresAt);
    expect(earlier.issuedBefore).toBe(later.issuedBefore);
    expect(
      await service.database.query(`select from revocations where tenant_id = $1`, [tenant]),
    ).toHaveLength(3);
    expect(await isTaken(userToken({ tenant, claims: { jti: 'x' } }))).toBe(false);
    // `iat` is in whole seconds: one of a minute ago was issued before, however long the test took.
    const iat = Math.floor(Date.parse(later.issuedBefore ?? '') / 1_000) - 60;
    expect(await isTaken(userToken({ tenant, user: 'x', claims: { iat } }))).toBe(false);
  });

  test('is refused beyond as many as a tenant may have, with what to do; and never of whom something is revoked already', async () => {
    const { tenant, operator } = newTenant();
    await service.database.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
       select $1, gen_random_uuid(), 'token', 'made-up-' || n, now() + interval '1 day' from generate_series(1, 100000) n`,
      [tenant],
    );
    const id = tenantIdSchema.parse(tenant);
    // Reading so many may fail for the time that it takes, and is done again.
    await eventually(async () => {
      await service.app.get(ChangeFeed).now();
      expect(service.app.get(Revocations).hasRoom(id, 'token', 'one-more')).toBe(false);
    });
    const refused = await revoke<ProblemBody>(operator, { token: { jti: 'one-more' } });
    expect([refused.status, refused.body.code]).toEqual([403, 'revocations_full']);
    expect(refused.body.detail).toMatch(/100000 tokens .* revoke the user/);
    expect((await revoke(operator, { token: { jti: 'made-up-7' } })).status).toBe(201);
    expect((await revoke(operator, { user: 'alice' })).status).toBe(201);
    expect((await revoke(newTenant().operator, { token: { jti: 'one-more' } })).status).toBe(201);
    const [{ rows } = { rows: 0 }] = await service.database.query<{ rows: number }>(
      `select count(*)::int as rows from revocations where tenant_id = $1`,
      [tenant],
    );
    expect(rows).toBe(100_001);
  });

  test('of a user refuses what was issued until now, and nothing of others', async () => {
    const { tenant, operator } = newTenant();
    const old = userToken({ tenant });
    const began = Date.now();
    const { status, body } = await revoke(operator, { user: 'alice' });
    const ended = Date.now();
    expect([status, body]).toEqual([201, expect.objectContaining({ kind: 'user', user: 'alice' })]);
    // The clock is that of the database, on the same machine.
    const issuedBefore = Date.parse(body.issuedBefore ?? '');
    expect([issuedBefore >= began, issuedBefore <= ended]).toEqual([true, true]);
    expect(Date.parse(body.expiresAt) - Date.parse(body.createdAt)).toBe(30 * DAY);
    const later = Math.floor(Date.now() / 1000) + 2;
    expect(await isTaken(old)).toBe(false);
    expect(await isTaken(userToken({ tenant, claims: { iat: undefined } }))).toBe(false);
    expect(await isTaken(userToken({ tenant, claims: { iat: later } }))).toBe(true);
    expect(await isTaken(userToken({ tenant, user: 'bob' }))).toBe(true);
    expect(await isTaken(userToken({ tenant: 'another' }))).toBe(true);
  });

  test('of a user from an instant on spares what was issued since', async () => {
    const { tenant, operator } = newTenant();
    const now = Math.floor(Date.now() / 1000);
    const issuedBefore = new Date((now - 60) * 1000).toISOString();
    const { body } = await revoke(operator, { user: 'alice', issuedBefore });
    expect(body.issuedBefore).toBe(issuedBefore);
    expect(await isTaken(userToken({ tenant, claims: { iat: now - 61 } }))).toBe(false);
    expect(await isTaken(userToken({ tenant, claims: { iat: now - 60 } }))).toBe(true);
  });

  test.each<[string, unknown, string]>([
    ['nothing', {}, ''],
    ['both', { token: { jti: 'x' }, user: 'alice' }, ''],
    [
      'an instant with a token',
      { token: { jti: 'x' }, issuedBefore: '2026-01-01T00:00:00Z' },
      '/issuedBefore',
    ],
    ['an instant ahead', { user: 'alice', issuedBefore: '9998-01-01T00:00:00Z' }, '/issuedBefore'],
    ['a year that is none', { user: 'alice', issuedBefore: '0000-01-01T00:00:00Z' }, '/issuedBefore'],
    [
      'an end that has passed',
      { token: { jti: 'x', expiresAt: '2020-01-01T00:00:00Z' } },
      '/token/expiresAt',
    ],
    ['a year past all', { token: { jti: 'x', expiresAt: '9999-12-31T23:00:00-10:00' } }, '/token/expiresAt'],
    ['an empty jti', { token: { jti: '' } }, '/token/jti'],
    ['a jti with NUL', { token: { jti: 'a\u0000' } }, '/token/jti'],
    ['no jti', { token: {} }, '/token/jti'],
    ['a user that is none', { user: '' }, '/user'],
    ['another tenant', { user: 'alice', tenant: 'acme' }, '/tenant'],
  ])('is refused for %s, and leaves nothing behind', async (_, body, pointer) => {
    const { tenant, operator, reader } = newTenant();
    const answer = await revoke<ProblemBody>(operator, body);
    expect([answer.status, answer.body.errors?.map((fault) => fault.pointer)]).toEqual([400, [pointer]]);
    expect(await recorded(tenant)).toEqual([]);
    expect((await list(reader)).items).toEqual([]);
  });

  test('is listed while it is in force, in its own tenant, in pages that later ones do not shift', async () => {
    const { tenant, operator, reader } = newTenant();
    const made: string[] = [];
    for (let n = 0; n < 5; n += 1)
      made.unshift((await revoke(operator, { token: { jti: `t-${n}` } })).body.id);
    await service.database.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at) values ($1, gen_random_uuid(), 'token', 'over', now() - interval '1 s')`,
      [tenant],
    );
    const first = await list(reader, '?limit=2');
    await revoke(operator, { user: 'alice' });
    const second = await list(operator, `?limit=2&cursor=${first.nextCursor}`);
    const third = await list(reader, `?limit=2&cursor=${second.nextCursor}`);
    expect([...first.items, ...second.items, ...third.items].map(({ id }) => id)).toEqual(made);
    expect(third.nextCursor).toBeNull();
    expect((await list(newTenant().reader)).items).toEqual([]);
  });
});

/** A stream that has its backlog, and the id of its connection once the listing knows it. */
async function openStream(tenant: string, user = 'alice') {
  const stream = await StreamClient.open(service.url, userToken({ tenant, user }));
  await stream.untilEvent('caught-up');
  const { connectionId } = await stream.untilEvent('sync');
  await eventually(async () => {
    const rows = await service.database.query(`select from connections where connection_id = $1`, [
      connectionId,
    ]);
    expect(rows).toHaveLength(1);
  });
  return { stream, connectionId: String(connectionId) };
}

describe('a user is disconnected', () => {
  const disconnect = (token: string, user: string, body?: unknown) =>
    call<ProblemBody>('POST', `${service.url}/v1/users/${encodeURIComponent(user)}/disconnect`, token, body);

  test('from every stream in the tenant, and nobody else is', async () => {
    const { tenant, operator } = newTenant();
    const other = newTenant().tenant;
    const [one, two, bob, namesake] = [
      await openStream(tenant),
      await openStream(tenant),
      await openStream(tenant, 'bob'),
      await openStream(other),
    ];
    const answer = await disconnect(operator, 'alice');
    expect([answer.status, answer.body]).toEqual([204, {}]);
    for (const { stream } of [one, two]) await stream.untilEvent('bye');
    for (const { stream } of [bob, namesake]) {
      expect(stream.events.map(({ event }) => event)).not.toContain('bye');
      await stream.cut();
    }
    expect(await recorded(tenant)).toEqual([
      { action: 'user.disconnect', target: 'alice', before: null, after: null },
    ]);
    const again = await openStream(tenant);
    await again.stream.cut();
  });

  test.each([
    ['nobody in particular', 'nobody'],
    ['a slash', 'a/b'],
    ['a percent sign', '100%'],
    ['more than ASCII', 'Zoë 🙂'],
    ['what a URL is made of', '?x=1#y'],
    ['as many characters as an id can have', '🙂'.repeat(256)],
  ])('by any id that a user can have: %s', async (_, user) => {
    const { tenant, operator } = newTenant();
    expect((await disconnect(operator, user, {})).status).toBe(204);
    expect(await recorded(tenant)).toMatchObject([{ target: user }]);
  });

  test('by no id that no user can have, and with no body', async () => {
    const { tenant, operator } = newTenant();
    expect((await disconnect(operator, 'a\u0000b')).status).toBe(404);
    expect((await disconnect(operator, 'x'.repeat(257))).status).toBe(404);
    expect(await disconnect(operator, 'alice', { device: 'd' })).toMatchObject({
      status: 400,
      body: { errors: [{ pointer: '/device' }] },
    });
    expect(await recorded(tenant)).toEqual([]);
  });
});

describe('a connection is closed', () => {
  const close = (token: string, id: string) =>
    call<ProblemBody>('DELETE', `${service.url}/v1/connections/${id}`, token);

  test('alone, and once it is closed it is not found', async () => {
    const { tenant, operator } = newTenant();
    const [one, other] = [await openStream(tenant), await openStream(tenant)];
    expect((await close(operator, one.connectionId)).status).toBe(204);
    await one.stream.untilEvent('bye');
    expect(other.stream.events.map(({ event }) => event)).not.toContain('bye');
    await eventually(async () => expect((await close(operator, one.connectionId)).status).toBe(404));
    await other.stream.cut();
    const [act] = await recorded(tenant);
    expect(act).toMatchObject({ action: 'connection.close', target: one.connectionId, after: null });
    expect(JSON.parse(act?.before ?? '')).toMatchObject({
      connectionId: one.connectionId,
      user: 'alice',
      device: 'default',
    });
  });

  test('by nobody of another tenant: it looks like one that does not exist', async () => {
    const { tenant } = newTenant();
    const foreign = newTenant();
    const { stream, connectionId } = await openStream(tenant);
    const answers = [
      await close(foreign.operator, connectionId),
      await close(foreign.operator, UNKNOWN),
      await close(foreign.operator, 'no-uuid'),
    ];
    for (const { status, body } of answers) expect([status, body]).toEqual([404, answers[0]?.body]);
    expect(await recorded(foreign.tenant)).toEqual([]);
    expect(await recorded(tenant)).toEqual([]);
    expect(stream.events.map(({ event }) => event)).not.toContain('bye');
    await stream.cut();
  });

  test('by the id that its client was told, also once its topics have changed', async () => {
    const { tenant, operator } = newTenant();
    const { stream, connectionId } = await openStream(tenant);
    const token = userToken({ tenant, topics: ['team:blue'] });
    const renewals = `${service.url}/v1/stream/renewals`;
    expect((await call('POST', renewals, token, { connectionId, token })).status).toBe(202);
    await eventually(async () => {
      const rows = await service.database.query(
        `select reason from connections where tenant_id = $1 order by since, until nulls last`,
        [tenant],
      );
      expect(rows).toEqual([{ reason: 'renewed' }, { reason: null }]);
    });
    expect((await close(operator, connectionId)).status).toBe(204);
    await stream.untilEvent('bye');
    await eventually(async () => expect((await close(operator, connectionId)).status).toBe(404));
  });

  /** A record of a stream, as a node would have left it. */
  const record = (tenant: string, id: string, node: string, ended: 'renewed' | null) =>
    service.database.query(
      `insert into connections (tenant_id, connection_id, user_id, device_id, node, since, until, position, reason)
       values ($1, $2, 'alice', 'default', $3, now() - interval '1 minute', case when $4::text is not null then now() - interval '50 s' end, 0, $4)`,
      [tenant, id, node, ended],
    );

  test('by nobody of another tenant who has a stream that looks like its successor', async () => {
    const { tenant } = newTenant();
    const foreign = newTenant();
    const { stream } = await openStream(foreign.tenant);
    const id = randomUUID();
    await record(tenant, id, service.config.NODE_NAME, 'renewed');
    expect((await close(foreign.operator, id)).status).toBe(404);
    await stream.cut();
  });

  test.each([
    ['is not seen any more', `now() - interval '2 minutes', now() - interval '30 s'`],
    ['has started again since', `now() - interval '5 s', now()`],
  ])('unless its node %s', async (_, times) => {
    const { tenant, operator } = newTenant();
    const [id, node] = [randomUUID(), `node-${randomUUID()}`];
    await service.database.query(`insert into nodes (node, started_at, seen_at) values ($1, ${times})`, [
      node,
    ]);
    await record(tenant, id, node, null);
    expect((await close(operator, id)).status).toBe(404);
    await service.database.query(
      `update nodes set started_at = now() - interval '2 minutes', seen_at = now() + interval '1 hour' where node = $1`,
      [node],
    );
    expect((await close(operator, id)).status).toBe(204);
  });
});
