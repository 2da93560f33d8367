import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { Connection } from '../../src/delivery/connection.ts';
import { get, post, publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { RawConnection, requestText } from '../support/wire.ts';

let service: Service;
beforeAll(async () => {
  service = await startService({ HEARTBEAT_SECONDS: '1', STREAM_RETRY_MS: 2_000 });
});
afterAll(async () => {
  await service.close();
});

const publisher = serviceToken();
const to = async (user: string, data: unknown = 1) =>
  await publish(service.url, publisher, { to: { user }, type: 't', data });
const open = async (user: string, options: Parameters<typeof StreamClient.open>[2] = {}) => {
  const stream = await StreamClient.open(service.url, userToken({ user }), options);
  await stream.untilEvent('caught-up');
  return stream;
};

const idsOf = (body: string) => [...body.matchAll(/^id: (\d+)$/gm)].map(([, id]) => id);

describe('the answer', () => {
  test('has the headers of a stream that nobody may store, change or hold back', async () => {
    const stream = await open('headers');
    expect(stream.status).toBe(200);
    expect(stream.response.headers).toMatchObject({
      'content-type': 'text/event-stream',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no',
      'transfer-encoding': 'chunked',
    });
    expect(stream.response.headers['x-request-id']).toBeTruthy();
    for (const name of ['content-encoding', 'content-length'])
      expect(stream.response.headers).not.toHaveProperty(name);
    await stream.cut();
  });

  test('is not compressed for those who would take it', async () => {
    const stream = await open('gzip', { headers: { 'accept-encoding': 'gzip, br' } });
    expect(stream.response.headers).not.toHaveProperty('content-encoding');
    expect(stream.raw).toContain('event: sync');
    await stream.cut();
  });

  test('begins with retry and a comment, and sync is the first event', async () => {
    const stream = await open('beginning');
    expect(stream.raw).toMatch(/^retry: \d+\n:\n\nevent: sync\ndata: \{[^\n]*\}\n\n/);
    expect(stream.retries[0]).toBeGreaterThanOrEqual(1_000);
    expect(stream.retries[0]).toBeLessThanOrEqual(3_000);
    await stream.cut();
  });

  test('jitters retry', async () => {
    const streams = await Promise.all(Array.from({ length: 8 }, async () => await open('jitter')));
    expect(new Set(streams.map(({ retries }) => retries[0])).size).toBeGreaterThan(1);
    for (const stream of streams) await stream.cut();
  });

  test('to a client that goes away is over for the service, too', async () => {
    const stream = await open('leaver');
    await stream.cut();
    await eventually(async () => {
      const rows = await service.database.query(
        `select until is not null as over, reason from connections where user_id = 'leaver'`,
      );
      expect(rows).toEqual([{ over: true, reason: 'client' }]);
    });
  });
});

describe('the body', () => {
  const opened = async (version: '1.0' | '1.1', user: string): Promise<RawConnection> => {
    const connection = await RawConnection.open(service.url);
    connection.send(requestText('/v1/stream', { token: userToken({ user }), version }));
    await connection.until(([answer]) => answer?.body.includes('event: caught-up'), 'the end of the backlog');
    return connection;
  };

  test('is chunks to HTTP/1.1 and none to HTTP/1.0, and holds the same events', async () => {
    const user = 'versions';
    const connections = [await opened('1.1', user), await opened('1.0', user)];
    for (const text of ['äöü 👍', 'x'.repeat(5_000)]) await to(user, text);
    const last = await to(user, 'last');
    await Promise.all(
      connections.map((connection) =>
        connection.until(([answer]) => answer?.body.includes(last.id), 'the last notification'),
      ),
    );
    await fetch(`${service.url}/v1/users/${user}/disconnect`, {
      method: 'POST',
      headers: { authorization: `Bearer ${serviceToken({ scope: 'operations:write' })}` },
    });
    await Promise.all(connections.map(({ closed }) => closed));

    const [chunked, bare] = connections.map(({ answers: [answer] }) => answer);
    expect(chunked?.headers['transfer-encoding']).toBe('chunked');
    expect(bare?.headers).not.toHaveProperty('transfer-encoding');
    expect([chunked?.complete, bare?.complete]).toEqual([true, false]);
    for (const answer of [chunked, bare]) {
      expect(answer?.headers).toMatchObject({ connection: 'close' });
      // A heartbeat may come in between.
      const events = answer?.body.split('\n\n').filter((event) => /^id: |^retry: /.test(event));
      expect(events?.at(0)).toMatch(/^retry: \d+\n:$/);
      expect(events?.at(-1)).toMatch(/^retry: \d+\nevent: bye\n/);
    }
    const notifications = (body = '') => body.match(/^id: .*\ndata: \{"id".*$/gm);
    expect(notifications(chunked?.body)).toHaveLength(3);
    expect(notifications(bare?.body)).toEqual(notifications(chunked?.body));
  });
});

describe('sync', () => {
  test('says whose stream it is, which connection and device, where it starts, where the log is, when the token ends, and what to expect', async () => {
    const exp = Math.floor(Date.now() / 1000) + 1_000;
    const stream = await StreamClient.open(
      service.url,
      userToken({ user: 'sync', tenant: 'syncs', claims: { exp } }),
      { query: { device: 'phone-1' } },
    );
    const sync = await stream.untilEvent('sync');
    expect(sync).toEqual({
      connectionId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      user: 'sync',
      tenant: 'syncs',
      device: 'phone-1',
      resume: 'undelivered',
      from: '0',
      head: '0',
      tokenExpiresAt: new Date(exp * 1000).toISOString(),
      heartbeatSeconds: 1,
      features: ['inbox'],
    });
    await stream.cut();
  });

  test.each([
    ['the claim, whatever the query says', { device: 'claimed' }, { device: 'asked' }, 'claimed'],
    ['the query', {}, { device: 'asked' }, 'asked'],
    ['default', {}, {}, 'default'],
  ])('the device is %s', async (_, claims, query, device) => {
    const stream = await StreamClient.open(service.url, userToken({ user: 'device', ...claims }), { query });
    expect(await stream.untilEvent('sync')).toMatchObject({ device });
    await stream.cut();
  });
});

describe('caught-up', () => {
  test('ends the backlog once, with an id that a client can resume from', async () => {
    const { position } = await to('catcher');
    const stream = await open('catcher');
    expect(stream.events.map(({ event }) => event ?? 'notification')).toEqual([
      'sync',
      'notification',
      'caught-up',
    ]);
    const [caughtUp] = stream.events.filter(({ event }) => event === 'caught-up');
    expect(caughtUp?.id).toBe(stream.named('caught-up')[0]?.['position']);
    expect(Number(caughtUp?.id)).toBeGreaterThanOrEqual(Number(position));
    await to('catcher');
    await stream.untilNotifications(2);
    expect(stream.named('caught-up')).toHaveLength(1);
    await stream.cut();
  });

  test('no other event moves the last id', async () => {
    const stream = await open('ids');
    await to('ids');
    await stream.untilNotifications(1);
    for (const { event, id } of stream.events) {
      if (event === undefined || event === 'caught-up' || event === 'position') expect(id).toMatch(/^\d+$/);
      else expect(id).toBeUndefined();
    }
    await stream.cut();
  });
});

describe('while nothing is addressed to a client', () => {
  test('it gets a comment from time to time', async () => {
    const stream = await open('quiet', { query: { device: 'heartbeat' } });
    const before = stream.comments.length;
    await stream.until(() => stream.comments.length > before, 'a heartbeat');
    expect(stream.raw).toMatch(/\n:\n\n$/);
    await stream.cut();
  });

  test('it gets none while notifications come, and one when they have ceased', async () => {
    const stream = await open('busy', { query: { device: 'heartbeat' } });
    await to('busy');
    await stream.untilNotifications(1);
    // It is looked at when the test says so: as often as something was written, however long that takes.
    const look: unknown = Reflect.get(Connection.prototype, 'tick');
    if (typeof look !== 'function') throw new Error('a stream is not looked at');
    const looks = jest.spyOn(Connection.prototype, 'tick').mockReturnValue();
    await eventually(() => expect(looks.mock.contexts.length).toBeGreaterThan(0));
    const [connection] = looks.mock.contexts;
    let before = Infinity;
    for (let i = 0; i < 5; i += 1) {
      const count = stream.notifications.length;
      await to('busy');
      await stream.untilNotifications(count + 1);
      before = Math.min(before, stream.comments.length);
      Reflect.apply(look, connection, [Date.now()]);
    }
    await to('busy');
    await stream.untilNotifications(7);
    expect(stream.comments).toHaveLength(before);
    looks.mockRestore();
    await stream.until(() => stream.comments.length > before, 'a heartbeat');
    await stream.cut();
  });

  test('its last id follows the log, and a resume from it misses nothing', async () => {
    const tenant = 'followed';
    const token = userToken({ tenant, user: 'reader' });
    const other = async () =>
      await publish(service.url, serviceToken({ tenant }), {
        to: { user: 'somebody else' },
        type: 't',
        data: 1,
      });
    const stream = await StreamClient.open(service.url, token);
    await stream.untilEvent('caught-up');
    await other();
    const { position } = await other();
    await stream.until(() => stream.lastEventId === position, 'the position of others');
    const [moved] = stream.events.filter(({ event }) => event === 'position').slice(-1);
    expect(moved).toMatchObject({ id: position, data: JSON.stringify({ position }) });
    await stream.cut();

    const mine = await publish(service.url, serviceToken({ tenant }), {
      to: { user: 'reader' },
      type: 't',
      data: 'mine',
    });
    const again = await StreamClient.open(service.url, token, { lastEventId: position });
    expect(await again.untilNotifications(1)).toMatchObject([{ id: mine.id }]);
    expect(again.named('sync')[0]).toMatchObject({ resume: 'exact', from: position });
    await again.cut();
  });

  test('a position is said once', async () => {
    const stream = await StreamClient.open(service.url, userToken({ tenant: 'said-once' }));
    await stream.untilEvent('caught-up');
    await publish(service.url, serviceToken({ tenant: 'said-once' }), {
      to: { user: 'x' },
      type: 't',
      data: 1,
    });
    await stream.untilEvent('position');
    const before = stream.comments.length;
    await stream.until(() => stream.comments.length >= before + 2, 'two more heartbeats');
    expect(stream.named('position')).toHaveLength(1);
    await stream.cut();
  });
});

describe('who gets what', () => {
  test('every stream of a user, whatever its device', async () => {
    const streams = await Promise.all([
      open('many'),
      open('many'),
      open('many', { query: { device: 'other' } }),
    ]);
    const { id } = await to('many');
    for (const stream of streams) {
      expect(await stream.untilNotifications(1)).toMatchObject([{ id }]);
      await stream.cut();
    }
  });

  test('topics and everyone reach those that have them, and nobody else', async () => {
    const tenant = 'addresses';
    const of = async (user: string, topics: string[]) => {
      const stream = await StreamClient.open(service.url, userToken({ tenant, user, topics }));
      await stream.untilEvent('caught-up');
      return stream;
    };
    // A user and a topic of one name are two addresses.
    const streams = {
      news: await of('a', ['news']),
      both: await of('b', ['news', 'sport']),
      none: await of('news', []),
    };
    for (const target of [
      { topic: 'news' },
      { topic: 'sport' },
      { user: 'news' },
      { topic: 'nobody' },
      { everyone: true },
    ]) {
      await publish(service.url, serviceToken({ tenant }), {
        to: target,
        type: 't',
        data: JSON.stringify(target),
      });
    }
    const got = async (stream: StreamClient) => {
      await stream.until(
        () => stream.notifications.some((notification) => 'everyone' in notification.to),
        'the last',
      );
      await stream.cut();
      return stream.notifications.map((notification) => notification.to);
    };
    expect(await got(streams.news)).toEqual([{ topic: 'news' }, { everyone: true }]);
    expect(await got(streams.both)).toEqual([{ topic: 'news' }, { topic: 'sport' }, { everyone: true }]);
    expect(await got(streams.none)).toEqual([{ user: 'news' }, { everyone: true }]);
  });
});

describe('a query that a client makes by itself', () => {
  test.each(['_=1700000000000', 'unknown=1&unknown=2', 'r=%FF', 'user=bob&tenant=other', 'device=a&nocache'])(
    'may have what is not known: %s',
    async (query) => {
      const stream = await StreamClient.open(service.url, userToken({ user: 'cached' }), {
        query: Object.fromEntries(new URLSearchParams(query)),
      });
      expect(stream.status).toBe(200);
      await stream.untilEvent('caught-up');
      await stream.cut();
    },
  );

  test('may say the position twice: the last one counts, and whatever it is, it is no 4xx', async () => {
    const user = 'twice';
    const positions = [await to(user), await to(user), await to(user)].map(({ position }) => position);
    const [first, second] = positions;
    for (const [sent, resume, left] of [
      [[first, second], 'exact', positions.slice(2)],
      [[second, first], 'exact', positions.slice(1)],
      [['nonsense', first], 'exact', positions.slice(1)],
      [[second, 'nonsense'], 'reset', positions],
      [[second, ''], 'undelivered', positions],
    ] as const) {
      const query = sent.map((position) => `lastEventId=${position}`).join('&');
      const connection = await RawConnection.open(service.url);
      // Of a new device each time, since a resume confirms.
      const path = `/v1/stream?device=d-${sent.join('-')}&${query}`;
      connection.send(requestText(path, { token: userToken({ user }) }));
      const { status, body } = await connection.until(
        ([answer]) => answer?.body.includes('event: caught-up') === true && answer,
        'the end of the backlog',
      );
      expect(status).toBe(200);
      expect([query, /"resume":"(\w+)"/.exec(body)?.[1]]).toEqual([query, resume]);
      if (resume === 'exact') expect(idsOf(body).slice(0, -1)).toEqual(left);
      connection.socket.destroy();
    }
  });
});

describe('a request that will not get better', () => {
  test.each([
    ['?device=', '/device'],
    ['?device=a%20b', '/device'],
    [`?device=${'x'.repeat(65)}`, '/device'],
    ['?device=a&device=b', '/device'],
    ['?from=latest&from=earliest', '/from'],
    ['?ack=auto&ack=explicit', '/ack'],
    ['?from=beginning', '/from'],
    ['?ack=never', '/ack'],
  ])('%s is 400 and points at the parameter', async (query, pointer) => {
    const { status, headers, body } = await get<{ code: string; errors: { pointer: string }[] }>(
      `${service.url}/v1/stream${query}`,
      userToken(),
    );
    expect(status).toBe(400);
    expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
    expect(body).toMatchObject({ code: 'validation_failed', errors: [{ pointer }] });
  });

  test('HEAD has the head and no stream', async () => {
    const response = await fetch(`${service.url}/v1/stream`, {
      method: 'HEAD',
      headers: { authorization: `Bearer ${userToken()}` },
    });
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    expect(await response.text()).toBe('');
  });

  test('POST is 405', async () => {
    const { status, headers, body } = await post(`${service.url}/v1/stream`, userToken(), {});
    expect(status).toBe(405);
    expect(headers.get('allow')?.split(', ')).toContain('GET');
    expect(body).toMatchObject({ code: 'method_not_allowed' });
  });
});
