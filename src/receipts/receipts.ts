import { Inject, Injectable, Logger, Module, type OnModuleInit } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { failureOf, isConnectionLoss } from '../postgres/errors.ts';
import { messageOf } from '../core/errors.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import { asPosition, type Position } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { type OfStream, ReceiptsStore } from './receipts.store.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { Acknowledgements, AcksController, AcksStore } from './acknowledgements.ts';
import { DevicesStore } from './devices.store.ts';
import { NodesModule } from '../cluster/nodes.ts';

type Opened = Parameters<ReceiptsStore['recordConnections']>[1][number];
type Sent = Parameters<ReceiptsStore['recordSends']>[1][number];
type Ended = Parameters<ReceiptsStore['endConnections']>[1][number] & OfStream;
type Moved = Parameters<ReceiptsStore['moveCursors']>[1][number];

/** Streams that have opened and are recorded, where other nodes find them. */
interface Recorded {
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
 * Collects what streams wrote and stores it a few times a second, as intervals: one row per connection
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
    this.#open = new OpenIntervals(config.RECEIPTS_ROWS_PER_SECOND);
  }

  onModuleInit(): void {
    this.#timer = setInterval(() => void this.flush(), this.config.RECEIPTS_FLUSH_MS);
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
  async purge(tenantId: TenantId, isGone: (of: OfStream) => boolean): Promise<void> {
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
    this.metrics.receiptsFlushSeconds.observe((performance.now() - started) / 1_000);
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
        this.#logger.warn(`receipts cannot be written and wait: ${messageOf(error)}`);
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
    for (const { sent } of this.#tenants.values()) this.metrics.receiptsDropped.inc(sent.length);
    this.#tenants.clear();
  }

  /** The oldest intervals go first; the beginning and end of connections are few and stay. */
  #limit(): void {
    let waiting = 0;
    for (const pending of this.#tenants.values()) waiting += pending.size;
    let excess = waiting - this.config.RECEIPTS_QUEUE_LIMIT;
    for (const pending of this.#tenants.values()) {
      if (excess <= 0) break;
      const dropped = pending.sent.splice(0, excess).length;
      excess -= dropped;
      waiting -= dropped;
      this.metrics.receiptsDropped.inc(dropped);
    }
    this.metrics.receiptsQueue.set(waiting + this.#open.size);
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

/** Everything addressed to the connection in (from, to] was written to its socket by `at` (ms, database clock). */
export interface SentInterval {
  readonly from: Position;
  to: Position;
  at: number;
  /** From the backlog, not as it was published. */
  readonly replayed: boolean;
}

/** Whose stream it is, as receipts have it. */
export interface Reader {
  readonly connectionId: string;
  readonly tenantId: TenantId;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly topics: readonly Topic[];
  readonly autoAck: boolean;
  /** When the database let the stream in, by its clock and not estimated, in ms since 1970. */
  readonly openedAt: number;
}

/** A connection that was written to: its interval grows until it is collected. */
export interface SentSource {
  readonly subscriber: Reader;
  takeInterval(): SentInterval | undefined;
}

/**
 * The connections that were written to. Each interval that is collected becomes a row, and one that grows meanwhile
 * costs nothing: after many were collected at once, the next time is later.
 */
export class OpenIntervals {
  readonly #sources = new Set<SentSource>();
  /** By `performance.now()`. */
  #dueAt = -Infinity;

  /** `perSecond`: rows that are written a second, about. */
  constructor(private readonly perSecond: number) {}

  /** How many have not been collected. */
  get size(): number {
    return this.#sources.size;
  }

  add(source: SentSource): void {
    this.#sources.add(source);
  }

  /** None before it is time. A stream that ends hands its interval over by itself. */
  *collect(): Generator<readonly [Reader, SentInterval]> {
    const now = performance.now();
    if (now < this.#dueAt) return;
    this.#dueAt = now + (1_000 * this.#sources.size) / this.perSecond;
    for (const source of this.#sources) {
      const interval = source.takeInterval();
      if (interval !== undefined) yield [source.subscriber, interval];
    }
    this.#sources.clear();
  }
}

/** Rows of one statement, and the pause between two, in ms. A commit waits until what others wrote before it is on disk too. */
interface Chunks {
  readonly atOnce: number;
  readonly pauseMs: number;
}

const CHUNKS: Chunks = { atOnce: 500, pauseMs: 0 };
/** Thousands of streams end in the same moment: one statement after the other keeps a processor that publishes wait for. */
const CHUNKS_OF_ENDS: Chunks = { atOnce: 100, pauseMs: 2 };

/** Takes from `rows` what was written. */
async function writeChunked<Row>(
  rows: Row[],
  { atOnce, pauseMs }: Chunks,
  write: (some: readonly Row[]) => Promise<void>,
): Promise<void> {
  while (rows.length > 0) {
    const some = rows.slice(0, atOnce);
    await write(some);
    rows.splice(0, some.length);
    if (pauseMs > 0 && rows.length > 0) await sleep(pauseMs);
  }
}

@Module({
  imports: [NodesModule],
  controllers: [AcksController],
  providers: [AcksStore, Acknowledgements, DevicesStore, Receipts, ReceiptsStore],
  exports: [DevicesStore, NodesModule, Receipts],
})
export class ReceiptsModule {}
