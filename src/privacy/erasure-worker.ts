import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { recordAction } from '../audit/audit.store.ts';
import { ChangeFeed } from '../cluster/change-feed.ts';
import { InFlightTransactionsStore } from '../cluster/grace.store.ts';
import { TenantTransactions } from '../postgres/entity-transactions.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { TenantsStore } from '../tenants/tenants.store.ts';
import { entryOf } from './audit-entry.ts';
import type { Erasure } from './erasure.ts';
import { ErasureRegistry } from './erasure-registry.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';
import { ErasureWorkerStore } from './erasure-worker.store.ts';

/** Erasures that a node left behind are looked for this often, in ms. */
const TICK_MS = 1_000;
/** Pause between two looks at what an erasure waits for, in ms. */
const LOOK_MS = 50;
/** Tenants that this node erases something of at the same time; the other connections of the pool are for operators. */
const MOST_AT_ONCE = 2;

/** Another process works on it, or the node stops. */
class Left extends Error {}

/**
 * Deletes what is erased, page by page: the node that was asked, or another one when that has died. Whoever goes on begins
 * at the front, since to erase what is gone already costs next to nothing.
 */
@Injectable()
export class ErasureWorker implements OnModuleInit, OnModuleDestroy {
  /** By which the rows know this process. A node that starts anew under its name is another. */
  readonly id = randomUUID();
  readonly #logger = new Logger(ErasureWorker.name);
  readonly #working = new Map<TenantId, Promise<void>>();
  /** What was tried since the last tick, and is not for this node or not possible now. */
  readonly #resting = new Set<string>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;

  constructor(
    private readonly erasures: ErasureRegistry,
    private readonly store: ErasureRegistryStore,
    private readonly erasing: ErasureWorkerStore,
    private readonly grace: InFlightTransactionsStore,
    private readonly tenants: TenantsStore,
    private readonly changes: ChangeFeed,
    private readonly transactions: TenantTransactions,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.erasures.heard.subscribe(({ done }) => {
      if (!done) this.#look();
    });
    this.#timer = setInterval(() => {
      this.#resting.clear();
      this.#look();
    }, TICK_MS);
  }

  async onModuleDestroy(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
    await Promise.all(this.#working.values());
  }

  /** One at a time of each tenant. */
  #look(): void {
    for (const erasure of this.erasures.running) {
      const { tenantId, id } = erasure;
      if (this.#stopping || this.#working.size >= MOST_AT_ONCE) return;
      if (this.#working.has(tenantId) || this.#resting.has(id)) continue;
      this.#resting.add(id);
      const work = this.#attempt(erasure).finally(() => {
        this.#working.delete(tenantId);
        this.#look();
      });
      this.#working.set(tenantId, work);
    }
  }

  /** Never rejects. */
  async #attempt(erasure: Erasure): Promise<void> {
    try {
      if (!(await this.store.claim(erasure, this.id))) {
        // The tenant went, and took it along.
        if ((await this.store.find(erasure.tenantId, erasure.id)) === undefined) this.erasures.drop(erasure);
        return;
      }
      const upTo = erasure.position ?? (await this.#settle(erasure));
      await this.#erase(erasure, upTo);
      if (!(await this.store.emptied(erasure, this.id))) throw new Left();
      await this.changes.now();
      // What was published while nobody came in went into the tails, from where a stream that comes back would get it.
      await this.#untilForgotten(erasure);
      await this.#finish(erasure);
    } catch (error) {
      if (error instanceof Left) return;
      const message = messageOf(error);
      this.#logger.warn(`erasure ${erasure.id} waits and will be tried again: ${message}`);
    }
  }

  /**
   * Settles what goes. Once every node has nothing of it in memory, and every transaction is over that may not have seen
   * the row of the erasure, whatever was under way is in the tables or will never be.
   */
  async #settle(erasure: Erasure): Promise<Position> {
    let before = await this.grace.underWay();
    await this.#untilForgotten(erasure, async () => {
      before = await this.grace.still(before);
      return before.length === 0;
    });
    const upTo = await this.store.cut(erasure, this.id);
    if (upTo === undefined) throw new Left();
    return upTo;
  }

  /** Waits until every node has nothing of it in memory, and `also` holds. */
  async #untilForgotten(
    erasure: Erasure,
    also: () => Promise<boolean> = () => Promise.resolve(true),
  ): Promise<void> {
    for (;;) {
      const unheard = await this.store.touch(erasure, this.id);
      if (unheard === undefined || this.#stopping) throw new Left();
      if ((await also()) && unheard.length === 0) return;
      await sleep(LOOK_MS);
    }
  }

  async #erase(erasure: Erasure, upTo: Position): Promise<void> {
    for (const step of this.erasing.steps(erasure, this.id, upTo)) {
      let page = await step(undefined);
      while (page?.next !== undefined && !this.#stopping) page = await step(page.next);
      if (page === undefined || this.#stopping) throw new Left();
    }
  }

  /** The end of it and the record of what is gone are one transaction. */
  async #finish(erasure: Erasure): Promise<void> {
    const { tenantId, user } = erasure;
    await this.transactions.transaction(tenantId, async (transaction) => {
      const account = await this.store.finish(transaction.run, erasure, this.id);
      if (account === undefined) throw new Left();
      if (user === null) await this.tenants.markDeleted(transaction, tenantId);
      await recordAction(transaction.entities, entryOf(erasure, account));
    });
    await this.changes.now();
  }
}
