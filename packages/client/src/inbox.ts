import { ServiceError } from './call.ts';
import {
  InboxList,
  isThere,
  itemOf,
  SHOWS,
  type Counts,
  type Inbox,
  type InboxOptions,
  type Store,
} from './inbox-list.ts';
import {
  nextRequest,
  NOTHING,
  overlaid,
  without,
  withItem,
  withWatermark,
  type Axis,
  type Intents,
  type Line,
} from './intents.ts';
import type { Clock } from './surroundings.ts';
import {
  isAfter,
  type Change,
  type DataTypes,
  type Gap,
  type InboxEvent,
  type InboxItem,
  type Marked,
  type Notification,
  type Snapshot,
  type Sync,
} from './wire.ts';

export type { Counts, Inbox, InboxOptions, InboxSnapshot, Store } from './inbox-list.ts';

/** Text that the tabs of this user share. */
export interface SharedText {
  /** What any tab wrote last. Null: nothing, or it could not be kept. */
  read(): string | null;
  write(text: string | null): void;
  /** One tab at a time. */
  exclusively<Result>(run: () => Promise<Result>): Promise<Result>;
}

export interface InboxesOptions {
  /** With the token of the user. Throws ServiceError, or what `fetch` does. */
  readonly call: <Result>(path: string, init?: RequestInit) => Promise<Result>;
  readonly clock: Clock;
  /** 0 to 1. */
  readonly random: () => number;
  readonly queue: SharedText;
  /** To the other tabs, which `adopt` it. */
  readonly share: (queue: unknown) => void;
  readonly report: (error: unknown) => void;
}

/** What the user did. */
interface Queue {
  /** And the service has not answered. */
  readonly queued: Intents;
  /** What it has answered, with the revision that has it: until a list or number is of that revision it is laid over it. */
  readonly sent: readonly (Intents & { readonly revision: string })[];
}

/** What a tab needs to go on as the one with the stream. */
interface StreamState {
  readonly token: string;
  /** Where the stream began. */
  readonly from: string;
  readonly told: InboxEvent | undefined;
  readonly arrived: readonly InboxItem[];
}

const has = (value: unknown, member: string): boolean =>
  typeof value === 'object' && value !== null && member in value;
/** Tabs may be of several versions. */
const isQueue = (value: unknown): value is Queue => has(value, 'queued') && has(value, 'sent');
const isStreamState = (value: unknown): value is StreamState => has(value, 'arrived');

const EMPTY: Queue = { queued: NOTHING, sent: [] };
/** Without a stream numbers are asked for so often, in ms. */
const POLL_MS = 60_000;
/** Waits double from the first to the last of these, in ms. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 30_000;
/** A timer takes no more than 2^31 ms. */
const LONGEST_TIMER_MS = 86_400_000;
const MARKS = '/v1/inbox/marks';

/** Another try may be answered. */
const passes = (error: unknown): boolean =>
  !(error instanceof ServiceError) || error.status === 401 || error.passes;

function isLarger(one: Snapshot, other: Snapshot): boolean {
  const difference =
    Number(one.revision) - Number(other.revision) ||
    Number(one.position) - Number(other.position) ||
    Date.parse(one.at) - Date.parse(other.at);
  return difference > 0;
}

const laterOf = (one: string, other: string): string => (isAfter(one, other) ? one : other);

/**
 * The inbox of one tab: the number on the bell, and lists. Tabs with and without the stream are told the same, in the same order.
 *
 * With a stream the number is that of the last event, and one more for what has come above its position; answers give no more than
 * their revision. Without one it is that of the largest answer. What the user did is laid over it and over the lists, and never
 * counted into what the service said.
 */
export class Inboxes {
  /** Somebody looks at it: called once, when `isUsed` becomes true. */
  onUse: () => void = () => undefined;
  readonly counts: Store<Counts | undefined>;
  readonly #options: InboxesOptions;
  readonly #lists = new Map<string, InboxList>();
  readonly #countsSubscribers = new Set<() => void>();
  #isUsed = false;
  #token = '';
  #from = '0';
  #closedAt = -Infinity;
  #isWithout = false;
  /** Of the stream, or the largest answer. */
  #base: Snapshot | undefined;
  #told: InboxEvent | undefined;
  /** By id: a new connection may bring again what the one before it had brought. */
  #arrived = new Map<string, InboxItem>();
  /** The latest revision that was told, loaded or answered. */
  #known = '';
  #queue: Queue = EMPTY;
  #queueText: string | null = null;
  /** Of the user: what is answered to another one is not for this one. */
  #era = 0;
  #isSending = false;
  #failures = 0;
  #counts: Counts | undefined;
  #isCounted = false;
  #isChanged = false;
  #stopRetry = (): void => undefined;
  #stopPoll = (): void => undefined;
  #stopExpiry = (): void => undefined;

  constructor(options: InboxesOptions) {
    this.#options = options;
    this.counts = {
      getSnapshot: () => this.#look(),
      subscribe: (call) => this.#subscribe(this.#countsSubscribers, call),
    };
    this.#readQueue();
  }

  get isUsed(): boolean {
    return this.#isUsed;
  }

  /** The same options give the same object. */
  open<Types extends DataTypes>(options: InboxOptions): Inbox<Types>;
  open({ filter = 'all', type = '', limit = 20 }: InboxOptions): Inbox {
    const key = [filter, type, limit].join(' ');
    let list = this.#lists.get(key);
    if (list === undefined) {
      const { call, clock } = this.#options;
      list = new InboxList(
        {
          call,
          now: () => clock.now(),
          token: () => this.#token,
          layers: (revision) => this.#layers(revision),
          counts: () => this.#look(),
          answered: (snapshot) => this.#answered(snapshot),
          failed: (error) => this.#failed(error),
          changed: () => this.#changed(),
          subscribe: (subscribers, change) => this.#subscribe(subscribers, change),
          said: (ids, change) => this.#said(ids, change),
          saidAll: (axis, shown) => this.#saidAll(axis, shown),
        },
        filter,
        type,
        limit,
      );
      this.#lists.set(key, list);
    }
    return list;
  }

  // What the stream brings, in its order

  /** Another key: from here on the stream may have other topics. Before it is opened or renewed with them. */
  hasToken(token: string): void {
    for (const list of this.#lists.values()) list.hasToken(token);
    this.#token = token;
  }

  opened(sync: Sync): void {
    this.#from = sync.from;
    // Of what was between, a tab that begins here would not know.
    if (sync.resume !== 'exact') this.#told = undefined;
    const awayMs = this.#options.clock.now() - this.#closedAt;
    for (const list of this.#lists.values()) list.opened(sync, awayMs);
    this.online();
  }

  closed(): void {
    this.#closedAt = this.#options.clock.now();
    for (const list of this.#lists.values()) list.closed();
  }

  arrived(notification: Notification): void {
    if (notification.inbox === false) return;
    this.#came(itemOf(notification));
    this.#changed();
  }

  told(event: InboxEvent): void {
    this.#told = this.#base = event;
    this.#known = laterOf(event.revision, this.#known);
    // Only what is told takes them away: it may be of before an answer.
    for (const [id, { position }] of this.#arrived)
      if (!isAfter(position, event.position)) this.#arrived.delete(id);
    for (const list of this.#lists.values()) list.told(event);
    this.#changed();
  }

  gap(gap: Gap): void {
    for (const list of this.#lists.values()) list.gap(gap);
    this.#changed();
  }

  state(): unknown {
    return {
      token: this.#token,
      from: this.#from,
      told: this.#told,
      arrived: [...this.#arrived.values()],
    } satisfies StreamState;
  }

  /** This tab was not told everything up to here. */
  restore(state: unknown): void {
    if (!isStreamState(state)) return;
    const { token, from, told, arrived } = state;
    this.hasToken(token);
    this.#from = from;
    const begin = { resume: 'undelivered', from: told?.position ?? from } as const;
    for (const list of this.#lists.values()) list.opened(begin, Infinity);
    this.#arrived.clear();
    for (const item of arrived) this.#came(item);
    if (told !== undefined) this.told(told);
    this.online();
  }

  /** Nobody has a stream: the number is asked for. */
  withoutStream(isWithout: boolean): void {
    if (isWithout === this.#isWithout) return;
    this.#isWithout = isWithout;
    this.#stopPoll();
    this.online();
  }

  // The other tabs, the network, the login

  /** Another tab has queued or sent something. */
  adopt(queue: unknown): void {
    if (isQueue(queue)) this.#queue = queue;
    this.#changed();
  }

  /** Sends what is queued, and asks again for what failed. */
  online(): void {
    this.#stopRetry();
    for (const list of this.#lists.values()) list.retry(false);
    if (this.#isWithout) this.#poll();
    this.#send();
    this.#changed();
  }

  /** For another user, or another tenant. */
  wipe(): void {
    this.#era += 1;
    this.#isSending = false;
    this.#base = this.#told = undefined;
    this.#arrived.clear();
    this.#known = '';
    this.#queue = EMPTY;
    this.#queueText = null;
    this.#options.queue.write(null);
    for (const list of this.#lists.values()) list.wipe();
    this.#changed();
  }

  // Numbers

  #came(item: InboxItem): void {
    this.#arrived.set(item.id, item);
    for (const list of this.#lists.values()) list.arrived(item);
  }

  #answered(snapshot: Snapshot): void {
    this.#failures = 0;
    this.#known = laterOf(snapshot.revision, this.#known);
    // Until the stream tells a first one, that is as good as any.
    if (this.#base === undefined || (this.#isWithout && !isLarger(this.#base, snapshot)))
      this.#base = snapshot;
    this.#changed();
  }

  #count(): Counts | undefined {
    if (this.#isCounted) return this.#counts;
    this.#isCounted = true;
    const base = this.#base;
    if (base === undefined) return (this.#counts = undefined);
    const now = this.#options.clock.now();
    const layers = this.#layers(base.revision);
    // Lines as they are in the number. What is not known of is not taken off.
    const lines = new Map<string, Line>();
    if (layers.length > 0)
      for (const list of this.#lists.values())
        if (list.revision === base.revision) for (const [id, line] of list.lines) lines.set(id, line);
    for (const { items } of layers)
      for (const [id, { line, revision }] of Object.entries(items))
        if (revision === base.revision) lines.set(id, line);
    const counted = [...lines.values()].filter(
      (line) => !isAfter(line.position, base.position) && isThere(line, now),
    );
    const above = [...this.#arrived.values()].filter(
      // It may come late, and be counted already.
      (line) => isAfter(line.position, base.position) && isThere(line, now),
    );
    let isAll = false;
    const number = (name: 'unread' | 'unseen', axes: readonly Axis[]): number => {
      isAll = layers.some(({ marks }) =>
        marks.some(({ axis, upTo }) => axes.includes(axis) && !isAfter(base.position, upTo)),
      );
      const shows = SHOWS[name];
      let n = isAll ? 0 : base[name];
      for (const line of counted) n += Number(shows(overlaid(line, layers))) - Number(!isAll && shows(line));
      for (const line of above) n += Number(shows(overlaid(line, layers)));
      return Math.max(0, n);
    };
    const unseen = number('unseen', ['seenUpTo', 'readUpTo', 'archivedUpTo']);
    const unread = number('unread', ['readUpTo', 'archivedUpTo']);
    const exact = base.exact || isAll;
    const last = this.#counts;
    if (last?.unread !== unread || last.unseen !== unseen || last.exact !== exact)
      this.#counts = { unread, unseen, exact };
    return this.#counts;
  }

  #poll(): void {
    this.#stopPoll();
    this.#stopPoll = this.#options.clock.after(POLL_MS, () => this.#poll());
    // The answer of a list has the number, too.
    let isAsked = false;
    for (const list of this.#lists.values())
      if (list.subscribers.size > 0) {
        list.retry(true);
        isAsked = true;
      }
    if (!isAsked && this.#countsSubscribers.size > 0) {
      const era = this.#era;
      this.#options.call<Snapshot>('/v1/inbox/counts').then(
        (snapshot) => era === this.#era && this.#answered(snapshot),
        (error: unknown) => this.#failed(error),
      );
    }
    this.#changed();
  }

  // What the user does

  #said(ids: string | readonly string[], change: Omit<Change, 'id'>): void {
    this.#readQueue();
    const at = this.#now();
    let { queued } = this.#queue;
    for (const id of typeof ids === 'string' ? [ids] : ids) {
      const { line, revision } = this.#lineOf(id);
      const { seen, readAt, archivedAt } = overlaid(line, this.#layers(revision));
      const isSaid =
        (change.read === undefined || (seen && change.read === (readAt !== null))) &&
        (change.archived === undefined || change.archived === (archivedAt !== null));
      if (!isSaid || revision === '') queued = withItem(queued, { line, revision, at, ...change });
    }
    this.#queueUp(queued);
  }

  #saidAll(axis: Axis, shown: number): void {
    let upTo = laterOf(this.#base?.position ?? '0', String(shown));
    for (const { position } of this.#arrived.values()) upTo = laterOf(position, upTo);
    if (upTo === '0') return;
    this.#readQueue();
    this.#queueUp(withWatermark(this.#queue.queued, { axis, upTo, revision: this.#known, at: this.#now() }));
  }

  #queueUp(queued: Intents): void {
    this.#use();
    this.#keep({ ...this.#queue, queued });
    this.#send();
  }

  /** As the service has it, and in which revision; empty: it is not known. */
  #lineOf(id: string): { readonly line: Line; readonly revision: string } {
    let found: { line: Line; revision: string } | undefined;
    for (const { lines, revision } of this.#lists.values()) {
      const line = lines.get(id);
      if (line !== undefined && (found === undefined || isAfter(revision, found.revision)))
        found = { line, revision };
    }
    const unknown = { id, position: '0', expiresAt: null, seen: false, readAt: null, archivedAt: null };
    return found ?? { line: this.#arrived.get(id) ?? unknown, revision: '' };
  }

  #layers(revision: string): readonly Intents[] {
    const { queued, sent } = this.#queue;
    return [...sent.filter((one) => Number(one.revision) > Number(revision)), queued].filter(
      ({ marks, items }) => marks.length > 0 || Object.keys(items).length > 0,
    );
  }

  /** Another tab may have written since. What could not be kept is in this tab alone. */
  #readQueue(): void {
    const text = this.#options.queue.read();
    if (text === this.#queueText) return;
    this.#queueText = text;
    try {
      const queue: unknown = JSON.parse(text ?? 'null');
      if (isQueue(queue)) this.#queue = queue;
    } catch (error) {
      this.#options.report(error);
    }
  }

  #keep(queue: Queue): void {
    const { queue: text, share } = this.#options;
    this.#queue = queue;
    text.write(JSON.stringify(queue));
    this.#queueText = text.read();
    share(queue);
    this.#changed();
  }

  #send(): void {
    if (this.#isSending || nextRequest(this.#queue.queued) === undefined) return;
    this.#isSending = true;
    const era = this.#era;
    const over = (error?: unknown): void => {
      if (era !== this.#era) return;
      this.#isSending = false;
      if (error === undefined) this.#send();
      else this.#failed(error);
    };
    this.#options.queue.exclusively(() => this.#sendAll(era)).then(() => over(), over);
  }

  async #sendAll(era: number): Promise<void> {
    while (era === this.#era) {
      this.#readQueue();
      const request = nextRequest(this.#queue.queued);
      if (request === undefined) return;
      const { body, taken } = request;
      let answer: Marked | undefined;
      try {
        answer = await this.#options.call<Marked>(MARKS, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(body),
        });
      } catch (error) {
        if (passes(error)) throw error;
        this.#options.report(error);
      }
      if (era !== this.#era) return;
      this.#readQueue();
      const { queued, sent } = this.#queue;
      if (answer === undefined) {
        // For good. It would be in the way of all others; items may be stored without the positions that they came with.
        const refused = taken.marks.length > 0 ? { ...taken, items: {} } : taken;
        this.#keep({ queued: without(queued, refused), sent });
        continue;
      }
      const settled = this.#settled();
      this.#keep({
        queued: without(queued, taken),
        sent: [
          ...sent.filter(({ revision }) => Number(revision) > settled),
          { ...taken, revision: answer.revision },
        ],
      });
      this.#answered(answer);
      if (answer.unknown.length > 0) for (const list of this.#lists.values()) list.drop(answer.unknown);
    }
  }

  /** The number and all lists are of this revision at least. */
  #settled(): number {
    const shown = [...this.#lists.values()].filter(({ subscribers }) => subscribers.size > 0);
    return Math.min(Number(this.#base?.revision ?? 0), ...shown.map(({ revision }) => Number(revision)));
  }

  #failed(error: unknown): void {
    if (!passes(error)) return;
    const longest = Math.min(RETRY_MS * 2 ** this.#failures, LONGEST_RETRY_MS);
    this.#failures += 1;
    const leastMs = error instanceof ServiceError ? (error.retryAfterMs ?? 0) : 0;
    this.#stopRetry();
    this.#stopRetry = this.#options.clock.after(leastMs + this.#options.random() * longest, () =>
      this.online(),
    );
  }

  // Who looks at it

  #look(): Counts | undefined {
    this.#use();
    return this.#count();
  }

  #use(): void {
    if (this.#isUsed) return;
    this.#isUsed = true;
    this.onUse();
  }

  #subscribe(subscribers: Set<() => void>, call: () => void): () => void {
    // The same function may subscribe twice.
    const one = (): void => call();
    subscribers.add(one);
    this.#use();
    if (this.#isWithout && subscribers.size === 1) this.#poll();
    this.#changed();
    return () => void subscribers.delete(one);
  }

  #changed(): void {
    this.#isCounted = false;
    for (const list of this.#lists.values()) list.changed();
    if (this.#isChanged) return;
    this.#isChanged = true;
    // What comes together is shown together.
    queueMicrotask(() => {
      this.#isChanged = false;
      for (const list of this.#lists.values()) list.tend();
      this.#awaitExpiry();
      const all = [this.#countsSubscribers, ...[...this.#lists.values()].map((list) => list.subscribers)];
      for (const call of all.flatMap((subscribers) => [...subscribers]))
        try {
          call();
        } catch (error) {
          this.#options.report(error);
        }
    });
  }

  /** Nothing says that something has expired but the clock. */
  #awaitExpiry(): void {
    this.#stopExpiry();
    const { clock } = this.#options;
    const now = clock.now();
    let next = Infinity;
    for (const { lines, subscribers } of [
      { lines: this.#arrived, subscribers: this.#countsSubscribers },
      ...this.#lists.values(),
    ])
      if (subscribers.size > 0)
        for (const { expiresAt } of lines.values()) {
          const at = expiresAt === null ? now : Date.parse(expiresAt);
          if (at > now) next = Math.min(next, at);
        }
    if (next < Infinity)
      this.#stopExpiry = clock.after(Math.min(next - now, LONGEST_TIMER_MS), () => this.#changed());
  }

  #now(): string {
    return new Date(this.#options.clock.now()).toISOString();
  }
}
