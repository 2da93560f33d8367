/*
 * The inbox as a client keeps it: the number on the bell and the list below it. Small enough to be copied. All that it is
 * told may be late; none of its rules looks at a clock, but for what expires.
 */

/** An inbox in numbers: of `event: inbox`, and of every answer of `/v1/inbox`. */
export interface Numbers {
  readonly unread: number;
  readonly unseen: number;
  readonly seenUpTo: string;
  readonly readUpTo: string;
  readonly archivedUpTo: string;
  readonly position: string;
  readonly revision: string;
  readonly at: string;
}

/** The data of `event: inbox`. */
export interface InboxEvent extends Numbers {
  readonly since?: string;
  readonly changes?: readonly { readonly id: string; readonly read?: boolean; readonly archived?: boolean }[];
  readonly reload?: true;
}

/** The data of a notification, and the id of its event. */
export interface Arrival {
  readonly id: string;
  readonly position: string;
  readonly expiresAt: string | null;
  readonly inbox?: false;
}

/** What `GET /v1/inbox` answers, all pages of it: the numbers are those of the first. */
export interface WholeList extends Numbers {
  readonly items: readonly {
    readonly id: string;
    readonly position: string;
    readonly expiresAt: string | null;
    readonly seen: boolean;
    readonly readAt: string | null;
  }[];
}

/** One line of the list. */
export interface Line {
  readonly id: string;
  /** As a number. */
  readonly position: number;
  readonly expiresAt: string | null;
  seen: boolean;
  read: boolean;
  archived: boolean;
}

const isThere = ({ expiresAt }: Pick<Arrival, 'expiresAt'>, now: number): boolean =>
  expiresAt === null || Date.parse(expiresAt) > now;

/**
 * The number of a client with a stream: that of the last event, and what the stream has brought above the `position` of that
 * event. The first event of a new connection replaces all before it like any other. What is answered over HTTP gives no number.
 */
export class NumberOnStream {
  #told: InboxEvent | undefined;
  /** By id: a new connection may bring again what the one before it had brought. */
  readonly #arrived = new Map<string, Arrival>();
  #answered = 0;

  arrived(notification: Arrival): void {
    if (notification.inbox !== false) this.#arrived.set(notification.id, notification);
  }

  told(event: InboxEvent): void {
    this.#told = event;
    for (const [id, { position }] of this.#arrived)
      if (Number(position) <= Number(event.position)) this.#arrived.delete(id);
  }

  /** Of what it said itself the client is told again by the stream: until then it may show it as done. */
  answered({ revision }: Numbers): void {
    this.#answered = Math.max(this.#answered, Number(revision));
  }

  /** To be sent with what the user says by position. */
  get revision(): string | undefined {
    return this.#told?.revision;
  }

  /** What was answered is in the number. */
  get isSettled(): boolean {
    return Number(this.#told?.revision) >= this.#answered;
  }

  /** `now`: ms since 1970. Undefined: it was told nothing yet. */
  at(now: number): Pick<Numbers, 'unread' | 'unseen'> | undefined {
    if (this.#told === undefined) return undefined;
    const { unread, unseen, position } = this.#told;
    // It may come late, and be counted already.
    const above = [...this.#arrived.values()].filter(
      (one) => Number(one.position) > Number(position) && isThere(one, now),
    );
    return { unread: unread + above.length, unseen: unseen + above.length };
  }
}

/** The number of a client without a stream: of all answers the largest by revision, position and time. */
export class NumberOfAnswers {
  #largest: Numbers | undefined;

  answered(numbers: Numbers): void {
    if (this.#largest === undefined || !isLarger(this.#largest, numbers)) this.#largest = numbers;
  }

  get numbers(): Numbers | undefined {
    return this.#largest;
  }
}

function isLarger(one: Numbers, other: Numbers): boolean {
  const keys = ({ revision, position, at }: Numbers) => [Number(revision), Number(position), Date.parse(at)];
  const others = keys(other);
  for (const [index, key] of keys(one).entries()) {
    const difference = key - (others[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return false;
}

/** A stream that was away for longer than this, in ms, leaves the list as it was; the next one has it loaded anew. */
const AWAY_MS = 60_000;

/**
 * The list of a client with a stream. Whoever knows it as of the revision `since`, or a later one, has it as of the revision of
 * the event by its `changes` and by watermarks that moved. Anybody else asks for it again, and so does who sees `reload`.
 */
export class ListOnStream {
  #lines = new Map<string, Line>();
  /** The list is that of this revision; -1: it has to be asked for. */
  #revision = -1;
  #watermarks: Pick<Numbers, 'seenUpTo' | 'readUpTo' | 'archivedUpTo'> = {
    seenUpTo: '0',
    readUpTo: '0',
    archivedUpTo: '0',
  };
  /** Up to here it was loaded: what is not in it is not in the inbox. */
  #loadedUpTo = 0;
  /** What was said of notifications that have not come yet. */
  #said = new Map<string, Partial<Pick<Line, 'seen' | 'read' | 'archived'>>>();
  #asked = 0;
  #closedAt = -Infinity;
  #token = '';
  /** The list was asked for with it. */
  #askedWith = '';

  /** `load` asks for the list: its answer goes to `loaded` with the number that it was given. */
  constructor(private readonly load: (asked: number) => void) {}

  /** The token in hand, before it is used for a connection or a renewal: its topics say what is in the inbox. */
  hasToken(token: string): void {
    this.#token = token;
  }

  closed(now: number): void {
    this.#closedAt = now;
  }

  /** `resume`: what `sync` says. Only an exact one goes on where the last connection was. */
  opened(resume: string, now: number): void {
    if (resume !== 'exact' || this.#token !== this.#askedWith || now - this.#closedAt > AWAY_MS)
      this.#forget();
  }

  /** `event: gap`. */
  gap({ oldest }: { readonly oldest: string }): void {
    for (const [id, { position }] of this.#lines) if (position <= Number(oldest)) this.#lines.delete(id);
  }

  arrived({ id, position: text, expiresAt, inbox }: Arrival): void {
    const position = Number(text);
    if (inbox === false || position <= this.#loadedUpTo || this.#lines.has(id)) return;
    const { seenUpTo, readUpTo, archivedUpTo } = this.#watermarks;
    this.#lines.set(id, {
      id,
      position,
      expiresAt,
      seen: position <= Number(seenUpTo),
      read: position <= Number(readUpTo),
      archived: position <= Number(archivedUpTo),
      ...this.#said.get(id),
    });
  }

  told(event: InboxEvent): void {
    const { since, changes, revision } = event;
    const isKnown =
      since !== undefined &&
      Number(since) <= this.#revision &&
      this.#revision <= Number(revision) &&
      changes !== undefined &&
      // It was archived when the list was loaded.
      changes.every(({ id, archived }) => archived !== false || this.#lines.has(id));
    if (!isKnown) {
      this.#forget();
      this.#askedWith = this.#token;
      this.load(this.#asked);
      return;
    }
    this.#move(event);
    for (const { id, read, archived } of changes) {
      const said = {
        ...(read === undefined ? {} : { read, seen: true }),
        ...(archived === undefined ? {} : { archived }),
      };
      const line = this.#lines.get(id);
      if (line === undefined) this.#said.set(id, { ...this.#said.get(id), ...said });
      else Object.assign(line, said);
    }
    this.#revision = Number(revision);
  }

  /** Only what was asked for behind whatever made that necessary counts. */
  loaded(asked: number, list: WholeList): void {
    if (asked !== this.#asked) return;
    const loadedUpTo = Number(list.position);
    const later = [...this.#lines].filter(([, { position }]) => position > loadedUpTo);
    const { seenUpTo, readUpTo, archivedUpTo, revision } = list;
    this.#lines = new Map(later);
    for (const { id, position, expiresAt, seen, readAt } of list.items)
      this.#lines.set(id, {
        id,
        position: Number(position),
        expiresAt,
        seen,
        read: readAt !== null,
        archived: false,
      });
    this.#revision = Number(revision);
    this.#watermarks = { seenUpTo, readUpTo, archivedUpTo };
    this.#loadedUpTo = loadedUpTo;
    this.#said.clear();
  }

  /** Newest first. `now`: ms since 1970. */
  at(now: number): Line[] {
    return [...this.#lines.values()]
      .filter((line) => !line.archived && isThere(line, now))
      .toSorted((a, b) => b.position - a.position);
  }

  /** Has it loaded anew with the next event. What was asked for before does not count any more. */
  #forget(): void {
    this.#revision = -1;
    this.#asked += 1;
  }

  /** Where a watermark has moved, all up to there is seen, read or archived. */
  #move({ seenUpTo, readUpTo, archivedUpTo }: InboxEvent): void {
    const before = this.#watermarks;
    const upTo = (now: string, last: string) => (Number(now) > Number(last) ? Number(now) : -1);
    const seen = upTo(seenUpTo, before.seenUpTo);
    const read = upTo(readUpTo, before.readUpTo);
    const archived = upTo(archivedUpTo, before.archivedUpTo);
    for (const line of this.#lines.values()) {
      if (line.position <= seen) line.seen = true;
      if (line.position <= read) line.read = true;
      if (line.position <= archived) line.archived = true;
    }
    this.#watermarks = { seenUpTo, readUpTo, archivedUpTo };
  }
}
