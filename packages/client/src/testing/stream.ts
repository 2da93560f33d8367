import type { Clock } from '../surroundings.ts';
import type { Bye, Sync } from '../wire.ts';
import { StreamBody } from './body.ts';
import type { Counted } from './inbox.ts';
import { isExpired, isFor, notificationOf, timeText, type Log, type Reader } from './log.ts';

/** What an event or a comment is as text: docs/reference/protocol.md, "The stream". */
const frameOf = (name: string, data: object, id?: number): string =>
  `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`;
const HEARTBEAT = ':\n\n';

export const greeting = (retryMs: number): string => `retry: ${retryMs}\n:\n\n`;

export const byeFrame = (reason: Bye['reason'], retryAfterMs: number): string => {
  const reconnect = reason !== 'revoked' && reason !== 'replaced';
  return `retry: ${retryAfterMs}\n${frameOf('bye', { reason, reconnect, retryAfterMs } satisfies Bye)}`;
};

/** Streams are looked at so often, in ms. */
const TICK_MS = 1_000;
/** A look early, and a little more. */
const LOOK_MS = 1_500;
const NOTICE_MS = 60_000;
const END_SPREAD_MS = 5_000;
const EXPIRY_SPREAD_MS = 10_000;
/** What changes within this time is told together, in ms. */
const TOGETHER_MS = 100;
const MOST_CHANGES = 50;
export const RETRY_MS = 3_000;

/** A token, and what it is good for. */
export interface Grant extends Reader {
  readonly token: string;
  /** ms since 1970. */
  expiresAt: number;
  readonly device: string | undefined;
}

/** What a stream needs of the service. */
export interface Host {
  readonly clock: Clock;
  readonly log: Log;
  /** Faults that go on. */
  readonly faults: { heartbeats: boolean; tear: boolean };
  random(): number;
  /** The inbox of whoever reads, as it is now. `head`: of the log when the stream was opened. */
  count(reader: Reader, head: number): Counted;
  /** Something was written to a stream that confirms nothing by itself. */
  written(stream: FakeStream): void;
  left(stream: FakeStream): void;
}

export interface Opening {
  readonly grant: Grant;
  readonly device: string;
  readonly inbox: boolean;
  readonly autoAck: boolean;
}

/** One stream: `Connection` and `InboxWatch` of the service, without what makes them cheap. */
export class FakeStream {
  readonly body: StreamBody;
  readonly device: string;
  readonly autoAck: boolean;
  grant: Grant;
  connectionId = '';
  /** All that is addressed to it up to here was written, or had expired. */
  position = 0;
  /** It is given nothing of the log, as one that does not read. */
  isStalled = false;
  readonly #host: Host;
  readonly #heartbeatSeconds: number;
  readonly #hasInbox: boolean;
  #lastId = 0;
  #target = 0;
  #isCaughtUp = false;
  #warned = false;
  #endsAhead = 0;
  #beatsIn: number;
  #stopTicking: () => void = () => undefined;
  #stopWaiting: (() => void) | undefined;
  #isDue = false;
  #isRenewed = false;
  #told: Counted | undefined;
  #expiresAt = Infinity;

  constructor(host: Host, { grant, device, inbox, autoAck }: Opening, heartbeatSeconds: number) {
    this.#host = host;
    this.#heartbeatSeconds = heartbeatSeconds;
    this.#beatsIn = heartbeatSeconds;
    this.#hasInbox = inbox;
    this.grant = grant;
    this.device = device;
    this.autoAck = autoAck;
    this.body = new StreamBody(() => this.stop());
    this.#write(greeting(this.#jittered()));
  }

  get hasInbox(): boolean {
    return this.#hasInbox;
  }

  begin(sync: Sync, start: number): void {
    this.connectionId = sync.connectionId;
    this.position = start;
    this.#lastId = start;
    this.#target = Number(sync.head);
    this.#drawEnd();
    this.#write(frameOf('sync', sync));
    this.#tick();
    this.readOn();
  }

  /** Writes what the log has for it. */
  readOn(): void {
    if (this.body.isOver || this.connectionId === '' || this.isStalled) return;
    const { log, clock } = this.#host;
    if (log.floor > this.position) {
      this.#write(frameOf('gap', { from: String(this.position), oldest: String(log.floor) }));
      this.position = log.floor;
      this.inboxDue();
    }
    for (const entry of log.entries) {
      if (entry.position <= this.position || !isFor(entry, this.grant)) continue;
      if (isExpired(entry, clock.now())) continue;
      this.position = entry.position;
      this.#lastId = entry.position;
      this.#write(`id: ${entry.position}\ndata: ${JSON.stringify(notificationOf(entry))}\n\n`);
      this.#beatsIn = this.#heartbeatSeconds;
      if (this.body.isOver) return;
      this.#host.written(this);
    }
    this.position = Math.max(this.position, log.head);
    if (this.#isCaughtUp) return;
    this.#isCaughtUp = true;
    this.#lastId = this.position;
    this.#write(frameOf('caught-up', { position: String(this.position) }, this.position));
    this.inboxDue();
  }

  /** What it would be told of the inbox may be another than it was told. */
  inboxDue(): void {
    this.#isDue = true;
    this.#lookAtInbox(-Infinity);
  }

  /** Retention took something away. */
  compare(): void {
    const told = this.#told;
    if (told === undefined) return;
    const { floor } = this.#host.log;
    const { unread, unseen, position } = told.snapshot;
    if (floor > told.floor && (unread + unseen > 0 || floor > Number(position))) this.inboxDue();
  }

  renew(grant: Grant): void {
    const before = this.grant;
    this.grant = grant;
    this.#warned &&= grant.expiresAt === before.expiresAt;
    this.#drawEnd();
    const hasSame =
      before.topics.length === grant.topics.length &&
      before.topics.every((topic) => grant.topics.includes(topic));
    if (hasSame) return;
    this.#isRenewed = true;
    this.inboxDue();
  }

  /** Says why, and ends. */
  end(reason: Bye['reason'], retryAfterMs: number = this.#jittered()): void {
    this.#write(byeFrame(reason, retryAfterMs));
    this.body.close();
    this.stop();
  }

  /** Nothing comes behind what was written. */
  stop(): void {
    this.#stopTicking();
    this.#stopWaiting?.();
    this.#host.left(this);
  }

  #tick(): void {
    const now = this.#host.clock.now();
    const left = this.grant.expiresAt - now;
    if (left <= LOOK_MS + this.#endsAhead) return this.end('token-expired');
    if (!this.#warned && left <= NOTICE_MS) {
      this.#warned = true;
      this.#write(frameOf('expiring', { at: timeText(this.grant.expiresAt) }));
    }
    this.#beatsIn -= 1;
    if (this.#beatsIn < 0) {
      this.#beatsIn = this.#heartbeatSeconds - 1;
      if (this.#host.faults.heartbeats) this.#beat();
    }
    this.#lookAtInbox(now);
    if (this.body.isOver) return;
    this.#stopTicking = this.#host.clock.after(TICK_MS, () => this.#tick());
  }

  #beat(): void {
    const { position } = this;
    if (this.#isCaughtUp && position > this.#lastId) {
      this.#lastId = position;
      this.#write(frameOf('position', { position: String(position) }, position));
    } else this.#write(HEARTBEAT);
  }

  #lookAtInbox(now: number): void {
    if (now >= this.#expiresAt) {
      this.#expiresAt = Infinity;
      this.#isDue = true;
    }
    if (!this.#hasInbox || !this.#isDue || !this.#isCaughtUp || this.#stopWaiting !== undefined) return;
    if (this.body.isOver) return;
    this.#isDue = false;
    this.#tell();
    this.#stopWaiting = this.#host.clock.after(TOGETHER_MS, () => {
      this.#stopWaiting = undefined;
      this.#lookAtInbox(-Infinity);
    });
  }

  #tell(): void {
    const counted = this.#host.count(this.grant, this.#target);
    const since = this.#told?.revision ?? counted.changesSince;
    const list = counted.changes.filter(({ revision }) => revision > since);
    const isSameList = !this.#isRenewed && counted.floor === (this.#told?.floor ?? counted.floor);
    const isKnown = isSameList && since >= counted.changesSince && list.length <= MOST_CHANGES;
    this.#told = counted;
    this.#isRenewed = false;
    // What many have expires for all of them at once; each looks within this time.
    const spread = counted.isNextExpiryShared ? EXPIRY_SPREAD_MS * this.#host.random() : 0;
    this.#expiresAt = counted.nextExpiry + spread;
    const changes = list.map(({ id, read, archived }) => ({ id, read, archived }));
    this.#write(
      frameOf('inbox', {
        ...counted.snapshot,
        ...(isKnown ? { since: String(since), changes } : { reload: true }),
      }),
    );
    this.#beatsIn = this.#heartbeatSeconds;
  }

  #write(text: string): void {
    this.body.write(text, this.#host.faults.tear ? this.#host.random() : undefined);
    // By a fault.
    if (this.body.isOver) this.stop();
  }

  #drawEnd(): void {
    const most = Math.min(END_SPREAD_MS, (this.grant.expiresAt - this.#host.clock.now()) / 10);
    this.#endsAhead = Math.max(0, most) * this.#host.random();
  }

  /** 0.5 to 1.5 times the usual, in ms. */
  #jittered(): number {
    return Math.round(RETRY_MS * (0.5 + this.#host.random()));
  }
}
