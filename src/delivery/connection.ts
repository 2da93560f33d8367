import type { SentInterval, SentSource } from '../receipts/receipts.ts';
import { Problem } from '../core/errors.ts';
import { asPosition, type Position } from '../core/position.ts';
import type { Page } from './backlog.ts';
import {
  byeFrame,
  caughtUpFrame,
  expiringFrame,
  gapFrame,
  inboxFrame,
  HEARTBEAT,
  jittered,
  positionFrame,
  type ByeReason,
} from './frames.ts';
import { InboxWatch } from './inbox-watch.ts';
import type { StreamSocket } from './socket.ts';
import type { EndReason, StreamNode, Subscriber } from './stream-node.ts';
import { addressOfTopic, addressOfUser, EVERYONE, type Address, type Entry } from './tail.ts';
import type { HubMember, TenantHub } from './tenant-hub.ts';

/**
 * A socket and a position. It is *live* when it has everything up to the head of the tail and is written to as
 * batches arrive; otherwise it is *behind* and reads on by itself, from the tail if its position is in the window,
 * else from the log. Replay, a slow reader and a missed batch are the same loop: read what follows the position.
 */
export class Connection implements HubMember, SentSource {
  addresses: readonly Address[];
  /** By this its client knows it for as long as it is open; its records in history have ids of their own. */
  private readonly announcedId: string;
  live = false;
  /** When its present record in history began, ms since 1970: by it and its id the streams of a user are older and younger. */
  since: number;
  /** Everything addressed to it up to here was written, had expired, or was told as a gap. Never goes back: hence no notification twice. */
  position: Position;
  /** The last id that the client got. */
  #lastId: Position;
  #reading = false;
  #ended: EndReason | undefined;
  #recorded = true;
  #caughtUp = false;
  readonly #life: TokenLife;
  #page: { readonly entries: readonly Entry[]; next: number; readonly upTo: Position } | undefined;
  #interval: SentInterval | undefined;
  readonly #heartbeat: Heartbeat;
  #taken = 0;
  #takenAt: number;
  readonly #inbox: InboxWatch | undefined;

  /** `target`: the database's head when the stream was opened; it is not caught up before that. */
  constructor(
    public subscriber: Subscriber,
    start: Position,
    private readonly target: Position,
    private readonly stream: StreamSocket,
    private readonly hub: TenantHub<Connection>,
    private readonly node: StreamNode,
  ) {
    this.announcedId = subscriber.connectionId;
    this.since = subscriber.openedAt;
    this.addresses = addressesOf(subscriber);
    this.#life = new TokenLife(subscriber.tokenExpiresAt, Date.now(), node.config);
    this.position = start;
    this.#lastId = start;
    this.#takenAt = Date.now();
    this.#heartbeat = new Heartbeat(node.config.HEARTBEAT_SECONDS);
    this.#inbox = subscriber.inbox ? this.#watchInbox() : undefined;
    stream.socket.on('drain', () => {
      void this.readOn();
      this.#inbox?.look();
    });
    stream.socket.on('close', () => this.#closed());
  }

  /** It was not ended, and its client has not gone. */
  get isOpen(): boolean {
    return this.#ended === undefined && this.stream.socket.writable;
  }

  /** By the id that its client knows, or by that of its present record in history. */
  isKnownAs(connectionId: string): boolean {
    return connectionId === this.announcedId || connectionId === this.subscriber.connectionId;
  }

  /** New entries for its addresses, in the order of the log: as one write, unless they are too much for one. */
  deliver(entries: readonly Entry[]): void {
    const limit = this.node.config.STREAM_BUFFER_BYTES;
    for (const entry of entries) {
      if (!this.live) break;
      if (entry.position <= this.position) continue;
      if (entries.length > 1 && this.stream.socket.writableCorked === 0) this.stream.socket.cork();
      this.#write(entry, false);
      if (this.stream.socket.writableLength > limit) this.stream.socket.uncork();
      // Memory stays bounded because nothing more is written: the rest waits in the tail, and after that in the log.
      if (this.stream.socket.writableLength > limit) this.fallBehind(this.position);
    }
    this.stream.socket.uncork();
  }

  /** No longer live: everything up to `position` was offered to it. */
  fallBehind(position: Position): void {
    if (!this.live) return;
    this.live = false;
    this.node.metrics.behind.inc();
    this.position = asPosition(Math.max(this.position, position));
  }

  /** Reads what follows the position until it is live, the socket is full, or the database is away (then the next tick tries again). */
  async readOn(): Promise<void> {
    if (this.live || this.#reading || this.#ended !== undefined) return;
    this.#reading = true;
    try {
      while (!this.live && this.#hasRoom()) {
        if (!this.#writeOn()) await this.#readLog();
        // It has all that the tail has, which does not reach yet what was in the log when it was opened.
        else if (!this.live && this.#hasRoom()) await this.hub.reach(this.target);
      }
    } catch (error) {
      this.node.databaseTrouble(error);
    } finally {
      this.#reading = false;
    }
    // Below its own mark a socket does not report that it drained, so the last write does.
    if (this.#isFull() && !this.stream.socket.writableNeedDrain)
      this.stream.socket.write('', () => void this.readOn());
  }

  /** Once a second. `now` by this machine's clock. */
  tick(now: number): void {
    if (this.#ended !== undefined) return;
    const due = this.#life.look(now);
    if (due === 'end') {
      this.end('token-expired', jittered(this.node.config.STREAM_RETRY_MS), this.#life.left(now));
      return;
    }
    if (due === 'notice') this.stream.write(expiringFrame(this.subscriber.tokenExpiresAt));
    if (this.#isStalled(now)) {
      this.#ended = 'stalled';
      this.stream.socket.destroy();
      return;
    }
    if (this.#heartbeat.isDue()) this.#beat();
    if (!this.live) void this.readOn();
    this.#inbox?.look(this.node.clock.now());
  }

  /**
   * Goes on with a new token of the same user. `at`: when that was commanded, ms since 1970. `record`: the id of a new record
   * in history, which other topics need: what the old one was sent must not count for a topic that it did not have. Gained topics begin
   * where the stream is, lost ones end there.
   */
  renew(token: Pick<Subscriber, 'topics' | 'tokenExpiresAt' | 'caller'>, at: number, record: string): void {
    if (this.#ended !== undefined || !this.#life.renew(token.tokenExpiresAt, at, Date.now())) return;
    const before = this.subscriber;
    if (sameMembers(before.topics, token.topics)) {
      this.subscriber = { ...before, ...token };
      return;
    }
    if (this.live) this.position = asPosition(Math.max(this.position, this.hub.dispatchedUpTo));
    this.#endInterval();
    this.subscriber = { ...before, ...token, connectionId: record };
    this.since = Math.round(this.node.clock.now());
    const addresses = this.addresses;
    this.addresses = addressesOf(this.subscriber);
    this.hub.readdress(this, addresses);
    // What was read ahead was read for the old topics.
    this.#page = undefined;
    this.node.changed(before, this.subscriber, this.since, this.position);
    this.#inbox?.renewed();
  }

  /** Says why, and closes. What the client does not read within a few seconds (and `withinMs`) is given up. */
  end(reason: ByeReason, retryAfterMs: number, withinMs?: number): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    // A write behind the end would destroy the socket with the `bye` in it, and be taken for sent.
    this.fallBehind(this.position);
    this.stream.end(byeFrame(reason, retryAfterMs), withinMs);
  }

  /** Ends it because its user is erased: what it did is not for history. */
  erase(retryAfterMs: number): void {
    this.#recorded = false;
    this.#interval = undefined;
    this.end('revoked', retryAfterMs);
  }

  takeInterval(): SentInterval | undefined {
    const interval = this.#interval;
    this.#interval = undefined;
    return interval;
  }

  #isFull(): boolean {
    return this.isOpen && this.stream.socket.writableLength > this.node.config.STREAM_BUFFER_BYTES;
  }

  #hasRoom(): boolean {
    return this.isOpen && !this.#isFull();
  }

  /** Writes what this node has in memory, as one write. False: what follows is in the log only. */
  #writeOn(): boolean {
    // A system call for each of 20 frames was a third of what it costs when a client comes back.
    this.stream.socket.cork();
    try {
      if (this.#page !== undefined) this.#writePage(this.#page);
      return this.#page !== undefined || !this.#hasRoom() || this.#readTail();
    } finally {
      this.stream.socket.uncork();
    }
  }

  /** False when the window begins later than the position. */
  #readTail(): boolean {
    const { tail } = this.hub;
    const entries = tail.after(this.position, this.addresses);
    if (entries === undefined) return false;
    for (const entry of entries) {
      if (!this.#hasRoom()) return true;
      this.#write(entry, true);
    }
    this.position = asPosition(Math.max(this.position, tail.head));
    if (this.position >= this.target) this.#goLive();
    return true;
  }

  async #readLog(): Promise<void> {
    const { tenantId, user, topics } = this.subscriber;
    const page: Page = await this.node.backlog.read(tenantId, { user, topics, after: this.position });
    // Its topics may have changed meanwhile; then the page is not the right one.
    if (this.#ended !== undefined || this.subscriber.topics !== topics) return;
    if (page.floor > this.position) this.#announceGap(page.floor);
    this.#page = { entries: page.entries, next: 0, upTo: page.upTo };
  }

  /** Keeps what does not fit for the next time. */
  #writePage(page: { readonly entries: readonly Entry[]; next: number; readonly upTo: Position }): void {
    for (; page.next < page.entries.length; page.next += 1) {
      const entry = page.entries[page.next];
      if (!this.#hasRoom()) return;
      if (entry !== undefined) this.#write(entry, true);
    }
    this.position = asPosition(Math.max(this.position, page.upTo));
    this.#page = undefined;
  }

  #goLive(): void {
    this.live = true;
    this.node.metrics.behind.dec();
    if (this.#caughtUp) return;
    this.#caughtUp = true;
    this.#lastId = this.position;
    this.stream.write(caughtUpFrame(this.position));
    this.#inbox?.begin();
  }

  #announceGap(oldest: Position): void {
    this.#endInterval();
    this.node.metrics.gapsAnnounced.inc();
    this.stream.write(gapFrame(this.position, oldest));
    this.position = oldest;
    this.#inbox?.due();
  }

  #watchInbox(): InboxWatch {
    const { tenantId, user } = this.subscriber;
    const watch = new InboxWatch({
      read: () => this.node.readInbox(this.subscriber, this.target),
      hasRoom: () => this.#hasRoom(),
      write: (told) => {
        this.stream.write(inboxFrame(told));
        this.#heartbeat.written();
      },
      trouble: (error) => {
        // Its user is being erased, and the stream is about to end.
        if (!(error instanceof Problem)) this.node.databaseTrouble(error);
      },
    });
    this.node.inboxes.join(tenantId, user, watch);
    return watch;
  }

  #write(entry: Entry, replayed: boolean): void {
    this.position = entry.position;
    if (entry.expiresAt !== null && entry.expiresAt <= this.node.clock.now()) {
      // An interval holds only what was really written.
      this.#endInterval();
      return;
    }
    this.stream.write(entry.frame);
    this.#heartbeat.written();
    this.#lastId = entry.position;
    this.node.counts.delivered(replayed, entry.frame.length);
    if (this.#interval !== undefined && this.#interval.replayed !== replayed) this.#endInterval();
    if (this.#interval === undefined) {
      this.#interval = {
        from: asPosition(entry.position - 1),
        to: entry.position,
        at: this.node.clock.now(),
        replayed,
      };
      this.node.receipts.written(this);
    } else {
      this.#interval.to = entry.position;
      this.#interval.at = this.node.clock.now();
    }
  }

  #endInterval(): void {
    const interval = this.takeInterval();
    if (interval !== undefined) this.node.receipts.sent(this.subscriber, interval);
  }

  #beat(): void {
    // Bytes that still wait show that the stream is alive once they are read; more of them help nobody.
    if (this.stream.socket.writableLength > 0) return;
    const dispatched = this.hub.dispatchedUpTo;
    if (this.live && dispatched > this.#lastId) {
      this.#lastId = dispatched;
      this.position = asPosition(Math.max(this.position, dispatched));
      this.stream.write(positionFrame(dispatched));
    } else {
      this.stream.write(HEARTBEAT);
    }
  }

  #isStalled(now: number): boolean {
    if (this.stream.socket.writableLength === 0) {
      this.#takenAt = now;
      return false;
    }
    const taken = this.stream.socket.bytesWritten - this.stream.socket.writableLength;
    if (taken !== this.#taken) {
      this.#taken = taken;
      this.#takenAt = now;
    }
    return now - this.#takenAt > this.node.config.STREAM_STALL_SECONDS * 1_000;
  }

  #closed(): void {
    this.#ended ??= 'client';
    this.#endInterval();
    if (!this.live) this.node.metrics.behind.dec();
    this.live = false;
    this.#page = undefined;
    if (this.#inbox !== undefined) {
      this.#inbox.close();
      this.node.inboxes.leave(this.subscriber.tenantId, this.subscriber.user, this.#inbox);
    }
    this.hub.leave(this);
    this.node.closed(this.subscriber, this.position, this.#ended, this.#recorded);
  }
}

const addressesOf = ({ user, topics }: Subscriber): readonly Address[] => [
  addressOfUser(user),
  EVERYONE,
  ...topics.map(addressOfTopic),
];

const sameMembers = (some: readonly string[], others: readonly string[]): boolean =>
  some.length === others.length && new Set([...some, ...others]).size === some.length;

/** When a stream has been silent for long enough. Looked at once a second, as everything of a stream, and no timer. */
export class Heartbeat {
  #left: number;
  #written = false;

  /** `seconds`: how long a stream may be silent. */
  constructor(private readonly seconds: number) {
    // Spread over the period, so that ten thousand heartbeats do not leave in the same second.
    this.#left = 1 + Math.floor(Math.random() * seconds);
  }

  /** A notification was written: it shows as much as a heartbeat. */
  written(): void {
    this.#written = true;
  }

  /** Once a second: whether it is time. */
  isDue(): boolean {
    if (this.#written) {
      this.#written = false;
      // By another time for each stream: what was one broadcast would be as many heartbeats at once a little later.
      this.#left = Math.max(this.#left, Math.floor((this.seconds * (1 + Math.random())) / 2));
      return false;
    }
    this.#left -= 1;
    if (this.#left > 0) return false;
    this.#left = this.seconds;
    return true;
  }
}

/** How long before the end of a token what happens, in seconds. */
export interface TokenNotice {
  readonly TOKEN_EXPIRY_NOTICE_SECONDS: number;
  readonly TOKEN_EXPIRY_SPREAD_SECONDS: number;
}

/**
 * Streams are looked at once a second. One look early and a little more, since the next would be too late, and comes a
 * little late itself: a stream never outlives its token.
 */
const LOOK_MS = 1_500;

/**
 * The life of the token that holds a stream open. Nothing here is a timer: one set for a token of a month would fire at
 * once, and ten thousand are a cost of their own.
 */
export class TokenLife {
  #expiresAt: number;
  /** The stream ends this much earlier than the token, in ms; each stream at another moment. */
  #ahead: number;
  #warned = false;
  #renewedAt = 0;

  /** Times in ms since 1970. */
  constructor(
    expiresAt: number,
    now: number,
    private readonly notice: TokenNotice,
  ) {
    this.#expiresAt = expiresAt;
    this.#ahead = this.#drawAhead(now);
  }

  /** What is due: the end, or, once for each token, the notice that it comes. */
  look(now: number): 'end' | 'notice' | undefined {
    const left = this.left(now);
    if (left <= LOOK_MS + this.#ahead) return 'end';
    if (this.#warned || left > this.notice.TOKEN_EXPIRY_NOTICE_SECONDS * 1_000) return undefined;
    this.#warned = true;
    return 'notice';
  }

  /** What the token has left, in ms. */
  left(now: number): number {
    return this.#expiresAt - now;
  }

  /** A new token, by a command given `at`. False: a later one was there before it. */
  renew(expiresAt: number, at: number, now: number): boolean {
    if (at < this.#renewedAt) return false;
    this.#renewedAt = at;
    // A client that was not answered asks again with the same token: of its end it knows.
    this.#warned &&= expiresAt === this.#expiresAt;
    this.#expiresAt = expiresAt;
    this.#ahead = this.#drawAhead(now);
    return true;
  }

  /** At most a tenth of what is left, so that the streams of short tokens are not all but useless. */
  #drawAhead(now: number): number {
    const most = Math.min(this.notice.TOKEN_EXPIRY_SPREAD_SECONDS * 1_000, this.left(now) / 10);
    return Math.random() * Math.max(0, most);
  }
}
