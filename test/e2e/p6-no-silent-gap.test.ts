import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  // Little memory on both sides, so that a reader who stops has to read the log when it goes on.
  service = await startService({
    STREAM_BUFFER_BYTES: 16_384,
    TAIL_BYTES_PER_TENANT: 16_384,
    BACKLOG_PAGE_ROWS: 20,
  });
});
afterAll(async () => {
  await service.close();
});

/** What retention does: first the floor, then the rows. */
async function takeAway(tenant: string, upTo: string): Promise<void> {
  await service.database.query('update tenant_logs set floor = $2 where tenant_id = $1', [tenant, upTo]);
  await service.database.query('delete from notifications where tenant_id = $1 and position <= $2', [
    tenant,
    upTo,
  ]);
}

async function publishSome(tenant: string, count: number): Promise<string[]> {
  const positions: string[] = [];
  for (let i = 0; i < count; i += 1)
    positions.push(
      (await publish(service.url, serviceToken({ tenant }), { to: { user: 'alice' }, type: 't', data: i }))
        .position,
    );
  return positions;
}

async function backlog(tenant: string, options: Parameters<typeof StreamClient.open>[2] = {}) {
  const stream = await StreamClient.open(service.url, userToken({ tenant }), options);
  await stream.untilEvent('caught-up');
  await stream.cut();
  return {
    sync: stream.named('sync')[0] ?? {},
    data: stream.notifications.map(({ data }) => data),
    gaps: stream.named('gap'),
  };
}

describe('at connect', () => {
  test('a position older than what is kept is a gap that says where the stream continues', async () => {
    const [first = '', , third = ''] = await publishSome('old-position', 5);
    await takeAway('old-position', third);
    const { sync, data, gaps } = await backlog('old-position', { lastEventId: first });
    expect(sync).toMatchObject({ resume: 'gap', from: first, oldest: third });
    expect(data).toEqual([3, 4]);
    expect(gaps).toEqual([]);
  });

  test('a position at the floor or past it is never a gap', async () => {
    const [, , third = '', fourth = ''] = await publishSome('at-floor', 5);
    await takeAway('at-floor', third);
    expect(await backlog('at-floor', { lastEventId: third })).toMatchObject({
      sync: { resume: 'exact', from: third },
      data: [3, 4],
      gaps: [],
    });
    expect(await backlog('at-floor', { lastEventId: fourth })).toMatchObject({
      sync: { resume: 'exact' },
      data: [4],
      gaps: [],
    });
    expect(await backlog('at-floor', { lastEventId: String(Number(third) + 1) })).toMatchObject({
      sync: { resume: 'exact' },
      data: [3, 4],
    });
  });

  test('a cursor older than what is kept is a gap', async () => {
    const tenant = 'old-cursor';
    const [first = ''] = await publishSome(tenant, 1);
    await backlog(tenant, { lastEventId: first });
    const [, second = ''] = await publishSome(tenant, 3);
    await takeAway(tenant, second);
    expect(await backlog(tenant)).toMatchObject({
      sync: { resume: 'gap', from: first, oldest: second },
      data: [2],
    });
    // A bad position does not hide that the cursor is behind.
    expect(await backlog(tenant, { lastEventId: 'x' })).toMatchObject({
      sync: { resume: 'reset', from: first, oldest: second },
      data: [2],
    });
  });

  test('a new device, `earliest` and `latest` miss nothing that they asked for', async () => {
    const tenant = 'no-gap';
    const [, second = '', third = ''] = await publishSome(tenant, 3);
    await takeAway(tenant, second);
    expect(await backlog(tenant)).toMatchObject({ sync: { resume: 'undelivered', from: second }, data: [2] });
    expect(await backlog(tenant, { query: { from: 'earliest', device: 'b' } })).toMatchObject({
      sync: { resume: 'earliest', from: second },
      data: [2],
    });
    expect(await backlog(tenant, { query: { from: 'latest', device: 'c' } })).toMatchObject({
      sync: { resume: 'latest', from: third },
      data: [],
    });
    expect((await backlog(tenant)).sync).not.toHaveProperty('oldest');
  });
});

describe('in mid-stream', () => {
  const TENANT = 'overtaken';
  const PIECE = 'x'.repeat(20_000);

  async function publishMany(count: number): Promise<string[]> {
    const positions: string[] = [];
    for (let i = 0; i < count; i += 50) {
      const notifications = Array.from({ length: 50 }, (_, j) => ({
        to: { user: 'alice' },
        type: 't',
        data: { n: i + j, PIECE },
      }));
      const { body } = await post<{ notifications: StoredAnswer[] }>(
        `${service.url}/v1/notifications/batch`,
        serviceToken({ tenant: TENANT }),
        { notifications },
      );
      positions.push(...body.notifications.map(({ position }) => position));
    }
    return positions;
  }

  test('a slow reader that retention overtakes hears of the gap, and gets everything else', async () => {
    const slow = await StreamClient.open(service.url, userToken({ tenant: TENANT }));
    await slow.untilEvent('caught-up');
    slow.pause();
    // More than the kernel takes for a client that does not read.
    const positions = await publishMany(1_000);
    const floor = positions[899] ?? '';
    await takeAway(TENANT, floor);
    slow.resume();
    const got = await slow.until(
      () => (slow.lastEventId === positions.at(-1) ? slow.notifications : undefined),
      'the newest notification',
    );

    expect(slow.named('gap')).toHaveLength(1);
    const at = slow.events.findIndex(({ event }) => event === 'gap');
    const before = slow.events.slice(0, at).findLast(({ event }) => event === undefined);
    const { from, oldest } = slow.named('gap')[0] ?? {};
    expect(oldest).toBe(floor);
    // Everything up to `from` was sent, nothing between, and everything after `oldest`.
    expect(before?.id).toBe(from);
    const expected = positions.filter(
      (position) => Number(position) <= Number(from) || Number(position) > Number(floor),
    );
    expect(got.map(({ position }) => position)).toEqual(expected);
    expect(got.length).toBeLessThan(positions.length);
    expect(slow.events[at]?.id).toBeUndefined();
    await slow.cut();
  });

  test('a reader that is not overtaken hears of none', async () => {
    const live = await StreamClient.open(service.url, userToken({ tenant: 'in-time' }));
    await live.untilEvent('caught-up');
    const [, second = ''] = await publishSome('in-time', 2);
    await live.untilNotifications(2);
    await takeAway('in-time', second);
    await publishSome('in-time', 3);
    await live.untilNotifications(5);
    expect(live.named('gap')).toEqual([]);
    await live.cut();
  });
});
