import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { Subject, type Observable, type Subscription } from 'rxjs';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { asPosition } from '../core/position.ts';
import { NodePurge } from '../delivery/node-purge.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { whoOf, type Erasure } from './erasure.ts';
import { ErasureRegistryStore } from './erasure-registry.store.ts';

/** The erasures that are running, as this node knows them from the change feed, whichever node was asked for them. */
@Injectable()
export class ErasureRegistry implements ChangeSource {
  readonly #updates = new Subject<Erasure>();
  readonly #running = new Map<string, Erasure>();

  constructor(
    changes: ChangeFeed,
    private readonly store: ErasureRegistryStore,
    private readonly metrics: Metrics,
  ) {
    changes.register(this);
  }

  /** An erasure when it begins, when its position is settled, when the rows are deleted and when it is done; each at least once. */
  get updates(): Observable<Erasure> {
    return this.#updates;
  }

  /** Oldest first. */
  get running(): Iterable<Erasure> {
    return this.#running.values();
  }

  async load(): Promise<void> {
    const erasures = await this.store.load();
    this.#running.clear();
    for (const erasure of erasures) this.#apply(erasure);
  }

  async catchUp(since: string): Promise<void> {
    for (const erasure of await this.store.since(since)) this.#apply(erasure);
  }

  /** Takes out an erasure whose row is gone together with its tenant. */
  drop({ id }: Erasure): void {
    this.#running.delete(id);
    this.metrics.erasures.set(this.#running.size);
  }

  #apply(erasure: Erasure): void {
    if (erasure.done) this.#running.delete(erasure.id);
    else this.#running.set(erasure.id, erasure);
    this.metrics.erasures.set(this.#running.size);
    this.#updates.next(erasure);
  }
}

/** How often a purge that failed is tried again, in ms. */
const RETRY_MS = 1_000;

const EVERYTHING = asPosition(Number.MAX_SAFE_INTEGER);

/** A purge belongs to an erasure before its rows are deleted, or after that. */
const stageOf = ({ id, emptied }: Erasure): string => `${id} ${emptied}`;

/**
 * Purges this node's memory of what is erased, and notes in the row that it did. It does so before any row is deleted, so
 * that nothing from memory is written afterwards, and once more when all rows are deleted, for what was published meanwhile.
 */
@Injectable()
export class ErasurePurger implements OnModuleInit, OnModuleDestroy {
  readonly #logger = new Logger(ErasurePurger.name);
  /** The purges of running erasures by stage, under way or done. */
  readonly #purges = new Map<string, Promise<void>>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly registry: ErasureRegistry,
    private readonly store: ErasureRegistryStore,
    private readonly node: NodePurge,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.registry.updates.subscribe((erasure) => {
      if (erasure.done) void this.#purgeLate(erasure);
      else this.#begin(erasure);
    });
    this.#timer = setInterval(() => {
      const running = new Map([...this.registry.running].map((erasure) => [stageOf(erasure), erasure]));
      for (const erasure of running.values()) this.#begin(erasure);
      for (const stage of this.#purges.keys()) if (!running.has(stage)) this.#purges.delete(stage);
    }, RETRY_MS);
  }

  onModuleDestroy(): void {
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
  }

  #begin(erasure: Erasure): void {
    const stage = stageOf(erasure);
    if (this.#purges.has(stage)) return;
    const purge = this.#purge(erasure).catch((error: unknown) => {
      this.#purges.delete(stage);
      this.#logger.warn(`an erasure waits for this node: ${messageOf(error)}`);
    });
    this.#purges.set(stage, purge);
  }

  /** While the erasure is running nobody whom it concerns is let in, so nothing is spared. */
  async #purge(erasure: Erasure): Promise<void> {
    const { tenantId, position } = erasure;
    const who = whoOf(erasure);
    await this.node.purge({ tenantId, who, openedUntil: Infinity, upTo: position ?? EVERYTHING });
    await this.store.markPurged(erasure, this.config.NODE_NAME);
  }

  /** A node that was cut off learns only now of an erasure that is done. What has been opened or published since then stays. */
  async #purgeLate(erasure: Erasure): Promise<void> {
    const { tenantId, erasedAt, position } = erasure;
    if (erasedAt === null || position === null) return;
    await this.node.purge({ tenantId, who: whoOf(erasure), openedUntil: erasedAt, upTo: position });
  }
}
