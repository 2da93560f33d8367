import { covered, marked, overlaid, type Axis, type Intents, type Line } from './intents.ts';
import type {
  Change,
  DataTypes,
  Filter,
  Gap,
  InboxEvent,
  InboxItem,
  InboxPage,
  Notification,
  Snapshot,
  Sync,
} from './wire.ts';

/** The inbox in numbers, with what the user did. */
export interface Counts {
  readonly unread: number;
  readonly unseen: number;
  /** False: there may be more. */
  readonly exact: boolean;
}

export interface InboxOptions {
  /** `all` leaves archived ones out. */
  readonly filter?: Filter;
  /** How types begin. */
  readonly type?: string;
  /** Items that are loaded at once: 1 to 200, 20 when absent. */
  readonly limit?: number;
}

export interface InboxSnapshot<Types extends DataTypes = DataTypes> {
  /** Newest first. */
  readonly items: readonly InboxItem<Types>[];
  /** Of the whole inbox, whatever the list shows. Undefined: not known yet. */
  readonly counts: Counts | undefined;
  /** There are older ones: `loadMore`. */
  readonly hasMore: boolean;
  /** Also before the first load. */
  readonly loading: boolean;
  /** Why it could not be loaded. What passes by itself is tried again. */
  readonly error: unknown;
}

/** A store in the shape of `useSyncExternalStore`: a snapshot is the same object until something has changed. */
export interface Store<Value> {
  getSnapshot(): Value;
  /** Returns how to end it. `call` is told once of what changes together. */
  subscribe(call: () => void): () => void;
}

/**
 * A list of the inbox. It loads for its first subscriber. What the user does shows at once, here and in all tabs, and is sent when
 * there is a network.
 */
export interface Inbox<Types extends DataTypes = DataTypes> extends Store<InboxSnapshot<Types>> {
  markRead(ids: string | readonly string[]): void;
  markUnread(ids: string | readonly string[]): void;
  archive(ids: string | readonly string[]): void;
  unarchive(ids: string | readonly string[]): void;
  /** All of the inbox, whatever the list shows, up to the newest that this client knows of. */
  markAllRead(): void;
  archiveAll(): void;
  markSeen(): void;
  /** Resolves when it is over, also when it failed: see `error`. */
  loadMore(): Promise<void>;
  reload(): void;
}

/** What a list needs of all of them. */
export interface ListHost {
  readonly call: <T>(path: string) => Promise<T>;
  readonly now: () => number;
  readonly token: () => string;
  /** What the user did and is not in the list of this revision. */
  readonly layers: (revision: string) => readonly Intents[];
  readonly counts: () => Counts | undefined;
  readonly answered: (snapshot: Snapshot) => void;
  readonly failed: (error: unknown) => void;
  readonly changed: () => void;
  readonly subscribe: (subscribers: Set<() => void>, call: () => void) => () => void;
  readonly said: (ids: string | readonly string[], change: Omit<Change, 'id'>) => void;
  readonly saidAll: (axis: Axis, shown: number) => void;
}

/** A stream that was away for longer than this, in ms, leaves the list as it was; the next one has it loaded anew. */
const AWAY_MS = 60_000;
const MOST_ITEMS = 200;

export const isThere = ({ expiresAt }: Line, now: number): boolean =>
  expiresAt === null || Date.parse(expiresAt) > now;

export const SHOWS: Readonly<Record<Filter, (line: Line) => boolean>> = {
  all: ({ archivedAt }) => archivedAt === null,
  unread: ({ archivedAt, readAt }) => archivedAt === null && readAt === null,
  unseen: ({ archivedAt, seen }) => archivedAt === null && !seen,
  archived: ({ archivedAt }) => archivedAt !== null,
};

/** The list may show something by it that it did not have when it was loaded. */
const bringsIn = (filter: Filter, { read, archived }: Change): boolean =>
  archived === (filter === 'archived') || (filter === 'unread' && read === false);

export function itemOf({ id, position, type, to, data, createdAt, expiresAt }: Notification): InboxItem {
  return {
    ...{ id, position, type, to, data, createdAt, expiresAt },
    ...{ seen: false, readAt: null, archivedAt: null },
  };
}

type Watermarks = Pick<Snapshot, Axis>;

const AXES = ['seenUpTo', 'readUpTo', 'archivedUpTo'] as const;
const BEGINNING: Watermarks = { seenUpTo: '0', readUpTo: '0', archivedUpTo: '0' };

/**
 * Whoever knows the list as of the revision `since`, or a later one, has it as of the revision of the event by its `changes` and by
 * watermarks that moved. Anybody else asks for it again, and so does who sees `reload`. Lines are kept whether or not the list
 * shows them, so that what is undone is there again. One request is under way at a time.
 */
export class InboxList implements Inbox {
  readonly subscribers = new Set<() => void>();
  readonly #host: ListHost;
  readonly #filter: Filter;
  readonly #type: string;
  readonly #limit: number;
  #lines = new Map<string, InboxItem>();
  /** Of what the service told of `lines`; empty: it was never loaded. */
  #revision = '';
  #watermarks: Watermarks = BEGINNING;
  /** Up to here it was loaded: what is not in it is not in the inbox. */
  #loadedUpTo = 0;
  /** The stream brings what is above it. */
  #streamFrom = 0;
  /** What was said of notifications that have not come yet. */
  #said = new Map<string, Omit<Change, 'id'>>();
  #cursor: string | null = null;
  /** It has to be loaded anew. */
  #isStale = true;
  /** Only what the last request is answered counts. */
  #asked = 0;
  #loading: Promise<void> | undefined;
  /** What was told while it is loaded anew. */
  #pending: InboxEvent[] | undefined;
  #error: unknown;
  /** Asked for since there was last a stream. */
  #isFresh = false;
  #askedWith = '';
  #snapshot: InboxSnapshot | undefined;
  #isCurrent = false;

  constructor(host: ListHost, filter: Filter, type: string, limit: number) {
    this.#host = host;
    this.#filter = filter;
    this.#type = type;
    this.#limit = limit;
  }

  // What the app sees

  getSnapshot(): InboxSnapshot {
    if (this.#snapshot !== undefined && this.#isCurrent) return this.#snapshot;
    const items = this.#shown(this.#host.layers(this.#revision)).toSorted(
      (one, other) => Number(other.position) - Number(one.position),
    );
    const before = this.#snapshot?.items;
    const next: InboxSnapshot = {
      items: before?.length === items.length && items.every((item, n) => item === before[n]) ? before : items,
      counts: this.#host.counts(),
      hasMore: this.#cursor !== null,
      loading: this.#loading !== undefined || (this.#revision === '' && this.#error === undefined),
      error: this.#error,
    };
    this.#isCurrent = true;
    const keys = ['items', 'counts', 'hasMore', 'loading', 'error'] as const;
    if (this.#snapshot === undefined || keys.some((key) => next[key] !== this.#snapshot?.[key]))
      this.#snapshot = next;
    return this.#snapshot;
  }

  subscribe(call: () => void): () => void {
    return this.#host.subscribe(this.subscribers, call);
  }

  markRead(ids: string | readonly string[]): void {
    this.#host.said(ids, { read: true });
  }

  markUnread(ids: string | readonly string[]): void {
    this.#host.said(ids, { read: false });
  }

  archive(ids: string | readonly string[]): void {
    this.#host.said(ids, { archived: true });
  }

  unarchive(ids: string | readonly string[]): void {
    this.#host.said(ids, { archived: false });
  }

  markAllRead(): void {
    this.#host.saidAll('readUpTo', this.#loadedUpTo);
  }

  archiveAll(): void {
    this.#host.saidAll('archivedUpTo', this.#loadedUpTo);
  }

  markSeen(): void {
    if (this.#host.counts()?.unseen !== 0) this.#host.saidAll('seenUpTo', this.#loadedUpTo);
  }

  loadMore(): Promise<void> {
    const cursor = this.#cursor;
    if (this.#loading === undefined && cursor !== null) this.#begin((asked) => this.#more(asked, cursor));
    return this.#loading ?? Promise.resolve();
  }

  reload(): void {
    this.forget();
    this.#host.changed();
  }

  // What the others see of it

  get revision(): string {
    return this.#revision;
  }

  /** As the service has them. */
  get lines(): ReadonlyMap<string, InboxItem> {
    return this.#lines;
  }

  /** What it shows may be another than before. */
  changed(): void {
    this.#isCurrent = false;
  }

  /** Loads what somebody looks at and is not there. */
  tend(): void {
    if (this.subscribers.size === 0 || this.#loading !== undefined || this.#error !== undefined) return;
    if (this.#isStale) this.#begin((asked) => this.#load(asked));
    // Not by what the user did: until that is stored the next page has it again.
    else if (this.#cursor !== null && this.#shown([]).length === 0) void this.loadMore();
  }

  /** What failed to load is asked for again. `anew`: and so is what did not. */
  retry(anew: boolean): void {
    this.#error = undefined;
    if (anew) this.#isStale = true;
  }

  /** What is asked for already does not count any more. */
  forget(): void {
    this.#isStale = true;
    this.#asked += 1;
    this.#loading = this.#pending = this.#error = undefined;
  }

  /** Whoever it was for is not here any more. */
  wipe(): void {
    this.forget();
    this.#lines = new Map();
    this.#said.clear();
    this.#revision = '';
    this.#watermarks = BEGINNING;
    this.#loadedUpTo = 0;
    this.#cursor = null;
  }

  /** Ids that are not in the inbox. */
  drop(ids: readonly string[]): void {
    for (const id of ids) this.#lines.delete(id);
  }

  // What the stream brings

  hasToken(token: string): void {
    // Nothing was known of one yet: it is the first.
    if (this.#askedWith === '') this.#askedWith = token;
  }

  closed(): void {
    this.#isFresh = false;
  }

  /** `awayMs`: for how long there was no stream. Only an exact one goes on where the last was; else it depends on where it begins. */
  opened({ resume, from }: Pick<Sync, 'resume' | 'from'>, awayMs: number): void {
    const hasTopics = this.#host.token() === this.#askedWith;
    if (resume === 'exact' && hasTopics && awayMs <= AWAY_MS) return;
    if (resume === 'reset' || !hasTopics || !this.#isFresh) this.forget();
    else this.#streamFrom = Number(from);
  }

  gap({ oldest }: Gap): void {
    for (const [id, { position }] of this.#lines)
      if (Number(position) <= Number(oldest)) this.#lines.delete(id);
  }

  /** Not a signal. */
  arrived(item: InboxItem): void {
    const { id, position, type, createdAt } = item;
    if (Number(position) <= this.#loadedUpTo || this.#lines.has(id) || !type.startsWith(this.#type)) return;
    this.#lines.set(
      id,
      marked(covered(item, this.#watermarks, createdAt), this.#said.get(id) ?? {}, createdAt),
    );
  }

  told(event: InboxEvent): void {
    if (this.#pending !== undefined) this.#pending.push(event);
    else if (this.#isStale || !this.#isKnown(event)) {
      this.#isStale = true;
      this.#error = undefined;
    } else this.#revision = event.revision;
    this.#apply(event);
  }

  #isKnown({ since, changes, revision, archivedUpTo }: InboxEvent): boolean {
    return (
      since !== undefined &&
      changes !== undefined &&
      Number(since) <= Number(this.#revision) &&
      Number(this.#revision) <= Number(revision) &&
      this.#streamFrom <= this.#loadedUpTo &&
      changes.every((change) => this.#lines.has(change.id) || !bringsIn(this.#filter, change)) &&
      (this.#filter !== 'archived' || Number(archivedUpTo) <= Number(this.#watermarks.archivedUpTo))
    );
  }

  /** Where a watermark has moved, all up to there is seen, read or archived; then what was said of single ones. */
  #apply(event: InboxEvent): void {
    const moved: { [axis in Axis]?: string } = {};
    for (const axis of AXES)
      if (Number(event[axis]) > Number(this.#watermarks[axis])) moved[axis] = event[axis];
    this.#watermarks = event;
    const { changes = [], at } = event;
    for (const [id, line] of this.#lines) this.#lines.set(id, covered(line, moved, at));
    for (const { id, ...change } of changes) {
      const line = this.#lines.get(id);
      if (line === undefined) this.#said.set(id, { ...this.#said.get(id), ...change });
      else this.#lines.set(id, marked(line, change, at));
    }
  }

  // What is asked for

  #begin(run: (asked: number) => Promise<void>): void {
    const asked = (this.#asked += 1);
    this.#error = undefined;
    this.#loading = (async () => {
      try {
        await run(asked);
      } catch (error) {
        if (asked !== this.#asked) return;
        this.#error = error;
        this.#host.failed(error);
      } finally {
        if (asked === this.#asked) {
          this.#loading = this.#pending = undefined;
          this.#host.changed();
        }
      }
    })();
    this.#host.changed();
  }

  async #page(cursor: string | null, limit: number): Promise<InboxPage> {
    const query = new URLSearchParams({ filter: this.#filter, limit: String(limit) });
    if (this.#type !== '') query.set('type', this.#type);
    if (cursor !== null) query.set('cursor', cursor);
    return await this.#host.call<InboxPage>(`/v1/inbox?${query}`);
  }

  /** As many as were shown. The revision is that of the first page: what the others know beyond it is told again. */
  async #load(asked: number): Promise<void> {
    const pending: InboxEvent[] = (this.#pending = []);
    this.#askedWith = this.#host.token();
    this.#isFresh = true;
    this.#streamFrom = 0;
    const wanted = this.#shown([]).length;
    const first = await this.#page(null, Math.min(Math.max(this.#limit, wanted), MOST_ITEMS));
    const items = [...first.items];
    let cursor = first.nextCursor;
    while (asked === this.#asked && cursor !== null && items.length < wanted) {
      const next = await this.#page(cursor, Math.min(wanted - items.length, MOST_ITEMS));
      items.push(...next.items);
      cursor = next.nextCursor;
    }
    if (asked !== this.#asked) return;
    const loadedUpTo = Number(first.position);
    const later = [...this.#lines].filter(([, { position }]) => Number(position) > loadedUpTo);
    this.#lines = new Map([...later, ...items.map((item) => [item.id, item] as const)]);
    this.#watermarks = first;
    this.#revision = first.revision;
    this.#loadedUpTo = loadedUpTo;
    this.#cursor = cursor;
    this.#said.clear();
    this.#isStale = false;
    this.#pending = undefined;
    for (const event of pending) this.told(event);
    this.#host.answered(first);
  }

  async #more(asked: number, cursor: string): Promise<void> {
    for (let tries = 0; asked === this.#asked && !this.#isStale; tries += 1) {
      const page = await this.#page(cursor, this.#limit);
      if (asked !== this.#asked) return;
      // It may be of before what the list was told meanwhile.
      if (Number(page.revision) >= Number(this.#revision)) {
        for (const item of page.items) this.#lines.set(item.id, item);
        this.#cursor = page.nextCursor;
        return;
      }
      // And still is: the service was put back to an earlier state.
      if (tries > 0) this.#isStale = true;
    }
  }

  #shown(layers: readonly Intents[]): InboxItem[] {
    const now = this.#host.now();
    return [...this.#lines.values()]
      .filter((line) => isThere(line, now))
      .map((line) => overlaid(line, layers))
      .filter(SHOWS[this.#filter]);
  }
}
