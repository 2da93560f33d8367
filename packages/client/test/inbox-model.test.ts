import { setImmediate } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Inboxes, type Inbox, type InboxOptions } from '../src/inbox.ts';
import type { Filter, InboxEvent, Marks } from '../src/wire.ts';
import { Service, StandingClock, type Entry } from './inbox-service.ts';

/*
 * One user with two devices. The first has two tabs that share a stream, the second loses its stream now and then for good and asks.
 * The network and the clock are steps of a history: answers and events come late, in another order, or never. Whatever the
 * history, at rest every list and every number is that of the service.
 */

const HOUR_MS = 3_600_000;
const LISTS: readonly InboxOptions[] = [
  { limit: 2 },
  { filter: 'unread', limit: 3 },
  { filter: 'unseen', type: 'a', limit: 2 },
  { filter: 'archived', limit: 2 },
];

const shareOf = <Item>(items: readonly Item[], share: number): Item | undefined =>
  items[Math.floor((share / 100) * items.length)];

interface Request {
  readonly device: Device;
  /** The service does what is asked, now. Nothing: it has done so. */
  run(): void;
  answer(): void;
  fail(): void;
}

interface Tab {
  readonly inboxes: Inboxes;
  readonly lists: Inbox[];
  readonly stop: (() => void)[];
  /** Its tab is closed: what comes for it still is for nobody. */
  isClosed: boolean;
}

interface Connection {
  /** All up to here was brought. */
  position: number;
  readonly target: number;
  /** Read by the service, and on their way. */
  readonly events: InboxEvent[];
  last: InboxEvent | undefined;
  isDue: boolean;
  isRenewed: boolean;
  /** As of the last event. */
  floor: number;
}

class Device {
  readonly tabs: Tab[] = [];
  connection: Connection | undefined;
  lastId = 0;
  isOnline = true;
  isLimited = false;
  hasNews = true;
  tokens = 0;
  text: string | null = null;
  #lock = Promise.resolve();

  constructor(
    readonly run: Run,
    tabs: number,
  ) {
    while (this.tabs.length < tabs) this.openTab();
  }

  openTab(): void {
    const tab: Tab = { lists: [], stop: [], isClosed: false } as unknown as Tab;
    const inboxes = new Inboxes({
      call: (path, init) => this.run.request(this, path, init),
      clock: this.run.clock,
      random: () => 0.5,
      queue: {
        read: () => this.text,
        write: (text) => {
          if (!tab.isClosed) this.text = text;
        },
        exclusively: async (work) => {
          const before = this.#lock;
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#lock = promise;
          await before;
          try {
            return await work();
          } finally {
            resolve();
          }
        },
      },
      share: (queue) => {
        if (tab.isClosed) return;
        for (const other of this.tabs) if (other !== tab) other.inboxes.adopt(structuredClone(queue));
      },
      report: (error) => this.run.faults.push(error),
    });
    Object.assign(tab, { inboxes });
    inboxes.hasToken(String(this.tokens));
    const [first] = this.tabs;
    if (first !== undefined) inboxes.restore(structuredClone(first.inboxes.state()));
    inboxes.withoutStream(this.isLimited);
    this.tabs.push(tab);
    tab.stop.push(inboxes.counts.subscribe(() => undefined));
    for (const options of LISTS) {
      const list = inboxes.open(options);
      tab.lists.push(list);
      tab.stop.push(list.subscribe(() => this.run.look(list)));
    }
  }

  /** The page is loaded anew, in the last tab. */
  reload(): void {
    const tab = this.tabs.pop();
    if (tab === undefined) return;
    tab.isClosed = true;
    for (const stop of tab.stop) stop();
    if (this.tabs.length === 0) this.close();
    // What it was answered is for nobody, and a lock that it had is free.
    this.run.drop(this);
    this.#lock = Promise.resolve();
    this.openTab();
  }

  each(tell: (inboxes: Inboxes) => void): void {
    for (const { inboxes } of this.tabs) tell(inboxes);
  }

  open(resume: 'exact' | 'undelivered' | 'latest'): void {
    if (!this.isOnline || this.connection !== undefined) return;
    const { head } = this.run.service;
    const { floor } = this.run.service;
    const asked = resume === 'latest' ? head : resume === 'exact' ? this.lastId : 0;
    const from = Math.max(asked, floor);
    this.connection = {
      ...{ position: from, target: head, events: [], last: undefined },
      ...{ isDue: false, isRenewed: false, floor },
    };
    this.isLimited = false;
    const sync = { resume: asked < floor ? 'gap' : resume, from: String(asked), oldest: String(floor) };
    this.each((inboxes) => inboxes.opened(sync as Parameters<Inboxes['opened']>[0]));
    if (asked < floor) this.each((inboxes) => inboxes.gap(sync));
    this.each((inboxes) => inboxes.withoutStream(false));
    this.deliver(0);
  }

  close(): void {
    if (this.connection === undefined) return;
    this.connection = undefined;
    this.each((inboxes) => inboxes.closed());
  }

  limit(): void {
    this.close();
    this.isLimited = true;
    this.each((inboxes) => inboxes.withoutStream(true));
  }

  deliver(most: number): void {
    const { connection } = this;
    if (connection === undefined) return;
    const { floor, log } = this.run.service;
    if (connection.position < floor) {
      const gap = { from: String(connection.position), oldest: String(floor) };
      this.each((inboxes) => inboxes.gap(gap));
      connection.position = floor;
      connection.isDue = true;
    }
    const left = log.filter(
      ({ position, to }) => Number(position) > connection.position && (this.hasNews || !('topic' in to)),
    );
    for (const entry of left.slice(0, most)) {
      connection.position = Number(entry.position);
      if (this.run.isThere(entry)) this.each((inboxes) => inboxes.arrived(entry));
    }
    if (most >= left.length) connection.position = Math.max(connection.position, this.run.service.head);
    this.lastId = Math.max(this.lastId, connection.position);
    if (connection.position >= connection.target && connection.last === undefined) connection.isDue = true;
  }

  /** The service reads how the inbox is. */
  read(): void {
    const { connection } = this;
    if (connection === undefined || !connection.isDue || connection.position < connection.target) return;
    connection.isDue = false;
    const { floor } = this.run.service;
    const isSameList = !connection.isRenewed && floor === connection.floor;
    connection.last = this.run.service.event(connection.last, isSameList, this.hasNews);
    connection.isRenewed = false;
    connection.floor = floor;
    connection.events.push(connection.last);
  }

  /** Another token, of other topics. */
  renew(): void {
    this.hasNews = !this.hasNews;
    this.tokens += 1;
    this.each((inboxes) => inboxes.hasToken(String(this.tokens)));
    if (this.connection !== undefined) this.connection.isDue = this.connection.isRenewed = true;
  }

  /** The next event that was read. */
  tell(): void {
    const event = this.connection?.events.shift();
    if (event !== undefined) this.each((inboxes) => inboxes.told(event));
  }
}

type Step =
  | { kind: 'publish'; type: string; hours: number | null; isSignal: boolean; isNews: boolean }
  | {
      kind: 'item';
      device: number;
      tab: number;
      list: number;
      share: number;
      verb: 'markRead' | 'markUnread' | 'archive' | 'unarchive';
    }
  | {
      kind: 'all';
      device: number;
      tab: number;
      list: number;
      verb: 'markAllRead' | 'archiveAll' | 'markSeen';
    }
  | { kind: 'more'; device: number; tab: number; list: number; isAnew: boolean }
  | { kind: 'answer'; share: number; fate: 'answered' | 'done' | 'lost' | 'unanswered' }
  | { kind: 'open'; device: number; resume: 'exact' | 'undelivered' | 'latest' }
  | { kind: 'close'; device: number }
  | { kind: 'limit'; device: number }
  | { kind: 'reload'; device: number }
  | { kind: 'renew'; device: number }
  | { kind: 'offline'; device: number }
  | { kind: 'online'; device: number }
  | { kind: 'deliver'; device: number; most: number }
  | { kind: 'read'; device: number }
  | { kind: 'tell'; device: number }
  | { kind: 'retain'; by: number }
  | { kind: 'hour' }
  | { kind: 'second' }
  | { kind: 'rest' };

class Run {
  readonly clock = new StandingClock();
  readonly service = new Service(() => this.clock.now());
  readonly faults: unknown[] = [];
  readonly requests: Request[] = [];
  readonly devices = [new Device(this, 2), new Device(this, 1)];

  isThere = ({ expiresAt }: Entry): boolean => expiresAt === null || Date.parse(expiresAt) > this.clock.now();

  async request<Result>(device: Device, path: string, init?: RequestInit): Promise<Result> {
    const url = new URL(path, 'http://service');
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const forget = (): void => void this.requests.splice(this.requests.indexOf(request), 1);
    let answer: unknown;
    const { hasNews } = device;
    const request: Request = {
      device,
      run: () => {
        answer ??= this.#answer(url, hasNews, init);
      },
      answer: () => {
        request.run();
        forget();
        resolve(structuredClone(answer));
      },
      fail: () => {
        forget();
        reject(new TypeError('no network'));
      },
    };
    this.requests.push(request);
    if (!device.isOnline) request.fail();
    return (await promise) as Result;
  }

  #answer(url: URL, hasNews: boolean, init?: RequestInit): unknown {
    if (url.pathname === '/v1/inbox') return this.service.list(url.searchParams, hasNews);
    if (url.pathname === '/v1/inbox/counts') return this.service.snapshot(hasNews);
    const before = this.service.revision;
    const answer = this.service.mark(JSON.parse(init?.body as string) as Marks, hasNews);
    if (this.service.revision > before)
      for (const { connection } of this.devices) if (connection !== undefined) connection.isDue = true;
    return answer;
  }

  /** A tab that is closed hears of no answer; those of its device are asked again. */
  drop(device: Device): void {
    for (const request of this.requests.filter((one) => one.device === device)) request.fail();
  }

  /** Whatever is shown, at any time. */
  look(list: Inbox): void {
    const { items } = list.getSnapshot();
    const positions = items.map(({ position }) => Number(position));
    if (positions.some((position, n) => n > 0 && position >= (positions[n - 1] ?? 0)))
      this.faults.push(new Error(`out of order, or twice: ${positions.join(' ')}`));
    if (list.getSnapshot().items !== items)
      this.faults.push(new Error('another object, and nothing changed'));
  }

  async apply(step: Step): Promise<void> {
    this.#do(step);
    await setImmediate();
    if (step.kind === 'rest') await this.rest();
    if (this.faults.length > 0) throw this.faults[0];
  }

  #do(step: Step): void {
    if (step.kind === 'publish')
      return void this.service.publish(step.type, {
        expiresAt: step.hours === null ? null : this.clock.now() + step.hours * HOUR_MS,
        isSignal: step.isSignal,
        isNews: step.isNews,
      });
    if (step.kind === 'hour') return this.clock.advance(HOUR_MS);
    if (step.kind === 'second') return this.clock.advance(1_000);
    if (step.kind === 'retain') {
      this.service.floor = Math.min(this.service.head, this.service.floor + step.by);
      return;
    }
    if (step.kind === 'rest') return;
    if (step.kind === 'answer') return this.#fate(step);
    const device = this.devices[step.device];
    if (device === undefined) throw new Error('there is no such device');
    if (step.kind === 'item' || step.kind === 'all' || step.kind === 'more') return this.#use(device, step);
    if (step.kind === 'open') return device.open(step.resume);
    if (step.kind === 'deliver') return device.deliver(step.most);
    if (step.kind === 'offline') {
      device.isOnline = false;
      device.close();
      for (const request of this.requests.filter((one) => one.device === device)) request.fail();
    } else if (step.kind === 'online') {
      device.isOnline = true;
      device.each((inboxes) => inboxes.online());
    } else device[step.kind]();
  }

  #fate({ share, fate }: Extract<Step, { kind: 'answer' }>): void {
    const request = shareOf(this.requests, share);
    if (fate === 'answered') request?.answer();
    else if (fate === 'lost') request?.fail();
    else request?.run();
    if (fate === 'unanswered') request?.fail();
  }

  #use(device: Device, step: Extract<Step, { kind: 'item' | 'all' | 'more' }>): void {
    const tab = device.tabs[step.tab % device.tabs.length];
    const list = tab?.lists[step.list];
    if (list === undefined) throw new Error('there is no such list');
    if (step.kind === 'all') return list[step.verb]();
    if (step.kind === 'more') return step.isAnew ? list.reload() : void list.loadMore();
    const item = shareOf(list.getSnapshot().items, step.share);
    if (item === undefined) return;
    list[step.verb](item.id);
    // At once, in every tab and list that has it.
    for (const one of device.tabs)
      for (const other of one.lists) {
        const { readAt, archivedAt } =
          other.getSnapshot().items.find(({ id }) => id === item.id) ?? ({} as Partial<typeof item>);
        const said = { markRead: readAt, archive: archivedAt, markUnread: readAt, unarchive: archivedAt }[
          step.verb
        ];
        const is = step.verb === 'markRead' || step.verb === 'archive';
        if (said !== undefined && (said !== null) !== is)
          this.faults.push(new Error(`${step.verb} of ${item.id} does not show at once`));
      }
  }

  /** Everything comes. */
  async rest(): Promise<void> {
    for (const device of this.devices) {
      if (!device.isOnline) {
        device.isOnline = true;
        device.each((inboxes) => inboxes.online());
      }
      if (!device.isLimited) device.open('exact');
    }
    let waits = 0;
    let rounds = 0;
    for (let quiet = 0; quiet < 2;) {
      await setImmediate();
      const before = this.requests.length;
      for (const request of this.requests.slice()) request.answer();
      await setImmediate();
      let told = 0;
      for (const device of this.devices) {
        device.deliver(Infinity);
        const { connection } = device;
        // What expires is looked at now and then.
        if (connection !== undefined && connection.floor < this.service.floor) connection.isDue = true;
        if (connection?.last?.nextExpiry && Date.parse(connection.last.nextExpiry) <= this.clock.now())
          connection.isDue = true;
        device.read();
        told += connection?.events.length ?? 0;
        for (const _ of connection?.events.slice() ?? []) device.tell();
      }
      await setImmediate();
      quiet = before + told + this.requests.length === 0 ? quiet + 1 : 0;
      // Waits for another try are over, and then for the next poll.
      if (quiet === 1 && waits < 2) {
        this.clock.advance(60_000);
        waits += 1;
        quiet = 0;
      }
      if ((rounds += 1) > 300) throw new Error('it does not come to rest');
    }
    for (const [n, device] of this.devices.entries())
      for (const [m, { inboxes, lists }] of device.tabs.entries()) {
        const { unread, unseen, exact } = this.service.snapshot(device.hasNews);
        const where = `device ${n}, tab ${m}`;
        expect([where, inboxes.counts.getSnapshot()]).toEqual([where, { unread, unseen, exact }]);
        for (const [index, list] of lists.entries())
          this.#compare(`${where}, list ${index}`, list, LISTS[index] ?? {}, device.hasNews);
        expect(JSON.parse(device.text ?? '{"queued":{"marks":[],"items":{}}}').queued).toEqual({
          marks: [],
          items: {},
        });
      }
  }

  #compare(
    where: string,
    list: Inbox,
    { filter = 'all', type }: { filter?: Filter; type?: string },
    hasNews: boolean,
  ): void {
    const { items: listed, hasMore, loading, error } = list.getSnapshot();
    // What retention took while there was no stream may be listed for longer than it is kept.
    const items = listed.filter(({ position }) => Number(position) > this.service.floor);
    const all = this.service.matching(filter, type, hasNews);
    const shown = ({ id, seen, readAt, archivedAt }: (typeof all)[number]) => ({
      id,
      seen,
      read: readAt !== null,
      archived: archivedAt !== null,
    });
    const there = hasMore ? all.slice(0, items.length) : all;
    expect([where, items.map(shown)]).toEqual([where, there.map(shown)]);
    expect({ where, loading, error }).toEqual({ where, loading: false, error: undefined });
    if (listed.length === 0) expect([where, hasMore]).toEqual([where, false]);
  }
}

const share = fc.nat({ max: 99 });
const device = fc.nat({ max: 1 });
const tab = fc.nat({ max: 1 });
const list = fc.nat({ max: LISTS.length - 1 });
const rarely = fc.nat({ max: 9 }).map((n) => n === 0);

const step = <Kind extends Step['kind']>(
  weight: number,
  kind: Kind,
  fields: {
    [Field in keyof Omit<Extract<Step, { kind: Kind }>, 'kind'>]: fc.Arbitrary<
      Extract<Step, { kind: Kind }>[Field]
    >;
  },
) => ({
  weight,
  arbitrary: fc.record({ kind: fc.constant(kind), ...fields }) as unknown as fc.Arbitrary<Step>,
});

const anyStep = fc.oneof(
  step(9, 'publish', {
    type: fc.constantFrom('a', 'b'),
    hours: fc.option(fc.integer({ min: 1, max: 2 }), { nil: null, freq: 2 }),
    isSignal: rarely,
    isNews: fc.boolean(),
  }),
  step(9, 'item', {
    device,
    tab,
    list,
    share,
    verb: fc.constantFrom('markRead', 'markUnread', 'archive', 'unarchive'),
  }),
  step(3, 'all', { device, tab, list, verb: fc.constantFrom('markAllRead', 'archiveAll', 'markSeen') }),
  step(4, 'more', { device, tab, list, isAnew: rarely }),
  step(14, 'answer', {
    share,
    fate: fc.constantFrom('answered', 'answered', 'answered', 'done', 'done', 'lost', 'unanswered'),
  }),
  step(2, 'open', { device, resume: fc.constantFrom('exact', 'exact', 'undelivered', 'latest') }),
  step(9, 'deliver', { device, most: fc.integer({ min: 1, max: 4 }) }),
  step(8, 'read', { device }),
  step(8, 'tell', { device }),
  step(1, 'close', { device }),
  step(1, 'limit', { device: fc.constant(1) }),
  step(1, 'reload', { device }),
  step(1, 'offline', { device }),
  step(1, 'online', { device }),
  step(1, 'renew', { device }),
  step(1, 'retain', { by: fc.integer({ min: 1, max: 4 }) }),
  step(1, 'hour', {}),
  step(2, 'second', {}),
  step(2, 'rest', {}),
);

test('whatever happens, at rest every list and every number is that of the service', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(anyStep, { maxLength: 40, size: 'max' }), async (steps) => {
      const run = new Run();
      await run.apply({ kind: 'rest' });
      for (const each of steps) await run.apply(each);
      await run.apply({ kind: 'rest' });
    }),
    { numRuns: Number(process.env['RUNS'] ?? 150) },
  );
});
