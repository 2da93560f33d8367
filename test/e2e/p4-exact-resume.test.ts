import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { post, publish, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

let service: Service;
beforeAll(async () => {
  service = await startService();
});
afterAll(async () => {
  await service.close();
});

const publisher = serviceToken();

test('a stream gets what is published while it is open, as it was sent', async () => {
  const stream = await StreamClient.open(service.url, userToken({ user: 'live' }));
  await stream.untilEvent('caught-up');
  const stored = await publish(service.url, publisher, {
    to: { user: 'live' },
    type: 'demo.hello',
    data: { text: 'hi' },
  });
  const [notification] = await stream.untilNotifications(1);
  expect(notification).toEqual({
    position: stored.position,
    id: stored.id,
    type: 'demo.hello',
    to: { user: 'live' },
    data: { text: 'hi' },
    createdAt: stored.createdAt,
    expiresAt: null,
  });
  await stream.cut();
});

test('a resume gets everything after its position, whatever is published while the backlog turns live', async () => {
  const user = 'resumer';
  const ids: string[] = [];
  const more = async (count: number) => {
    for (let i = 0; i < count; i += 1) {
      const to = i % 3 === 0 ? { everyone: true } : i % 3 === 1 ? { topic: 'news' } : { user };
      ids.push((await publish(service.url, publisher, { to, type: 't', data: i })).id);
    }
  };
  await more(1);
  const first = await StreamClient.open(service.url, userToken({ user, topics: ['news'] }));
  await first.untilEvent('caught-up');
  const position = first.lastEventId;
  ids.length = 0;
  await first.cut();
  await more(500);
  const publishing = more(200);
  const second = await StreamClient.open(service.url, userToken({ user, topics: ['news'] }), {
    lastEventId: position ?? '',
  });
  await publishing;
  const got = await second.untilNotifications(700);
  expect(got.map(({ id }) => id)).toEqual(ids);
  expect(second.named('sync')[0]).toMatchObject({ resume: 'exact', from: position });
  await second.cut();
});

test('a batch is answered in order and arrives in order', async () => {
  const notifications = Array.from({ length: 50 }, (_, i) => ({ to: { user: 'batch' }, type: 't', data: i }));
  const tenant = 'batches';
  const { status, body } = await post<{ notifications: StoredAnswer[] }>(
    `${service.url}/v1/notifications/batch`,
    serviceToken({ tenant }),
    { notifications },
  );
  expect(status).toBe(201);
  const stream = await StreamClient.open(service.url, userToken({ tenant, user: 'batch' }));
  const got = await stream.untilNotifications(50);
  expect(got.map(({ position }) => position)).toEqual(body.notifications.map(({ position }) => position));
  expect(got.map(({ data }) => data)).toEqual(notifications.map(({ data }) => data));
  await stream.cut();
});

test('what another node stored before a stream was opened comes before its caught-up', async () => {
  const tenant = 'two-nodes';
  const token = userToken({ tenant });
  // This node hears of the other only by its poll, which is far away.
  const other = await startService({ LOG_POLL_MS: 3_000 }, { database: service.database });
  try {
    const early = await StreamClient.open(other.url, token, { query: { device: 'early' } });
    await early.untilEvent('caught-up');
    const { id } = await publish(service.url, serviceToken({ tenant }), {
      to: { user: 'alice' },
      type: 't',
      data: 1,
    });
    const late = await StreamClient.open(other.url, token, { query: { device: 'late' } });
    await late.untilEvent('caught-up');
    expect(late.notifications.map((notification) => notification.id)).toEqual([id]);
    expect((await early.untilNotifications(1)).map((notification) => notification.id)).toEqual([id]);
    await Promise.all([early.cut(), late.cut()]);
  } finally {
    await other.close();
  }
});
