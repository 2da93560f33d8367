import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { failureOf, isConnectionLoss } from '../postgres/errors.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { asPosition, type Position } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { ReceiptsStore, type OfStream } from './receipts.store.ts';
import { OpenIntervals, type Reader, type SentInterval, type SentSource } from './open-intervals.ts';
import { writeChunked, CHUNKS, CHUNKS_OF_ENDS } from '../concurrency/chunked-writes.ts';

type Opened = Parameters<ReceiptsStore['recordConnections']>[1][number];
type Sent = Parameters<ReceiptsStore['recordSends']>[1][number];
type Ended = Parameters<ReceiptsStore['endConnections']>[1][number] & OfStream;
type Moved = Parameters<ReceiptsStore['moveCursors']>[1][number];

/** Streams that have opened and stand in the ledger, where other nodes find them. */
export interface Recorded {
  readonly tenantId: TenantId;
  readonly opened: readonly Pick<Opened, 'user'>[];
}

class Pending {
  opened: Opened[] = [];
  sent: Sent[] = [];
  ended: Ended[] = [];
  moved = new Map<string, Moved>();

  get size(): number {
    return this.opened.length + this.sent.length + this.ended.length + this.moved.size;
  }

  drop(isGone: (of: OfStream) => boolean): void {
    const isKept = (of: OfStream) => !isGone(of);
    this.opened = this.opened.filter(isKept);
    this.sent = this.sent.filter(isKept);
    this.ended = this.ended.filter(isKept);
    for (const [key, move] of this.moved) if (isGone(move)) this.moved.delete(key);
  }
}

/**
 * What has waited for so long, in ms, is forgotten: it may be of somebody whose erasure this node has not heard of, and
 * the row that would keep it out of the database is kept for a day.
 */
const LONGEST_WAIT_MS = 12 * 3_600_000;

/**
 * Collects what streams wrote and puts it into the ledger a few times a second, as intervals: one row per connection
 * and flush, however many notifications it covers. An open interval grows in its connection and costs nothing while
 * the database is away; only finished ones wait here, and beyond the limit the oldest are forgotten: history may
 * then lack a `sent`, never a `delivered`, which does not come this way.
 */
@Injectable()
export class Receipts implements OnModuleInit {
  readonly #recorded = new Subject<Recorded>();
  readonly #open: OpenIntervals;
  readonly #tenants = new Map<TenantId, Pending>();
  readonly #logger = new Logger(Receipts.name);
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> | undefined;
  /** Since when it cannot be written, by `performance.now()`. */
  #failingSince: number | undefined;

  constructor(
    private readonly store: ReceiptsStore,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {
    this.#open = new OpenIntervals(config.LEDGER_ROWS_PER_SECOND);
  }

  onModuleInit(): void {
    this.#timer = setInterval(() => void this.flush(), this.config.LEDGER_FLUSH_MS);
  }

  get recorded(): Observable<Recorded> {
    return this.#recorded;
  }

  opened(reader: Reader, since: number, position: Position): void {
    const { connectionId, user, device, topics, openedAt } = reader;
    this.#of(reader.tenantId).opened.push({
      connectionId,
      user,
      device,
      topics,
      node: this.config.NODE_NAME,
      since,
      position,
      openedAt,
    });
  }

  /** The connection has begun an interval. */
  written(source: SentSource): void {
    this.#open.add(source);
  }

  /** A finished interval. */
  sent(reader: Reader, interval: SentInterval): void {
    const { connectionId, user, device, openedAt } = reader;
    const pending = this.#of(reader.tenantId);
    pending.sent.push({ connectionId, user, device, openedAt, ...interval });
    if (!reader.autoAck) return;
    // Two streams of one device: the one that replays must not hide how far the other got.
    const key = `${openedAt} ${device} ${user}`;
    const position = asPosition(Math.max(interval.to, pending.moved.get(key)?.position ?? 0));
    pending.moved.set(key, { user, device, position, openedAt });
  }

  ended(reader: Reader, until: number, position: Position, reason: string): void {
    const { tenantId, connectionId, user, openedAt } = reader;
    this.#of(tenantId).ended.push({ connectionId, user, openedAt, until, position, reason });
  }

  /** Drops what waits of streams that are gone from history. What is being written now is kept out by the statements. */
  async forget(tenantId: TenantId, isGone: (of: OfStream) => boolean): Promise<void> {
    this.#tenants.get(tenantId)?.drop(isGone);
    // It puts back what it could not write.
    await this.#flushing;
    this.#tenants.get(tenantId)?.drop(isGone);
  }

  /** Writes what is there. One flush at a time, so that a connection is opened before it ends. */
  async flush(): Promise<void> {
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined;
    });
    await this.#flushing;
  }

  /** The last flush; call it when the streams have ended. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flushing;
    await this.flush();
  }

  async #flush(): Promise<void> {
    for (const [reader, interval] of this.#open.collect()) this.sent(reader, interval);
    const now = performance.now();
    if (now - (this.#failingSince ?? now) > LONGEST_WAIT_MS) this.#forgetAll();
    const batches = [...this.#tenants];
    this.#tenants.clear();
    if (batches.length > 0) await this.#writeAll(batches);
    this.#limit();
  }

  async #writeAll(batches: readonly (readonly [TenantId, Pending])[]): Promise<void> {
    const started = performance.now();
    let away = false;
    for (const [tenantId, pending] of batches) {
      // One tenant has waited for a database that does not answer; the others need not, least of all at shutdown.
      if (away) this.#putBack(tenantId, pending);
      else away = await this.#write(tenantId, pending);
    }
    this.metrics.ledgerFlushSeconds.observe((performance.now() - started) / 1_000);
  }

  /** True when the database writes for nobody; a lock is in the way of one tenant. What was not written waits for the next flush. */
  async #write(tenantId: TenantId, pending: Pending): Promise<boolean> {
    try {
      await writeChunked(pending.opened, CHUNKS, async (opened) => {
        await this.store.recordConnections(tenantId, opened);
        this.#recorded.next({ tenantId, opened });
      });
      await writeChunked(pending.sent, CHUNKS, (sent) => this.store.recordSends(tenantId, sent));
      if (pending.moved.size > 0) await this.store.moveCursors(tenantId, [...pending.moved.values()]);
      pending.moved.clear();
      await writeChunked(pending.ended, CHUNKS_OF_ENDS, (ended) =>
        this.store.endConnections(tenantId, ended),
      );
      this.#failingSince = undefined;
      return false;
    } catch (error) {
      if (this.#failingSince === undefined)
        this.#logger.warn(`the ledger cannot be written and waits: ${messageOf(error)}`);
      this.#failingSince ??= performance.now();
      this.#putBack(tenantId, pending);
      return isConnectionLoss(error) || failureOf(error) !== undefined;
    }
  }

  #putBack(tenantId: TenantId, pending: Pending): void {
    const newer = this.#of(tenantId);
    newer.opened = [...pending.opened, ...newer.opened];
    newer.sent = [...pending.sent, ...newer.sent];
    newer.ended = [...pending.ended, ...newer.ended];
    newer.moved = new Map([...pending.moved, ...newer.moved]);
  }

  #forgetAll(): void {
    this.#failingSince = undefined;
    for (const { sent } of this.#tenants.values()) this.metrics.ledgerDropped.inc(sent.length);
    this.#tenants.clear();
  }

  /** The oldest intervals go first; the beginning and end of connections are few and stay. */
  #limit(): void {
    let waiting = 0;
    for (const pending of this.#tenants.values()) waiting += pending.size;
    let excess = waiting - this.config.LEDGER_QUEUE_LIMIT;
    for (const pending of this.#tenants.values()) {
      if (excess <= 0) break;
      const dropped = pending.sent.splice(0, excess).length;
      excess -= dropped;
      waiting -= dropped;
      this.metrics.ledgerDropped.inc(dropped);
    }
    this.metrics.ledgerQueue.set(waiting + this.#open.size);
  }

  #of(tenantId: TenantId): Pending {
    let pending = this.#tenants.get(tenantId);
    if (pending === undefined) {
      pending = new Pending();
      this.#tenants.set(tenantId, pending);
    }
    return pending;
  }
}
