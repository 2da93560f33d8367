import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { Bus } from '../../src/cluster/bus.ts';
import { InboxFeed } from '../../src/delivery/inbox-feed.ts';
import { InboxStore } from '../../src/inbox/inbox.store.ts';
import { AdvanceStore, advance } from '../../src/log/advance.ts';
import { Partitions, PartitionsStore } from '../../src/log/partitions.ts';
import { MaintenancePool } from '../../src/postgres/pools.ts';
import { get, post, publish, type StoredAnswer } from '../support/api.ts';
import type { Service } from '../support/app.ts';
import type { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { connectionOf, TwoNodes } from '../support/two-nodes.ts';

/** So long that whatever comes before it came by the bus. */
const NEVER_MS = 3_600_000;

let nodes: TwoNodes;
beforeAll(async () => {
  nodes = await TwoNodes.start({ LOG_POLL_MS: NEVER_MS });
  // What the poll of the log finds out.
  for (const { app } of nodes.both) app.get(Bus).others(true);
});
afterEach(async () => {
  jest.restoreAllMocks();
  await nodes.cutAll();
});
afterAll(async () => {
  await nodes.close();
});

interface Numbers extends Record<string, unknown> {
  readonly unread: number;
  readonly unseen: number;
  readonly position: string;
  readonly revision: string;
}
interface Item extends Record<string, unknown> {
  readonly id: string;
  readonly readAt: string | null;
}
interface Page extends Numbers {
  readonly items: Item[];
  readonly nextCursor: string | null;
}
interface Told extends Numbers {
  readonly since?: string;
  readonly changes?: { id: string; read?: boolean; archived?: boolean }[];
  readonly reload?: true;
}

/** A tenant of its own for a test, and its user alice. */
class Stage {
  readonly tenant = `t-${randomUUID().slice(0, 8)}`;
  readonly service = serviceToken({ tenant: this.tenant });

  token(options: Parameters<typeof userToken>[0] = {}): string {
    return userToken({ tenant: this.tenant, ...options });
  }

  async publish(to: Record<string, unknown>, more: Record<string, unknown> = {}): Promise<StoredAnswer> {
    return await publish(nodes.here.url, this.service, {
      to,
      type: 'order.shipped',
      data: { n: 1 },
      ...more,
    });
  }

  async mark(body: Record<string, unknown>, at: Service = nodes.here) {
    return await post<Numbers & { unknown: string[] }>(`${at.url}/v1/inbox/marks`, this.token(), body);
  }

  async list(query = '', token = this.token()): Promise<Page> {
    const { status, body } = await get<Page>(`${nodes.here.url}/v1/inbox${query}`, token);
    expect(status).toBe(200);
    return body;
  }

  async counts(token = this.token()): Promise<Numbers> {
    const { status, body } = await get<Numbers>(`${nodes.there.url}/v1/inbox/counts`, token);
    expect(status).toBe(200);
    return body;
  }

  /** A stream of alice that has been told of her inbox. */
  async watch(at: Service, query: Record<string, string> = {}): Promise<StreamClient> {
    const stream = await nodes.open(at, this.token(), { inbox: '1', ...query });
    await stream.until(() => told(stream), 'the inbox');
    return stream;
  }
}

/** The last that a stream was told. */
const told = (stream: StreamClient): Told | undefined => stream.named('inbox').at(-1) as Told | undefined;

const untilTold = (stream: StreamClient, numbers: Partial<Told>): Promise<Told> =>
  stream.until(
    () => {
      const last = told(stream);
      return (
        last !== undefined &&
        Object.entries(numbers).every(
          ([name, value]) => JSON.stringify(last[name]) === JSON.stringify(value),
        ) &&
        last
      );
    },
    `an inbox with ${JSON.stringify(numbers)}`,
  );

describe('over HTTP', () => {
  test('a user sees what is for the user, for everyone and for the topics of the token, newest first', async () => {
    const stage = new Stage();
    const token = stage.token({ topics: ['news'] });
    await stage.counts(token);
    const own = await stage.publish({ user: 'alice' });
    const everyone = await stage.publish({ everyone: true }, { type: 'news', data: { digits: 2 ** 53 } });
    const news = await stage.publish({ topic: 'news' });
    await stage.publish({ topic: 'sport' });
    await stage.publish({ user: 'bob' });

    const { items, ...page } = await stage.list('', token);
    expect(items).toEqual([
      expect.objectContaining({ id: news.id, to: { topic: 'news' } }),
      expect.objectContaining({ id: everyone.id, to: { everyone: true } }),
      {
        id: own.id,
        position: own.position,
        type: 'order.shipped',
        to: { user: 'alice' },
        data: { n: 1 },
        createdAt: own.createdAt,
        expiresAt: null,
        seen: false,
        readAt: null,
        archivedAt: null,
      },
    ]);
    expect(page).toMatchObject({ unread: 3, unseen: 3, exact: true, nextCursor: null, readUpTo: '0' });
    expect((await stage.list('?type=new', token)).items.map(({ id }) => id)).toEqual([everyone.id]);
  });

  test('marks are stored, and say what the inbox is now', async () => {
    const stage = new Stage();
    const [first, second, third] = [
      await stage.publish({ user: 'alice' }),
      await stage.publish({ user: 'alice' }),
      await stage.publish({ user: 'alice' }),
    ];
    expect((await stage.mark({ seenUpTo: third.position })).body).toMatchObject({ unread: 3, unseen: 0 });
    expect((await stage.mark({ items: [{ id: second.id, read: true }] })).body).toMatchObject({
      unread: 2,
      unknown: [],
    });
    expect((await stage.mark({ items: [{ id: first.id, archived: true }] })).body).toMatchObject({
      unread: 1,
    });
    const { items } = await stage.list();
    expect(items.map(({ id, readAt }) => [id, readAt !== null])).toEqual([
      [third.id, false],
      [second.id, true],
    ]);
    expect((await stage.list('?filter=archived')).items.map(({ id }) => id)).toEqual([first.id]);
    expect((await stage.list('?filter=unread')).items.map(({ id }) => id)).toEqual([third.id]);

    const all = await stage.mark({ readUpTo: third.position });
    expect(all.body).toMatchObject({ unread: 0, readUpTo: third.position });
    const readAt = (await stage.list()).items[0]?.readAt ?? '';
    expect(Date.parse(readAt)).toBeGreaterThanOrEqual(Date.parse(third.createdAt));
    expect((await stage.mark({ readUpTo: third.position })).body.revision).toBe(all.body.revision);
  });

  test('what one device marks as unread after another one looked stays unread when that marks all', async () => {
    const stage = new Stage();
    const { id, position } = await stage.publish({ user: 'alice' });
    const { revision } = await stage.counts();
    await stage.mark({ items: [{ id, read: true }] });
    await stage.mark({ items: [{ id, read: false }] });
    expect((await stage.mark({ readUpTo: position, revision })).body.unread).toBe(1);
    expect((await stage.mark({ readUpTo: position })).body.unread).toBe(0);
  });

  test('what is not in the inbox is named, and the rest is stored', async () => {
    const stage = new Stage();
    const mine = await stage.publish({ user: 'alice' });
    const bobs = await stage.publish({ user: 'bob' });
    const others = await new Stage().publish({ user: 'alice' });
    const nowhere = randomUUID();
    const { status, body } = await stage.mark({
      items: [bobs.id, mine.id.toUpperCase(), nowhere, others.id].map((id) => ({ id, read: true })),
    });
    expect(status).toBe(200);
    expect(body.unread).toBe(0);
    expect(body.unknown.toSorted()).toEqual([bobs.id, nowhere, others.id].toSorted());
    expect((await stage.list('', stage.token({ user: 'bob' }))).unread).toBe(1);
  });

  test('a list goes on where the page before ended', async () => {
    const stage = new Stage();
    const ids: string[] = [];
    for (let n = 0; n < 5; n += 1) ids.unshift((await stage.publish({ user: 'alice' })).id);
    const seen: string[] = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: Page = await stage.list(`?limit=2${cursor === '' ? '' : `&cursor=${cursor}`}`);
      seen.push(...page.items.map(({ id }) => id));
      cursor = page.nextCursor;
    }
    expect(seen).toEqual(ids);
    const { nextCursor } = await stage.list('?limit=2');
    const other = `${nodes.here.url}/v1/inbox?limit=2&filter=unread&cursor=${nextCursor ?? ''}`;
    expect((await get(other, stage.token())).status).toBe(400);
  });

  test.each([
    [{ readUpTo: '9007199254740991' }, 'position_unknown', '/readUpTo'],
    [{ seenUpTo: 'x' }, 'validation_failed', '/seenUpTo'],
    [{ items: [{ id: 'x', read: true }] }, 'validation_failed', '/items/0/id'],
    [{ items: [{ id: randomUUID() }] }, 'validation_failed', '/items/0'],
    [{ items: [{ id: randomUUID(), read: 1 }] }, 'validation_failed', '/items/0/read'],
    [{ more: 1 }, 'validation_failed', '/more'],
  ])('%j is refused', async (body, code, pointer) => {
    const answer = await new Stage().mark(body);
    expect(answer).toMatchObject({ status: 400, body: { code, errors: [{ pointer }] } });
  });

  test('a list has what its numbers count, and nothing that was published since', async () => {
    const stage = new Stage();
    const { id } = await stage.publish({ user: 'alice' });
    const store = nodes.here.app.get(InboxStore);
    const list = store.list.bind(store);
    jest.spyOn(store, 'list').mockImplementation(async (...asked) => {
      await stage.publish({ user: 'alice' });
      return await list(...asked);
    });
    const { items, unread } = await stage.list();
    expect({ ids: items.map((item) => item.id), unread }).toEqual({ ids: [id], unread: 1 });
  });

  test('of several positions those are named that are ahead', async () => {
    const stage = new Stage();
    const { position } = await stage.publish({ user: 'alice' });
    const ahead = String(Number(position) + 1);
    const answer = await stage.mark({ seenUpTo: ahead, readUpTo: position, archivedUpTo: ahead });
    expect(answer).toMatchObject({ status: 400, body: { code: 'position_unknown' } });
    expect(answer.body).toHaveProperty('errors', [
      expect.objectContaining({ pointer: '/seenUpTo' }),
      expect.objectContaining({ pointer: '/archivedUpTo' }),
    ]);
    expect(await stage.counts()).toMatchObject({ unread: 1 });
  });

  test('one notification is named once', async () => {
    const id = randomUUID();
    const items = [
      { id, read: true },
      { id: id.toUpperCase(), read: false },
    ];
    expect(await new Stage().mark({ items })).toMatchObject({
      status: 400,
      body: { errors: [{ pointer: '/items/1/id' }] },
    });
  });

  test('a service has no inbox', async () => {
    const { service } = new Stage();
    for (const path of ['', '/counts'])
      expect((await get(`${nodes.here.url}/v1/inbox${path}`, service)).status).toBe(403);
    expect((await post(`${nodes.here.url}/v1/inbox/marks`, service, {})).status).toBe(403);
  });
});

describe('an inbox begins', () => {
  test('without what was for everyone before, and with what was for its user', async () => {
    const stage = new Stage();
    await stage.publish({ everyone: true });
    const own = await stage.publish({ user: 'alice' });
    const { items, ...numbers } = await stage.list();
    expect(items.map(({ id }) => id)).toEqual([own.id]);
    expect(numbers).toMatchObject({ unread: 1, unseen: 1 });
  });

  test('where its user has confirmed on some device, and that counts as read', async () => {
    const stage = new Stage();
    const before = await stage.publish({ everyone: true });
    const device = await nodes.open(nodes.here, stage.token());
    await post(`${nodes.here.url}/v1/acks`, stage.token(), { upTo: before.position });
    const after = await stage.publish({ everyone: true });
    expect(await stage.list()).toMatchObject({ items: [{ id: after.id }], unread: 1 });
    await device.cut();
  });

  test('with what came while its first stream was open', async () => {
    const stage = new Stage();
    const stream = await nodes.open(nodes.here, stage.token());
    const other = await nodes.ask(nodes.there, stage.token(), { inbox: '1', device: 'laptop' });
    await other.untilEvent('sync');
    await stage.publish({ everyone: true });
    await other.until(() => told(other), 'the inbox');
    await stream.until(() => stream.notifications.length === 1, 'the notification');
    expect((await stage.list()).items).toHaveLength(1);
  });
});

test('after a restore log:advance gives every inbox a revision that is newer than any that was lost', async () => {
  const stage = new Stage();
  const { id } = await stage.publish({ user: 'alice' });
  const kept = await stage.counts();
  const lost = await stage.mark({ items: [{ id, read: true }] });
  expect(lost.body).toMatchObject({ unread: 0 });
  await nodes.here.database.query('delete from inbox_marks where tenant_id = $1', [stage.tenant]);
  await nodes.here.database.query('update inbox_users set revision = $2 where tenant_id = $1', [
    stage.tenant,
    kept.revision,
  ]);
  const stream = await stage.watch(nodes.there);
  expect(Number(told(stream)?.revision)).toBeLessThan(Number(lost.body.revision));

  const of = nodes.here.app;
  const { target } = await advance(
    new AdvanceStore(of.get(MaintenancePool)),
    of.get(Partitions),
    of.get(PartitionsStore),
    60,
  );
  const now = await stage.counts();
  expect(now).toMatchObject({ unread: 1, revision: String(target) });
  expect(Number(now.revision)).toBeGreaterThan(Number(lost.body.revision));
  // Nor does a list that was brought up to date by what was lost stay.
  await nodes.there.app.get(InboxFeed).compare();
  await untilTold(stream, { unread: 1, revision: String(target), reload: true });
  const { body } = await stage.mark({ items: [{ id, read: true }] });
  expect(Number(body.revision)).toBeGreaterThan(target);
  await untilTold(stream, { unread: 0, changes: [{ id, read: true }], since: String(target) });
});

describe('a stream with inbox=1', () => {
  test('is told how the inbox is as soon as it is caught up, without an id', async () => {
    const stage = new Stage();
    const { position } = await stage.publish({ user: 'alice' });
    const stream = await stage.watch(nodes.here);
    const names = stream.events.map(({ event }) => event ?? 'notification');
    expect(names).toEqual(['sync', 'notification', 'caught-up', 'inbox']);
    expect(stream.events.at(-1)?.id).toBeUndefined();
    expect(stream.lastEventId).toBe(position);
    expect(told(stream)).toMatchObject({ unread: 1, unseen: 1, exact: true, position, changes: [] });
  });

  test('is told on every node what another device said', async () => {
    const stage = new Stage();
    const { id } = await stage.publish({ user: 'alice' });
    const streams = [await stage.watch(nodes.here), await stage.watch(nodes.there, { device: 'laptop' })];
    const before = streams.map((stream) => told(stream)?.revision);
    const { body } = await stage.mark({ items: [{ id, read: true }] });
    for (const [index, stream] of streams.entries()) {
      const { revision, changes, since } = await untilTold(stream, { unread: 0 });
      expect({ revision, changes, since }).toEqual({
        revision: body.revision,
        changes: [{ id, read: true }],
        since: before[index],
      });
    }
  });

  test('of another user or tenant is told nothing', async () => {
    const [stage, other] = [new Stage(), new Stage()];
    const { id } = await stage.publish({ user: 'alice' });
    const stream = await stage.watch(nodes.there);
    const strangers = [
      await other.watch(nodes.there),
      await nodes.open(nodes.there, stage.token({ user: 'bob' }), { inbox: '1' }),
    ];
    for (const stranger of strangers) await stranger.until(() => told(stranger), 'its inbox');
    await stage.mark({ items: [{ id, read: true }] });
    await untilTold(stream, { unread: 0 });
    for (const stranger of strangers) expect(stranger.named('inbox')).toHaveLength(1);
  });

  test('is told to load the list anew when a watermark met marks that contradict it', async () => {
    const stage = new Stage();
    const { id, position } = await stage.publish({ user: 'alice' });
    await stage.mark({ items: [{ id, read: false }] });
    const stream = await stage.watch(nodes.here);
    await stage.mark({ readUpTo: position });
    expect((await untilTold(stream, { unread: 0 })).reload).toBe(true);
  });

  test('is told when something expires', async () => {
    const stage = new Stage();
    await stage.publish({ user: 'alice' }, { ttlSeconds: 2 });
    const stream = await stage.watch(nodes.here);
    expect(told(stream)).toMatchObject({ unread: 1 });
    await untilTold(stream, { unread: 0, nextExpiry: null });
  });

  test('is told when its topics change', async () => {
    const stage = new Stage();
    const stream = await stage.watch(nodes.here);
    await stage.publish({ topic: 'news' });
    const renewed = stage.token({ topics: ['news'] });
    const { status } = await post(`${nodes.here.url}/v1/stream/renewals`, stage.token(), {
      connectionId: connectionOf(stream),
      token: renewed,
    });
    expect(status).toBe(202);
    await untilTold(stream, { unread: 1, reload: true });
  });

  test('hears of what was said on another node when hints are lost, as soon as inboxes are compared', async () => {
    const stage = new Stage();
    const { id, position } = await stage.publish({ user: 'alice' });
    jest.spyOn(nodes.here.app.get(Bus), 'announceInboxes').mockReturnValue();
    const stream = await stage.watch(nodes.there);
    await stage.mark({ items: [{ id, read: true }] });
    await nodes.there.app.get(InboxFeed).compare();
    await untilTold(stream, { unread: 0 });

    // Retention tells nobody, either.
    await stage.mark({ items: [{ id, read: false }] });
    await nodes.there.app.get(InboxFeed).compare();
    await untilTold(stream, { unread: 1 });
    await nodes.here.database.query('update tenant_logs set floor = $2 where tenant_id = $1', [
      stage.tenant,
      position,
    ]);
    await nodes.there.app.get(InboxFeed).compare();
    await untilTold(stream, { unread: 0, reload: true });

    // It takes what the stream has brought since, too.
    const later = await stage.publish({ user: 'alice' });
    await stream.until(
      () => stream.notifications.some(({ id: one }) => one === later.id),
      'the notification',
    );
    await nodes.here.database.query('update tenant_logs set floor = $2 where tenant_id = $1', [
      stage.tenant,
      later.position,
    ]);
    await nodes.there.app.get(InboxFeed).compare();
    await untilTold(stream, { unread: 0, position: later.position });
  });

  test('that retention overtakes is told once more behind the gap', async () => {
    const stage = new Stage();
    const stream = await stage.watch(nodes.here);
    stream.pause();
    // More than the kernel takes for a client that does not read.
    const positions: string[] = [];
    for (let batch = 0; batch < 20; batch += 1) {
      const notifications = Array.from({ length: 50 }, () => ({
        to: { user: 'alice' },
        type: 't',
        data: 'x'.repeat(20_000),
      }));
      const url = `${nodes.here.url}/v1/notifications/batch`;
      const { body } = await post<{ notifications: StoredAnswer[] }>(url, stage.service, { notifications });
      positions.push(...body.notifications.map(({ position }) => position));
    }
    const floor = positions.at(-101) ?? '';
    const toldBefore = stream.named('inbox').length;
    await nodes.here.database.query('update tenant_logs set floor = $2 where tenant_id = $1', [
      stage.tenant,
      floor,
    ]);
    stream.resume();
    await stream.until(() => stream.named('gap').length > 0, 'the gap');
    await untilTold(stream, { unread: 100, position: positions.at(-1) ?? '', reload: true });
    const names = stream.events.map(({ event }) => event);
    expect(stream.named('inbox').length).toBe(toldBefore + 1);
    expect(names.indexOf('gap')).toBeLessThan(names.lastIndexOf('inbox'));
  });

  test('is told once of what comes together', async () => {
    const stage = new Stage();
    const stream = await stage.watch(nodes.there);
    const stored = await Promise.all(Array.from({ length: 30 }, () => stage.publish({ user: 'alice' })));
    const before = stream.named('inbox').length;
    await Promise.all(stored.map(({ id }) => stage.mark({ items: [{ id, read: true }] })));
    const { unread } = await stage.counts();
    expect(unread).toBe(0);
    const { revision } = await stage.counts();
    await untilTold(stream, { unread: 0, revision });
    expect(stream.named('inbox').length - before).toBeLessThan(stored.length);
  });

  test('alone hears of it', async () => {
    const stage = new Stage();
    const { id } = await stage.publish({ user: 'alice' });
    const without = await nodes.open(nodes.here, stage.token());
    const stream = await stage.watch(nodes.here);
    await stage.mark({ items: [{ id, read: true }] });
    await untilTold(stream, { unread: 0 });
    expect(without.named('inbox')).toEqual([]);
  });
});
