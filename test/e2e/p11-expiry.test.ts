import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService({ STREAM_BUFFER_BYTES: 16_384 });
});
afterAll(async () => {
  await service.close();
});

const notification = (data: unknown, more: Record<string, unknown> = {}) => ({
  to: { user: 'alice' },
  type: 't',
  data,
  ...more,
});

/** Waits until the database says that a notification has expired. */
const untilExpired = async ({ id }: StoredAnswer, on = service) =>
  await eventually(
    async () => {
      const rows = await on.database.query(
        'select from notifications where id = $1 and expires_at <= clock_timestamp()',
        [id],
      );
      expect(rows).toHaveLength(1);
    },
    { every: 50 },
  );

describe('what has expired is not sent', () => {
  test('to a client that comes later', async () => {
    const tenant = 'backlog';
    const token = serviceToken({ tenant });
    await publish(service.url, token, notification('kept'));
    const brief = await publish(service.url, token, notification('brief', { ttlSeconds: 1 }));
    await publish(service.url, token, notification('long', { ttlSeconds: 3_600 }));
    await untilExpired(brief);
    const stream = await StreamClient.open(service.url, userToken({ tenant }), {
      query: { from: 'earliest' },
    });
    const caughtUp = await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ data }) => data)).toEqual(['kept', 'long']);
    expect(Number(caughtUp['position'])).toBeGreaterThan(Number(brief.position));
    await stream.cut();
  });

  test('from memory either', async () => {
    const tenant = 'tail';
    const keeper = await StreamClient.open(service.url, userToken({ tenant, user: 'keeper' }));
    const start = (await keeper.untilEvent('caught-up'))['position'];
    const brief = await publish(
      service.url,
      serviceToken({ tenant }),
      notification('brief', { ttlSeconds: 1 }),
    );
    await publish(service.url, serviceToken({ tenant }), notification('kept'));
    await untilExpired(brief);
    const stream = await StreamClient.open(service.url, userToken({ tenant }), {
      lastEventId: String(start),
    });
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ data }) => data)).toEqual(['kept']);
    await stream.cut();
    await keeper.cut();
  });

  test('to a client that was connected and read too slowly', async () => {
    const tenant = 'slow';
    const slow = await StreamClient.open(service.url, userToken({ tenant }));
    await slow.untilEvent('caught-up');
    slow.pause();
    const large = Array.from({ length: 600 }, (_, i) => notification({ i, filling: 'x'.repeat(20_000) }));
    await post(`${service.url}/v1/notifications/batch`, serviceToken({ tenant }), {
      notifications: large.slice(0, 300),
    });
    await post(`${service.url}/v1/notifications/batch`, serviceToken({ tenant }), {
      notifications: large.slice(300),
    });
    const brief = await publish(
      service.url,
      serviceToken({ tenant }),
      notification('brief', { ttlSeconds: 1 }),
    );
    await publish(service.url, serviceToken({ tenant }), notification('last'));
    await untilExpired(brief);
    slow.resume();
    const got = await slow.untilNotifications(601);
    expect([got.length, got.at(-1)?.data]).toEqual([601, 'last']);
    await slow.cut();
    // It is in no interval of what was sent.
    const spans = await eventually(async () => {
      const rows = await service.database.query<{ from_position: number; to_position: number }>(
        'select from_position, to_position from sends where tenant_id = $1 order by to_position',
        [tenant],
      );
      expect(rows.at(-1)?.to_position).toBeGreaterThan(Number(brief.position));
      return rows;
    });
    const covering = spans.filter(
      ({ from_position: from, to_position: to }) =>
        from < Number(brief.position) && Number(brief.position) <= to,
    );
    expect(covering).toEqual([]);
  });

  test('and history says so', async () => {
    const tenant = 'told';
    const brief = await publish(
      service.url,
      serviceToken({ tenant }),
      notification('brief', { ttlSeconds: 1 }),
    );
    await untilExpired(brief);
    const operator = serviceToken({ tenant, scope: 'history:read' });
    const { body } = await get(`${service.url}/v1/notifications/${brief.id}`, operator);
    expect(body).toMatchObject({ status: 'expired', devices: [] });
  });
});

test('what has not expired is sent, and says when it will', async () => {
  const tenant = 'in-time';
  const stream = await StreamClient.open(service.url, userToken({ tenant }));
  await stream.untilEvent('caught-up');
  const stored = await publish(
    service.url,
    serviceToken({ tenant }),
    notification('x', { ttlSeconds: 3_600 }),
  );
  const [got] = await stream.untilNotifications(1);
  const [row] = await service.database.query<{ at: Date }>(
    'select expires_at as at from notifications where id = $1',
    [stored.id],
  );
  expect(got?.expiresAt).toBe(row?.at.toISOString());
  await stream.cut();
});

describe("the database's clock decides", () => {
  const HOUR_MS = 3_600_000;
  const real = Date.now.bind(Date);
  let skewed: Service | undefined;
  afterEach(async () => {
    await skewed?.close();
    skewed = undefined;
    jest.restoreAllMocks();
  });

  /** A service whose machine's clock is off by so much. */
  async function startSkewed(ms: number): Promise<Service> {
    jest.spyOn(Date, 'now').mockImplementation(() => real() + ms);
    skewed = await startService({ LOG_POLL_MS: 100 });
    return skewed;
  }

  test('where the clock of the service is behind', async () => {
    const { url, database } = await startSkewed(-HOUR_MS);
    const token = userToken({ tenant: 'behind' });
    const brief = await publish(
      url,
      serviceToken({ tenant: 'behind' }),
      notification('brief', { ttlSeconds: 1 }),
    );
    const before = real();
    await publish(url, serviceToken({ tenant: 'behind' }), notification('long', { ttlSeconds: 3_600 }));
    const after = real();
    await eventually(async () => {
      const rows = await database.query(
        'select from notifications where id = $1 and expires_at <= clock_timestamp()',
        [brief.id],
      );
      expect(rows).toHaveLength(1);
    });
    const stream = await StreamClient.open(url, token);
    await stream.untilEvent('caught-up');
    expect(stream.notifications.map(({ data }) => data)).toEqual(['long']);
    // What a service knows of the clock of the database is right but for what its questions took; its own is an hour off.
    const counted = Date.parse(stream.notifications[0]?.expiresAt ?? '') - HOUR_MS;
    expect(counted).toBeGreaterThan(before - HOUR_MS / 2);
    expect(counted).toBeLessThan(after + HOUR_MS / 2);
    await stream.cut();
  });

  test('where it is ahead', async () => {
    const { url } = await startSkewed(HOUR_MS);
    const stored = await publish(
      url,
      serviceToken({ tenant: 'ahead' }),
      notification('x', { expiresAt: new Date(real() + HOUR_MS / 2).toISOString() }),
    );
    const stream = await StreamClient.open(url, userToken({ tenant: 'ahead' }));
    expect((await stream.untilNotifications(1)).map(({ id }) => id)).toEqual([stored.id]);
    await stream.cut();
  });
});
