import { Inject, Injectable } from '@nestjs/common';
import { CONFIG, type Config } from '../core/config.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import type { TenantId, Topic } from '../core/identifiers.ts';
import { ReadStore, type Reader } from '../log/read.store.ts';
import { asPosition, type Position } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { addressOfTopic, Entry, EVERYONE } from './tail.ts';

/** Streams come in the rounds of their arrivals, a few in a turn of the event loop; then they are read for together, in ms. */
const COLLECTS_MS = 500;

/** A stream that has to read the log. */
export interface BacklogReader extends Reader {
  readonly topics: readonly Topic[];
}

/** What one stream gets from one read: everything addressed to it in (after, upTo]. */
export interface Page {
  readonly entries: readonly Entry[];
  readonly upTo: Position;
  readonly floor: Position;
}

/** Reads the log for streams that are behind; those of one tenant that wait at the same time are served by one statement. */
@Injectable()
export class Backlog {
  readonly #tenants: KeyedBatcher<TenantId, BacklogReader, Page>;

  constructor(
    private readonly store: ReadStore,
    private readonly metrics: Metrics,
    @Inject(CONFIG) private readonly config: Config,
  ) {
    this.#tenants = new KeyedBatcher((tenantId, readers) => this.#serve(tenantId, readers), {
      atOnce: config.BACKLOG_READERS,
      collectsMs: COLLECTS_MS,
    });
  }

  /** Throws the database's error when it cannot be read. */
  async read(tenantId: TenantId, reader: BacklogReader): Promise<Page> {
    return await this.#tenants.request(tenantId, reader);
  }

  /**
   * Neighbours in the log are read together. When the shared part of a read ends before a reader's position, the read
   * said nothing about that reader's topics: it is asked for again with those that stand as far as itself.
   */
  async #serve(tenantId: TenantId, readers: readonly BacklogReader[]): Promise<Page[]> {
    const pages = new Map<BacklogReader, Page>();
    let left = [...readers].sort((a, b) => a.after - b.after);
    while (left.length > 0) {
      await this.#readOnce(tenantId, left, pages);
      left = left.filter((reader) => !pages.has(reader));
    }
    return readers.flatMap((reader) => pages.get(reader) ?? []);
  }

  async #readOnce(
    tenantId: TenantId,
    readers: readonly BacklogReader[],
    pages: Map<BacklogReader, Page>,
  ): Promise<void> {
    const { BACKLOG_PAGE_ROWS: rows, BACKLOG_PAGE_BYTES: bytes } = this.config;
    // Two tabs at the same position are one reader of the user's own notifications.
    const distinct = new Map<string, Reader>();
    const keyOf = ({ user, after }: Reader) => `${after} ${user}`;
    for (const { user, after } of readers) distinct.set(keyOf({ user, after }), { user, after });
    const topics = [...new Set(readers.flatMap((reader) => reader.topics))];
    const page = await this.store.backlog(
      tenantId,
      [...distinct.values()],
      topics,
      { rows, bytes },
      { rows: 4 * rows, bytes: 16 * bytes },
    );

    const shared = page.shared.notifications.map((notification) => new Entry(notification));
    const own = new Map([...distinct.keys()].map((key, index) => [key, page.own[index]]));
    const rowsRead = [...page.shared.notifications, ...page.own.flatMap((run) => run.notifications)];
    this.metrics.backlogStatements.inc();
    this.metrics.backlogRows.inc(rowsRead.length);
    this.metrics.backlogBytes.inc(rowsRead.reduce((sum, { size }) => sum + size, 0));
    for (const reader of readers) {
      const run = own.get(keyOf(reader));
      if (run === undefined) continue;
      const upTo = asPosition(Math.min(run.upTo, page.shared.upTo));
      if (upTo <= reader.after && upTo < page.head) continue;
      const addresses = new Set([EVERYONE, ...reader.topics.map(addressOfTopic)]);
      const entries = run.notifications
        .filter(({ position }) => position <= upTo)
        .map((notification) => new Entry(notification));
      for (const entry of shared) {
        if (entry.position > reader.after && entry.position <= upTo && addresses.has(entry.address))
          entries.push(entry);
      }
      entries.sort((a, b) => a.position - b.position);
      pages.set(reader, { entries, upTo: asPosition(Math.max(upTo, reader.after)), floor: page.floor });
    }
  }
}
