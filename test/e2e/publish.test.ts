import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { DatabaseClock } from '../../src/postgres/clock.ts';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { timeOfPosition, parsePosition } from '../../src/core/position.ts';

let service: Service;
let url: string;
beforeAll(async () => {
  service = await startService();
  url = `${service.url}/v1/notifications`;
});
afterAll(async () => {
  await service.close();
});

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const publisher = serviceToken();

interface ForUsers {
  notifications: (StoredAnswer & { user?: string })[];
}

/** What is in the log of the tenant, oldest first. */
const log = async (tenant: string) =>
  await service.database.query(
    'select id, position, user_id, topic, type, data, publisher, expires_at, trace from notifications where tenant_id = $1 order by position',
    [tenant],
  );

describe('the answer', () => {
  test('to the first publish of a tenant ever is 201 like every other', async () => {
    const { status } = await post(url, serviceToken({ tenant: 'brand-new' }), {
      to: { user: 'a' },
      type: 't',
      data: 1,
    });
    expect(status).toBe(201);
  });

  test('has an id, a position, the time that is in the position, and where it can be looked up', async () => {
    const before = Date.now();
    const { status, headers, body } = await post<StoredAnswer>(url, publisher, {
      to: { user: 'a' },
      type: 'order.shipped',
      data: {},
    });
    expect(status).toBe(201);
    expect(Object.keys(body).toSorted()).toEqual(['createdAt', 'id', 'position']);
    expect(body.id).toMatch(UUID_V7);
    const position = parsePosition(body.position);
    if (position === undefined) throw new Error(`${body.position} is no position`);
    expect(body.createdAt).toBe(new Date(timeOfPosition(position)).toISOString());
    // The server of the tests has the clock of this machine.
    expect(Date.parse(body.createdAt)).toBeGreaterThanOrEqual(before);
    expect(Date.parse(body.createdAt)).toBeLessThanOrEqual(Date.now());
    expect(headers.get('location')).toBe(`/v1/notifications/${body.id}`);
    expect(headers.get('content-type')).toMatch(/^application\/json/);
    expect(headers.has('idempotency-replayed')).toBe(false);
  });

  test('to users has one notification each, in their order', async () => {
    const users = ['zoe', 'adam', 'mia'];
    const { status, body } = await post<ForUsers>(url, publisher, { to: { users }, type: 't', data: 1 });
    expect(status).toBe(201);
    expect(body.notifications.map(({ user }) => user)).toEqual(users);
    expect(new Set(body.notifications.map(({ id }) => id)).size).toBe(3);
    const positions = body.notifications.map(({ position }) => Number(position));
    expect(positions).toEqual(positions.toSorted((a, b) => a - b));
  });

  test('to a batch has every notification in order, and users where their item stands', async () => {
    const tenant = 'batch-order';
    const notifications = [
      { to: { user: 'a' }, type: 'one', data: 1 },
      { to: { users: ['b', 'c'] }, type: 'two', data: 2 },
      { to: { topic: 'news' }, type: 'three', data: 3 },
      { to: { everyone: true }, type: 'four', data: 4 },
    ];
    const { status, body } = await post<ForUsers>(`${url}/batch`, serviceToken({ tenant }), {
      notifications,
    });
    expect(status).toBe(201);
    expect(body.notifications.map((answer) => Object.keys(answer).toSorted())).toEqual(
      Array(5).fill(['createdAt', 'id', 'position']),
    );
    const rows = await log(tenant);
    expect(rows.map(({ id, position }) => ({ id: String(id), position: String(position) }))).toEqual(
      body.notifications.map(({ id, position }) => ({ id, position })),
    );
    expect(rows.map(({ user_id: user, topic, type }) => [user, topic, type])).toEqual([
      ['a', null, 'one'],
      ['b', null, 'two'],
      ['c', null, 'two'],
      [null, 'news', 'three'],
      [null, null, 'four'],
    ]);
  });
});

describe('what is stored', () => {
  test('a topic and everyone are one row, whoever they reach', async () => {
    const tenant = 'one-row';
    await publish(service.url, serviceToken({ tenant, client: 'shop' }), {
      to: { topic: 'news' },
      type: 't',
      data: 1,
    });
    await publish(service.url, serviceToken({ tenant, client: 'shop' }), {
      to: { everyone: true },
      type: 't',
      data: 2,
    });
    expect(await log(tenant)).toMatchObject([
      { user_id: null, topic: 'news', publisher: 'shop', expires_at: null },
      { user_id: null, topic: null, publisher: 'shop', expires_at: null },
    ]);
  });

  test('the tenant is that of the token', async () => {
    await publish(service.url, serviceToken({ tenant: 'mine' }), { to: { user: 'a' }, type: 't', data: 1 });
    const rows = await service.database.query(`select tenant_id from notifications where tenant_id = 'mine'`);
    expect(rows).toHaveLength(1);
  });

  test('an expiry as a time or as seconds', async () => {
    const tenant = 'expiries';
    const token = serviceToken({ tenant });
    await publish(service.url, token, {
      to: { user: 'a' },
      type: 't',
      data: 1,
      expiresAt: '2099-12-01T01:00:00.123+01:00',
    });
    // As the service knows the clock of the database.
    const clock = service.app.get(DatabaseClock);
    const before = clock.now();
    await publish(service.url, token, { to: { user: 'a' }, type: 't', data: 1, ttlSeconds: 60 });
    const [fixed, relative] = (await log(tenant)).map(({ expires_at: at }) =>
      at instanceof Date ? at.getTime() : 0,
    );
    expect(fixed).toBe(Date.UTC(2099, 11, 1, 0, 0, 0, 123));
    expect(relative).toBeGreaterThanOrEqual(before + 59_000);
    expect(relative).toBeLessThanOrEqual(clock.now() + 61_000);
  });

  test('a well-formed traceparent, and no other', async () => {
    const tenant = 'traces';
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    for (const header of [traceparent, '00-nonsense', `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`]) {
      const { status } = await post(
        url,
        serviceToken({ tenant }),
        { to: { user: 'a' }, type: 't', data: 1 },
        { traceparent: header },
      );
      expect(status).toBe(201);
    }
    expect((await log(tenant)).map(({ trace }) => trace as unknown)).toEqual([traceparent, null, null]);
  });
});

describe('a signal', () => {
  test('is what was published with `inbox: false`; its frames and its history say so, and those of others do not', async () => {
    const tenant = 'signals';
    const open = async () => {
      const stream = await StreamClient.open(service.url, userToken({ tenant, user: 'alice' }), {
        query: { from: 'earliest' },
      });
      await stream.untilEvent('caught-up');
      return stream;
    };
    const live = await open();
    const note = (changes: object) => ({ to: { user: 'alice' }, type: 't', data: 1, ...changes });
    const forBoth = { to: { users: ['alice', 'bob'] } };
    const signal = { inbox: false };
    const batch = [signal, {}, { ...forBoth, ...signal }, forBoth].map(note);
    for (const [path, body] of [
      ['', note({})],
      ['', note({ inbox: true })],
      ['', note(signal)],
      ['', note({ ...forBoth, ...signal })],
      ['/batch', { notifications: batch }],
    ] as const)
      expect((await post(`${url}${path}`, serviceToken({ tenant }), body)).status).toBe(201);

    const rows = await service.database.query<{ user: string; inbox: boolean }>(
      'select user_id as user, inbox from notifications where tenant_id = $1 order by position',
      [tenant],
    );
    const storedFor = (name: string) => rows.flatMap(({ user, inbox }) => (user === name ? [inbox] : []));
    expect(storedFor('alice')).toEqual([true, true, false, false, false, true, false, true]);
    expect(storedFor('bob')).toEqual([false, false, true]);

    const expected = storedFor('alice').map((inbox) => inbox && 'nothing');
    await live.untilNotifications(expected.length);
    // The tenant's last stream takes the memory of its log along: the next one reads the database.
    await live.cut();
    const replayed = await open();
    await replayed.cut();
    const operator = serviceToken({ tenant, scope: 'history:read' });
    const { body: history } = await get<{ items: object[] }>(`${url}?user=alice`, operator);
    for (const items of [live.notifications, replayed.notifications, history.items.toReversed()])
      expect(items.map((item) => ('inbox' in item ? item.inbox : 'nothing'))).toEqual(expected);
  });

  test('is another request than the same without it, under one key', async () => {
    const key = { 'idempotency-key': 'signal-or-not' };
    const note = { to: { user: 'a' }, type: 't', data: 1 };
    expect((await post(url, publisher, { ...note, inbox: false }, key)).status).toBe(201);
    const { status, body } = await post(url, publisher, note, key);
    expect([status, body['code']]).toEqual([422, 'idempotency_mismatch']);
  });
});

describe('what reaches a stream', () => {
  /** Publishes this text as data and returns the frame, live and from the log. */
  async function framesOf(data: string): Promise<string[]> {
    const tenant = `wire-${Math.random().toString(36).slice(2)}`;
    const open = async () => {
      const stream = await StreamClient.open(service.url, userToken({ tenant }), {
        query: { from: 'earliest' },
      });
      await stream.untilEvent('caught-up');
      return stream;
    };
    const live = await open();
    const { status } = await post(
      url,
      serviceToken({ tenant }),
      `{"to":{"user":"alice"},"type":"t","data":${data}}`,
    );
    expect(status).toBe(201);
    await live.untilNotifications(1);
    // The tenant's last stream takes the memory of its log along: the next one reads the database.
    await live.cut();
    const replayed = await open();
    await replayed.untilNotifications(1);
    await replayed.cut();
    return [live, replayed].map(({ raw }) => /"data":(.*),"createdAt"/s.exec(raw)?.[1] ?? '');
  }

  test.each([
    ['digits beyond a double', '9223372036854775808', '9223372036854775808'],
    ['zeros and exponents', '[1.0, 1E+2, -0, 1e400]', '[1.0,1E+2,-0,1e400]'],
    ['escapes', '"\\u00e9\\/\\ud800\\u0000"', '"\\u00e9\\/\\ud800\\u0000"'],
    ['order and doubles', '{"b": 1, "a": 2, "b": 3}', '{"b":1,"a":2,"b":3}'],
    ['line breaks between tokens', '{\r\n"a"\n:\r[ ]\t}', '{"a":[]}'],
    ['characters that end lines elsewhere', '"\u2028\u2029\u0085\u{1f600}"', '"\u2028\u2029\u0085\u{1f600}"'],
    ['null', 'null', 'null'],
  ])('data with %s passes unchanged but for white space', async (_, data, expected) => {
    expect(await framesOf(data)).toEqual([expected, expected]);
  });

  test('the same expiry live and from the log, to the millisecond', async () => {
    const tenant = 'expiry-digits';
    // Times of 2039 that lose a millisecond on their way through seconds as a double.
    const expected = Array.from({ length: 100_000 }, (_, i) => Date.UTC(2039, 0, 1) + i * 307_919)
      .filter((ms) => Math.trunc((ms / 1_000) * 1_000) !== ms)
      .slice(0, 100)
      .map((ms) => new Date(ms).toISOString());
    expect(expected).toHaveLength(100);
    const read = async () => {
      const stream = await StreamClient.open(service.url, userToken({ tenant }), {
        query: { from: 'earliest' },
      });
      return stream;
    };
    const live = await read();
    await live.untilEvent('caught-up');
    const notifications = expected.map((expiresAt) => ({
      to: { user: 'alice' },
      type: 't',
      data: 1,
      expiresAt,
    }));
    await post(`${url}/batch`, serviceToken({ tenant }), { notifications });
    expect((await live.untilNotifications(100)).map(({ expiresAt }) => expiresAt)).toEqual(expected);
    await live.cut();
    const replayed = await read();
    expect((await replayed.untilNotifications(100)).map(({ expiresAt }) => expiresAt)).toEqual(expected);
    await replayed.cut();
  });

  test('ids in any script arrive at exactly that user', async () => {
    const names = ['\u{1f980}', 'é', 'e\u0301', 'Alice', 'alice ', 'a/b?c', '"\\', '\u{1f980}'.repeat(256)];
    const streams = await Promise.all(
      names.map((user) => StreamClient.open(service.url, userToken({ tenant: 'scripts', user }))),
    );
    for (const stream of streams) await stream.untilEvent('caught-up');
    for (const user of names)
      await publish(service.url, serviceToken({ tenant: 'scripts' }), {
        to: { user },
        type: 't',
        data: user,
      });
    await publish(service.url, serviceToken({ tenant: 'scripts' }), {
      to: { everyone: true },
      type: 't',
      data: 'end',
    });
    for (const [index, stream] of streams.entries()) {
      const got = await stream.untilNotifications(2);
      expect(got.map(({ data }) => data)).toEqual([names[index], 'end']);
      expect(got[0]?.to).toEqual({ user: names[index] });
      await stream.cut();
    }
  });
});
