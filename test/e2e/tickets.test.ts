import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { TicketSeal } from '../../src/auth/tickets.ts';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { Operations } from '../../src/openapi/document.ts';
import { call } from '../support/admin.ts';
import { post, publish, type Answer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { storedHash } from '../support/stored-ticket.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

interface Ticket {
  readonly ticket: string;
  readonly expiresAt: string;
}

/** Longer than any test takes. */
const LIFE_SECONDS = 300;
const SETTINGS = { STREAM_TICKET_SECONDS: LIFE_SECONDS };

const logged: string[] = [];
let service: Service;
let elsewhere: Service;
beforeAll(async () => {
  const logs = { write: (line: string) => void logged.push(line) };
  service = await startService({ ...SETTINGS, LOG_LEVEL: 'trace' }, { logs });
  elsewhere = await startService({ ...SETTINGS, NODE_NAME: 'elsewhere' }, { database: service.database });
});
afterAll(async () => {
  await elsewhere.close();
  await service.close();
});

let streams: StreamClient[];
beforeEach(() => {
  streams = [];
});
afterEach(async () => {
  await Promise.all(streams.map((stream) => stream.cut()));
});

const fetchTicket = (
  token: string,
  body: unknown = {},
  headers: Record<string, string> = {},
): Promise<Answer<Ticket & { code?: string }>> =>
  post(`${service.url}/v1/stream/tickets`, token, body, headers);

async function ticketFor(token: string, body: unknown = {}): Promise<string> {
  const answer = await fetchTicket(token, body);
  expect(answer.status).toBe(201);
  return answer.body.ticket;
}

interface Opening {
  readonly query?: Record<string, string>;
  readonly headers?: Record<string, string>;
  readonly token?: string;
  readonly at?: Service;
}

async function open(ticket: string, { query, headers = {}, token, at = service }: Opening = {}) {
  const stream = await StreamClient.open(at.url, token, { query: { ...query, ticket }, headers });
  streams.push(stream);
  return stream;
}

/** The status and code of a refusal. */
async function refusal(opening: Promise<StreamClient>) {
  const stream = await opening;
  await stream.closed;
  const { code, detail } = JSON.parse(stream.raw) as { code: string; detail: string };
  const challenge = stream.response.headers['www-authenticate'];
  return { status: stream.status, code, detail, challenge };
}

const INVALID = { status: 401, code: 'ticket_invalid', challenge: expect.stringMatching(/^Bearer /) };

describe('POST /v1/stream/tickets', () => {
  test('gives a ticket that is good for as long as the setting says and kept by no cache', async () => {
    const before = Date.now();
    const { status, headers, body } = await fetchTicket(userToken());
    expect(status).toBe(201);
    expect(headers.get('cache-control')).toBe('no-store');
    expect(Object.keys(body)).toEqual(['ticket', 'expiresAt']);
    expect(body.ticket).toMatch(/^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}$/);
    const made = Date.parse(body.expiresAt) - LIFE_SECONDS * 1_000;
    expect(made).toBeGreaterThan(before - 1_000);
    expect(made).toBeLessThan(Date.now() + 1_000);
  });

  test('never gives the same ticket twice', async () => {
    const tickets = await Promise.all(Array.from({ length: 20 }, () => ticketFor(userToken())));
    expect(new Set(tickets).size).toBe(20);
  });

  test('gives none that outlives its token', async () => {
    const exp = Math.floor(Date.now() / 1_000) + LIFE_SECONDS - 60;
    const { body } = await fetchTicket(userToken({ claims: { exp } }));
    expect(Date.parse(body.expiresAt)).toBe(exp * 1_000);
  });

  test('takes a cookie from a page of this host, and no body at all', async () => {
    const headers = {
      cookie: `__Host-tidings=${userToken({ user: 'cora' })}`,
      'sec-fetch-site': 'same-origin',
    };
    const response = await fetch(`${service.url}/v1/stream/tickets`, { method: 'POST', headers });
    const { ticket } = (await response.json()) as Ticket;
    expect(response.status).toBe(201);
    await (await open(ticket)).untilEvent('caught-up');
  });

  test('takes no service, no token in its seconds of grace and no device that is none', async () => {
    const refusals = await Promise.all([
      fetchTicket(serviceToken()),
      fetchTicket(userToken({ expiresInSeconds: -1 })),
      fetchTicket(userToken(), { device: 'a device' }),
      fetchTicket(userToken(), { user: 'bob' }),
      post<{ code?: string }>(`${service.url}/v1/stream/tickets?device=phone`, userToken(), {}),
    ]);
    expect(refusals.map(({ body }) => body.code)).toEqual([
      'not_for_services',
      'token_invalid',
      'validation_failed',
      'validation_failed',
      'validation_failed',
    ]);
  });

  test('keeps nothing by which a ticket could be used', async () => {
    const ticket = await ticketFor(userToken({ user: 'dora' }));
    const kept = await service.database.query<{ row: string; hash: Buffer }>(
      'select t::text as row, hash from stream_tickets t',
    );
    expect(kept.map(({ hash }) => hash.toString('hex'))).toContain(storedHash(ticket).toString('hex'));
    const [tenant = '', secret = ''] = ticket.split('.');
    const random = Buffer.from(secret, 'base64url').subarray(0, 24);
    for (const { row } of kept) {
      expect(row).not.toContain(random.toString('base64url'));
      expect(row).not.toContain(random.toString('hex'));
    }
    expect(Buffer.from(tenant, 'base64url').toString()).toBe('acme');
  });
});

describe('a ticket', () => {
  test('opens the stream of its user through another node, with the topics and the end of its token', async () => {
    const token = userToken({ user: 'emma', topics: ['news'], expiresInSeconds: 600 });
    const sent = [
      await publish(service.url, serviceToken(), { to: { user: 'emma' }, type: 't', data: 1 }),
      await publish(service.url, serviceToken(), { to: { topic: 'news' }, type: 't', data: 2 }),
    ];
    await publish(service.url, serviceToken(), { to: { topic: 'other' }, type: 't', data: 3 });
    const stream = await open(await ticketFor(token), { at: elsewhere });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ id }) => id)).toEqual(sent.map(({ id }) => id));
    const { exp } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as {
      exp: number;
    };
    expect((await stream.untilEvent('sync'))['tokenExpiresAt']).toBe(new Date(exp * 1000).toISOString());
  });

  test('resumes where the query says', async () => {
    const sent = [];
    for (let i = 0; i < 3; i += 1)
      sent.push(await publish(service.url, serviceToken(), { to: { user: 'fay' }, type: 't', data: i }));
    const query = { lastEventId: sent[0]?.position ?? '' };
    const stream = await open(await ticketFor(userToken({ user: 'fay' })), { query });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ id }) => id)).toEqual(sent.slice(1).map(({ id }) => id));
  });

  test('is useless the second time', async () => {
    const ticket = await ticketFor(userToken());
    await (await open(ticket)).untilEvent('sync');
    expect(await refusal(open(ticket))).toMatchObject(INVALID);
    expect(await refusal(open(ticket, { at: elsewhere }))).toMatchObject(INVALID);
  });

  test('lets one in of fifty that come at once through two nodes', async () => {
    const ticket = await ticketFor(userToken({ user: 'gina' }));
    const all = await Promise.all(
      Array.from({ length: 50 }, (_, i) => open(ticket, { at: i % 2 === 0 ? service : elsewhere })),
    );
    const refused = all.filter(({ status }) => status === 401);
    expect(refused).toHaveLength(49);
    expect(all.filter(({ status }) => status === 200)).toHaveLength(1);
  });

  test('is useless once its time is over, by the clock of the database', async () => {
    const ticket = await ticketFor(userToken({ user: 'hanna' }));
    const [{ expires_at: end } = { expires_at: undefined }] = await service.database.query<{
      expires_at: Date;
    }>(`update stream_tickets set expires_at = clock_timestamp() where hash = $1 returning expires_at`, [
      storedHash(ticket),
    ]);
    expect(end).toBeInstanceOf(Date);
    expect(await refusal(open(ticket))).toMatchObject(INVALID);
  });

  test.each<[string, (ticket: string) => string]>([
    ['nothing', () => ''],
    ['no ticket', () => 'rubbish'],
    [
      'one that was never made',
      () => `${Buffer.from('acme').toString('base64url')}.${randomBytes(48).toString('base64url')}`,
    ],
    [
      'one with the tenant of another',
      (ticket) => `${Buffer.from('globex').toString('base64url')}.${ticket.split('.')[1]}`,
    ],
    ['one with another spelling of its tenant', (ticket) => ticket.replace('.', '=.')],
    ['one with a tail', (ticket) => `${ticket}A`],
    [
      'one with a tenant that is none',
      (ticket) => `${Buffer.from('a b').toString('base64url')}.${ticket.split('.')[1]}`,
    ],
  ])('is refused when it is %s, and the true one stays good', async (_, forge) => {
    const ticket = await ticketFor(userToken());
    expect(await refusal(open(forge(ticket)))).toMatchObject(INVALID);
    await (await open(ticket)).untilEvent('sync');
  });

  test('is refused when there are two', async () => {
    const tickets = [await ticketFor(userToken()), await ticketFor(userToken())];
    const response = await fetch(`${service.url}/v1/stream?ticket=${tickets.join('&ticket=')}`);
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ code: 'ticket_invalid' });
  });

  test('names the device: its token first, then the body, and never the query of the stream', async () => {
    const device = async (token: string, body: object, query: Record<string, string>) =>
      (await (await open(await ticketFor(token, body), { query })).untilEvent('sync'))['device'];
    const claiming = userToken({ device: 'tablet' });
    expect(await device(claiming, { device: 'phone' }, { device: 'watch' })).toBe('tablet');
    expect(await device(userToken(), { device: 'phone' }, { device: 'watch' })).toBe('phone');
    expect(await device(userToken(), {}, { device: 'watch' })).toBe('default');
  });

  test('is an unknown parameter to any other route, and no credential there', async () => {
    const ticket = await ticketFor(userToken());
    const ofUsers = service.app
      .get(Operations)
      .all.filter(({ access, path }) => access.kind === 'user' && path !== '/v1/stream');
    for (const { method, path, token } of [
      { method: 'post', path: '/v1/notifications', token: serviceToken() },
      ...ofUsers.map((each) => ({ ...each, token: userToken() })),
    ]) {
      const url = `${service.url}${path.replaceAll(/\{\w+\}/g, 'x')}?ticket=${ticket}`;
      const ask = (by: string | undefined) =>
        call(method.toUpperCase(), url, by, method === 'get' ? undefined : {});
      expect([path, (await ask(undefined)).status]).toEqual([path, 401]);
      const { status, body } = await ask(token);
      expect([path, status, body['code'], body['errors']]).toEqual([
        path,
        400,
        'validation_failed',
        [expect.objectContaining({ pointer: '/ticket' })],
      ]);
      expect(JSON.stringify(body)).not.toContain(ticket);
    }
    await (await open(ticket)).untilEvent('sync');
  });
});

describe('a ticket whose token', () => {
  test('was revoked since is refused', async () => {
    const ticket = await ticketFor(userToken({ user: 'ida', claims: { jti: 'session-1' } }));
    await service.database.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, expires_at)
       values ('acme', gen_random_uuid(), 'token', 'session-1', now() + interval '1 hour')`,
    );
    await service.app.get(ChangeFeed).now();
    expect(await refusal(open(ticket))).toMatchObject({ status: 401, code: 'token_invalid' });
  });

  test('was revoked with all others of its user is refused', async () => {
    const ticket = await ticketFor(userToken({ user: 'jane' }));
    await service.database.query(
      `insert into revocations (tenant_id, revocation_id, kind, subject, issued_before, expires_at)
       values ('acme', gen_random_uuid(), 'user', 'jane', now() + interval '2 seconds', now() + interval '1 hour')`,
    );
    await service.app.get(ChangeFeed).now();
    expect(await refusal(open(ticket))).toMatchObject({ status: 401, code: 'token_invalid' });
  });

  test('is of a tenant that was suspended since is refused', async () => {
    const ticket = await ticketFor(userToken({ tenant: 'closed' }));
    await service.database.query(`insert into tenants (tenant_id, status) values ('closed', 'suspended')`);
    await service.app.get(ChangeFeed).now();
    expect(await refusal(open(ticket))).toMatchObject({ status: 403, code: 'tenant_suspended' });
  });
});

describe('a ticket beside another credential', () => {
  const cookie = (token: string) => ({ cookie: `__Host-tidings=${token}` });

  test('is refused when they are of two users', async () => {
    const alice = () => ticketFor(userToken({ user: 'alice' }));
    const bob = userToken({ user: 'bob' });
    const conflict = { status: 401, code: 'credentials_conflict' };
    expect(await refusal(open(await alice(), { token: bob }))).toMatchObject(conflict);
    expect(await refusal(open(await alice(), { headers: cookie(bob) }))).toMatchObject(conflict);
    const namesake = userToken({ user: 'alice', tenant: 'globex' });
    expect(await refusal(open(await alice(), { token: namesake }))).toMatchObject(conflict);
  });

  test('opens one stream of its user and not a second, whatever else there is', async () => {
    const alice = userToken({ user: 'alice' });
    const ticket = await ticketFor(alice);
    const opening = { token: alice, headers: { ...cookie(alice), 'sec-fetch-site': 'same-origin' } };
    await (await open(ticket, opening)).untilEvent('sync');
    expect(await refusal(open(ticket, opening))).toMatchObject(INVALID);
  });

  test('is not spent when the other one is refused', async () => {
    const ticket = await ticketFor(userToken());
    const ended = userToken({ expiresInSeconds: -60 });
    expect(await refusal(open(ticket, { headers: cookie(ended) }))).toMatchObject({ code: 'token_invalid' });
    await (await open(ticket)).untilEvent('sync');
  });
});

describe('without the database', () => {
  let database: TestDatabase;
  let proxy: BreakingProxy;
  let behind: Service;
  beforeAll(async () => {
    database = await createDatabase();
    proxy = await BreakingProxy.start(database);
    behind = await startService(
      { ...SETTINGS, NODE_NAME: 'behind' },
      { database: { ...database, urls: proxy.urls } },
    );
  });
  afterAll(async () => {
    await behind.close();
    await proxy.close();
    await database.drop();
  });

  test('a stream that is asked for with a ticket says that it will pass, and the ticket stays good', async () => {
    const asking = () => post<Ticket>(`${behind.url}/v1/stream/tickets`, userToken(), {});
    const { ticket } = (await asking()).body;
    proxy.away = true;
    proxy.cut();
    const refused = await asking();
    expect(refused).toMatchObject({ status: 503, body: { code: 'database_unavailable' } });
    const waiting = await open(ticket, { at: behind });
    expect(waiting.status).toBe(200);
    expect(await waiting.untilEvent('bye')).toMatchObject({ reason: 'unavailable', reconnect: true });
    proxy.away = false;
    await eventually(async () => expect((await asking()).status).toBe(201), { every: 50 });
    await (await open(ticket, { at: behind })).untilEvent('sync');
  });

  test('a ticket that nobody made, that was used here, or that is long over, is refused all the same: nobody is asked about it', async () => {
    const asking = () => post<Ticket>(`${behind.url}/v1/stream/tickets`, userToken(), {});
    const { ticket } = (await asking()).body;
    const [tenant = '', secret = ''] = ticket.split('.');
    const bytes = Buffer.from(secret, 'base64url');
    const changed = Array.from(bytes, (_, i) => {
      const copy = Buffer.from(bytes);
      copy[i] = (copy[i] ?? 0) ^ 1;
      return `${tenant}.${copy.toString('base64url')}`;
    });
    const another = `${Buffer.from('globex').toString('base64url')}.${secret}`;
    const used = (await asking()).body.ticket;
    await (await open(used, { at: behind })).untilEvent('sync');
    const madeUp = `${tenant}.${randomBytes(48).toString('base64url')}`;
    const [{ key } = { key: Buffer.of() }] = await database.query<{ key: Buffer }>(
      'select key from ticket_keys',
    );
    const seal = new TicketSeal(key);
    const sealed = seal.read(ticket);
    if (sealed === undefined) throw new Error('the ticket is not of this key');
    const over = seal.write({ ...sealed, expiresAt: Date.now() - 60_000 });
    proxy.away = true;
    proxy.cut();
    for (const useless of [...changed, another, madeUp, used, over])
      expect(await refusal(open(useless, { at: behind }))).toMatchObject(INVALID);
    expect(await (await open(ticket, { at: behind })).untilEvent('bye')).toMatchObject({
      reason: 'unavailable',
    });
    proxy.away = false;
    await eventually(async () => expect((await asking()).status).toBe(201), { every: 50 });
  });
});

describe('a ticket is not used up', () => {
  test.each([
    ['a confirmation that is none', { ack: 'never' }],
    ['a value that is none', { from: 'yesterday' }],
    ['a device that is none', { device: 'a device' }],
  ])('by a request that is refused for %s', async (_, query: Record<string, string>) => {
    const ticket = await ticketFor(userToken({ user: 'lena' }));
    expect(await refusal(open(ticket, { query }))).toMatchObject({ status: 400, code: 'validation_failed' });
    await (await open(ticket)).untilEvent('sync');
  });

  test('by HEAD, to which it is no credential', async () => {
    const ticket = await ticketFor(userToken({ user: 'mia' }));
    const head = (headers: Record<string, string> = {}) =>
      fetch(`${service.url}/v1/stream?ticket=${ticket}`, { method: 'HEAD', headers });
    expect((await head()).status).toBe(401);
    expect((await head({ authorization: `Bearer ${userToken({ user: 'mia' })}` })).status).toBe(200);
    await (await open(ticket)).untilEvent('sync');
  });
});

test('no ticket stands in a log, in a metric or in an answer', async () => {
  const good = await ticketFor(userToken({ user: 'kate' }));
  await (await open(good)).untilEvent('sync');
  const spent = await refusal(open(good));
  const wrongQuery = await refusal(open(await ticketFor(userToken()), { query: { from: 'yesterday' } }));
  expect(wrongQuery.code).toBe('validation_failed');
  const lost = await (await fetch(`${service.url}/v1/streams?ticket=${good}`)).text();
  await eventually(() => {
    const lines = logged.map((line) => JSON.parse(line) as { msg?: string; path?: string; route?: string });
    const requests = lines.filter(({ msg }) => msg === 'request');
    expect(requests.map(({ path }) => path)).toContain('/v1/streams');
    expect(requests.map(({ route }) => route)).toContain('/v1/stream');
  });
  const metrics = await (await fetch(`${service.url}/metrics`)).text();
  const random = good.split('.')[1] ?? '';
  for (const text of [logged.join(''), metrics, lost, JSON.stringify(spent)])
    expect(text).not.toContain(random);
  expect(logged.join('')).not.toMatch(/ticket=/);
});
