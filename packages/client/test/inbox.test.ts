import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { ServiceError } from '../src/call.ts';
import { Inboxes } from '../src/inbox.ts';
import type { InboxEvent, Marks, Sync } from '../src/wire.ts';
import { Service, StandingClock } from './inbox-service.ts';

/** One tab of one user, and the service. Requests are answered at once, as long as nothing else is asked for. */
class Bench {
  readonly clock = new StandingClock();
  readonly service = new Service(() => this.clock.now());
  readonly asked: string[] = [];
  readonly sent: Marks[] = [];
  readonly reported: unknown[] = [];
  readonly shared: unknown[] = [];
  /** What the next requests are refused with. */
  readonly refusals: unknown[] = [];
  /** Answers are read at once, and come when they are released. */
  holds = false;
  slowLock = false;
  #last: InboxEvent | undefined;
  readonly held: (() => void)[] = [];
  text: string | null = null;
  inboxes = this.open();

  open(): Inboxes {
    this.inboxes = new Inboxes({
      call: (path, init) => this.#call(path, init),
      clock: this.clock,
      random: () => 0.5,
      queue: {
        read: () => this.text,
        write: (text) => void (this.text = text),
        exclusively: async (run) => {
          const result = await run();
          if (this.slowLock) await new Promise<void>((resolve) => this.held.push(resolve));
          return result;
        },
      },
      share: (queue) => this.shared.push(queue),
      report: (error) => this.reported.push(error),
    });
    return this.inboxes;
  }

  async #call<Result>(path: string, init?: RequestInit): Promise<Result> {
    const url = new URL(path, 'http://service');
    this.asked.push(url.pathname);
    if (this.refusals.length > 0) throw this.refusals.shift();
    const answer =
      url.pathname === '/v1/inbox'
        ? this.service.list(url.searchParams, true)
        : url.pathname === '/v1/inbox/counts'
          ? this.service.snapshot()
          : this.service.mark(this.#body(init));
    const read = structuredClone(answer) as Result;
    if (this.holds) await new Promise<void>((resolve) => this.held.push(resolve));
    return read;
  }

  /** What the service has read already comes. */
  async release(): Promise<void> {
    for (const come of this.held.splice(0)) come();
    await setImmediate();
  }

  #body(init?: RequestInit): Marks {
    const body = JSON.parse(init?.body as string) as Marks;
    this.sent.push(body);
    return body;
  }

  /** The stream is open, and has told how the inbox is. */
  stream(): void {
    const { head } = this.service;
    this.#last = undefined;
    this.inboxes.opened({ resume: 'undelivered', from: String(head), head: String(head) } as Sync);
    this.tell();
  }

  tell(): void {
    this.#last = this.service.event(this.#last, true, true);
    this.inboxes.told(this.#last);
  }
}

const nothing = (): void => undefined;
const REFUSED = {
  400: new ServiceError(400, 'position_unknown', 'no', undefined),
  429: new ServiceError(429, 'too_many_requests', 'later', 5_000),
};

test('nothing is loaded for whoever reads counts alone, or does not look', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  bench.inboxes.open({});
  bench.inboxes.counts.subscribe(nothing);
  bench.stream();
  await setImmediate();
  expect(bench.inboxes.counts.getSnapshot()).toEqual({ unread: 1, unseen: 1, exact: true });
  expect(bench.asked).toEqual([]);
});

test('it is used once somebody looks, and says so once', () => {
  const { inboxes } = new Bench();
  let uses = 0;
  inboxes.onUse = () => (uses += 1);
  const list = inboxes.open({});
  expect(inboxes.isUsed).toBe(false);
  list.subscribe(nothing);
  inboxes.counts.subscribe(nothing);
  expect([inboxes.isUsed, uses]).toEqual([true, 1]);
});

test('the same options give the same list, and an unchanged list the same snapshot', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({ filter: 'unread' });
  expect(bench.inboxes.open({ filter: 'unread', limit: 20 })).toBe(list);
  let calls = 0;
  list.subscribe(() => (calls += 1));
  bench.stream();
  await setImmediate();
  const snapshot = list.getSnapshot();
  expect(snapshot).toMatchObject({ items: [{ id: 'n1' }], loading: false, hasMore: false });
  const before = calls;
  bench.tell();
  await setImmediate();
  expect(list.getSnapshot()).toBe(snapshot);
  expect(calls).toBeGreaterThan(before);
});

test('what is said offline shows at once, in all tabs, outlives the page, and is sent as one request', async () => {
  const bench = new Bench();
  for (let n = 0; n < 3; n += 1) bench.service.publish('a');
  const list = bench.inboxes.open({ filter: 'unread' });
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();

  bench.refusals.push(...Array.from({ length: 9 }, () => new TypeError('no network')));
  list.markRead('n1');
  list.archive(['n2']);
  list.markSeen();
  expect(list.getSnapshot()).toMatchObject({ items: [{ id: 'n3' }], counts: { unread: 1, unseen: 0 } });
  await setImmediate();
  // Another tab with a bell alone has no lines, and knows what they were.
  const other = new Bench();
  other.inboxes.restore(structuredClone(bench.inboxes.state()));
  other.inboxes.adopt(structuredClone(bench.shared.at(-1)));
  expect(other.inboxes.counts.getSnapshot()).toEqual(list.getSnapshot().counts);
  expect(bench.sent).toEqual([]);

  const reloaded = bench.open();
  bench.refusals.length = 0;
  const again = reloaded.open({ filter: 'unread' });
  again.subscribe(nothing);
  bench.stream();
  expect(reloaded.counts.getSnapshot()).toEqual({ unread: 1, unseen: 0, exact: true });
  await setImmediate();
  expect(bench.sent).toEqual([
    {
      seenUpTo: '3',
      revision: '1',
      items: [
        { id: 'n1', read: true },
        { id: 'n2', archived: true },
      ],
    },
  ]);
  // The number is still that of before: what was sent is laid over it until the stream tells.
  expect(again.getSnapshot()).toMatchObject({ items: [{ id: 'n3' }], counts: { unread: 1, unseen: 0 } });
  bench.tell();
  expect(again.getSnapshot()).toMatchObject({ items: [{ id: 'n3' }], counts: { unread: 1, unseen: 0 } });
});

test('mark all leaves what came above its position', async () => {
  const bench = new Bench();
  for (let n = 0; n < 3; n += 1) bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.refusals.push(new TypeError('no network'));
  list.markAllRead();
  bench.inboxes.arrived(bench.service.publish('a'));
  expect(list.getSnapshot().counts).toEqual({ unread: 1, unseen: 1, exact: true });
  expect(list.getSnapshot().items.map(({ readAt }) => readAt !== null)).toEqual([false, true, true, true]);
  await setImmediate();
  bench.clock.advance(60_000);
  await setImmediate();
  expect(bench.service.snapshot().unread).toBe(1);
});

test('what is refused for good is dropped and reported, and what comes behind it is sent', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.refusals.push(new TypeError('no network'), REFUSED[400]);
  list.markAllRead();
  list.archive('n1');
  await setImmediate();
  bench.inboxes.online();
  await setImmediate();
  expect(bench.reported).toEqual([REFUSED[400]]);
  expect(bench.sent).toEqual([{ items: [{ id: 'n1', archived: true }] }]);
});

test('whoever asks too much waits as long as it is told', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.refusals.push(REFUSED[429]);
  list.markRead('n1');
  await setImmediate();
  bench.clock.advance(4_999);
  await setImmediate();
  expect(bench.sent).toEqual([]);
  bench.clock.advance(1_000);
  await setImmediate();
  expect(bench.sent).toEqual([{ items: [{ id: 'n1', read: true }] }]);
  expect(bench.reported).toEqual([]);
});

test('what expires goes by the clock', async () => {
  const bench = new Bench();
  bench.inboxes.counts.subscribe(nothing);
  const list = bench.inboxes.open({});
  let shown = -1;
  list.subscribe(() => (shown = list.getSnapshot().items.length));
  bench.stream();
  bench.inboxes.arrived(bench.service.publish('a', { expiresAt: bench.clock.now() + 5_000 }));
  await setImmediate();
  expect([shown, bench.inboxes.counts.getSnapshot()?.unread]).toEqual([1, 1]);
  bench.clock.advance(5_000);
  await setImmediate();
  expect([shown, bench.inboxes.counts.getSnapshot()?.unread]).toEqual([0, 0]);
});

test('without a stream the number is asked for each minute, and an older answer does not replace it', async () => {
  const bench = new Bench();
  bench.inboxes.counts.subscribe(nothing);
  bench.inboxes.withoutStream(true);
  await setImmediate();
  bench.service.publish('a');
  bench.clock.advance(60_000);
  await setImmediate();
  expect(bench.inboxes.counts.getSnapshot()).toEqual({ unread: 1, unseen: 1, exact: true });
  expect(bench.asked).toEqual(['/v1/inbox/counts', '/v1/inbox/counts']);
});

test('another user sees nothing of what there was, and what was queued is not sent', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.refusals.push(new TypeError('no network'));
  list.markRead('n1');
  await setImmediate();
  bench.inboxes.wipe();
  expect(list.getSnapshot()).toMatchObject({ items: [], counts: undefined, loading: true });
  bench.clock.advance(60_000);
  await setImmediate();
  expect(bench.sent).toEqual([]);
  expect(bench.text).toBeNull();
});

test('an id that is not in the inbox goes from the lists', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.service.floor = 1;
  list.markRead('n1');
  await setImmediate();
  expect(list.getSnapshot().items).toEqual([]);
});

test('a subscriber that throws is reported, and the others are told', async () => {
  const bench = new Bench();
  const list = bench.inboxes.open({});
  const fault = new Error('of the app');
  let told = 0;
  list.subscribe(() => {
    throw fault;
  });
  list.subscribe(() => (told += 1));
  await setImmediate();
  expect(bench.reported).toContain(fault);
  expect(told).toBeGreaterThan(0);
});

test('a stream that begins behind what was loaded has the list loaded anew', async () => {
  const bench = new Bench();
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  await setImmediate();
  bench.service.publish('a');
  bench.stream();
  await setImmediate();
  expect(list.getSnapshot().items).toMatchObject([{ id: 'n1' }]);
  // And one that does not, has not.
  expect(bench.asked).toEqual(['/v1/inbox', '/v1/inbox']);
  bench.inboxes.closed();
  list.reload();
  await setImmediate();
  bench.stream();
  await setImmediate();
  expect(bench.asked.length).toBe(3);
});

test('an inbox that went back in time has the list loaded anew', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  bench.service.mark({ items: [{ id: 'n1', read: true }] });
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.service.marks.clear();
  bench.service.revision = 1;
  bench.inboxes.told({ ...bench.service.snapshot(), since: '1', changes: [] });
  await setImmediate();
  expect(list.getSnapshot().items).toMatchObject([{ id: 'n1', readAt: null }]);
});

test('what is told while the list is loaded is in it afterwards', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  bench.stream();
  bench.holds = true;
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  await setImmediate();
  bench.service.mark({ items: [{ id: 'n1', read: true }] });
  bench.tell();
  await bench.release();
  const { items, loading } = list.getSnapshot();
  expect(items.map(({ readAt }) => readAt !== null)).toEqual([true]);
  expect(loading).toBe(false);
  expect(bench.asked).toEqual(['/v1/inbox']);
});

test('a page that is older than what was told meanwhile is asked for again', async () => {
  const bench = new Bench();
  for (let n = 0; n < 2; n += 1) bench.service.publish('a');
  const list = bench.inboxes.open({ limit: 1 });
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.holds = true;
  const more = list.loadMore();
  await setImmediate();
  bench.service.mark({ items: [{ id: 'n1', read: true }] });
  bench.tell();
  await bench.release();
  await bench.release();
  await more;
  expect(list.getSnapshot().items.map(({ readAt }) => readAt !== null)).toEqual([false, true]);
});

test('of two requests only the last one counts', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  bench.holds = true;
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  await setImmediate();
  bench.service.mark({ items: [{ id: 'n1', read: true }] });
  list.reload();
  await setImmediate();
  const [early, late] = bench.held.splice(0);
  late?.();
  await setImmediate();
  early?.();
  await setImmediate();
  expect(list.getSnapshot().items.map(({ readAt }) => readAt !== null)).toEqual([true]);
});

test('what is said while the lock of the queue is given back is sent', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  bench.slowLock = true;
  list.markRead('n1');
  await setImmediate();
  list.archive('n1');
  await bench.release();
  await bench.release();
  expect(bench.sent).toEqual([
    { items: [{ id: 'n1', read: true }] },
    { items: [{ id: 'n1', archived: true }] },
  ]);
});

test('without a stream a late answer does not replace a larger one', async () => {
  const bench = new Bench();
  bench.holds = true;
  bench.inboxes.counts.subscribe(nothing);
  bench.inboxes.withoutStream(true);
  bench.service.publish('a');
  bench.clock.advance(60_000);
  const [early, late] = bench.held.splice(0);
  late?.();
  await setImmediate();
  early?.();
  await setImmediate();
  expect(bench.inboxes.counts.getSnapshot()?.unread).toBe(1);
});

test('with a stream an answer gives no number', async () => {
  const bench = new Bench();
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  // It expires before the stream brings it, and so it never does.
  bench.service.publish('a', { expiresAt: bench.clock.now() + 1_000 });
  list.reload();
  await setImmediate();
  bench.clock.advance(1_000);
  await setImmediate();
  expect(bench.inboxes.counts.getSnapshot()?.unread).toBe(0);
});

test('a line that was loaded behind the number says nothing of what the number has', async () => {
  const bench = new Bench();
  bench.service.publish('a');
  const list = bench.inboxes.open({});
  list.subscribe(nothing);
  bench.stream();
  await setImmediate();
  // Another device has read it and the number is not told of it yet; then this one says unread.
  bench.service.mark({ items: [{ id: 'n1', read: true }] });
  list.reload();
  await setImmediate();
  bench.refusals.push(new TypeError('no network'));
  list.markUnread('n1');
  expect(bench.inboxes.counts.getSnapshot()?.unread).toBe(1);
});
