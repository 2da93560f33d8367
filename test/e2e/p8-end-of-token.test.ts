import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { TestClock } from '../support/test-clock.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const NOTICE_MS = 8_000;
/** What a stream ends before its token at least: it is looked at once a second (src/delivery/connection.ts). */
const LOOK_MS = 1_500;
const SPREAD_MS = 5_000;

let service: Service;
/** Whatever it says, a look at it shows that the service has looked at every stream. */
let watch: StreamClient;
beforeAll(async () => {
  service = await startService({
    TOKEN_EXPIRY_NOTICE_SECONDS: NOTICE_MS / 1_000,
    TOKEN_EXPIRY_SPREAD_SECONDS: SPREAD_MS / 1_000,
    HEARTBEAT_SECONDS: '1',
    // Whoever has something to read when a test moves the clock by an hour is not dead.
    STREAM_STALL_SECONDS: 3_600,
  });
  watch = await StreamClient.open(
    service.url,
    userToken({ tenant: 'watch', expiresInSeconds: 100 * 86_400 }),
  );
});
afterAll(async () => {
  await watch.cut();
  await service.close();
});

/** The service and the tests live by it: no token ends because a machine is slow. */
let clock: TestClock;
beforeEach(() => {
  clock = new TestClock();
});
afterEach(() => {
  clock.restore();
  jest.restoreAllMocks();
});

const HOUR_MS = 3_600_000;

/** `exp` is in seconds, with a fraction (RFC 7519 NumericDate). */
function tokenEndingIn(ms: number, tenant: string, user = 'alice') {
  const exp = (Date.now() + ms) / 1000;
  return { token: userToken({ tenant, user, claims: { exp } }), endsAt: Math.floor(exp * 1000) };
}

/** Waits until every stream was looked at since now: the first heartbeat may have been on its way. */
async function untilLooked(): Promise<void> {
  const before = watch.comments.length;
  await watch.until(() => watch.comments.length >= before + 2, 'two heartbeats');
}

/** Publishes to everyone until told to stop. */
function publishSteadily(tenant: string) {
  const stop = new AbortController();
  const done = (async () => {
    while (!stop.signal.aborted) {
      await publish(service.url, serviceToken({ tenant }), {
        to: { everyone: true },
        type: 't',
        data: Date.now(),
      });
    }
  })();
  return async () => {
    stop.abort();
    await done;
  };
}

test('a stream warns, says bye and ends before its token does, and sends nothing afterwards', async () => {
  const { token, endsAt } = tokenEndingIn(HOUR_MS, 'warned');
  const stream = await StreamClient.open(service.url, token);
  const sync = await stream.untilEvent('sync');
  expect(sync['tokenExpiresAt']).toBe(new Date(endsAt).toISOString());
  const stop = publishSteadily('warned');
  clock.set(endsAt - NOTICE_MS - 1);
  await untilLooked();
  expect(stream.named('expiring')).toEqual([]);
  clock.set(endsAt - NOTICE_MS);
  expect(await stream.untilEvent('expiring')).toEqual({ at: new Date(endsAt).toISOString() });
  clock.set(endsAt - LOOK_MS - SPREAD_MS - 1);
  await untilLooked();
  expect(stream.named('bye')).toEqual([]);
  clock.set(endsAt - LOOK_MS);
  await stream.closed;
  await stop();
  expect(stream.events.at(-1)?.event).toBe('bye');
  expect(stream.named('bye')).toEqual([
    { reason: 'token-expired', reconnect: true, retryAfterMs: expect.any(Number) },
  ]);
  expect(stream.retries).toHaveLength(2);
  expect(stream.named('expiring')).toHaveLength(1);
});

test('however the seconds of token and service fall together, no stream outlives its token', async () => {
  const streams = await Promise.all(
    Array.from({ length: 25 }, async (_, i) => {
      const { token, endsAt } = tokenEndingIn(6_000 + i * 100, 'falls', `u${i}`);
      return { stream: await StreamClient.open(service.url, token), endsAt };
    }),
  );
  for (const { stream } of streams) await stream.untilEvent('sync');
  const stop = publishSteadily('falls');
  const first = streams[0]?.endsAt ?? Number.NaN;
  // Looks that are as far from each other as a look may be late: those whose next one would be too late end with this one.
  for (let now = first - 5_000; now <= first + 2_400; now += 1_400) {
    clock.set(now);
    const due = streams.filter(({ endsAt }) => endsAt - now <= LOOK_MS);
    await Promise.all(due.map(({ stream }) => stream.closed));
    for (const { stream, endsAt } of streams) if (!stream.ended) expect(endsAt).toBeGreaterThan(now + 1_400);
  }
  expect(streams.filter(({ stream }) => !stream.ended)).toEqual([]);
  await stop();
  for (const { stream, endsAt } of streams) {
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired' }]);
    expect(stream.events.at(-1)?.event).toBe('bye');
    for (const { data } of stream.notifications) expect(data).toBeLessThan(endsAt);
  }
});

test('streams of one token end one after the other, none after it and none much before, and each is warned once', async () => {
  const { token, endsAt } = tokenEndingIn(HOUR_MS, 'spread');
  const streams = await Promise.all(
    Array.from({ length: 40 }, async () => await StreamClient.open(service.url, token)),
  );
  for (const stream of streams) await stream.untilEvent('sync');
  clock.set(endsAt - NOTICE_MS);
  for (const stream of streams) await stream.untilEvent('expiring');
  const ended = () => streams.filter((stream) => stream.ended).length;
  clock.set(endsAt - LOOK_MS - SPREAD_MS - 1);
  await untilLooked();
  expect(ended()).toBe(0);
  const counts = new Set<number>();
  for (let left = SPREAD_MS - 1_000; left >= 1_000; left -= 1_000) {
    clock.set(endsAt - LOOK_MS - left);
    await untilLooked();
    counts.add(ended());
  }
  clock.set(endsAt - LOOK_MS);
  await Promise.all(streams.map((stream) => stream.closed));
  // All of them by two of the five seconds happens once in 10^15 times.
  expect(counts.add(ended()).size).toBeGreaterThan(2);
  for (const stream of streams) {
    expect(stream.named('expiring')).toEqual([{ at: new Date(endsAt).toISOString() }]);
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired', reconnect: true }]);
  }
});

test('a client that does not read is cut off when its token ends', async () => {
  // More than the buffers of the system hold.
  const data = 'x'.repeat(20_000);
  for (let i = 0; i < 6; i += 1) {
    const notifications = Array.from({ length: 100 }, () => ({ to: { user: 'alice' }, type: 't', data }));
    await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken({ tenant: 'slow' }),
      { notifications },
    );
  }
  const { token, endsAt } = tokenEndingIn(HOUR_MS, 'slow');
  const slow = await StreamClient.open(service.url, token, { query: { from: 'earliest' }, paused: true });
  const connection = async () =>
    await eventually(async () => {
      const [row] = await service.database.query<{ until: Date | null; reason: string | null }>(
        `select until, reason from connections where tenant_id = 'slow'`,
      );
      if (row === undefined) throw new Error('not open yet');
      return row;
    });
  expect(await connection()).toEqual({ until: null, reason: null });
  const timers = jest.spyOn(globalThis, 'setTimeout');
  const left = 1_234;
  clock.set(endsAt - left);
  await eventually(async () =>
    expect(await connection()).toEqual({ until: expect.any(Date), reason: 'token-expired' }),
  );
  // It was given what its token had left, and not the five seconds of other ends.
  expect(timers.mock.calls.map(([, ms]) => ms)).toContain(left);
  await slow.cut();
});

test.each([25, 40, 365])('a token of %i days does not end its stream at once', async (days) => {
  const stream = await StreamClient.open(
    service.url,
    userToken({ tenant: 'patient', expiresInSeconds: days * 86_400 }),
  );
  await stream.untilEvent('caught-up');
  const before = stream.comments.length;
  await stream.until(() => stream.comments.length >= before + 2, 'two heartbeats');
  expect(stream.named('bye')).toEqual([]);
  expect(stream.named('expiring')).toEqual([]);
  await stream.cut();
});

describe('a token that has ended', () => {
  test.each([
    ['in its seconds of grace', -1],
    ['long ago', -3_600],
  ])('%s opens no stream', async (_, expiresInSeconds) => {
    const { status, headers, body } = await get(`${service.url}/v1/stream`, userToken({ expiresInSeconds }));
    expect(status).toBe(401);
    expect(headers.get('www-authenticate')).toMatch(/^Bearer .*error="invalid_token"/);
    expect(body).toMatchObject({ code: 'token_invalid' });
  });

  test('in its seconds of grace still publishes', async () => {
    const stored = await publish(service.url, serviceToken({ expiresInSeconds: -1 }), {
      to: { user: 'a' },
      type: 't',
      data: 1,
    });
    expect(stored.id).toBeTruthy();
  });
});

test('a token that ends while the database is being asked opens no stream', async () => {
  const tenant = 'asked';
  const { token, endsAt } = tokenEndingIn(HOUR_MS, tenant);
  const first = await StreamClient.open(service.url, token);
  await first.untilEvent('caught-up');
  await first.cut();
  await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 'secret' });
  // Whoever holds the device's row holds up its arrival.
  const holder = new pg.Client({ connectionString: service.database.url });
  await holder.connect();
  await holder.query('begin');
  await holder.query('select from devices where tenant_id = $1 for update', [tenant]);
  const late = await StreamClient.open(service.url, token);
  await eventually(async () => {
    const rows = await service.database.query(
      `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    );
    expect(rows).toHaveLength(1);
  });
  clock.set(endsAt - 1_000);
  await holder.query('rollback');
  await holder.end();
  await late.closed;
  expect(late.notifications).toEqual([]);
  expect(late.named('bye')).toMatchObject([{ reason: 'token-expired' }]);
});
