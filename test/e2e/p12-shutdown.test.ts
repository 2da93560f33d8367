import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { NodeName } from '../../src/cluster/nodes.ts';
import { Draining } from '../../src/core/config.ts';
import { LogFeed } from '../../src/delivery/log-feed.ts';

const notification = { to: { everyone: true }, type: 't', data: 1 };

let database: TestDatabase;
let service: Service;
let closing: Promise<void> | undefined;
beforeEach(async () => {
  database = await createDatabase();
  service = await startService(
    {
      RETURNS_PER_SECOND: 1,
      SHUTDOWN_DEADLINE_SECONDS: '5',
      STREAM_RETRY_MS: 1_000,
      STREAM_BUFFER_BYTES: 16_384,
    },
    { database },
  );
  closing = undefined;
});
afterEach(async () => {
  await close();
  await database.drop();
});

/** What SIGTERM makes the service do; once, however often it is asked for. */
async function close(): Promise<void> {
  closing ??= service.close();
  await closing;
}

const open = async (user: string) => {
  const stream = await StreamClient.open(service.url, userToken({ user }));
  await stream.untilEvent('caught-up');
  return stream;
};

/** Holds rows in the way of others until it is told to let go. */
async function hold(sql: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: database.url });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(sql);
  return async () => {
    await client.query('rollback');
    await client.end();
  };
}

const untilWaiting = async () =>
  await eventually(async () => {
    const waiting = await database.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    );
    expect(waiting.length).toBeGreaterThan(0);
  });

test('every stream gets bye, with a spread of times to come back, and history knows why it ended', async () => {
  const streams = await Promise.all(Array.from({ length: 20 }, async (_, i) => await open(`u${i}`)));
  const last = await publish(service.url, serviceToken(), notification);
  for (const stream of streams) await stream.untilNotifications(1);
  await close();
  for (const stream of streams) {
    await stream.closed;
    expect(stream.events.at(-1)?.event).toBe('bye');
    expect(stream.named('bye')).toEqual([
      { reason: 'shutdown', reconnect: true, retryAfterMs: expect.any(Number) },
    ]);
    expect(stream.retries.at(-1)).toBe(stream.named('bye')[0]?.['retryAfterMs']);
  }
  const times = streams
    .map((stream) => Number(stream.named('bye')[0]?.['retryAfterMs']))
    .toSorted((a, b) => a - b);
  expect(times[0]).toBeLessThan(5_000);
  expect(times.at(-1)).toBeGreaterThan(15_000);
  expect(times.at(-1)).toBeLessThan(22_000);
  expect(new Set(times).size).toBeGreaterThan(10);

  const connections = await database.query('select reason, until is not null as over from connections');
  expect(connections).toEqual(Array(20).fill({ reason: 'shutdown', over: true }));
  // What was written in the last moment is stored, too.
  const sends = await database.query('select from sends where to_position = $1', [last.position]);
  expect(sends).toHaveLength(20);
});

test('every publish that was answered is kept, and those that came too late are told so', async () => {
  await publish(service.url, serviceToken(), notification);
  const answers: { status: number; retryAfter: string | null; id: string }[] = [];
  const stop = new AbortController();
  const publishers = Array.from({ length: 16 }, async () => {
    while (!stop.signal.aborted) {
      try {
        const { status, headers, body } = await post<StoredAnswer>(
          `${service.url}/v1/notifications`,
          serviceToken(),
          notification,
        );
        answers.push({ status, retryAfter: headers.get('retry-after'), id: body.id });
      } catch {
        // Nobody listens any more.
        return;
      }
    }
  });
  await eventually(() => expect(answers.length).toBeGreaterThan(50));
  await close();
  stop.abort();
  await Promise.all(publishers);
  const rows = await database.query<{ id: string }>('select id from notifications');
  const stored = new Set(rows.map(({ id }) => id));
  for (const { status, id, retryAfter } of answers) {
    if (status === 201) expect(stored.has(id)).toBe(true);
    else expect({ status, retryAfter }).toEqual({ status: 503, retryAfter: expect.stringMatching(/^\d+$/) });
  }
});

describe('beside another node', () => {
  test('it goes on for a while as one that is not ready', async () => {
    service.app.get(Draining).announce();
    const answer = await fetch(`${service.url}/health/ready`);
    expect([answer.status, await answer.json()]).toMatchObject([503, { status: 'draining' }]);
    const stream = await open('u');
    const { id } = await publish(service.url, serviceToken(), notification);
    expect(await stream.untilNotifications(1)).toMatchObject([{ id }]);
  });

  test('it does so when it is told to stop, and its clients come back soon and a few at a time', async () => {
    await close();
    service = await startService(
      { SHUTDOWN_DELAY_SECONDS: '1', SHUTDOWN_DEADLINE_SECONDS: '60', RETURNS_PER_SECOND: 10 },
      { database },
    );
    closing = undefined;
    const other = await startService({}, { database });
    await service.app.get(LogFeed).poll();
    const streams = await Promise.all(Array.from({ length: 20 }, async (_, i) => await open(`u${i}`)));
    const draining = service.app.get(Draining);
    const times: number[] = [];
    for (const step of ['announce', 'begin'] as const) {
      const goOn = draining[step].bind(draining);
      jest.spyOn(draining, step).mockImplementation(() => {
        times.push(performance.now());
        goOn();
      });
    }
    await close();
    await other.close();
    const [announced = 0, began = 0] = times;
    // Timers may come a millisecond early.
    expect(began - announced).toBeGreaterThan(998);
    const told = streams
      .map((stream) => Number(stream.named('bye')[0]?.['retryAfterMs']))
      .toSorted((a, b) => a - b);
    expect(told[0]).toBeGreaterThanOrEqual(150);
    expect(told.at(-1)).toBeLessThanOrEqual(2_000 + 450);
    // No more than ten within a second, and those of the jitter.
    for (const first of told)
      expect(told.filter((time) => time >= first && time < first + 1_000).length).toBeLessThanOrEqual(13);
  });
});

test('clients are not sent to a node that is about to stop as well', async () => {
  const other = await startService({}, { database });
  await other.app.get(NodeName).drains();
  const stream = await open('u');
  await close();
  await other.close();
  // As without another node: half of STREAM_RETRY_MS at least.
  expect(Number(stream.named('bye')[0]?.['retryAfterMs'])).toBeGreaterThanOrEqual(500);
});

describe('while it shuts down', () => {
  test('a publish is 503, but a key that was used still has its answer', async () => {
    const key = { 'idempotency-key': 'before' };
    const url = `${service.url}/v1/notifications`;
    const first = await post(url, serviceToken(), notification, key);
    service.app.get(Draining).begin();
    const refused = await post(url, serviceToken(), notification);
    expect(refused).toMatchObject({ status: 503, body: { code: 'draining' } });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await post(url, serviceToken(), notification, key)).toMatchObject({
      status: 201,
      body: first.body,
    });
    expect(await database.query('select from notifications')).toHaveLength(1);
  });

  test('a stream is 200 and bye, so that an EventSource comes back', async () => {
    service.app.get(Draining).begin();
    const stream = await StreamClient.open(service.url, userToken());
    expect(stream.status).toBe(200);
    await stream.closed;
    expect(stream.events.map(({ event }) => event)).toEqual(['bye']);
    expect(stream.named('bye')[0]).toMatchObject({ reason: 'shutdown', reconnect: true });
    expect(stream.retries.at(-1)).toBe(stream.named('bye')[0]?.['retryAfterMs']);
  });
});

describe('nothing holds it up', () => {
  test('no client that does not read', async () => {
    const slow = await open('slow');
    slow.pause();
    const many = Array.from({ length: 400 }, () => ({ ...notification, data: 'x'.repeat(20_000) }));
    await post(`${service.url}/v1/notifications/batch`, serviceToken(), { notifications: many });
    const good = await open('good');
    const timers = jest.spyOn(globalThis, 'setTimeout');
    await close();
    // A quarter of the deadline for each of the two, and for whoever is left of those who asked for something else.
    const waits = timers.mock.calls.map(([, ms]) => ms).filter((ms) => ms === 1_250);
    timers.mockRestore();
    expect(waits).toHaveLength(3);
    await good.closed;
    expect(good.named('bye')).toHaveLength(1);
    await slow.cut();
  });

  test('no client that has heard bye and keeps its side open', async () => {
    const socket = connect({
      port: Number(new URL(service.url).port),
      host: '127.0.0.1',
      allowHalfOpen: true,
    });
    let text = '';
    socket.setEncoding('utf8').on('data', (part: string) => (text += part));
    socket.on('error', () => undefined);
    socket.write(`GET /v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${userToken()}\r\n\r\n`);
    await eventually(() => expect(text).toContain('event: caught-up'));
    await close();
    await eventually(() => expect(text).toContain('event: bye'));
    socket.destroy();
  });

  test('no stream that is just being opened', async () => {
    await (await open('arriving')).cut();
    const other = await open('other');
    const letGo = await hold('select from devices for update');
    const arriving = await StreamClient.open(service.url, userToken({ user: 'arriving' }));
    await untilWaiting();
    const closed = close();
    await other.untilEvent('bye');
    await other.closed;
    await letGo();
    await closed;
    await arriving.closed;
    expect(arriving.named('bye')).toMatchObject([{ reason: 'shutdown' }]);
  });

  test('no publish that waits for the database: the streams hear bye meanwhile', async () => {
    const stream = await open('u');
    await publish(service.url, serviceToken(), notification);
    const letGo = await hold('select from tenant_logs for update');
    const waiting = post(`${service.url}/v1/notifications`, serviceToken(), notification).catch(
      () => undefined,
    );
    await untilWaiting();
    const closed = close();
    expect(await stream.untilEvent('bye')).toMatchObject({ reason: 'shutdown' });
    await letGo();
    await waiting;
    await closed;
  });
});
