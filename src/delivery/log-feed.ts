import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { Bus, type Hint } from '../cluster/bus.ts';
import { NodeName } from '../cluster/nodes.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { Ingest } from '../log/ingest.ts';
import { ReadStore } from '../log/read.store.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { type Connection } from './connection.ts';
import { Hubs } from './hubs.ts';
import { Eviction } from './eviction.ts';
import { jittered } from './frames.ts';
import { Streams } from './streams.ts';
import { LogEndsBefore, type TenantHub } from './tenant-hub.ts';

/** How often the log is polled while other nodes cannot be heard, in ms. */
const DEGRADED_POLL_MS = 200;

/**
 * What the hubs of this node live from: what the node itself commits, at once, and what others have committed, as soon as the
 * bus says so. Whatever the bus says or does not say, every LOG_POLL_MS the heads of the tenant logs are compared with the
 * database. The same poll gives the sign of life of the node, and tells the time of the database.
 */
@Injectable()
export class LogFeed implements OnModuleInit {
  readonly #logger = new Logger(LogFeed.name);
  #timer: NodeJS.Timeout | undefined;
  readonly #subscriptions: Subscription[] = [];
  #polledAt = 0;
  #polling: Promise<void> | undefined;

  constructor(
    private readonly ingest: Ingest,
    private readonly reads: ReadStore,
    private readonly clock: DatabaseClock,
    private readonly nodeName: NodeName,
    private readonly bus: Bus,
    private readonly hubs: Hubs,
    private readonly streams: Streams,
    private readonly eviction: Eviction,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async onModuleInit(): Promise<void> {
    this.#subscriptions.push(
      this.ingest.committed.subscribe((batch) => {
        this.bus.announce(batch.tenantId, batch.head);
        this.hubs.get(batch.tenantId)?.offer(batch);
      }),
      this.bus.heads.subscribe((hint) => this.#reach(hint)),
      this.bus.resumed.subscribe(() => void this.#pollAfresh()),
    );
    this.#timer = setInterval(() => this.#tick(), Math.min(DEGRADED_POLL_MS, this.config.LOG_POLL_MS));
    await this.poll();
  }

  /** Ends the poll, and with it the signs of life of this node. */
  close(): void {
    clearInterval(this.#timer);
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  #tick(): void {
    const isDue = performance.now() >= this.#polledAt + this.config.LOG_POLL_MS;
    if (isDue || this.bus.state === 'degraded') void this.poll();
  }

  /** One that is under way may have asked before the bus heard. */
  async #pollAfresh(): Promise<void> {
    await this.#polling;
    await this.poll();
  }

  /** Reads what another node has stored, if streams of its tenant are open here. */
  #reach({ tenantId, head }: Hint): void {
    void this.hubs
      .get(tenantId)
      ?.reach(head)
      .catch((error: unknown) => {
        // Whatever is said of a log, the log alone tells.
        if (!(error instanceof LogEndsBefore)) this.streams.databaseTrouble(error);
      });
  }

  /** Compares the heads of the tenants that are served here with the database, and heals what was missed. One that is under way will do. */
  async poll(): Promise<void> {
    this.#polling ??= this.#compare().finally(() => {
      this.#polling = undefined;
    });
    await this.#polling;
  }

  async #compare(): Promise<void> {
    this.#polledAt = performance.now();
    const known = new Map([...this.hubs.values()].map((hub) => [hub, hub.tail.head]));
    const askedAt = Date.now();
    try {
      const [now, heads, held, others] = await Promise.all([
        this.reads.now(),
        this.reads.heads([...known.keys()].map(({ tenantId }) => tenantId)),
        this.nodeName.seen(),
        this.nodeName.others(),
      ]);
      this.bus.others(others);
      this.clock.observe(askedAt, now);
      this.eviction.seen();
      this.streams.databaseAnswers();
      // Their records in history, by which others know of them, have ended.
      if (held === 'anew') for (const hub of this.hubs.values()) this.#endStreams(hub);
      const headOf = new Map(heads.map(({ tenantId, head }) => [tenantId, head]));
      for (const [hub, before] of known) {
        if (this.hubs.get(hub.tenantId) !== hub) continue;
        const head = headOf.get(hub.tenantId);
        // Below what was known before the question: the database lost a part of the log that streams have seen.
        if (head === undefined || head < before) {
          this.#logger.warn(`the log of tenant ${hub.tenantId} went back: its streams start anew`);
          this.#endStreams(hub);
        } else await hub.reach(head);
      }
    } catch (error) {
      this.streams.databaseTrouble(error);
    }
  }

  #endStreams(hub: TenantHub<Connection>): void {
    this.hubs.delete(hub.tenantId);
    for (const connection of hub.connections)
      connection.end('unavailable', jittered(this.config.STREAM_RETRY_MS));
  }
}
