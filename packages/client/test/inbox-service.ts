import type { Clock } from '../src/surroundings.ts';
import type { Change, Filter, InboxEvent, InboxItem, Marks, Notification, Snapshot } from '../src/wire.ts';

/*
 * What the service keeps of one user, by the rules of docs/explanation/inbox.md and as simple as it can be: everything is looked
 * at, one by one, each time. Positions are small numbers.
 */

export interface Entry extends Notification {
  readonly inbox?: false;
}

interface Mark {
  read?: boolean;
  readRevision: number;
  archived?: boolean;
  archivedRevision: number;
}

const MOST_CHANGES = 5;
/** A page looks no further than this, so that some are short. */
const LOOKS = 4;

export class Service {
  readonly log: Entry[] = [];
  readonly marks = new Map<string, Mark>();
  readonly watermarks = { seenUpTo: 0, readUpTo: 0, archivedUpTo: 0 };
  revision = 1;
  head = 0;
  floor = 0;
  #changes: (Change & { revision: number })[] = [];
  #changesSince = 1;

  constructor(private readonly now: () => number) {}

  /** `isNews`: to a topic that not every token has. */
  publish(
    type: string,
    {
      expiresAt = null,
      isSignal = false,
      isNews = false,
    }: { expiresAt?: number | null; isSignal?: boolean; isNews?: boolean } = {},
  ): Entry {
    this.head += 1;
    const entry: Entry = {
      id: `n${this.head}`,
      position: String(this.head),
      type,
      to: isNews ? { topic: 'news' } : { user: 'alice' },
      data: { n: this.head },
      createdAt: new Date(this.now()).toISOString(),
      expiresAt: expiresAt === null ? null : new Date(expiresAt).toISOString(),
      ...(isSignal ? { inbox: false } : {}),
    };
    this.log.push(entry);
    return entry;
  }

  /** Newest first, archived ones among them. */
  items(hasNews = true): InboxItem[] {
    return this.log
      .filter(
        ({ inbox, expiresAt, position, to }) =>
          inbox !== false &&
          (hasNews || !('topic' in to)) &&
          Number(position) > this.floor &&
          (expiresAt === null || Date.parse(expiresAt) > this.now()),
      )
      .map(({ id, position, type, to, data, createdAt, expiresAt }) => {
        const { seen, read, archived } = this.#stateOf(id, position);
        const item = { id, position, type, to, data, createdAt, expiresAt };
        return { ...item, seen, readAt: read ? 'then' : null, archivedAt: archived ? 'then' : null };
      })
      .toReversed();
  }

  matching(filter: Filter, type = '', hasNews = true): InboxItem[] {
    return this.items(hasNews).filter(
      (item) =>
        item.type.startsWith(type) &&
        (filter === 'archived') === (item.archivedAt !== null) &&
        (filter !== 'unread' || item.readAt === null) &&
        (filter !== 'unseen' || !item.seen),
    );
  }

  snapshot(hasNews = true): Snapshot {
    const { seenUpTo, readUpTo, archivedUpTo } = this.watermarks;
    const expiries = this.matching('unseen', '', hasNews)
      .concat(this.matching('unread', '', hasNews))
      .flatMap(({ expiresAt }) => (expiresAt === null ? [] : [expiresAt]));
    return {
      unread: this.matching('unread', '', hasNews).length,
      unseen: this.matching('unseen', '', hasNews).length,
      exact: true,
      seenUpTo: String(seenUpTo),
      readUpTo: String(readUpTo),
      archivedUpTo: String(archivedUpTo),
      position: String(this.head),
      revision: String(this.revision),
      at: new Date(this.now()).toISOString(),
      nextExpiry: expiries.toSorted()[0] ?? null,
    };
  }

  /** `GET /v1/inbox`. */
  list(query: URLSearchParams, hasNews: boolean) {
    const below = Number(query.get('cursor') ?? Infinity);
    const limit = Number(query.get('limit'));
    const candidates = this.items(hasNews).filter(({ position }) => Number(position) < below);
    const looked = candidates.slice(0, LOOKS);
    const matching = new Set(
      this.matching((query.get('filter') ?? 'all') as Filter, query.get('type') ?? '', hasNews).map(
        ({ id }) => id,
      ),
    );
    const items = looked.filter(({ id }) => matching.has(id)).slice(0, limit);
    const isCut = items.length === limit;
    const last = isCut ? items.at(-1) : looked.at(-1);
    const nextCursor = isCut || looked.length < candidates.length ? (last?.position ?? null) : null;
    return { ...this.snapshot(hasNews), items, nextCursor };
  }

  /** `POST /v1/inbox/marks`. */
  mark({ seenUpTo, readUpTo, archivedUpTo, items = [], revision }: Marks, hasNews = true) {
    const known = revision === undefined ? Infinity : Number(revision);
    const next = this.revision + 1;
    let isChanged = false;
    let isReloaded = false;
    const move = (axis: keyof Service['watermarks'], upTo = '0'): void => {
      isChanged ||= Number(upTo) > this.watermarks[axis];
      this.watermarks[axis] = Math.max(this.watermarks[axis], Number(upTo));
    };
    move('seenUpTo', seenUpTo);
    move('seenUpTo', readUpTo);
    move('readUpTo', readUpTo);
    move('archivedUpTo', archivedUpTo);
    for (const [id, mark] of this.marks) {
      const position = Number(id.slice(1));
      const contradicts = {
        read: mark.read === false && position <= Number(readUpTo ?? 0),
        archived: mark.archived === false && position <= Number(archivedUpTo ?? 0),
      };
      isReloaded ||= contradicts.read || contradicts.archived;
      if (contradicts.read && mark.readRevision <= known) {
        Object.assign(mark, { read: true, readRevision: next });
        isChanged = true;
      }
      if (contradicts.archived && mark.archivedRevision <= known) {
        Object.assign(mark, { archived: true, archivedRevision: next });
        isChanged = true;
      }
    }
    const unknown: string[] = [];
    const changes: Change[] = [];
    for (const { id, read, archived } of items) {
      const entry = this.items(hasNews).find((one) => one.id === id);
      if (entry === undefined) {
        unknown.push(id);
        continue;
      }
      const mark = this.marks.get(id) ?? { readRevision: 0, archivedRevision: 0 };
      const position = Number(entry.position);
      const isNew = (said: boolean | undefined, was: boolean | undefined, upTo: number): boolean =>
        said !== undefined && said !== was && !(said && was === undefined && position <= upTo);
      const change = {
        ...(isNew(read, mark.read, this.watermarks.readUpTo) ? { read } : {}),
        ...(isNew(archived, mark.archived, this.watermarks.archivedUpTo) ? { archived } : {}),
      } as Omit<Change, 'id'>;
      if (change.read !== undefined) Object.assign(mark, { read, readRevision: next });
      if (change.archived !== undefined) Object.assign(mark, { archived, archivedRevision: next });
      if (Object.keys(change).length === 0) continue;
      this.marks.set(id, mark);
      changes.push({ id, ...change });
    }
    if (isChanged || changes.length > 0) {
      this.revision = next;
      const all = [...this.#changes, ...changes.map((change) => ({ ...change, revision: next }))];
      this.#changes = isReloaded ? [] : all.slice(-MOST_CHANGES);
      const dropped = all.slice(0, -MOST_CHANGES).map((change) => change.revision);
      this.#changesSince = isReloaded ? next : Math.max(this.#changesSince, ...dropped);
    }
    return { ...this.snapshot(hasNews), unknown };
  }

  /** `last`: what the stream was told before; undefined: nothing. `isSameList`: no change of topics or retention is between. */
  event(last: InboxEvent | undefined, isSameList: boolean, hasNews: boolean): InboxEvent {
    const snapshot = this.snapshot(hasNews);
    const since = last === undefined ? this.#changesSince : Number(last.revision);
    if (since < this.#changesSince || !isSameList) return { ...snapshot, reload: true };
    const changes = this.#changes
      .filter(({ revision }) => revision > since)
      .map(({ revision, ...change }): Change & { revision?: number } => ({ ...change, revision }));
    return { ...snapshot, since: String(since), changes };
  }

  #stateOf(id: string, text: string) {
    const mark = this.marks.get(id);
    const position = Number(text);
    return {
      seen: position <= this.watermarks.seenUpTo || mark?.read !== undefined,
      read: mark?.read ?? position <= this.watermarks.readUpTo,
      archived: mark?.archived ?? position <= this.watermarks.archivedUpTo,
    };
  }
}

/** A clock that stands still until it is moved. */
export class StandingClock implements Clock {
  #now = Date.UTC(2026, 0, 1);
  readonly #timers = new Set<{ at: number; call: () => void }>();

  now(): number {
    return this.#now;
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  /** In ms. */
  advance(ms: number): void {
    this.#now += ms;
    for (const timer of this.#timers) {
      if (timer.at > this.#now) continue;
      this.#timers.delete(timer);
      timer.call();
    }
  }
}
