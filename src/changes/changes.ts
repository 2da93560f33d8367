import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { CONFIG, type Config } from '../config.ts';
import { ChangesStore } from './changes.store.ts';

/** A table of which every node keeps what counts in memory. */
export interface ChangeSource {
  /** Reads everything that counts: at start, and when the database went back. Throws the database's error. */
  load(): Promise<void>;
  /**
   * Reads the rows that were written by the transaction `since` (an xid8 as text) or a later one, and applies them.
   * Some are read twice, so applying them again changes nothing. Throws the database's error.
   */
  catchUp(since: string): Promise<void>;
}

/**
 * How this node hears of what any node changed: issuers, tenants, revocations, orders to open streams.
 *
 * The truth is a row; a node asks for new ones several times a second and needs no other message. A look begins where
 * the last one could have missed something: at the oldest transaction that was under way *before* the last look. Neither
 * a sequence nor a clock would do, since both become visible out of order.
 */
@Injectable()
export class Changes implements OnModuleInit, OnModuleDestroy {
  readonly #sources: ChangeSource[] = [];
  readonly #logger = new Logger(Changes.name);
  #horizon: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failing = false;

  constructor(
    private readonly store: ChangesStore,
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
      if (!this.#failing)
        this.#logger.warn(
          `changes of other nodes cannot be read: ${error instanceof Error ? error.message : 'unknown error'}`,
        );
      this.#failing = true;
    }
  }

  async #look(): Promise<void> {
    const since = this.#horizon;
    const horizon = await this.store.horizon();
    // Below what was seen before: the database was restored, and what this node knows may never have happened.
    const anew = since === undefined || BigInt(horizon) < BigInt(since);
    const looks = this.#sources.map((source) => (anew ? source.load() : source.catchUp(since)));
    // All of them, also when one has failed: what a slow one has read would otherwise be applied over the next look.
    const failed = (await Promise.allSettled(looks)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
    this.#horizon = horizon;
  }
}
