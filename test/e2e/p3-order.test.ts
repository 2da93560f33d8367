import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Socket } from 'node:net';
import { Sockets, usersOf } from '../load/sockets.ts';
import { post, type StoredAnswer } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const END = '"type":"end"';

let service: Service;
/** A second node on the same database: what it stores reaches streams of the first only through the log. */
let other: Service;
/** A third, with the usual settings: its memory goes back far enough for what is served out of turn. */
let usual: Service;
beforeAll(async () => {
  const small = {
    STREAM_BUFFER_BYTES: 8_192,
    TAIL_BYTES_PER_TENANT: 65_536,
    BACKLOG_PAGE_ROWS: 50,
    LOG_POLL_MS: 100,
  };
  service = await startService(small);
  other = await startService({ ...small, NODE_NAME: 'other' }, { database: service.database });
  usual = await startService({ NODE_NAME: 'usual' }, { database: service.database });
});
afterAll(async () => {
  await usual.close();
  await other.close();
  await service.close();
});

/** Publishes `count` notifications, a few at a time, for all that a reader listens to. */
async function publishMany(
  tenant: string,
  client: string,
  count: number,
  nodes: readonly [Service, Service] = [service, other],
): Promise<string[]> {
  const ids: string[] = [];
  const token = serviceToken({ tenant, client });
  for (let i = 0; i < count;) {
    const notifications = Array.from({ length: 1 + (i % 7) }, (_, j) => ({
      to: [{ user: 'reader' }, { topic: 'news' }, { everyone: true }, { user: 'nobody' }][(i + j) % 4],
      type: 't',
      data: { client, n: i + j, filling: 'x'.repeat(((i + j) % 5) * 500) },
    }));
    const node = nodes[i % 2 === 0 ? 0 : 1];
    const { status, body } = await post<{ notifications: StoredAnswer[] }>(
      `${node.url}/v1/notifications/batch`,
      token,
      { notifications },
    );
    expect(status).toBe(201);
    body.notifications.forEach(({ id }, j) => {
      if ((i + j) % 4 !== 3) ids.push(id);
    });
    i += notifications.length;
  }
  return ids;
}

function expectStrictOrder(stream: StreamClient) {
  const positions = stream.notifications.map(({ position }) => Number(position));
  for (let i = 1; i < positions.length; i += 1) expect(positions[i]).toBeGreaterThan(positions[i - 1] ?? 0);
  const ids = stream.notifications.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
}

test('several publishers on two nodes, readers that pause, and resumes in the midst: every connection is in order and without doubles', async () => {
  const tenant = 'order';
  const token = userToken({ tenant, user: 'reader', topics: ['news'] });
  const open = async (options: Parameters<typeof StreamClient.open>[2] = {}) =>
    await StreamClient.open(service.url, token, options);
  const steady = await open();
  const pausing = await open();
  await steady.untilEvent('caught-up');
  await pausing.untilEvent('caught-up');

  const over = new AbortController();
  const published = Promise.all(
    ['a', 'b', 'c', 'd'].map(async (client) => await publishMany(tenant, client, 300)),
  ).finally(() => {
    over.abort();
  });
  const phases = (async () => {
    while (!over.signal.aborted) {
      pausing.pause();
      await steady.untilNotifications(steady.notifications.length + 40, 500).catch(() => undefined);
      pausing.resume();
      await pausing.untilNotifications(pausing.notifications.length + 20, 500).catch(() => undefined);
    }
  })();
  const resumed: StreamClient[] = [];
  // Also when publishing was over before there were three.
  while (!over.signal.aborted || resumed.length < 3) {
    const lastEventId = resumed.at(-1)?.lastEventId;
    const stream = await open(lastEventId === undefined ? {} : { lastEventId });
    await stream.untilEvent('caught-up');
    await stream.untilNotifications(30, 500).catch(() => undefined);
    await stream.cut();
    resumed.push(stream);
  }
  const expected = (await published).flat();
  await phases;
  pausing.resume();

  for (const stream of [steady, pausing]) {
    await stream.untilNotifications(expected.length);
    expectStrictOrder(stream);
    expect(stream.notifications.map(({ id }) => id).toSorted()).toEqual(expected.toSorted());
    await stream.cut();
  }
  // Resumed again and again, each connection is in order, and all of them together are one.
  const last = await open({ lastEventId: resumed.at(-1)?.lastEventId ?? '' });
  const before = resumed.reduce((sum, { notifications }) => sum + notifications.length, 0);
  await last.untilNotifications(expected.length - before);
  resumed.push(last);
  for (const stream of resumed) expectStrictOrder(stream);
  const chained = resumed.flatMap(({ notifications }) => notifications.map(({ id }) => id));
  expect(chained).toEqual(steady.notifications.map(({ id }) => id));
  await last.cut();
});

test('the notifications of one batch arrive in its order', async () => {
  const token = userToken({ tenant: 'batch', user: 'reader' });
  const live = await StreamClient.open(service.url, token);
  await live.untilEvent('caught-up');
  const notifications = Array.from({ length: 500 }, (_, n) => ({
    to: { user: 'reader' },
    type: 't',
    data: n,
  }));
  await post(`${service.url}/v1/notifications/batch`, serviceToken({ tenant: 'batch' }), { notifications });
  const replayed = await StreamClient.open(service.url, token);
  for (const stream of [live, replayed]) {
    expect((await stream.untilNotifications(500)).map(({ data }) => data)).toEqual(
      notifications.map(({ data }) => data),
    );
    await stream.cut();
  }
});

test('what another node stored reaches a live stream in order, also when it is more than memory holds', async () => {
  const tenant = 'hole';
  const live = await StreamClient.open(service.url, userToken({ tenant, user: 'reader' }));
  await live.untilEvent('caught-up');
  const expected: string[] = [];
  for (let round = 0; round < 3; round += 1) {
    const notifications = Array.from({ length: 300 }, (_, n) => ({
      to: { user: 'reader' },
      type: 't',
      data: { n, filling: 'x'.repeat(1_000) },
    }));
    const { body } = await post<{ notifications: StoredAnswer[] }>(
      `${other.url}/v1/notifications/batch`,
      serviceToken({ tenant }),
      { notifications },
    );
    expected.push(...body.notifications.map(({ id }) => id));
    const got = await live.untilNotifications(expected.length);
    expect(got.map(({ id }) => id)).toEqual(expected);
    expectStrictOrder(live);
  }
  await live.cut();
});

test('while broadcasts to a hundred streams are under way, everybody gets everything in order', async () => {
  const tenant = 'crowd';
  const ended = Promise.withResolvers<undefined>();
  const heard = new Map<Socket, string[]>();
  let left = 100;
  const crowd = new Sockets(Number(new URL(usual.url).port), usersOf(tenant, left), (text, socket) => {
    const all = heard.get(socket) ?? [];
    heard.set(socket, all);
    const last = all.at(-1) ?? '';
    all.push(text);
    if (last.includes(END) || !`${last}${text}`.includes(END)) return;
    left -= 1;
    if (left === 0) ended.resolve(undefined);
  });
  await crowd.openAll(20);
  const readers = await Promise.all(
    [['news'], ['news'], []].map(
      async (topics) => await StreamClient.open(usual.url, userToken({ tenant, user: 'reader', topics })),
    ),
  );
  for (const reader of readers) await reader.untilEvent('caught-up');

  const expected = await Promise.all(
    ['a', 'b', 'c', 'd'].map(async (client) => await publishMany(tenant, client, 300, [usual, other])),
  );
  await post(`${usual.url}/v1/notifications`, serviceToken({ tenant }), {
    to: { everyone: true },
    type: 'end',
    data: null,
  });
  await ended.promise;
  const [both, again, own] = readers as [StreamClient, StreamClient, StreamClient];
  await both.untilNotifications(expected.flat().length + 1);
  const ids = (stream: StreamClient) => stream.notifications.map(({ id }) => id);
  expect(ids(both).slice(0, -1).toSorted()).toEqual(expected.flat().toSorted());
  await again.untilNotifications(ids(both).length);
  expect(ids(again)).toEqual(ids(both));
  // By the order of the recipients in `publishMany`; the one that ends it is for everyone.
  const kindOf = ({ data }: { data?: unknown }) => ((data as { n: number } | null)?.n ?? 2) % 4;
  const without = (kinds: readonly number[]) =>
    both.notifications.filter((got) => !kinds.includes(kindOf(got))).map(({ id }) => id);
  await own.untilNotifications(without([1]).length);
  expect(ids(own)).toEqual(without([1]));
  for (const reader of readers) expectStrictOrder(reader);
  for (const texts of heard.values())
    expect([...texts.join('').matchAll(/"id":"([\da-f-]{36})"/g)].map(([, id]) => id)).toEqual(
      without([0, 1]),
    );
  crowd.cutAll();
  for (const reader of readers) await reader.cut();
});
