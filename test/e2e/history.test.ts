import { request, type IncomingMessage } from 'node:http';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

interface Receipt {
  user: string;
  device: string;
  sends: number;
  firstSentAt: string | null;
  lastSentAt: string | null;
  deliveredAt: string | null;
}
interface Item {
  id: string;
  position: string;
  type: string;
  to: Record<string, unknown>;
  data: unknown;
  publisher: string;
  createdAt: string;
  expiresAt: string | null;
  status: string;
  devices?: Receipt[];
  readAt?: string | null;
  counts?: { sent: number; delivered: number; read: number; more: boolean };
}
interface Page<Of = Item> {
  items: Of[];
  nextCursor: string | null;
}
interface Connection {
  user: string;
  device: string;
  node: string;
  since: string;
  until: string | null;
  position: string;
  reason: string | null;
  topics: string[];
}

let service: Service;
let tenants = 0;

beforeAll(async () => {
  service = await startService({ RECEIPTS_FLUSH_MS: 20 });
});
afterAll(async () => {
  await service.close();
});

/** A tenant that no other test knows, with tokens for it. */
function newTenant() {
  tenants += 1;
  const tenant = `tenant-${tenants}`;
  return {
    tenant,
    publisher: serviceToken({ tenant }),
    operator: serviceToken({ tenant, client: 'ops', scope: 'history:read' }),
    user: (user: string, topics?: string[]) =>
      userToken({ tenant, user, ...(topics === undefined ? {} : { topics }) }),
  };
}

const path = (route: string, query: Record<string, string | number> = {}) => {
  const url = new URL(`/v1${route}`, service.url);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
  return url.href;
};

async function list(token: string, query: Record<string, string | number> = {}): Promise<Page> {
  const { status, body } = await get<Page>(path('/notifications', query), token);
  expect(status).toBe(200);
  return body;
}

const lookUp = async (token: string, id: string, of = '') =>
  (await get<Item>(path(`/notifications/${id}${of}`), token)).body;

/** Publishes many at once; newest last. */
async function publishMany(
  token: string,
  count: number,
  of: (n: number) => Record<string, unknown>,
): Promise<StoredAnswer[]> {
  const notifications = Array.from({ length: count }, (_, n) => of(n));
  const { status, body } = await post<{ notifications: StoredAnswer[] }>(
    path('/notifications/batch'),
    token,
    { notifications },
  );
  expect(status).toBe(201);
  return body.notifications;
}

describe('what happened to a notification', () => {
  test('is told from the publish to the confirmation', async () => {
    const { publisher, operator, user } = newTenant();
    const stream = await StreamClient.open(service.url, user('alice'), { query: { device: 'phone' } });
    await stream.untilEvent('caught-up');
    const stored = await publish(service.url, publisher, {
      to: { user: 'alice' },
      type: 'order.shipped',
      data: { n: 1 },
    });
    await stream.untilNotifications(1);
    const sent = await eventually(async () => {
      const item = await lookUp(operator, stored.id);
      expect(item.status).toBe('sent');
      return item;
    });
    expect(sent).toEqual({
      id: stored.id,
      position: stored.position,
      type: 'order.shipped',
      to: { user: 'alice' },
      data: { n: 1 },
      publisher: 'billing',
      createdAt: stored.createdAt,
      expiresAt: null,
      status: 'sent',
      readAt: null,
      devices: [
        {
          user: 'alice',
          device: 'phone',
          sends: 1,
          firstSentAt: expect.any(String),
          lastSentAt: expect.any(String),
          deliveredAt: null,
        },
      ],
    });

    await post(path('/acks'), user('alice'), { upTo: stored.position, device: 'phone' });
    const delivered = await lookUp(operator, stored.id);
    expect([delivered.status, delivered.devices?.[0]?.deliveredAt]).toEqual([
      'delivered',
      expect.any(String),
    ]);
    expect((await list(operator)).items).toEqual([delivered]);

    const { items } = (
      await get<Page<Record<string, string>>>(path(`/notifications/${stored.id}/timeline`), operator)
    ).body;
    expect(items).toEqual([
      { event: 'accepted', at: stored.createdAt, publisher: 'billing' },
      {
        event: 'sent',
        at: expect.any(String),
        user: 'alice',
        device: 'phone',
        connectionId: stream.named('sync')[0]?.['connectionId'],
        node: service.config.NODE_NAME,
      },
      { event: 'delivered', at: expect.any(String), user: 'alice', device: 'phone', by: 'ack' },
    ]);
    const times = items.map(({ at }) => Date.parse(at ?? ''));
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    await stream.cut();
  });

  test('tells a backlog from what was live, and a resume from an acknowledgement', async () => {
    const { publisher, operator, user } = newTenant();
    await publish(service.url, publisher, { to: { user: 'nobody' }, type: 't', data: 0 });
    const first = await StreamClient.open(service.url, user('alice'));
    await first.untilEvent('caught-up');
    await first.cut();
    const stored = await publish(service.url, publisher, { to: { everyone: true }, type: 't', data: 1 });
    const second = await StreamClient.open(service.url, user('alice'));
    await second.untilNotifications(1);
    await second.cut();
    const third = await StreamClient.open(service.url, user('alice'), { lastEventId: stored.position });
    await third.untilEvent('caught-up');
    const { items } = await eventually(async () => {
      const page = (
        await get<Page<Record<string, string>>>(path(`/notifications/${stored.id}/timeline`), operator)
      ).body;
      expect(page.items).toHaveLength(3);
      return page;
    });
    expect(items.map(({ event, by }) => [event, by])).toEqual([
      ['accepted', undefined],
      ['replayed', undefined],
      ['delivered', 'resume'],
    ]);
    const item = await lookUp(operator, stored.id);
    expect([item.status, item.counts]).toEqual([
      'delivered',
      { sent: 1, delivered: 1, read: 0, more: false },
    ]);
    const devices = (await get<Page<Receipt>>(path(`/notifications/${stored.id}/devices`), operator)).body;
    expect(devices).toEqual({
      items: [expect.objectContaining({ user: 'alice', device: 'default', sends: 1 })],
      nextCursor: null,
    });
    await third.cut();
  });

  test('is that users read it, whatever devices confirmed, and stays so', async () => {
    const { publisher, operator, user } = newTenant();
    const early = await publish(service.url, publisher, { to: { everyone: true }, type: 't', data: 0 });
    const mark = async (name: string, body: object, topics?: string[]) => {
      expect(await post(path('/inbox/marks'), user(name, topics), body)).toMatchObject({ status: 200 });
    };
    // An inbox begins when it is first asked for.
    for (const name of ['alice', 'bob']) await mark(name, {});
    const stored = await publish(service.url, publisher, { to: { user: 'alice' }, type: 't', data: 1 });
    const everyone = await publish(service.url, publisher, { to: { everyone: true }, type: 't', data: 2 });
    const topic = await publish(service.url, publisher, { to: { topic: 'weather' }, type: 't', data: 3 });
    await mark('alice', { readUpTo: topic.position }, ['weather']);
    await mark('bob', { items: [{ id: everyone.id, read: true }], seenUpTo: topic.position });
    const item = await lookUp(operator, stored.id);
    expect(item).toMatchObject({
      status: 'read',
      readAt: expect.stringMatching(/^20.*\.\d{3}Z$/),
      devices: [],
    });
    const broadcast = await lookUp(operator, everyone.id);
    expect([broadcast.status, broadcast.readAt, broadcast.counts]).toEqual([
      'read',
      undefined,
      { sent: 0, delivered: 0, read: 2, more: false },
    ]);
    const weather = await lookUp(operator, topic.id);
    expect(weather.counts).toEqual({ sent: 0, delivered: 0, read: 1, more: false });
    expect((await list(operator, { status: 'read' })).items).toEqual([weather, broadcast, item]);
    expect((await list(operator, { status: 'queued' })).items.map(({ id }) => id)).toEqual([early.id]);

    const timelineOf = async (id: string, query: Record<string, string | number> = {}) =>
      (await get<Page<Record<string, string>>>(path(`/notifications/${id}/timeline`, query), operator)).body;
    const { items } = await timelineOf(stored.id);
    expect(items.slice(1)).toEqual([
      { event: 'seen', at: expect.any(String), user: 'alice' },
      { event: 'read', at: item.readAt, user: 'alice' },
    ]);
    const events: string[] = [];
    for (let query: Record<string, string | number> | undefined = { limit: 1 }; query !== undefined;) {
      const { items: next, nextCursor }: Page<Record<string, string>> = await timelineOf(everyone.id, query);
      events.push(...next.map(({ event, user: name }) => `${event} ${name}`));
      query = nextCursor === null ? undefined : { limit: 1, cursor: nextCursor };
    }
    expect(events.slice(1).toSorted()).toEqual(['read alice', 'read bob', 'seen alice', 'seen bob']);

    // What happened has happened, and once.
    await mark('alice', { items: [{ id: stored.id, read: false }] });
    await mark('alice', { items: [{ id: stored.id, read: true }] });
    expect(await lookUp(operator, stored.id)).toEqual(item);
    expect((await timelineOf(stored.id)).items).toEqual(items);
  });

  test('is expired when nobody was there in time', async () => {
    const { publisher, operator } = newTenant();
    const { id } = await publish(service.url, publisher, {
      to: { user: 'alice' },
      type: 't',
      data: 1,
      expiresAt: new Date(Date.now() + 3_600_000).toISOString(),
    });
    expect((await list(operator, { status: 'queued' })).items.map((item) => item.id)).toEqual([id]);
    // The hour has passed.
    const expiresAt = new Date(Date.now() - 1).toISOString();
    await service.database.query('update notifications set expires_at = $2 where id = $1', [id, expiresAt]);
    expect((await list(operator, { status: 'queued' })).items).toEqual([]);
    expect(
      (await list(operator, { status: 'expired' })).items.map((item) => [item.id, item.expiresAt]),
    ).toEqual([[id, expiresAt]]);
    const { items } = (
      await get<Page<Record<string, string>>>(path(`/notifications/${id}/timeline`), operator)
    ).body;
    expect(items.at(-1)).toEqual({ event: 'expired', at: expiresAt });
  });

  test('keeps every digit, escape, double and order of its data', async () => {
    const { publisher, operator } = newTenant();
    const data = '{"z":9223372036854775808,"a":1.0,"a":1e2,"é":"\\u00e9\\u0000\\ud800","deep":[[-0.10]]}';
    const { body } = await post<StoredAnswer>(
      path('/notifications'),
      publisher,
      `{"to":{"user":"alice"},"type":"t","data":${data}}`,
    );
    const headers = { authorization: `Bearer ${operator}` };
    for (const url of [path('/notifications'), path(`/notifications/${body.id}`)]) {
      expect(await (await fetch(url, { headers })).text()).toContain(`"data":${data},"publisher"`);
    }
    const lines = await fetch(path('/notifications'), {
      headers: { ...headers, accept: 'application/x-ndjson' },
    });
    expect(await lines.text()).toContain(`"data":${data},"publisher"`);
  });
});

describe('the list', () => {
  test('follows its cursor through filters, newest first', async () => {
    const { publisher, operator } = newTenant();
    const stored = await publishMany(publisher, 25, (n) => ({
      to: n % 2 === 0 ? { user: 'alice' } : { topic: 'weather' },
      type: 't',
      data: n,
    }));
    const seen: unknown[] = [];
    let query: Record<string, string | number> | undefined = { user: 'alice', limit: 5 };
    while (query !== undefined) {
      const { items, nextCursor } = await list(operator, query);
      seen.push(...items.map(({ data }) => data));
      query = nextCursor === null ? undefined : { user: 'alice', limit: 5, cursor: nextCursor };
    }
    expect(seen).toEqual([24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]);
    const createdAt = stored[0]?.createdAt ?? '';
    expect((await list(operator, { since: createdAt, limit: 200 })).items).toHaveLength(25);
    expect((await list(operator, { until: createdAt })).items).toEqual([]);
    // The same moment on another clock.
    expect(
      (await list(operator, { topic: 'weather', since: createdAt.replace('Z', '+00:00') })).items,
    ).toHaveLength(12);
  });

  test.each([
    ['userId=alice', '/userId'],
    ['limit=0', '/limit'],
    ['limit=201', '/limit'],
    ['limit=5.0', '/limit'],
    ['limit=', '/limit'],
    ['status=seen', '/status'],
    ['since=yesterday', '/since'],
    ['until=2026-13-01T00:00:00Z', '/until'],
    ['type=a%20b', '/type'],
    ['user=', '/user'],
    ['user=a&user=b', '/user'],
    ['cursor=nonsense', '/cursor'],
    ['cursor=WyJ4IiwxXQ', '/cursor'],
  ])('refuses ?%s', async (query, pointer) => {
    const { operator } = newTenant();
    const { status, body } = await get(`${path('/notifications')}?${query}`, operator);
    expect([status, body['code'], body['errors']]).toEqual([
      400,
      'validation_failed',
      [{ pointer, detail: expect.any(String) }],
    ]);
  });

  test('refuses the cursor of other filters, of another route and of another tenant', async () => {
    const own = newTenant();
    await publishMany(own.publisher, 3, () => ({ to: { user: 'alice' }, type: 't', data: 1 }));
    const cursor = (await list(own.operator, { user: 'alice', limit: 1 })).nextCursor ?? '';
    expect((await list(own.operator, { user: 'alice', limit: 2, cursor })).items).toHaveLength(2);
    const other = newTenant();
    for (const [token, url] of [
      [own.operator, path('/notifications', { cursor })],
      [own.operator, path('/notifications', { user: 'bob', cursor })],
      [own.operator, path('/notifications', { user: 'alice', type: 't', cursor })],
      [own.operator, path('/connections', { user: 'alice', cursor })],
      [other.operator, path('/notifications', { user: 'alice', cursor })],
    ] as const) {
      expect([url, (await get(url, token)).status]).toEqual([url, 400]);
    }
  });
});

describe('who may look', () => {
  test('is an operator at all of the tenant, and a publisher at what it published itself', async () => {
    const { tenant, publisher, operator, user } = newTenant();
    const { id } = await publish(service.url, publisher, { to: { user: 'alice' }, type: 't', data: 1 });
    const other = serviceToken({ tenant, client: 'shop' });
    const foreign = newTenant();
    for (const part of ['', '/timeline', '/devices']) {
      const statusFor = async (token: string) =>
        (await get(path(`/notifications/${id}${part}`), token)).status;
      expect([part, await statusFor(operator), await statusFor(publisher)]).toEqual([part, 200, 200]);
      expect([
        part,
        await statusFor(other),
        await statusFor(foreign.operator),
        await statusFor(foreign.publisher),
      ]).toEqual([part, 404, 404, 404]);
      expect([part, await statusFor(user('alice'))]).toEqual([part, 403]);
    }
    for (const route of ['/notifications', '/connections']) {
      expect([
        route,
        (await get(path(route), publisher)).status,
        (await get(path(route), user('alice'))).status,
      ]).toEqual([route, 403, 403]);
    }
    expect((await list(foreign.operator)).items).toEqual([]);
  });

  test.each(['nonsense', '019aab3c-7d52-7c1e-9a4b-3f6d2c8e1b70', '019aab3c7d527c1e9a4b3f6d2c8e1b70', '%00'])(
    'finds nothing under the id %s',
    async (id) => {
      const { operator } = newTenant();
      for (const part of ['', '/timeline', '/devices']) {
        const { status, body } = await get(path(`/notifications/${id}${part}`), operator);
        expect([part, status, body['code']]).toEqual([part, 404, 'not_found']);
      }
    },
  );
});

describe('connections', () => {
  test('are shown while they are open, and for the time that they were', async () => {
    const { operator, user } = newTenant();
    const began = new Date().toISOString();
    const stream = await StreamClient.open(service.url, user('alice', ['weather']), {
      query: { device: 'phone' },
    });
    await stream.untilEvent('caught-up');
    const connected = async (query: Record<string, string> = {}) =>
      (await get<Page<Connection>>(path('/connections', query), operator)).body.items;
    const open = await eventually(async () => {
      const [connection] = await connected();
      if (connection === undefined) throw new Error('nobody is connected');
      return connection;
    });
    expect(open).toEqual({
      connectionId: stream.named('sync')[0]?.['connectionId'],
      user: 'alice',
      device: 'phone',
      node: service.config.NODE_NAME,
      since: expect.any(String),
      until: null,
      position: expect.stringMatching(/^\d+$/),
      reason: null,
      topics: ['weather'],
    });
    expect(await connected({ user: 'bob' })).toEqual([]);
    await stream.cut();
    await eventually(async () => {
      expect(await connected()).toEqual([]);
    });
    const [ended] = await connected({ user: 'alice', since: began });
    expect([ended?.since, ended?.until, ended?.reason]).toEqual([
      open.since,
      expect.any(String),
      expect.any(String),
    ]);
    expect(await connected({ until: open.since })).toEqual([]);
    expect(await connected({ since: ended?.until ?? '' })).toEqual([]);
  });
});

describe('an export', () => {
  const lines = { accept: 'application/x-ndjson' };

  test('has every notification of the selection on a line of its own, beyond any page', async () => {
    const { publisher, operator } = newTenant();
    const stored = await publishMany(publisher, 450, (n) => ({
      to: { user: n < 430 ? 'alice' : 'bob' },
      type: 't',
      data: `line\n${n}`,
    }));
    const response = await fetch(path('/notifications', { user: 'alice' }), {
      headers: { ...lines, authorization: `Bearer ${operator}` },
    });
    expect([response.status, response.headers.get('content-type')]).toEqual([
      200,
      'application/x-ndjson; charset=utf-8',
    ]);
    const items = (await response.text())
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Item);
    expect(items.map(({ id }) => id)).toEqual(
      stored
        .slice(0, 430)
        .map(({ id }) => id)
        .toReversed(),
    );
    expect(items[0]).toEqual(await lookUp(operator, items[0]?.id ?? ''));
  });

  test('is empty when nothing is selected, and refused like a page', async () => {
    const { operator } = newTenant();
    const headers = { ...lines, authorization: `Bearer ${operator}` };
    const empty = await fetch(path('/notifications'), { headers });
    expect([empty.status, await empty.text()]).toEqual([200, '']);
    const refused = await fetch(path('/notifications', { status: 'seen' }), { headers });
    expect([refused.status, refused.headers.get('content-type')]).toEqual([
      400,
      'application/problem+json; charset=utf-8',
    ]);
  });

  test('waits for a slow reader, and breaks off visibly when the database fails on the way', async () => {
    const { publisher, operator } = newTenant();
    for (let batch = 0; batch < 4; batch += 1) {
      await publishMany(publisher, 100, () => ({
        to: { user: 'alice' },
        type: 't',
        data: 'x'.repeat(60_000),
      }));
    }
    const response = await requestPaused(path('/notifications'), {
      ...lines,
      authorization: `Bearer ${operator}`,
    });
    expect(response.statusCode).toBe(200);
    // 24 MB do not fit the sockets: what is left has to be read after the table went away.
    await service.database.query('alter table notifications rename to notifications_away');
    try {
      const text = { length: 0 };
      response.on('data', (chunk: Buffer) => (text.length += chunk.length));
      const outcome = new Promise((resolve) => {
        response.on('end', () => resolve('complete')).on('error', () => resolve('broken'));
      });
      response.resume();
      expect(await outcome).toBe('broken');
      expect(text.length).toBeLessThan(20_000_000);
    } finally {
      await service.database.query('alter table notifications_away rename to notifications');
    }
  });
});

async function requestPaused(url: string, headers: Record<string, string>): Promise<IncomingMessage> {
  return await new Promise((resolve, reject) => {
    request(url, { agent: false, headers })
      .on('response', (response) => resolve(response.pause()))
      .on('error', reject)
      .end();
  });
}
