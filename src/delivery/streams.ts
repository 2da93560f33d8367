import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { TimeSlicer } from '../concurrency/pacing.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { ReadStore } from '../log/read.store.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { Receipts } from '../receipts/receipts.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Backlog } from './backlog.ts';
import { Inbox } from '../inbox/inbox.ts';
import type { Snapshot } from '../inbox/snapshot.ts';
import { InboxFeed } from './inbox-feed.ts';
import { Hubs } from './hubs.ts';
import { ConnectionQuota } from './connection-quota.ts';
import { jittered } from './frames.ts';
import { DeliveryCounts, type EndReason, type StreamNode, type Subscriber } from './stream-node.ts';
import type { Tail } from './tail.ts';

/** Heartbeats, ends of tokens and dead sockets are looked after this often, by one timer for all, in ms. */
export const TICK_MS = 1_000;

/** For how long a look may give way to other work, in ms: a stream that is looked at later than that outlives its token. */
const TICK_STRETCH_MS = 250;

/** How many rows a tail reads at once to close a hole; a larger hole is left to the connections. */
const HOLE_ROWS = 5_000;

/**
 * Every open stream of this node: what connections and hubs need of it, and a look at each once a second. They are opened by
 * StreamOpener and fed by LogFeed. StreamControl, Eviction, ConnectionQuota, NodePurge, LogFeed and Shutdown end them, and their own tick when their token ends or their socket is dead.
 */
@Injectable()
export class Streams implements StreamNode, OnModuleInit, OnModuleDestroy {
  readonly counts = new DeliveryCounts();
  readonly #logger = new Logger(Streams.name);
  #tailWeight = 0;
  #timer: NodeJS.Timeout | undefined;
  #ticking = false;
  #databaseAway = false;

  constructor(
    readonly receipts: Receipts,
    readonly backlog: Backlog,
    readonly metrics: Metrics,
    readonly clock: DatabaseClock,
    readonly inboxes: InboxFeed,
    private readonly inbox: Inbox,
    private readonly reads: ReadStore,
    private readonly hubs: Hubs,
    private readonly quota: ConnectionQuota,
    @Inject(CONFIG) readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#timer = setInterval(() => void this.#tick(), TICK_MS);
  }

  onModuleDestroy(): void {
    clearInterval(this.#timer);
    this.counts.publish(this.metrics);
  }

  /**
   * Ends every stream with `bye` `shutdown`, after which its client comes back at another moment than the others, RETURNS_PER_SECOND
   * of them; resolves when all have ended.
   *
   * @param retryMs how long those wait who come back first, in ms, about
   * @param withinMs how long a client may take to read the end, in ms
   */
  async endAll(retryMs: number, withinMs: number): Promise<void> {
    const all = [...this.hubs.values()].flatMap((hub) => [...hub.connections]);
    const spreadMs = Math.max(1, all.length / this.config.RETURNS_PER_SECOND) * 1_000;
    all.forEach((connection, index) =>
      connection.end('shutdown', jittered(retryMs) + Math.round((spreadMs * index) / all.length), withinMs),
    );
    await this.quota.empty();
  }

  readInbox({ tenantId, user, topics }: Subscriber, head: Position): Promise<Snapshot> {
    return this.inbox.snapshot(tenantId, { user, topics, head });
  }

  readAfter(tenantId: TenantId, position: Position) {
    return this.reads.allAfter(tenantId, position, {
      rows: HOLE_ROWS,
      bytes: this.config.TAIL_BYTES_PER_TENANT,
    });
  }

  trim(tail: Tail): void {
    tail.trim(this.config.TAIL_BYTES_PER_TENANT);
    // The sum is taken once a second; between two ticks the tenant that grows pays for what it adds.
    if (this.#tailWeight > this.config.TAIL_BYTES) tail.trim(this.config.TAIL_BYTES_PER_TENANT / 8);
  }

  databaseTrouble(error: unknown): void {
    if (!this.#databaseAway) this.#logger.warn(`the log cannot be read, streams wait: ${messageOf(error)}`);
    this.#databaseAway = true;
  }

  databaseAnswers(): void {
    if (this.#databaseAway) this.#logger.log('the log can be read again');
    this.#databaseAway = false;
  }

  changed(before: Subscriber, after: Subscriber, now: number, position: Position): void {
    this.receipts.ended(before, now, position, 'renewed');
    this.receipts.opened(after, now, position);
  }

  closed(subscriber: Subscriber, position: Position, reason: EndReason, recorded: boolean): void {
    if (recorded) this.receipts.ended(subscriber, this.clock.now(), position, reason);
    this.metrics.streamsEnded.inc({ reason });
    const hub = this.hubs.get(subscriber.tenantId);
    if (hub?.connections.size === 0) this.hubs.delete(subscriber.tenantId);
    this.quota.leave(subscriber.tenantId);
  }

  async #tick(): Promise<void> {
    this.#tailWeight = 0;
    for (const hub of this.hubs.values()) this.#tailWeight += hub.tail.weight;
    this.metrics.tailBytes.set(this.#tailWeight);
    this.counts.publish(this.metrics);
    if (this.#ticking) return;
    this.#ticking = true;
    // To look at ten thousand streams takes as long as a publish may.
    const slicer = new TimeSlicer();
    const until = performance.now() + TICK_STRETCH_MS;
    try {
      for (const hub of this.hubs.values())
        for (const connection of hub.connections) {
          connection.tick(Date.now());
          if (slicer.isOver && performance.now() < until) await slicer.next();
        }
    } finally {
      this.#ticking = false;
    }
  }
}
