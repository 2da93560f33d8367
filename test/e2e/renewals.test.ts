import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import { topicSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { order, revokeToken, revokeUser } from '../support/acts.ts';
import { get, post, publish, type Answer, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { BreakingProxy } from '../support/breaking-proxy.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { LogFeed } from '../../src/delivery/log-feed.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken, type UserTokenOptions } from '../support/tokens.ts';

let here: Service;
let there: Service;
const streams: StreamClient[] = [];

beforeAll(async () => {
  const settings = {
    TOKEN_EXPIRY_NOTICE_SECONDS: 4,
    TOKEN_EXPIRY_SPREAD_SECONDS: 0,
    // Whoever has something to read when a test moves the clock by an hour is not dead.
    STREAM_STALL_SECONDS: 3_600,
    LOG_POLL_MS: 100,
  };
  here = await startService(settings);
  there = await startService({ ...settings, NODE_NAME: 'there' }, { database: here.database });
});
afterEach(async () => {
  await Promise.all(streams.splice(0).map((stream) => stream.cut()));
});
afterAll(async () => {
  await there.close();
  await here.close();
});

async function openLive(service: Service, token: string): Promise<StreamClient> {
  const stream = await StreamClient.open(service.url, token);
  streams.push(stream);
  await stream.untilEvent('caught-up');
  return stream;
}

const connectionOf = (stream: StreamClient): string => String(stream.named('sync')[0]?.['connectionId']);

/** A renewal as a client asks for it: with the token that it has. */
const renew = (service: Service, token: string, connectionId: string, next: string) =>
  post<{ code?: string; detail?: string; tokenExpiresAt?: string }>(
    `${service.url}/v1/stream/renewals`,
    token,
    { connectionId, token: next },
  );

async function renewed(service: Service, token: string, stream: StreamClient, next: string): Promise<void> {
  const { status, body } = await renew(service, token, connectionOf(stream), next);
  expect({ status, body }).toMatchObject({ status: 202 });
}

/** Until then another node does not know of the stream: it learns of it by the ledger (RECEIPTS_FLUSH_MS). */
const recorded = (stream: StreamClient) =>
  eventually(async () => {
    const rows = await here.database.query('select from connections where connection_id = $1', [
      connectionOf(stream),
    ]);
    expect(rows).toHaveLength(1);
  });

function endingIn(ms: number, options: UserTokenOptions) {
  const exp = (Date.now() + ms) / 1000;
  return {
    token: userToken({ ...options, claims: { exp, ...options.claims } }),
    endsAt: Math.floor(exp * 1000),
  };
}

const send = (tenant: string, to: object, data: unknown = 1, service = here) =>
  publish(service.url, serviceToken({ tenant }), { to, type: 't', data });

const ids = (stream: StreamClient) => stream.notifications.map(({ id }) => id);

/** Waits for something that everybody gets, and so for all that was published before it. */
async function settle(tenant: string, stream: StreamClient): Promise<void> {
  const { id } = await send(tenant, { everyone: true }, 'marker');
  await stream.until(() => ids(stream).includes(id), 'the marker');
}

const ordersOf = async (tenant: string) =>
  (await here.database.query('select from stream_commands where tenant_id = $1', [tenant])).length;

describe('by the clock,', () => {
  const HOUR_MS = 3_600_000;
  /** What a stream ends before its token, since it is looked at once a second. */
  const LOOK_MS = 1_500;
  let clock: TestClock;
  beforeEach(() => {
    clock = new TestClock();
  });
  afterEach(async () => {
    clock.restore();
    // What the nodes believe of the database's clock is the least of ten comparisons with this one: by those that were made
    // while it was moved, the records of streams that open next would begin before their nodes did. One may be under way.
    for (const { app } of [here, there])
      for (let compared = 0; compared <= 10; compared += 1) await app.get(LogFeed).poll();
  });

  test('a stream goes on with its new token, without a cut, and ends with that one', async () => {
    const tenant = 'goes-on';
    const first = endingIn(HOUR_MS, { tenant });
    const stream = await openLive(here, first.token);
    const stop = new AbortController();
    const published: string[] = [];
    const publishing = (async () => {
      for (let n = 0; !stop.signal.aborted; n += 1)
        published.push((await send(tenant, { user: 'alice' }, n, n % 2 === 0 ? here : there)).id);
    })();
    const more = () => stream.untilNotifications(stream.notifications.length + 20);
    await more();
    clock.set(first.endsAt - 4_000);
    expect(await stream.untilEvent('expiring')).toEqual({ at: new Date(first.endsAt).toISOString() });
    const second = endingIn(HOUR_MS, { tenant });
    const { status, body } = await renew(here, first.token, connectionOf(stream), second.token);
    expect({ status, body }).toEqual({
      status: 202,
      body: { tokenExpiresAt: new Date(second.endsAt).toISOString() },
    });
    await more();
    // When it is warned again, its first token has long ended.
    clock.set(second.endsAt - 4_000);
    await stream.until(() => stream.named('expiring').length === 2, 'the second notice');
    await more();
    clock.set(second.endsAt - LOOK_MS);
    await stream.closed;
    stop.abort();
    await publishing;
    const ends = [first.endsAt, second.endsAt].map((at) => ({ at: new Date(at).toISOString() }));
    expect(stream.named('expiring')).toEqual(ends);
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired', reconnect: true }]);
    expect(stream.named('sync')).toHaveLength(1);
    expect(stream.named('caught-up')).toHaveLength(1);
    expect(ids(stream)).toEqual(published.slice(0, ids(stream).length));
    const positions = stream.notifications.map(({ position }) => Number(position));
    expect(positions).toEqual(positions.toSorted((a, b) => a - b));
  });

  test('a token that ends sooner ends its stream sooner', async () => {
    const tenant = 'sooner';
    const { token } = endingIn(2 * HOUR_MS, { tenant });
    const stream = await openLive(here, token);
    const next = endingIn(HOUR_MS, { tenant });
    await renewed(here, token, stream, next.token);
    clock.set(next.endsAt - LOOK_MS);
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired' }]);
  });

  test('renewing twice with one token warns of its end once', async () => {
    const tenant = 'twice';
    const { token } = endingIn(2 * HOUR_MS, { tenant });
    const stream = await openLive(here, token);
    const next = endingIn(HOUR_MS, { tenant });
    await renewed(here, token, stream, next.token);
    clock.set(next.endsAt - 4_000);
    await stream.untilEvent('expiring');
    await renewed(here, token, stream, next.token);
    clock.set(next.endsAt - LOOK_MS);
    await stream.closed;
    expect(stream.named('expiring')).toEqual([{ at: new Date(next.endsAt).toISOString() }]);
  });
});

describe('a renewal counts', () => {
  test('through any node, on the one that holds the stream, with its next look at what has changed', async () => {
    const tenant = 'any-node';
    const token = userToken({ tenant });
    const stream = await openLive(there, token);
    await recorded(stream);
    await renewed(here, token, stream, userToken({ tenant, topics: ['looked'] }));
    // It looks every CHANGES_POLL_MS, and now.
    await there.app.get(ChangeFeed).now();
    const { id } = await send(tenant, { topic: 'looked' });
    await settle(tenant, stream);
    expect(ids(stream)).toContain(id);
    // And so without being told to. With other topics a new record has begun, of which the other node learns by the ledger.
    await eventually(() => renewed(here, token, stream, userToken({ tenant, topics: ['news'] })));
    await eventually(async () => {
      await send(tenant, { topic: 'news' });
      expect(stream.notifications.some(({ to }) => to['topic'] === 'news')).toBe(true);
    });
    expect(stream.named('sync')).toHaveLength(1);
  });

  test('also with the new token as the caller’s own, and with one of the same device', async () => {
    const tenant = 'own-token';
    const stream = await openLive(here, userToken({ tenant, device: 'phone' }));
    const next = userToken({ tenant, device: 'phone', topics: ['news'] });
    await renewed(here, next, stream, next);
    const { id } = await send(tenant, { topic: 'news' });
    expect((await stream.untilNotifications(1)).map((notification) => notification.id)).toEqual([id]);
  });

  test('again and again, under the id that the stream has told its client', async () => {
    const tenant = 'again';
    const token = userToken({ tenant });
    const stream = await openLive(here, token);
    await recorded(stream);
    for (let i = 0; i < 5; i += 1) {
      await renewed(i % 2 === 0 ? here : there, token, stream, userToken({ tenant, topics: [`topic-${i}`] }));
      await here.app.get(ChangeFeed).now();
      const { id } = await send(tenant, { topic: `topic-${i}` });
      if (i > 0) await send(tenant, { topic: `topic-${i - 1}` });
      await settle(tenant, stream);
      expect(stream.notifications.filter(({ to }) => 'topic' in to).map((one) => one.id)).toContain(id);
    }
    const topics = stream.notifications.flatMap(({ to }) => ('topic' in to ? [to['topic']] : []));
    expect(topics).toEqual([0, 1, 2, 3, 4].map((i) => `topic-${i}`));
  });

  test('by when it was ordered: one that is heard later and is older changes nothing', async () => {
    const tenant = 'older';
    const token = userToken({ tenant });
    const stream = await openLive(here, token);
    // It has its time, and is not committed yet.
    const slow = new pg.Client({ connectionString: here.database.url });
    await slow.connect();
    await slow.query('begin');
    await slow.query(
      `insert into stream_commands (tenant_id, order_id, kind, user_id, connection_id, renewed, expires_at)
       values ($1, gen_random_uuid(), 'renew', 'alice', $2, $3, now() + interval '1 day')`,
      [
        tenant,
        connectionOf(stream),
        JSON.stringify({ topics: ['old'], expiresAt: Date.now() + 2_000, issuer: 'tidings' }),
      ],
    );
    await renewed(here, token, stream, userToken({ tenant, topics: ['new'] }));
    await slow.query('commit');
    await slow.end();
    await here.app.get(ChangeFeed).now();
    await send(tenant, { topic: 'old' }, 'old');
    await send(tenant, { topic: 'new' }, 'new');
    await settle(tenant, stream);
    expect(stream.notifications.map(({ data }) => data)).toEqual(['new', 'marker']);
  });
});

describe('a renewal is answered 202', () => {
  test.each(['statement', 'answer'] as const)(
    'only when it is stored: not when the database loses the %s, and then when asked again',
    async (loss) => {
      const tenant = `stored-${loss}`;
      const proxy = await BreakingProxy.start(here.database);
      const database = { ...here.database, urls: proxy.urls };
      const fragile = await startService({ NODE_NAME: `fragile-${loss}` }, { database });
      const token = userToken({ tenant });
      const stream = await openLive(fragile, token);
      const next = userToken({ tenant, topics: ['news'] });
      const lost = proxy.lose(loss, 'stream_command_insert');
      expect(await renew(fragile, token, connectionOf(stream), next)).toMatchObject({
        status: 503,
        body: { code: 'database_unavailable' },
      });
      await lost;
      expect(await ordersOf(tenant)).toBe(loss === 'answer' ? 1 : 0);
      await renewed(fragile, token, stream, next);
      const { id } = await send(tenant, { topic: 'news' });
      await stream.until(() => ids(stream).includes(id), 'what the new token gives');
      expect(ids(stream)).toEqual([id]);
      await stream.cut();
      await fragile.close();
      await proxy.close();
    },
  );
});

describe('a renewal is refused, and changes nothing,', () => {
  const tenant = 'refusing';
  const mine = userToken({ tenant });
  let stream: StreamClient;
  let others: StreamClient;
  beforeAll(async () => {
    stream = await StreamClient.open(here.url, userToken({ tenant, topics: ['kept'], device: 'phone' }));
    others = await StreamClient.open(here.url, userToken({ tenant, user: 'bob' }));
    await Promise.all([stream.untilEvent('caught-up'), others.untilEvent('caught-up')]);
    await revokeToken(here, tenant, 'revoked');
  });
  afterAll(async () => {
    await settle(tenant, stream);
    await send(tenant, { topic: 'kept' }, 'kept');
    await stream.until(() => stream.notifications.some(({ data }) => data === 'kept'), 'its old topics');
    expect(await ordersOf(tenant)).toBe(0);
    await Promise.all([stream.cut(), others.cut()]);
  });

  const token = (options: UserTokenOptions) => userToken({ tenant, topics: ['gained'], ...options });

  test.each<[string, () => string, number, string]>([
    ['of another user', () => token({ user: 'bob' }), 403, 'subject_mismatch'],
    ['of a user whose name differs in case', () => token({ user: 'Alice' }), 403, 'subject_mismatch'],
    ['of another tenant', () => token({ tenant: 'refusing2' }), 403, 'subject_mismatch'],
    ['of another device', () => token({ device: 'laptop' }), 403, 'subject_mismatch'],
    ['of a service', () => serviceToken({ tenant, client: 'alice' }), 403, 'not_for_services'],
    ['that has ended', () => token({ expiresInSeconds: -60 }), 401, 'token_invalid'],
    [
      'that ended a second ago, which requests are forgiven',
      () => token({ expiresInSeconds: -1 }),
      401,
      'token_invalid',
    ],
    ['that was revoked', () => token({ claims: { jti: 'revoked' } }), 401, 'token_invalid'],
    [
      'of a stranger',
      () => token({ secret: 'another secret, longer than thirty-two bytes' }),
      401,
      'token_invalid',
    ],
    ['that is none', () => 'abc', 401, 'token_invalid'],
    ['that is not even text', () => 'a b', 400, 'validation_failed'],
  ])('with a token %s', async (_, next, status, code) => {
    expect(await renew(here, mine, connectionOf(stream), next())).toMatchObject({ status, body: { code } });
  });

  test('to a service, even with the token of a user', async () => {
    const service = serviceToken({ tenant, client: 'alice' });
    expect(await renew(here, service, connectionOf(stream), token({}))).toMatchObject({
      status: 403,
      body: { code: 'not_for_services' },
    });
  });

  test('of a stream of another user exactly as of one that there is not', async () => {
    const answers: Answer<unknown>[] = [];
    const foreign = await StreamClient.open(here.url, userToken({ tenant: 'refusing2' }));
    await foreign.untilEvent('sync');
    for (const service of [here, there])
      for (const id of [randomUUID(), connectionOf(others), connectionOf(foreign)])
        answers.push(await renew(service, mine, id, token({})));
    await foreign.cut();
    expect(answers[0]).toMatchObject({ status: 404, body: { code: 'not_found' } });
    for (const { status, body } of answers)
      expect({ status, body }).toEqual({ status: 404, body: answers[0]?.body });
  });

  test('of a stream that has ended', async () => {
    const gone = await openLive(here, mine);
    await gone.cut();
    await eventually(async () => {
      const rows = await here.database.query(
        'select from connections where connection_id = $1 and until is not null',
        [connectionOf(gone)],
      );
      expect(rows).toHaveLength(1);
    });
    for (const service of [here, there])
      expect((await renew(service, mine, connectionOf(gone), token({}))).status).toBe(404);
  });

  test.each([
    ['without a connectionId', (next: string) => ({ token: next })],
    ['without a token', () => ({ connectionId: connectionOf(stream) })],
    ['with a connectionId that is none', (next: string) => ({ connectionId: 'x', token: next })],
    [
      'with a user of its own',
      (next: string) => ({ connectionId: connectionOf(stream), token: next, user: 'bob' }),
    ],
  ])('%s', async (_, body) => {
    const answer = await post(`${here.url}/v1/stream/renewals`, mine, body(token({})));
    expect(answer).toMatchObject({ status: 400, body: { code: 'validation_failed' } });
    expect(JSON.stringify(answer.body)).not.toContain(token({}).slice(0, 40));
  });
});

describe('once renewed, a stream lives by its new token', () => {
  test('and not by the old one: whoever revokes that does not end it', async () => {
    const tenant = 'old-revoked';
    const now = Date.now();
    const at = (age: number) => Math.floor(now / 1000) - age;
    const token = userToken({ tenant, claims: { jti: 'first', iat: at(60) } });
    const stream = await openLive(here, token);
    await renewed(here, token, stream, userToken({ tenant, claims: { jti: 'second', iat: at(10) } }));
    await revokeToken(here, tenant, 'first');
    await revokeUser(here, tenant, 'alice', new Date(now - 30_000));
    await settle(tenant, stream);
    expect(stream.named('bye')).toEqual([]);
    await revokeToken(here, tenant, 'second');
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked' }]);
  });

  test('and ends if that was revoked before the order to renew it is heard', async () => {
    const tenant = 'overtaken';
    const stream = await openLive(there, userToken({ tenant }));
    await revokeToken(here, tenant, 'overtaken-1');
    await there.app.get(ChangeFeed).now();
    // As a node stores it that has not heard of the revocation.
    await order(here, tenant, {
      kind: 'renew',
      connectionId: connectionOf(stream),
      user: userIdSchema.parse('alice'),
      renewed: {
        topics: [topicSchema.parse('news')],
        expiresAt: Date.now() + 3_600_000,
        issuer: 'tidings',
        tokenId: 'overtaken-1',
        issuedAt: Date.now(),
      },
    });
    await stream.closed;
    expect(stream.named('bye')).toMatchObject([{ reason: 'revoked', reconnect: false }]);
  });
});

interface Item {
  id: string;
  to: { user?: string; topic?: string };
  status: string;
  devices?: { sends: number }[];
  counts?: { sent: number };
}

/** The ids that history says were sent, of all that the tenant published. */
async function sentByHistory(service: Service, tenant: string): Promise<string[]> {
  const reader = serviceToken({ tenant, client: 'reader', scope: 'history:read' });
  const sent: string[] = [];
  let query = 'limit=200';
  for (;;) {
    const { body } = await get<{ items: Item[]; nextCursor: string | null }>(
      `${service.url}/v1/notifications?${query}`,
      reader,
    );
    for (const item of body.items) {
      const count = item.counts?.sent ?? item.devices?.length ?? 0;
      expect(item.status).toBe(count === 0 ? 'queued' : 'sent');
      if (count > 0) sent.push(item.id);
    }
    if (body.nextCursor === null) return sent;
    query = `limit=200&cursor=${encodeURIComponent(body.nextCursor)}`;
  }
}

/** That history says of each notification whether the one stream of this tenant has it. */
async function expectHonest(service: Service, tenant: string, stream: StreamClient): Promise<void> {
  await eventually(async () => {
    expect((await sentByHistory(service, tenant)).toSorted()).toEqual(ids(stream).toSorted());
  });
}

function expectInOrder(stream: StreamClient): void {
  const positions = stream.notifications.map(({ position }) => Number(position));
  for (let i = 1; i < positions.length; i += 1) expect(positions[i]).toBeGreaterThan(positions[i - 1] ?? 0);
}

describe('when the new token has other topics', () => {
  test('those gained count from then, those lost no more, and history tells it as it was', async () => {
    const tenant = 'topics';
    const token = userToken({ tenant, topics: ['a', 'b'], device: 'phone' });
    const stream = await openLive(here, token);
    const round = async (n: number) => {
      const stored: [string, string][] = [];
      for (const topic of ['a', 'b', 'c'])
        stored.push([topic, (await send(tenant, { topic }, `${topic}${n}`)).id]);
      return Object.fromEntries(stored);
    };
    const before = await round(1);
    await stream.untilNotifications(2);
    await renewed(here, token, stream, userToken({ tenant, topics: ['b', 'c'], device: 'phone' }));
    const after = await round(2);
    await settle(tenant, stream);
    expect(stream.notifications.map(({ data }) => data)).toEqual(['a1', 'b1', 'b2', 'c2', 'marker']);
    await expectHonest(here, tenant, stream);

    const reader = serviceToken({ tenant, client: 'reader', scope: 'history:read' });
    const about = async (id: string | undefined, what: string) =>
      (await get<{ items: Record<string, unknown>[] }>(`${here.url}/v1/notifications/${id}/${what}`, reader))
        .body.items;
    for (const [id, sent] of [
      [before['a'], true],
      [before['b'], true],
      [before['c'], false],
      [after['a'], false],
      [after['b'], true],
      [after['c'], true],
    ] as const) {
      expect((await about(id, 'timeline')).map(({ event }) => event)).toEqual(
        sent ? ['accepted', 'sent'] : ['accepted'],
      );
      expect(await about(id, 'devices')).toMatchObject(
        sent ? [{ user: 'alice', device: 'phone', sends: 1 }] : [],
      );
    }

    const connections = async (query = '') =>
      (
        await get<{ items: Record<string, unknown>[] }>(
          `${here.url}/v1/connections?user=alice${query}`,
          reader,
        )
      ).body.items;
    const [now] = await connections();
    // Where the one ends and the other begins: behind all that was published before, also for others.
    const [last] = await here.database.query<{ position: number }>(
      'select position from notifications where tenant_id = $1 and id = $2',
      [tenant, before['c']],
    );
    expect(now?.['position']).toBe(String(last?.position));
    expect(await connections()).toMatchObject([{ topics: ['b', 'c'], until: null, reason: null }]);
    const all = await connections('&since=2020-01-01T00:00:00.000Z');
    expect(all).toMatchObject([
      { connectionId: now?.['connectionId'], device: 'phone' },
      {
        connectionId: connectionOf(stream),
        topics: ['a', 'b'],
        reason: 'renewed',
        until: now?.['since'],
        position: now?.['position'],
      },
    ]);
  });

  test('the same ones in another sequence are no change: history has one connection', async () => {
    const tenant = 'same-topics';
    const token = userToken({ tenant, topics: ['a', 'b'] });
    const stream = await openLive(here, token);
    await renewed(here, token, stream, userToken({ tenant, topics: ['b', 'a'] }));
    await settle(tenant, stream);
    await expectHonest(here, tenant, stream);
    const rows = await here.database.query(
      'select connection_id as id, until from connections where tenant_id = $1',
      [tenant],
    );
    expect(rows).toEqual([{ id: connectionOf(stream), until: null }]);
  });

  test('again and again while everything is published, nothing of its own is missing and history knows what it got', async () => {
    const tenant = 'meanwhile';
    const token = userToken({ tenant, topics: ['a'] });
    const stream = await openLive(here, token);
    await recorded(stream);
    const own: string[] = [];
    const stop = new AbortController();
    const publishing = [here, there].map(async (service) => {
      for (let n = 0; !stop.signal.aborted; n += 1) {
        const notifications = ['a', 'b', 'c'].map((topic) => ({ to: { topic }, type: 't', data: n }));
        const { body } = await post<{ notifications: StoredAnswer[] }>(
          `${service.url}/v1/notifications/batch`,
          serviceToken({ tenant }),
          {
            notifications: [
              ...notifications,
              { to: { user: 'alice' }, type: 't', data: n },
              ...notifications,
            ],
          },
        );
        own.push(body.notifications[3]?.id ?? '');
      }
    });
    for (const topics of [['b'], ['a', 'c'], ['c'], [], ['a', 'b', 'c'], ['b'], ['c', 'a']])
      for (const service of [here, there])
        await renewed(service, token, stream, userToken({ tenant, topics }));
    stop.abort();
    await Promise.all(publishing);
    await settle(tenant, stream);
    expectInOrder(stream);
    expect(stream.named('sync')).toHaveLength(1);
    const got = stream.notifications.filter(({ to }) => 'user' in to).map(({ id }) => id);
    expect(got.toSorted()).toEqual(own.toSorted());
    await expectHonest(here, tenant, stream);
  });
});

test('a reader that is behind when its topics change gets all that is its own, the lost ones up to then, the gained ones from there, and history tells which', async () => {
  const tenant = 'behind';
  const narrow = await startService({
    STREAM_BUFFER_BYTES: 16_384,
    TAIL_BYTES_PER_TENANT: 65_536,
    // When the order comes, a good part of what was read waits to be written.
    BACKLOG_PAGE_BYTES: 1_048_576,
    MAX_DATA_BYTES: '100000',
  });
  const token = userToken({ tenant, topics: ['lost', 'kept'] });
  const stream = await openLive(narrow, token);
  const filling = 'x'.repeat(20_000);
  const stored: { id: string; to: string }[] = [];
  const publishMany = async (batches: number, data: string) => {
    const to = [{ topic: 'lost' }, { topic: 'kept' }, { topic: 'gained' }, { user: 'alice' }];
    for (let i = 0; i < batches; i += 1) {
      const notifications = Array.from({ length: 100 }, (_, n) => ({ to: to[n % 4], type: 't', data }));
      const { status, body } = await post<{ notifications: StoredAnswer[] }>(
        `${narrow.url}/v1/notifications/batch`,
        serviceToken({ tenant }),
        { notifications },
      );
      expect(status).toBe(201);
      body.notifications.forEach(({ id }, n) =>
        stored.push({ id, to: ['lost', 'kept', 'gained', 'own'][n % 4] ?? '' }),
      );
    }
  };
  await publishMany(1, 'small');
  await stream.untilNotifications(75);
  stream.pause();
  await publishMany(7, filling);
  // More than the network holds, so that the stream is in the midst of what it read from the log.
  const before = stream.notifications.length;
  stream.resume();
  await stream.untilNotifications(before + 220);
  stream.pause();
  await renewed(narrow, token, stream, userToken({ tenant, topics: ['kept', 'gained'] }));
  await publishMany(1, filling);
  stream.resume();
  const { id: last } = await publish(narrow.url, serviceToken({ tenant }), {
    to: { user: 'alice' },
    type: 't',
    data: 'last',
  });
  await stream.until(() => ids(stream).includes(last), 'the last of it');

  expectInOrder(stream);
  expect(stream.named('gap')).toEqual([]);
  const got = new Set(ids(stream));
  const numbersOf = (to: string, has: boolean) =>
    stored.flatMap((one, n) => (one.to === to && got.has(one.id) === has ? [n] : []));
  expect([...numbersOf('kept', false), ...numbersOf('own', false)]).toEqual([]);
  // It had got somewhere in the midst when the order came: up to there its old topics, from there on the new ones.
  const turn = Math.max(...numbersOf('lost', true));
  expect(turn).toBeGreaterThan(100);
  expect(turn).toBeLessThan(800);
  expect(Math.min(...numbersOf('lost', false))).toBeGreaterThan(turn);
  expect(Math.min(...numbersOf('gained', true))).toBeGreaterThan(turn);
  expect(Math.max(...numbersOf('gained', false))).toBeLessThan(turn + 5);
  await expectHonest(narrow, tenant, stream);
  await stream.cut();
  await narrow.close();
});

test('what was being read from the log for its old topics when a stream got new ones is read again for those', async () => {
  const tenant = 'reading';
  for (const to of [{ topic: 'lost' }, { topic: 'kept' }, { topic: 'gained' }, { user: 'alice' }])
    await send(tenant, to, Object.values(to)[0]);
  const reading = new pg.Client({ connectionString: here.database.url });
  await reading.connect();
  await reading.query('begin');
  await reading.query('lock table notifications in access exclusive mode');
  const token = userToken({ tenant, topics: ['lost', 'kept'] });
  const stream = await StreamClient.open(here.url, token);
  streams.push(stream);
  await stream.untilEvent('sync');
  await eventually(async () => {
    const rows = await here.database.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    );
    expect(rows).toHaveLength(1);
  });
  await renewed(here, token, stream, userToken({ tenant, topics: ['kept', 'gained'] }));
  await reading.query('commit');
  await reading.end();
  await stream.untilEvent('caught-up');
  expect(stream.notifications.map(({ data }) => data)).toEqual(['kept', 'gained', 'alice']);
  await expectHonest(here, tenant, stream);
});
