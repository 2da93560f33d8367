import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { recordAction } from '../audit/audit.store.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import { InFlightTransactionsStore } from '../cluster/change-feed.store.ts';
import { HistoryPool } from '../postgres/pools.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { TenantsStore } from '../tenants/tenants.store.ts';
import { auditEntryOf, type Erasure } from './erasure.ts';
import { ErasureRegistry } from './erasure-registry.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';
import { ErasureWorkerStore } from './erasure-worker.store.ts';

/** How often erasures are looked for that another node has left behind, in ms. */
const TICK_MS = 1_000;
/** How often it is checked whether all nodes have purged their memory, in ms. */
const POLL_MS = 50;
/** In how many tenants this node erases at the same time. The other connections of the pool are for operators. */
const MAX_AT_ONCE = 2;

/** This process does not go on: another one works on the erasure, or the node stops. */
class Abandoned extends Error {}

/**
 * Carries out erasures: on the node that was asked for one, or on another node when that has died. In order:
 *
 * 1. wait until every node has purged its memory, and until every transaction is over that began before the erasure;
 * 2. settle the position up to which everything is erased;
 * 3. delete the rows, page by page;
 * 4. wait until every node has purged its memory once more;
 * 5. write the end and its audit entry.
 *
 * A node that carries on the work of another one deletes from the first page, since pages that are empty cost next to nothing.
 */
@Injectable()
export class ErasureWorker implements OnModuleInit, OnModuleDestroy {
  /** By which the rows know this process. A node that starts again under its name is another process. */
  readonly id = randomUUID();
  readonly #logger = new Logger(ErasureWorker.name);
  readonly #working = new Map<TenantId, Promise<void>>();
  /** Erasures that were tried since the last tick: another node works on them, or they failed. */
  readonly #tried = new Set<string>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;

  constructor(
    private readonly registry: ErasureRegistry,
    private readonly registryStore: ErasureRegistryStore,
    private readonly store: ErasureWorkerStore,
    private readonly inFlight: InFlightTransactionsStore,
    private readonly tenants: TenantsStore,
    private readonly changes: ChangeFeed,
    private readonly pool: HistoryPool,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.registry.updates.subscribe(({ done }) => {
      if (!done) this.#startNext();
    });
    this.#timer = setInterval(() => {
      this.#tried.clear();
      this.#startNext();
    }, TICK_MS);
  }

  async onModuleDestroy(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
    await Promise.all(this.#working.values());
  }

  /** Starts as many erasures as there is room for, one at a time in each tenant. */
  #startNext(): void {
    for (const erasure of this.registry.running) {
      const { tenantId, id } = erasure;
      if (this.#stopping || this.#working.size >= MAX_AT_ONCE) return;
      if (this.#working.has(tenantId) || this.#tried.has(id)) continue;
      this.#tried.add(id);
      const work = this.#attempt(erasure).finally(() => {
        this.#working.delete(tenantId);
        this.#startNext();
      });
      this.#working.set(tenantId, work);
    }
  }

  /** Never rejects. */
  async #attempt(erasure: Erasure): Promise<void> {
    try {
      if (!(await this.registryStore.claim(erasure, this.id))) {
        // The whole tenant was deleted meanwhile, and the row of this erasure with it.
        if ((await this.registryStore.find(erasure.tenantId, erasure.id)) === undefined)
          this.registry.drop(erasure);
        return;
      }
      const upTo = erasure.position ?? (await this.#settle(erasure));
      await this.#erase(erasure, upTo);
      if (!(await this.registryStore.markEmptied(erasure, this.id))) throw new Abandoned();
      await this.changes.now();
      // What was published since the first purge is in the tails again, from where a stream that returns would get it.
      await this.#untilPurged(erasure);
      await this.#finish(erasure);
    } catch (error) {
      if (error instanceof Abandoned) return;
      const message = messageOf(error);
      this.#logger.warn(`erasure ${erasure.id} waits and will be tried again: ${message}`);
    }
  }

  /**
   * Settles the position up to which everything is erased. Every node has purged its memory by then, and every transaction
   * is over that may not have seen the row of the erasure, so nothing is under way that could add a row later.
   */
  async #settle(erasure: Erasure): Promise<Position> {
    let before = await this.inFlight.underWay();
    await this.#untilPurged(erasure, async () => {
      before = await this.inFlight.still(before);
      return before.length === 0;
    });
    const upTo = await this.registryStore.cut(erasure, this.id);
    if (upTo === undefined) throw new Abandoned();
    return upTo;
  }

  /** Waits until every living node has purged its memory, and `also` is true. Throws Abandoned. */
  async #untilPurged(
    erasure: Erasure,
    also: () => Promise<boolean> = () => Promise.resolve(true),
  ): Promise<void> {
    for (;;) {
      const notPurged = await this.registryStore.touch(erasure, this.id);
      if (notPurged === undefined || this.#stopping) throw new Abandoned();
      if ((await also()) && notPurged.length === 0) return;
      await sleep(POLL_MS);
    }
  }

  async #erase(erasure: Erasure, upTo: Position): Promise<void> {
    for (const step of this.store.steps(erasure, this.id, upTo)) {
      let page = await step(undefined);
      while (page?.next !== undefined && !this.#stopping) page = await step(page.next);
      if (page === undefined || this.#stopping) throw new Abandoned();
    }
  }

  /** Writes the end of the erasure and its audit entry in one transaction. */
  async #finish(erasure: Erasure): Promise<void> {
    const { tenantId, user } = erasure;
    await this.pool.transaction(tenantId, async (run) => {
      const completed = await this.registryStore.finish(run, erasure, this.id);
      if (completed === undefined) throw new Abandoned();
      if (user === null) await this.tenants.markDeleted(run, tenantId);
      await recordAction(run, auditEntryOf(erasure, completed));
    });
    await this.changes.now();
  }
}
