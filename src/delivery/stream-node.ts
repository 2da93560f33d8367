import type { Caller } from '../auth/tokens.ts';
import type { Config } from '../core/config.ts';
import type { DatabaseClock } from '../postgres/clock.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import type { Receipts } from '../receipts/receipts.ts';
import type { Position } from '../core/position.ts';
import type { Run } from '../log/read.store.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Snapshot } from '../inbox/snapshot.ts';
import type { Backlog } from './backlog.ts';
import type { ByeReason } from './frames.ts';
import type { InboxFeed } from './inbox-feed.ts';
import type { Tail } from './tail.ts';

/** Who reads a stream, and how. */
export interface Subscriber {
  readonly connectionId: string;
  readonly tenantId: TenantId;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly topics: readonly Topic[];
  /** ms since 1970. */
  readonly tokenExpiresAt: number;
  /** What the token is held against while the stream is open. */
  readonly caller: Caller;
  /** `ack=auto`: the cursor follows what was written. */
  readonly autoAck: boolean;
  /** It is told how the inbox of its user is. */
  readonly inbox: boolean;
  /** In ms since 1970, told by the database and not estimated: commands are as exact, and may follow within a millisecond. */
  readonly openedAt: number;
}

/** Why a stream ended: the client went, its socket was dead, or the server said why. */
export type EndReason = ByeReason | 'client' | 'stalled';

/** What connections and hubs need of the node that they are on. */
export interface StreamNode {
  readonly config: Config;
  readonly metrics: Metrics;
  readonly clock: DatabaseClock;
  readonly receipts: Receipts;
  readonly backlog: Backlog;
  readonly counts: DeliveryCounts;
  readonly inboxes: Pick<InboxFeed, 'join' | 'leave'>;
  /** The inbox in numbers, as it is after the call; one that there is not yet begins at `head` of the log. Throws what is to be tried again. */
  readInbox(subscriber: Subscriber, head: Position): Promise<Snapshot>;
  /** The log behind a position, as much as a tail may hold. Throws the database's error. */
  readAfter(tenantId: TenantId, position: Position): Promise<Run & { head: Position }>;
  /** Keeps the tails within their limits after this one has grown. */
  trim(tail: Tail): void;
  /** The database failed a read that will be tried again. */
  databaseTrouble(error: unknown): void;
  /** The subscriber of an open stream changed: in history one connection ends and another begins. `now`: ms since 1970. */
  changed(before: Subscriber, after: Subscriber, now: number, position: Position): void;
  /** A connection has left its hub; it had everything up to `position`. `recorded`: history is to know. */
  closed(subscriber: Subscriber, position: Position, reason: EndReason, recorded: boolean): void;
}

/** Counts deliveries in plain fields, since a labelled counter per delivery would cost as much as the delivery. */
export class DeliveryCounts {
  #live = 0;
  #replayed = 0;
  #bytes = 0;

  delivered(replayed: boolean, bytes: number): void {
    if (replayed) this.#replayed += 1;
    else this.#live += 1;
    this.#bytes += bytes;
  }

  publish(metrics: Metrics): void {
    metrics.deliveries.inc({ kind: 'live' }, this.#live);
    metrics.deliveries.inc({ kind: 'replayed' }, this.#replayed);
    metrics.deliveredBytes.inc(this.#bytes);
    this.#live = this.#replayed = this.#bytes = 0;
  }
}
