import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';

/** Everything addressed to the connection in (from, to] was written to its socket by `at` (ms, database clock). */
export interface SentInterval {
  readonly from: Position;
  to: Position;
  at: number;
  /** From the backlog, not as it was published. */
  readonly replayed: boolean;
}

/** Whose stream it is, as the ledger knows it. */
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
