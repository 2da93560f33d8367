import type { Change, Filter, Snapshot } from '../wire.ts';
import {
  itemOf,
  isExpired,
  isFor,
  positionOf,
  timeOf,
  timeText,
  type Entry,
  type Log,
  type Reader,
} from './log.ts';

/*
 * The inbox of one user by the rules of docs/explanation/inbox.md, counted anew from the whole log each time it is asked for.
 */

/** What a user says at once. Positions count before items. */
export interface Marking {
  readonly seenUpTo?: number | undefined;
  readonly readUpTo?: number | undefined;
  readonly archivedUpTo?: number | undefined;
  readonly items: readonly Change[];
  /** What was said of single notifications behind it stays. Undefined: nothing does. */
  readonly revision?: number | undefined;
}

/** What the user said of one notification; a mark decides, without one the watermark does. */
interface Mark {
  read?: boolean | undefined;
  readRevision?: number | undefined;
  archived?: boolean | undefined;
  archivedRevision?: number | undefined;
}

interface Moved {
  readonly kind: 'read' | 'archived';
  readonly from: number;
  readonly to: number;
  readonly at: number;
}

/** How one notification is. */
interface State {
  readonly seen: boolean;
  readonly read: boolean;
  readonly archived: boolean;
}

/** A snapshot, and what the service knows beside it. */
export interface Counted {
  readonly snapshot: Snapshot;
  readonly revision: number;
  readonly floor: number;
  /** ms since 1970; Infinity: nothing that counts expires. */
  readonly nextExpiry: number;
  /** It is that of something for a topic or everyone. */
  readonly isNextExpiryShared: boolean;
  readonly changes: readonly (Change & { revision: number })[];
  /** The changes are all that there were behind this revision. */
  readonly changesSince: number;
}

const MOST_COUNTED = 1_000;
const MOST_CHANGES = 50;
/** In positions: ten seconds. */
const CHANGES_KEPT = positionOf(Date.UTC(2020, 0, 1) + 10_000);

export class FakeInbox {
  readonly #log: Log;
  readonly #user: string;
  readonly #since: number;
  #seenUpTo: number;
  #readUpTo: number;
  #archivedUpTo = 0;
  #revision: number;
  #changes: (Change & { revision: number })[] = [];
  #changesSince: number;
  readonly #marks = new Map<number, Mark>();
  #moves: Moved[] = [];

  /**
   * @param since what is for topics and everyone up to here is not in it
   * @param confirmed what some device of the user had confirmed by now: it counts as read
   */
  constructor(log: Log, user: string, since: number, confirmed: number, now: number) {
    this.#log = log;
    this.#user = user;
    this.#since = since;
    this.#seenUpTo = confirmed;
    this.#readUpTo = confirmed;
    this.#revision = positionOf(now);
    this.#changesSince = this.#revision;
  }

  /** In numbers, as a token with these topics has it. */
  count(topics: readonly string[], now: number): Counted {
    const { head, floor } = this.#log;
    const unreadFrom = Math.max(this.#readUpTo, this.#archivedUpTo);
    let unread = 0;
    let unseen = 0;
    let nextExpiry = Infinity;
    let isNextExpiryShared = false;
    for (const entry of this.#entries(topics, now)) {
      const state = this.#stateOf(entry);
      const isUnread = !state.archived && !state.read;
      const isUnseen = !state.archived && !state.seen;
      if (isUnread) unread += 1;
      if (isUnseen) unseen += 1;
      if (entry.expiresAt === null || entry.expiresAt >= nextExpiry) continue;
      if (!isUnread && !isUnseen && entry.position <= unreadFrom) continue;
      nextExpiry = entry.expiresAt;
      isNextExpiryShared = !('user' in entry.to);
    }
    return {
      snapshot: {
        unread: Math.min(unread, MOST_COUNTED),
        unseen: Math.min(unseen, MOST_COUNTED),
        exact: Math.max(unread, unseen) <= MOST_COUNTED,
        seenUpTo: String(this.#seenUpTo),
        readUpTo: String(this.#readUpTo),
        archivedUpTo: String(this.#archivedUpTo),
        position: String(head),
        revision: String(this.#revision),
        at: timeText(now),
        nextExpiry: nextExpiry === Infinity ? null : timeText(nextExpiry),
      },
      revision: this.#revision,
      floor,
      nextExpiry,
      isNextExpiryShared,
      changes: this.#changes,
      changesSince: this.#changesSince,
    };
  }

  /** Newest first, below `before`. */
  list(
    topics: readonly string[],
    now: number,
    {
      filter,
      type,
      before,
      limit,
    }: { filter: Filter; type: string | undefined; before: number; limit: number },
  ) {
    const shown = this.#entries(topics, now)
      .map((entry) => ({ entry, state: this.#stateOf(entry) }))
      .filter(
        ({ entry, state }) =>
          entry.position < before && entry.type.startsWith(type ?? '') && isShown(filter, state),
      )
      .toReversed()
      .slice(0, limit);
    return {
      items: shown.map(({ entry, state }) => {
        const { position } = entry;
        const mark = this.#marks.get(position);
        return {
          ...itemOf(entry),
          seen: state.seen,
          readAt: state.read
            ? this.#at('read', position, mark?.read === undefined ? undefined : mark.readRevision)
            : null,
          archivedAt: state.archived
            ? this.#at('archived', position, mark?.archived === undefined ? undefined : mark.archivedRevision)
            : null,
        };
      }),
      // A full page says that there may be more.
      next: shown.length === limit ? shown.at(-1)?.entry.position : undefined,
    };
  }

  /** @returns ids that are not in this inbox, and whether something is new */
  mark(topics: readonly string[], now: number, marking: Marking): { unknown: string[]; changed: boolean } {
    const { readUpTo = 0, archivedUpTo = 0, revision: known = Infinity, items } = marking;
    const seenNow = Math.max(this.#seenUpTo, marking.seenUpTo ?? 0, readUpTo);
    const readNow = Math.max(this.#readUpTo, readUpTo);
    const archivedNow = Math.max(this.#archivedUpTo, archivedUpTo);
    const next = Math.max(this.#revision + 1, positionOf(now));

    // Watermarks first: they overrule marks that contradict them, each on its own axis, up to the revision that was known.
    const said = new Map<number, { id?: string; read?: boolean; archived?: boolean }>();
    let contradicted = false;
    for (const [position, mark] of this.#marks) {
      const isUnread = mark.read === false && position <= readUpTo;
      const isBack = mark.archived === false && position <= archivedUpTo;
      contradicted ||= isUnread || isBack;
      const reads = isUnread && (mark.readRevision ?? 0) <= known;
      const archives = isBack && (mark.archivedRevision ?? 0) <= known;
      if (reads || archives)
        said.set(position, { ...(reads ? { read: true } : {}), ...(archives ? { archived: true } : {}) });
    }

    const unknown: string[] = [];
    const entries = this.#entries(topics, now);
    for (const { id, read, archived } of items) {
      const position = entries.find((entry) => entry.id === id)?.position;
      if (position === undefined) {
        unknown.push(id);
        continue;
      }
      const mark = this.#marks.get(position);
      const overruled = said.get(position);
      const isNew = (value: boolean | undefined, before: boolean | undefined, upTo: number): boolean =>
        value !== undefined && value !== before && !(value && before === undefined && position <= upTo);
      const saysRead = isNew(read, overruled?.read ?? mark?.read, readNow);
      const saysArchived = isNew(archived, overruled?.archived ?? mark?.archived, archivedNow);
      if (saysRead || saysArchived)
        said.set(position, {
          id,
          ...overruled,
          ...(saysRead && read !== undefined ? { read } : {}),
          ...(saysArchived && archived !== undefined ? { archived } : {}),
        });
    }

    const hasMoved = seenNow > this.#seenUpTo || readNow > this.#readUpTo || archivedNow > this.#archivedUpTo;
    if (!hasMoved && said.size === 0) return { unknown, changed: false };

    if (readNow > this.#readUpTo)
      this.#moves.push({ kind: 'read', from: this.#readUpTo, to: readNow, at: now });
    if (archivedNow > this.#archivedUpTo)
      this.#moves.push({ kind: 'archived', from: this.#archivedUpTo, to: archivedNow, at: now });
    this.#seenUpTo = seenNow;
    this.#readUpTo = readNow;
    this.#archivedUpTo = archivedNow;
    this.#revision = next;
    for (const [position, { read, archived }] of said)
      this.#marks.set(position, {
        ...this.#marks.get(position),
        ...(read === undefined ? {} : { read, readRevision: next }),
        ...(archived === undefined ? {} : { archived, archivedRevision: next }),
      });
    this.#tell([...said.values()], contradicted);
    return { unknown, changed: true };
  }

  /** The log went back to its head: what lies above was never said. Revisions are such that no client has seen one. */
  goBack(now: number): void {
    const { head } = this.#log;
    this.#seenUpTo = Math.min(this.#seenUpTo, head);
    this.#readUpTo = Math.min(this.#readUpTo, head);
    this.#archivedUpTo = Math.min(this.#archivedUpTo, head);
    for (const position of this.#marks.keys()) if (position > head) this.#marks.delete(position);
    this.#revision = Math.max(this.#revision + 1, positionOf(now));
    this.#tell([], true);
  }

  /** What was said is told with the next events; `isMore`: and not all of it can be told so. */
  #tell(said: readonly { id?: string; read?: boolean; archived?: boolean }[], isMore: boolean): void {
    const revision = this.#revision;
    const all = [
      ...this.#changes,
      // Of what a watermark overruled alone no id is told: then the list is asked for again.
      ...said.flatMap(({ id, ...rest }) => (id === undefined ? [] : [{ id, ...rest, revision }])),
    ];
    this.#changes = isMore
      ? []
      : all.filter(
          (change, index) => change.revision > revision - CHANGES_KEPT && index >= all.length - MOST_CHANGES,
        );
    const dropped = all.filter((change) => !this.#changes.includes(change)).map((change) => change.revision);
    this.#changesSince = isMore ? revision : Math.max(this.#changesSince, ...dropped);
  }

  /** What is in it, in the order of the log. */
  #entries(topics: readonly string[], now: number): Entry[] {
    const reader: Reader = { user: this.#user, topics };
    return this.#log.entries.filter(
      (entry) =>
        entry.inbox &&
        isFor(entry, reader) &&
        !isExpired(entry, now) &&
        ('user' in entry.to || entry.position > this.#since),
    );
  }

  #stateOf({ position }: Entry): State {
    const mark = this.#marks.get(position);
    return {
      seen: position <= this.#seenUpTo || mark?.read !== undefined,
      read: mark?.read ?? position <= this.#readUpTo,
      archived: mark?.archived ?? position <= this.#archivedUpTo,
    };
  }

  /** When that was said: by a mark of this revision, else by a watermark; what was there before the inbox counts from its publish on. */
  #at(kind: Moved['kind'], position: number, revision: number | undefined): string {
    if (revision !== undefined) return timeText(timeOf(revision));
    const move = this.#moves.find((one) => one.kind === kind && one.from < position && position <= one.to);
    return timeText(move?.at ?? timeOf(position));
  }
}

function isShown(filter: Filter, { seen, read, archived }: State): boolean {
  if (filter === 'archived') return archived;
  if (archived || filter === 'all') return !archived;
  return filter === 'unread' ? !read : !seen;
}
