import { Inject, Injectable, Logger, Module, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { ChangeFeedPool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import { Bus, BusModule } from './bus.ts';

/** What the database had when it was asked. */
interface ChangeSnapshot {
  /** A pg_snapshot as text: which transactions were over by then. */
  readonly snapshot: string;
  /** When the server was started; another one has another time. */
  readonly server: string;
}

const HORIZON: Statement = {
  name: 'change_feed_snapshot',
  text: `select pg_current_snapshot()::text as snapshot, pg_postmaster_start_time()::text as server`,
};

/**
 * The condition, in a statement, that a row was written by a transaction that was not over in the snapshot `$1`. The first two
 * are the range of an index. The second keeps out what a dump brought from a younger server: its numbers lie ahead.
 */
export const NOT_IN_SNAPSHOT = `transaction >= pg_snapshot_xmin($1::pg_snapshot)
  and transaction < pg_snapshot_xmax(pg_current_snapshot())
  and not pg_visible_in_snapshot(transaction, $1::pg_snapshot)`;

/** Where in the history of the whole server the next look begins. Belongs to no tenant. */
@Injectable()
export class ChangeFeedStore {
  constructor(private readonly pool: ChangeFeedPool) {}

  async snapshot(): Promise<ChangeSnapshot> {
    const [row] = await this.pool.rows<ChangeSnapshot & Record<string, unknown>>(HORIZON);
    if (row === undefined) throw new Error('The database named no snapshot.');
    return row;
  }
}

/*
 * Every transaction holds a lock on its own virtual id from before its first snapshot until it is over, which every
 * login may see. One that cannot see a row that was committed before this statement is among those that it finds, also
 * when it has not written yet, and when the node that began it is dead. Sessions of others (a dump, which takes hours)
 * write nothing of ours; where the settings name our own sessions otherwise, all are waited for.
 */
const UNDER_WAY: Statement = {
  name: 'transactions_under_way',
  text: `
select l.virtualxid as id from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock' and l.pid <> pg_backend_pid() and a.datname = current_database()
  and (a.application_name like 'tidings %' or current_setting('application_name') not like 'tidings %')`,
};

const STILL: Statement = {
  name: 'transactions_still_under_way',
  text: `
select virtualxid as id from pg_locks
where locktype = 'virtualxid' and mode = 'ExclusiveLock' and virtualxid = any($1::text[])`,
};

/** Which transactions of this service the database is at, of all tenants. They have no tenant to be asked by. */
@Injectable()
export class InFlightTransactionsStore {
  constructor(private readonly pool: ChangeFeedPool) {}

  /** Those that may not see what was committed a moment ago. */
  async underWay(): Promise<readonly string[]> {
    return (await this.pool.rows<{ id: string }>(UNDER_WAY)).map(({ id }) => id);
  }

  /** Those of them that are not over. */
  async still(transactions: readonly string[]): Promise<readonly string[]> {
    if (transactions.length === 0) return [];
    return (await this.pool.rows<{ id: string }>(STILL, [transactions])).map(({ id }) => id);
  }
}

/** Least time between looks for what other nodes have said, in ms. */
const BETWEEN_LOOKS_MS = 50;

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
 * How this node hears of what any node changed: issuers, tenants, revocations, erasures, commands to open streams.
 *
 * The truth is a row. A node asks for new ones several times a second, and soon after another node has said that there is one. A
 * look reads what was not visible yet in the snapshot that was taken *before* the last look read. Neither a sequence nor a clock would
 * do, since both become visible out of order.
 */
@Injectable()
export class ChangeFeed implements OnModuleInit, OnModuleDestroy {
  readonly #sources: ChangeSource[] = [];
  readonly #logger = new Logger(ChangeFeed.name);
  #snapshot: string | undefined;
  #server: string | undefined;
  #timer: NodeJS.Timeout | undefined;
  #hinted: NodeJS.Timeout | undefined;
  #subscription: Subscription | undefined;
  #lookedAt = 0;
  #looking: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #failing = false;

  constructor(
    private readonly store: ChangeFeedStore,
    private readonly bus: Bus,
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
    this.#subscription = this.bus.changes.subscribe(() => this.#lookSoon());
  }

  async onModuleDestroy(): Promise<void> {
    clearInterval(this.#timer);
    clearTimeout(this.#hinted);
    this.#subscription?.unsubscribe();
    await this.#looking;
  }

  /**
   * Looks now, and tells the other nodes. When this resolves, what was committed before the call counts on this node; should the
   * database have gone away since that commit, with a later look.
   */
  async now(): Promise<void> {
    this.bus.announceChange();
    await this.#lookNow();
  }

  /** Where many nodes change something, each would look for each of the others. */
  #lookSoon(): void {
    const wait = Math.max(0, this.#lookedAt + BETWEEN_LOOKS_MS - performance.now());
    this.#hinted ??= setTimeout(() => {
      this.#hinted = undefined;
      void this.#lookNow();
    }, wait);
  }

  async #lookNow(): Promise<void> {
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
    this.#lookedAt = performance.now();
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
  imports: [BusModule],
  providers: [ChangeFeed, ChangeFeedStore, InFlightTransactionsStore],
  exports: [BusModule, ChangeFeed, InFlightTransactionsStore],
})
export class ChangeFeedModule {}
