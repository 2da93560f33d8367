import { Inject, Injectable, Logger, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Tenants } from '../tenants/tenants.ts';
import { jittered } from './frames.ts';
import { Hubs } from './hubs.ts';
import { OpenConnectionsStore } from './open-connections.store.ts';

/** How often nodes tell one another how many streams a tenant has, in ms. */
const EXCHANGE_MS = 500;
/** A tenant without streams here is asked about for so long after the last that wanted one, in ms: it may be full elsewhere. */
const REMEMBERED_MS = 60_000;

/** The streams of one tenant. */
interface TenantCount {
  /** On this node, those that are about to open among them. */
  here: number;
  /** What the other nodes were told of these. */
  told: number;
  /** On the others, as they told it. */
  elsewhere: number;
  /** When the last one came, by `performance.now()`. */
  wantedAt: number;
}

/**
 * How many streams there may be: on this node, and of a tenant on all nodes together. A node lets streams in by what it
 * knows; where two did so at the same time, those that came last go again (docs/adr/0010-limits-on-streams.md).
 */
@Injectable()
export class ConnectionQuota implements OnModuleInit {
  readonly #counts = new Map<TenantId, TenantCount>();
  readonly #logger = new Logger(ConnectionQuota.name);
  #taken = 0;
  #timer: NodeJS.Timeout | undefined;
  #limits: Subscription | undefined;
  #exchanging: Promise<void> | undefined;
  #failing = false;
  #emptied: (() => void) | undefined;

  constructor(
    private readonly store: OpenConnectionsStore,
    private readonly tenants: Tenants,
    private readonly hubs: Hubs,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  async onModuleInit(): Promise<void> {
    // What an earlier process of this name had.
    await this.store.leave(this.config.NODE_NAME);
    this.#limits = this.tenants.changed.subscribe(
      (tenantId) => void this.#attempt(() => this.#keep(tenantId)),
    );
    this.#timer = setInterval(() => {
      this.#exchanging ??= this.#attempt(() => this.#exchange()).finally(() => {
        this.#exchanging = undefined;
      });
    }, EXCHANGE_MS);
  }

  /** A place for a stream that opens. False: there is none left on this node, or none for the tenant. */
  take(tenantId: TenantId): boolean {
    if (this.#taken >= this.config.MAX_CONNECTIONS) {
      this.metrics.overLimit.inc({ limit: 'node' });
      return false;
    }
    let count = this.#counts.get(tenantId);
    if (count === undefined) {
      count = { here: 0, told: 0, elsewhere: 0, wantedAt: 0 };
      this.#counts.set(tenantId, count);
    }
    count.wantedAt = performance.now();
    if (count.here + count.elsewhere >= this.tenants.limits(tenantId).connections) {
      this.metrics.overLimit.inc({ limit: 'connections' });
      return false;
    }
    count.here += 1;
    this.#taken += 1;
    this.metrics.connections.set(this.#taken);
    return true;
  }

  /** Gives a place back that was taken, when the stream has ended or did not begin. */
  leave(tenantId: TenantId): void {
    const count = this.#counts.get(tenantId);
    if (count !== undefined) count.here -= 1;
    this.#taken -= 1;
    this.metrics.connections.set(this.#taken);
    if (this.#taken === 0) this.#emptied?.();
  }

  /** Resolves when every place was given back. */
  async empty(): Promise<void> {
    if (this.#taken === 0) return;
    await new Promise<void>((resolve) => {
      this.#emptied = resolve;
    });
  }

  /** The last word to the other nodes; call it when the streams have ended. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#limits?.unsubscribe();
    // One that is under way would leave what it tells behind.
    await this.#exchanging;
    await this.#attempt(() => this.store.leave(this.config.NODE_NAME));
  }

  async #exchange(): Promise<void> {
    const known = [...this.#counts];
    if (known.length === 0) return;
    const news = known.flatMap(([tenantId, count]) =>
      count.here === count.told ? [] : [{ tenantId, connections: count.here, count }],
    );
    const counts = await this.store.exchange(
      this.config.NODE_NAME,
      news,
      known.map(([tenantId]) => tenantId),
    );
    for (const { count, connections } of news) count.told = connections;
    const elsewhere = new Map(counts.map(({ tenantId, connections }) => [tenantId, connections]));
    const forgetBefore = performance.now() - REMEMBERED_MS;
    for (const [tenantId, count] of known) {
      count.elsewhere = elsewhere.get(tenantId) ?? 0;
      if (count.here + count.told === 0 && count.wantedAt < forgetBefore) this.#counts.delete(tenantId);
      else await this.#keep(tenantId);
    }
  }

  /** Ends the newest streams of the tenant, if it has too many and they are here. */
  async #keep(tenantId: TenantId): Promise<void> {
    const { here, elsewhere } = this.#counts.get(tenantId) ?? { here: 0, elsewhere: 0 };
    const { connections: most } = this.tenants.limits(tenantId);
    const excess = here + elsewhere - most;
    if (here === 0 || excess <= 0) return;
    const newest = await this.store.newestOfTenant(tenantId, most, this.config.NODE_NAME, excess);
    for (const { user, connectionId } of newest) {
      const connection = this.hubs.find(tenantId, user, connectionId);
      if (connection?.isOpen !== true) continue;
      this.metrics.overLimit.inc({ limit: 'connections' });
      connection.end('over-limit', jittered(this.config.STREAM_RETRY_MS));
    }
  }

  /** What fails is tried again with the next exchange. */
  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.#failing = false;
    } catch (error) {
      if (!this.#failing)
        this.#logger.warn(`streams of tenants cannot be counted over all nodes: ${messageOf(error)}`);
      this.#failing = true;
    }
  }
}
