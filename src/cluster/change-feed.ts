import { Inject, Injectable, Logger, Module, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { ChangeFeedStore, InFlightTransactionsStore } from './change-feed.store.ts';

/** A table of which every node keeps what counts in memory. */
export interface ChangeSource {
  /** Reads everything that counts: at start, and when the database went back. Throws the database's error. */
  load(): Promise<void>;
  /**
   * Reads the rows that were not visible in the snapshot `since` (a pg_snapshot as text), and applies them. Some are read
   * twice, so applying them again changes nothing. Throws the database's error.
   */
  catchUp(since: string): Promise<void>;
}

/**
 * How this node hears of what any node changed: issuers, tenants, revocations, commands to open streams.
 *
 * The truth is a row; a node asks for new ones several times a second and needs no other message. A look reads
 * what was not visible yet in the snapshot that was taken *before* the last look read. Neither a sequence nor a clock would
 * do, since both become visible out of order.
 */
@Injectable()
export class ChangeFeed implements OnModuleInit, OnModuleDestroy {
  readonly #sources: ChangeSource[] = [];
  readonly #logger = new Logger(ChangeFeed.name);
  #snapshot: string | undefined;
  #server: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failing = false;

  constructor(
    private readonly store: ChangeFeedStore,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /** In the constructor of the source: what is loaded at start has to be known by then. */
  register(source: ChangeSource): void {
    this.#sources.push(source);
  }

  /** Nobody is let in before the revocations are known: without a first look the service does not start. */
  async onModuleInit(): Promise<void> {
    await this.#look();
    this.#timer = setInterval(() => {
      // A look that is still under way will do.
      if (this.#looking === undefined) void this.#poll();
    }, this.config.CHANGES_POLL_MS);
  }

  async onModuleDestroy(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
  }

  /**
   * Looks now. When this resolves, what was committed before the call counts on this node; should the database have
   * gone away since that commit, with a later look.
   */
  async now(): Promise<void> {
    // Callers that wait for the same look share the one after it.
    this.#next ??= this.#lookAfter(this.#looking);
    await this.#next;
  }

  /** A look that is under way may have read before the commit that the caller means. */
  async #lookAfter(looking: Promise<void> | undefined): Promise<void> {
    await looking;
    this.#next = undefined;
    await this.#poll();
  }

  async #poll(): Promise<void> {
    this.#looking = this.#attempt().finally(() => {
      this.#looking = undefined;
    });
    await this.#looking;
  }

  async #attempt(): Promise<void> {
    try {
      await this.#look();
      if (this.#failing) this.#logger.log('changes of other nodes can be read again');
      this.#failing = false;
    } catch (error) {
      if (!this.#failing) this.#logger.warn(`changes of other nodes cannot be read: ${messageOf(error)}`);
      this.#failing = true;
    }
  }

  async #look(): Promise<void> {
    const since = this.#snapshot;
    const { snapshot, server } = await this.store.snapshot();
    // Another server: a standby may have been promoted that had not received everything. Or a dump was restored.
    const anew = since === undefined || server !== this.#server || xmin(snapshot) < xmin(since);
    const looks = this.#sources.map(async (source) => {
      if (anew) await source.load();
      if (since !== undefined) await source.catchUp(since);
    });
    // All of them, also when one has failed: what a slow one has read would otherwise be applied over the next look.
    const failed = (await Promise.allSettled(looks)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
    this.#snapshot = snapshot;
    this.#server = server;
  }
}

/** The oldest transaction that was under way. A snapshot reads `xmin:xmax:those under way`. */
const xmin = (snapshot: string): bigint => BigInt(snapshot.split(':', 1)[0] ?? '0');

@Module({
  providers: [ChangeFeed, ChangeFeedStore, InFlightTransactionsStore],
  exports: [ChangeFeed, InFlightTransactionsStore],
})
export class ChangeFeedModule {}
