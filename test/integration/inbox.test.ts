import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { randomUUIDv7 } from 'node:crypto';
import type { TenantId } from '../../src/core/identifiers.ts';
import { asPosition, positionOfTime, START } from '../../src/core/position.ts';
import { FILTERS, InboxStore, type InboxItem, type Marking } from '../../src/inbox/inbox.store.ts';
import { deviceId, ReceiptsBench, topic, userId, type ReceiptsNode } from '../support/receipts.ts';

/*
 * What users see, read and archive in random order, with publishes, expiry and retention between, against a model that is
 * small enough to be right by reading: it keeps every notification and every mark, and counts by looking at each.
 */

let bench: ReceiptsBench;
let node: ReceiptsNode;
let store: InboxStore;

beforeAll(async () => {
  bench = await ReceiptsBench.open();
  node = bench.node();
  await node.partitions.ensureCovering(START);
  store = new InboxStore(node.pools.tenant, node.partitions);
});
afterAll(async () => {
  await bench.close();
});

const USERS = ['alice', 'bob'] as const;
type User = (typeof USERS)[number];
const TOPICS: Readonly<Record<User, readonly string[]>> = { alice: ['news', 'sport'], bob: ['news'] };
const reader = (user: User) => ({ user: userId(user), topics: TOPICS[user].map(topic) });

interface Published {
  readonly id: string;
  readonly position: number;
  /** A user, a topic with '#', or everyone. */
  readonly to: string;
  readonly type: string;
  readonly inbox: boolean;
  expired: boolean;
}

interface Mark {
  read?: boolean;
  readAt: number;
  archived?: boolean;
  archivedAt: number;
}

/** What the statements must do. Revisions are counted from 1: those of the database stand for them. */
class ModelInbox {
  seen = 0;
  read = 0;
  archived = 0;
  revision = 0;
  readonly marks = new Map<number, Mark>();

  constructor(
    readonly since: number,
    before: number,
  ) {
    this.seen = before;
    this.read = before;
  }

  isRead = (p: number) => this.marks.get(p)?.read ?? p <= this.read;
  isArchived = (p: number) => this.marks.get(p)?.archived ?? p <= this.archived;
  isSeen = (p: number) => p <= this.seen || this.marks.get(p)?.read !== undefined;
}

interface Say {
  readonly seen: number | undefined;
  readonly read: number | undefined;
  readonly archived: number | undefined;
  readonly items: readonly { n: number; read: boolean | undefined; archived: boolean | undefined }[];
  /** How many revisions ago the user looked; undefined: it is not said. */
  readonly ago: number | undefined;
}

type Step =
  | { kind: 'publish'; to: string; type: string; inbox: boolean; expired: boolean }
  | { kind: 'expire'; n: number }
  | { kind: 'retain'; by: number }
  | { kind: 'confirm'; user: User; upTo: number }
  | { kind: 'say'; user: User; say: Say };

const share = fc.integer({ min: 0, max: 100 });
const maybe = <Value>(value: fc.Arbitrary<Value>) => fc.option(value, { nil: undefined, freq: 2 });
const who = fc.constantFrom(...USERS);
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('publish' as const),
      to: fc.constantFrom('alice', 'alice', 'bob', '#news', '#sport', '#none', '*'),
      type: fc.constantFrom('order.shipped', 'order.paid', 'ordering', 'news'),
      inbox: fc.integer({ min: 0, max: 9 }).map((n) => n > 0),
      expired: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('expire' as const), n: share }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('retain' as const), by: fc.integer({ min: 0, max: 3 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('confirm' as const), user: who, upTo: share }) },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('say' as const),
      user: who,
      say: fc.record({
        seen: maybe(share),
        read: maybe(share),
        archived: maybe(share),
        items: fc.uniqueArray(
          fc.record({ n: share, read: maybe(fc.boolean()), archived: maybe(fc.boolean()) }),
          { maxLength: 3, selector: ({ n }) => n },
        ),
        ago: maybe(fc.integer({ min: 0, max: 4 })),
      }),
    }),
  },
);

class Run {
  readonly published: Published[] = [];
  readonly inboxes = new Map<User, ModelInbox>();
  /** The revisions of the database, by those of the model. */
  readonly revisions = new Map<User, number[]>();
  readonly confirmed = new Map<User, number>();
  head = 0;
  floor = 0;

  constructor(readonly tenantId: TenantId) {}

  #place = (part: number, of: number) => Math.round((part / 100) * of);

  isIn(user: User, { position, to, inbox, expired }: Published): boolean {
    const { since } = this.inboxes.get(user) ?? { since: 0 };
    if (!inbox || expired || position <= this.floor) return false;
    if (to === user) return true;
    return position > since && (to === '*' || TOPICS[user].some((name) => to === `#${name}`));
  }

  async apply(step: Step): Promise<void> {
    switch (step.kind) {
      case 'publish': {
        this.head += 2;
        const { to, type, inbox, expired } = step;
        const one = { id: randomUUIDv7(), position: this.head, to, type, inbox, expired };
        this.published.push(one);
        await bench.database.query(
          `insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at, inbox)
           values ($1, $2, $3, $4, $5, $6, '{}', 2, 'p', $7, $8)`,
          [
            this.tenantId,
            one.position,
            one.id,
            /^\w/.test(to) ? to : null,
            to.startsWith('#') ? to.slice(1) : null,
            type,
            expired ? new Date(0) : one.position % 3 === 0 ? new Date(Date.now() + 86_400_000) : null,
            inbox,
          ],
        );
        await bench.setStream(this.tenantId, { head: this.head });
        return;
      }
      case 'expire': {
        const one = this.published[this.#place(step.n, this.published.length)];
        if (one === undefined) return;
        one.expired = true;
        await bench.database.query(
          'update notifications set expires_at = now() where tenant_id = $1 and id = $2',
          [this.tenantId, one.id],
        );
        return;
      }
      case 'retain':
        this.floor = Math.min(this.head, this.floor + step.by);
        await bench.setStream(this.tenantId, { floor: this.floor });
        return;
      case 'confirm': {
        const upTo = this.#place(step.upTo, this.head);
        if (upTo <= Math.max(this.confirmed.get(step.user) ?? 0, this.floor)) return;
        this.confirmed.set(step.user, upTo);
        await bench.setCursor(this.tenantId, step.user, 'phone', 0);
        await node.acks.acknowledge(this.tenantId, [
          { user: userId(step.user), device: deviceId('phone'), upTo: asPosition(upTo), topics: [] },
        ]);
        return;
      }
      case 'say':
        await this.#say(step.user, step.say);
    }
  }

  async begin(user: User): Promise<ModelInbox> {
    const known = this.inboxes.get(user);
    if (known !== undefined) return known;
    await store.begin(this.tenantId, [{ user: userId(user) }]);
    const confirmed = this.confirmed.get(user);
    const inbox = new ModelInbox(confirmed ?? this.head, confirmed ?? 0);
    this.inboxes.set(user, inbox);
    const [snapshot] = await store.snapshots(this.tenantId, [reader(user)]);
    this.revisions.set(user, [snapshot?.revision ?? 0]);
    return inbox;
  }

  async #say(user: User, say: Say): Promise<void> {
    const inbox = await this.begin(user);
    const revisions = this.revisions.get(user) ?? [];
    const position = (part: number | undefined) =>
      part === undefined ? undefined : asPosition(this.#place(part, this.head));
    const named = new Map(
      say.items.flatMap(({ n, ...what }) => {
        const one = this.published[this.#place(n, this.published.length - 1)];
        return one === undefined ? [] : [[one, what] as const];
      }),
    );
    const known = say.ago === undefined ? undefined : Math.max(0, inbox.revision - say.ago);
    const marking: Marking = {
      ...reader(user),
      seenUpTo: position(say.seen),
      readUpTo: position(say.read),
      archivedUpTo: position(say.archived),
      items: [...named].map(([{ id }, what]) => ({ id, ...what })),
      revision: known === undefined ? undefined : asPosition(revisions[known] ?? 0),
    };
    const [result] = await store.mark(this.tenantId, [marking]);
    const { unknown, changed } = this.#expect(user, inbox, marking, named, known ?? Infinity);
    expect(result).toEqual({ changed, unknown: expect.arrayContaining(unknown) });
    expect(result).toHaveProperty('unknown.length', unknown.length);
    const [snapshot] = await store.snapshots(this.tenantId, [reader(user)]);
    const now = snapshot?.revision ?? 0;
    if (!changed) return expect(now).toBe(revisions.at(-1));
    expect(now).toBeGreaterThan(revisions.at(-1) ?? 0);
    revisions.push(now);
  }

  /** Does to the model what was said, and tells what the answer is. */
  #expect(
    user: User,
    inbox: ModelInbox,
    { seenUpTo = START, readUpTo = START, archivedUpTo = START }: Marking,
    named: ReadonlyMap<Published, Pick<Say['items'][number], 'read' | 'archived'>>,
    known: number,
  ): { unknown: string[]; changed: boolean } {
    const next = inbox.revision + 1;
    let changed = false;
    const change = () => (changed = true);
    if (Math.max(seenUpTo, readUpTo) > inbox.seen) change();
    if (readUpTo > inbox.read || archivedUpTo > inbox.archived) change();
    inbox.seen = Math.max(inbox.seen, seenUpTo, readUpTo);
    inbox.read = Math.max(inbox.read, readUpTo);
    inbox.archived = Math.max(inbox.archived, archivedUpTo);
    for (const [position, mark] of inbox.marks) {
      if (position <= readUpTo && mark.read === false && mark.readAt <= known) {
        Object.assign(mark, { read: true, readAt: next });
        change();
      }
      if (position <= archivedUpTo && mark.archived === false && mark.archivedAt <= known) {
        Object.assign(mark, { archived: true, archivedAt: next });
        change();
      }
    }
    const unknown: string[] = [];
    for (const [one, { read, archived }] of named) {
      const { position } = one;
      if (!this.isIn(user, one)) {
        unknown.push(one.id);
        continue;
      }
      const mark = inbox.marks.get(position) ?? { readAt: 0, archivedAt: 0 };
      const saysRead = read !== undefined && mark.read !== read && !(read && inbox.isRead(position));
      const saysArchived =
        archived !== undefined && mark.archived !== archived && !(archived && inbox.isArchived(position));
      if (saysRead) Object.assign(mark, { read, readAt: next });
      if (saysArchived) Object.assign(mark, { archived, archivedAt: next });
      if (!saysRead && !saysArchived) continue;
      inbox.marks.set(position, mark);
      change();
    }
    if (changed) inbox.revision = next;
    return { unknown, changed };
  }

  async check(): Promise<void> {
    for (const user of USERS) await this.begin(user);
    const snapshots = await store.snapshots(this.tenantId, USERS.map(reader));
    for (const [index, user] of USERS.entries()) {
      const inbox = await this.begin(user);
      const there = this.published.filter((one) => this.isIn(user, one));
      const kept = there.filter(({ position }) => !inbox.isArchived(position));
      const lists: Record<(typeof FILTERS)[number], Published[]> = {
        all: kept,
        unread: kept.filter(({ position }) => !inbox.isRead(position)),
        unseen: kept.filter(({ position }) => !inbox.isSeen(position)),
        archived: there.filter(({ position }) => inbox.isArchived(position)),
      };
      const expiring = [...lists.unread, ...lists.unseen].filter(({ position }) => position % 3 === 0);
      expect(snapshots[index]).toMatchObject({
        unread: lists.unread.length,
        unseen: lists.unseen.length,
        exact: true,
        seenUpTo: inbox.seen,
        readUpTo: inbox.read,
        archivedUpTo: inbox.archived,
        position: this.head,
      });
      // What is archived or read by a mark may be looked at once too early, and never too late.
      if (expiring.length > 0) expect(snapshots[index]?.nextExpiry).not.toBeNull();
      for (const filter of FILTERS) {
        const shown = await this.#list(user, filter, undefined);
        expect(
          shown.map(({ id, seen, readAt, archivedAt }) => [id, seen, readAt !== null, archivedAt !== null]),
        ).toEqual(
          lists[filter]
            .map(({ id, position: p }) => [id, inbox.isSeen(p), inbox.isRead(p), inbox.isArchived(p)])
            .toReversed(),
        );
      }
      const orders = await this.#list(user, 'all', 'order.');
      expect(orders.map(({ id }) => id)).toEqual(
        kept
          .filter(({ type }) => type.startsWith('order.'))
          .map(({ id }) => id)
          .toReversed(),
      );
    }
  }

  /** In pages of two. */
  async #list(user: User, filter: (typeof FILTERS)[number], type: string | undefined): Promise<InboxItem[]> {
    const items: InboxItem[] = [];
    for (let before: number | undefined = Number.MAX_SAFE_INTEGER; before !== undefined;) {
      const page = await store.list(this.tenantId, reader(user), {
        filter,
        type,
        before: asPosition(before),
        limit: 2,
      });
      items.push(...page.items);
      before = page.next;
    }
    return items;
  }
}

test('whatever is said in whatever order, numbers and lists are those of the model', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(anyStep, { minLength: 1, maxLength: 40, size: 'max' }), async (steps) => {
      const run = new Run(await bench.tenant({ head: 0 }));
      for (const each of steps) await run.apply(each);
      await run.check();
    }),
    { numRuns: 50 },
  );
});

/** An inbox of alice with two notifications, of which she has been shown both. */
async function twoShown() {
  const run = new Run(await bench.tenant({ head: 0 }));
  await run.begin('alice');
  for (let n = 0; n < 2; n += 1)
    await run.apply({ kind: 'publish', to: 'alice', type: 't', inbox: true, expired: false });
  const [first, second] = run.published;
  if (first === undefined || second === undefined) throw new Error('two were published');
  const { tenantId } = run;
  const snapshot = async () => {
    const [found] = await store.snapshots(tenantId, [reader('alice')]);
    if (found === undefined) throw new Error('alice has an inbox');
    return found;
  };
  const mark = (what: Partial<Marking>) =>
    store.mark(tenantId, [
      {
        ...reader('alice'),
        seenUpTo: undefined,
        readUpTo: undefined,
        archivedUpTo: undefined,
        items: [],
        revision: undefined,
        ...what,
      },
    ]);
  /** Says it once nobody else holds the inbox, so that whatever is said meanwhile waits behind it. */
  const held = () =>
    bench.hold('select from inbox_users where tenant_id = $1 and user_id = $2 for update', [
      tenantId,
      'alice',
    ]);
  return { run, first, second, snapshot, mark, held, head: asPosition(run.head) };
}

const CHANGED = [{ changed: true, unknown: [] }];

test('who has read lately and who has read nothing are counted alike when they ask together', async () => {
  await node.partitions.ensureAhead();
  const run = new Run(await bench.tenant({ head: 0 }));
  for (const user of USERS) await run.begin(user);
  await run.apply({ kind: 'publish', to: '*', type: 't', inbox: true, expired: false });
  run.head = positionOfTime(Date.now());
  await run.apply({ kind: 'publish', to: '*', type: 't', inbox: true, expired: false });
  const say = { seen: undefined, archived: undefined, items: [], ago: undefined };
  await run.apply({ kind: 'say', user: 'bob', say: { ...say, read: 100 } });
  await run.apply({ kind: 'publish', to: 'bob', type: 't', inbox: true, expired: false });
  const asked: User[] = ['alice', 'bob', 'alice', 'bob'];
  const snapshots = await store.snapshots(run.tenantId, asked.map(reader));
  expect(snapshots.map((snapshot) => snapshot?.unread)).toEqual([2, 1, 2, 1]);
  await run.check();
  // A log may be ahead of the clock, too.
  run.head = positionOfTime(Date.now() + 7_200_000);
  await run.apply({ kind: 'publish', to: '*', type: 't', inbox: true, expired: false });
  await run.check();
});

test('of what was marked as unread retention takes what it reaches, and the rest counts', async () => {
  const { run, first, second, snapshot, mark, head } = await twoShown();
  const back = (...marked: { id: string }[]) =>
    mark({ items: marked.map(({ id }) => ({ id, read: false })) });
  await mark({ readUpTo: head });
  await back(first, second);
  expect(await snapshot()).toMatchObject({ unread: 2 });
  await run.apply({ kind: 'retain', by: first.position });
  expect(await snapshot()).toMatchObject({ unread: 1 });
  await run.apply({ kind: 'retain', by: second.position - first.position });
  expect(await snapshot()).toMatchObject({ unread: 0 });
  // There are none any more, and then one.
  await run.apply({ kind: 'publish', to: 'alice', type: 't', inbox: true, expired: false });
  await mark({ readUpTo: asPosition(run.head) });
  expect(await snapshot()).toMatchObject({ unread: 0 });
  const [third] = run.published.slice(2);
  if (third === undefined) throw new Error('a third was published');
  await back(third);
  expect(await snapshot()).toMatchObject({ unread: 1 });
});

describe('of two devices that wait for the inbox at once,', () => {
  test('the second sees what the first has stored: a mark-all overrules the unread before it', async () => {
    const { first, snapshot, mark, held, head } = await twoShown();
    const { revision } = await snapshot();
    const holder = await held();
    const unread = mark({ items: [{ id: first.id, read: false }] });
    await holder.waiting(1);
    const all = mark({ readUpTo: head });
    await holder.waiting(2);
    await holder.commit();
    expect(await unread).toEqual(CHANGED);
    expect(await all).toEqual(CHANGED);
    const now = await snapshot();
    expect(now).toMatchObject({ unread: 0, unseen: 0, readUpTo: head });
    // One revision each.
    expect(now.revision).toBeGreaterThan(revision + 1);
  });

  test('a mark-all that knows an earlier revision leaves the unread that came before it', async () => {
    const { first, snapshot, mark, held, head } = await twoShown();
    const { revision } = await snapshot();
    const holder = await held();
    const unread = mark({ items: [{ id: first.id, read: false }] });
    await holder.waiting(1);
    const all = mark({ readUpTo: head, revision });
    await holder.waiting(2);
    await holder.commit();
    expect(await unread).toEqual(CHANGED);
    expect(await all).toEqual(CHANGED);
    expect(await snapshot()).toMatchObject({ unread: 1, unseen: 0, readUpTo: head });
  });

  test('an unread behind a mark-all counts against it', async () => {
    const { first, snapshot, mark, held, head } = await twoShown();
    const holder = await held();
    const all = mark({ readUpTo: head });
    await holder.waiting(1);
    const unread = mark({ items: [{ id: first.id, read: false }] });
    await holder.waiting(2);
    await holder.commit();
    expect(await all).toEqual(CHANGED);
    expect(await unread).toEqual(CHANGED);
    expect(await snapshot()).toMatchObject({ unread: 1, unseen: 0, readUpTo: head });
  });

  test('no watermark goes back', async () => {
    const { first, second, snapshot, mark, held } = await twoShown();
    const holder = await held();
    const further = mark({ readUpTo: asPosition(second.position) });
    await holder.waiting(1);
    const shorter = mark({ readUpTo: asPosition(first.position) });
    await holder.waiting(2);
    await holder.commit();
    expect(await further).toEqual(CHANGED);
    expect(await shorter).toEqual([{ changed: false, unknown: [] }]);
    expect(await snapshot()).toMatchObject({ unread: 0, readUpTo: second.position });
  });
});
