import { monitorEventLoopDelay } from 'node:perf_hooks';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { promised } from '../support/promised.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  // Streams of the tests end up to 3 s before their tokens, and looks of a busy machine come late.
  service = await startService({ TOKEN_EXPIRY_NOTICE_SECONDS: '6', HEARTBEAT_SECONDS: '1' });
});
afterAll(async () => {
  await service.close();
});

/** A token that ends in so many milliseconds; `exp` is in seconds, with a fraction (RFC 7519 NumericDate). */
function tokenEndingIn(ms: number, tenant: string, user = 'alice') {
  const exp = (Date.now() + ms) / 1000;
  return { token: userToken({ tenant, user, claims: { exp } }), endsAt: Math.floor(exp * 1000) };
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
  const { token, endsAt } = tokenEndingIn(6_000, 'warned');
  const stream = await StreamClient.open(service.url, token);
  const sync = await stream.untilEvent('sync');
  expect(sync['tokenExpiresAt']).toBe(new Date(endsAt).toISOString());
  const stop = publishSteadily('warned');
  expect(await stream.untilEvent('expiring', 7_000)).toEqual({ at: new Date(endsAt).toISOString() });
  expect(endsAt - Date.now()).toBeGreaterThan(500);
  await stream.closed;
  expect(Date.now()).toBeLessThanOrEqual(endsAt);
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
      const { token, endsAt } = tokenEndingIn(200 + i * 100, 'falls', `u${i}`);
      const stream = await StreamClient.open(service.url, token);
      return { stream, endsAt, closedAt: stream.closed.then(() => Date.now()) };
    }),
  );
  const stop = publishSteadily('falls');
  await Promise.all(streams.map(({ stream }) => stream.closed));
  await stop();
  expect(streams.filter(({ stream }) => stream.named('sync').length > 0).length).toBeGreaterThan(5);
  for (const { stream, endsAt, closedAt } of streams) {
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired' }]);
    expect(stream.events.at(-1)?.event).toBe('bye');
    // The clocks are one, and the close needs a moment to get here. A token that ended on the way opened no stream.
    if (stream.named('sync').length > 0) expect(await closedAt).toBeLessThanOrEqual(endsAt + 20);
    for (const { data } of stream.notifications) expect(data).toBeLessThanOrEqual(endsAt);
  }
});

test('streams of one token end one after the other, none after it and none much before, and each is warned once', async () => {
  const { token, endsAt } = tokenEndingIn(15_000, 'spread');
  const opened = await Promise.all(
    Array.from({ length: 40 }, async () => {
      const stream = await StreamClient.open(service.url, token);
      return { stream, closedAt: stream.closed.then(() => Date.now()) };
    }),
  );
  const delay = monitorEventLoopDelay({ resolution: 10 });
  delay.enable();
  const left = (await Promise.all(opened.map(({ closedAt }) => closedAt))).map((at) => endsAt - at);
  delay.disable();
  expect(Math.min(...left)).toBeGreaterThanOrEqual(-20);
  // A tenth of the token, and what the looks once a second cost.
  expect(Math.max(...left)).toBeLessThanOrEqual(1_500 + 1_500 + 1_000);
  // In turns of one look, unless this process, and the service in it, stood still for longer.
  expect(Math.max(...left) - Math.min(...left)).toBeGreaterThan(700 - delay.max / 1e6);
  for (const { stream } of opened) {
    expect(stream.named('expiring')).toEqual([{ at: new Date(endsAt).toISOString() }]);
    expect(stream.named('bye')).toMatchObject([{ reason: 'token-expired', reconnect: true }]);
  }
});

test('a client that does not read is cut off when its token ends', async () => {
  // More than the buffers of the system hold, and there before the stream: to publish it may take as long as the token lasts.
  const data = 'x'.repeat(20_000);
  for (let i = 0; i < 6; i += 1) {
    const notifications = Array.from({ length: 100 }, () => ({ to: { user: 'alice' }, type: 't', data }));
    await post<{ notifications: StoredAnswer[] }>(
      `${service.url}/v1/notifications/batch`,
      serviceToken({ tenant: 'slow' }),
      { notifications },
    );
  }
  const { token, endsAt } = tokenEndingIn(4_000, 'slow');
  const slow = await StreamClient.open(service.url, token, { query: { from: 'earliest' }, paused: true });
  const ended = async () => {
    const [row] = await service.database.query<{ until: Date | null; reason: string }>(
      `select until, reason from connections where tenant_id = 'slow'`,
    );
    if (row?.until === null || row === undefined) throw new Error('still open');
    return row;
  };
  const { until, reason } = await eventually(ended, { within: 10_000, every: 50 });
  expect(reason).toBe('token-expired');
  expect(until?.getTime()).toBeLessThanOrEqual(endsAt + promised(100));
  await slow.cut();
});

test.each([25, 40, 365])('a token of %i days does not end its stream at once', async (days) => {
  const stream = await StreamClient.open(
    service.url,
    userToken({ tenant: 'patient', expiresInSeconds: days * 86_400 }),
  );
  await stream.untilEvent('caught-up');
  const before = stream.comments.length;
  await stream.until(() => stream.comments.length >= before + 2, 'two heartbeats', 5_000);
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
  const { token: before } = tokenEndingIn(60_000, tenant);
  const first = await StreamClient.open(service.url, before);
  await first.untilEvent('caught-up');
  await first.cut();
  await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: 'secret' });
  // Whoever holds the device's row holds up its arrival.
  const held = service.database.query(
    `select pg_sleep(1.5) from (select from devices where tenant_id = $1 for update) held`,
    [tenant],
  );
  await eventually(async () => {
    const rows = await service.database.query(
      `select from pg_stat_activity where query like '%pg_sleep(1.5)%' and wait_event = 'PgSleep'`,
    );
    expect(rows.length).toBeGreaterThan(0);
  });
  const { token } = tokenEndingIn(500, tenant);
  const late = await StreamClient.open(service.url, token);
  await late.closed;
  await held;
  expect(late.notifications).toEqual([]);
  expect(late.named('bye')).toMatchObject([{ reason: 'token-expired' }]);
});
