import type { Position } from '../core/position.ts';
import { MOST_CHANGES, type Snapshot } from '../inbox/snapshot.ts';

/** What a watch needs of the stream that it tells, and of the node. */
export interface WatchedStream {
  /** Reads the inbox as it is after the call. Throws what is to be tried again. */
  read(): Promise<Snapshot>;
  /** It is open, and its socket has room. */
  hasRoom(): boolean;
  write(told: Told): void;
  trouble(error: unknown): void;
}

/** What one event says. */
export interface Told {
  readonly snapshot: Snapshot;
  /** What was said of single notifications behind the revision `since`; undefined: more than is known. */
  readonly changes: { readonly since: Position; readonly list: Snapshot['changes'] } | undefined;
}

/** Changes that come within this time are told together, in ms. */
const TOGETHER_MS = 100;
/** What many have in their inbox expires for all of them at once; each looks within this time, in ms. */
const EXPIRY_SPREAD_MS = 10_000;

/**
 * Tells one stream how the inbox of its user is: when it is caught up, and whenever that may be another than was told. Reads one
 * snapshot at a time and writes in that order; what changes while it reads is read again. While the socket is full nothing
 * waits but the wish to tell.
 */
export class InboxWatch {
  /** It has been caught up: before that the numbers would tell of what has not come yet. */
  #begun = false;
  #due = false;
  #reading = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #last: Snapshot | undefined;
  /** The topics are others than those of what was told last. */
  #isRenewed = false;
  /** By the database's clock, ms since 1970. */
  #expiresAt = Infinity;

  constructor(private readonly stream: WatchedStream) {}

  begin(): void {
    this.#begun = true;
    this.due();
  }

  /** What it would tell now may be another than it has told. */
  due(): void {
    this.#due = true;
    this.look();
  }

  /** Its topics are others: no change of single notifications leads from what was told to what is in the inbox now. */
  renewed(): void {
    this.#isRenewed = true;
    this.due();
  }

  /** Told what the database has now: the revision of the inbox, and up to where nothing of the log is kept any more. */
  compare(revision: Position | undefined, floor: Position): void {
    const last = this.#last;
    if (last === undefined) return;
    // What the stream has brought since then counts, too.
    const hasLost = floor > last.floor && (last.unread + last.unseen > 0 || floor > last.position);
    if (hasLost || (revision ?? 0) > last.revision) this.due();
  }

  /** Once a second, and when the socket has room again. `now` by the database's clock, ms since 1970. */
  look(now = -Infinity): void {
    if (now >= this.#expiresAt) {
      this.#expiresAt = Infinity;
      this.#due = true;
    }
    if (this.#due && this.#begun && !this.#reading && this.#timer === undefined && this.stream.hasRoom())
      void this.#tell();
  }

  close(): void {
    this.#closed = true;
    this.#due = false;
    clearTimeout(this.#timer);
  }

  async #tell(): Promise<void> {
    this.#reading = true;
    this.#due = false;
    try {
      const snapshot = await this.stream.read();
      if (this.#closed) return;
      // What came meanwhile may have filled it.
      if (this.stream.hasRoom()) this.#write(snapshot);
      else this.#due = true;
    } catch (error) {
      // The next look tries again.
      this.#due = !this.#closed;
      this.stream.trouble(error);
      return;
    } finally {
      this.#reading = false;
    }
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.look();
    }, TOGETHER_MS);
  }

  #write(snapshot: Snapshot): void {
    const { revision: since, floor } = this.#last ?? {
      revision: snapshot.changesSince,
      floor: snapshot.floor,
    };
    const list = snapshot.changes.filter(({ revision }) => revision > since);
    const isSameList = !this.#isRenewed && snapshot.floor === floor;
    const isKnown = isSameList && since >= snapshot.changesSince && list.length <= MOST_CHANGES;
    this.#last = snapshot;
    this.#isRenewed = false;
    this.#expiresAt =
      snapshot.nextExpiry === null ? Infinity : snapshot.nextExpiry + Math.random() * this.#spread(snapshot);
    this.stream.write({ snapshot, changes: isKnown ? { since, list } : undefined });
  }

  #spread({ nextExpiryIsShared }: Snapshot): number {
    return nextExpiryIsShared ? EXPIRY_SPREAD_MS : 0;
  }
}
