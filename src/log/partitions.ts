import { Inject, Injectable, Logger, Module } from '@nestjs/common';
import { setTimeout as sleep } from 'node:timers/promises';
import { SingleFlight } from '../concurrency/pacing.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { errorCode } from '../postgres/errors.ts';
import {
  Coverage,
  isThere,
  type Partitioned,
  PARTITIONED,
  PartitionsStore,
  type Range,
  rangeAfter,
  rangeCovering,
} from './partitions.store.ts';
import type { Position } from '../core/position.ts';
import { MaintenancePool } from '../postgres/pools.ts';

const ATTEMPTS = 3;
const PAUSE_MS = 100;

/** For how long what is covered is not looked up anew, in ms: a caller who names positions of long ago has it looked up this often. */
const SEEN_MS = 1_000;

type Coverages = Readonly<Record<Partitioned, Coverage>>;

/**
 * Makes the partitions of the log and the receipts: for now and for the heads, never for a position that a caller names.
 * Any node may, at any time: an advisory lock in the database keeps nodes apart, and whoever comes second finds them
 * made.
 *
 * What is there is read from the catalogue. It is not remembered beyond a second: retention, perhaps on another node,
 * takes partitions away again, and whoever asks has usually just been told by the database that one is missing.
 */
@Injectable()
export class Partitions {
  readonly #logger = new Logger(Partitions.name);
  /** Many requests can meet the same missing partition at once: one works, all wait for it. */
  readonly #making = new SingleFlight<string, void>();
  readonly #looking = new SingleFlight<'all', Coverages>();
  #seen: { readonly at: number; readonly coverages: Coverages } | undefined;

  constructor(
    private readonly store: PartitionsStore,
    @Inject(CONFIG) private readonly config: Pick<Config, 'PARTITION_HOURS' | 'PARTITIONS_AHEAD'>,
  ) {}

  /**
   * Makes the current partitions and PARTITIONS_AHEAD further ones: for the database's clock, and for the highest
   * head of any stream where that is later, since a clock that was set back does not take the log along.
   *
   * @throws PartitionWidthError (PARTITION_HOURS was changed), or the driver's error
   */
  async ensureAhead(): Promise<void> {
    await this.#making.run('ahead', async () => {
      const { now, head } = await this.store.newest();
      const ranges = [...this.#ahead(now), ...(head > now ? this.#ahead(head) : [])];
      await this.#ensure(ranges);
    });
  }

  /** Makes the partitions that cover a position: one that an operator moves heads to. Throws what `ensureAhead` throws. */
  async ensureCovering(position: Position): Promise<void> {
    const range = rangeCovering(position, this.config.PARTITION_HOURS);
    await this.#making.run(`covering ${range.from}`, () => this.#ensure([range]));
  }

  /**
   * What the partitions of each table cover, as it was seen within the last second; undefined when nobody has had to
   * look for so long.
   */
  get seen(): Coverages | undefined {
    return this.#seen !== undefined && performance.now() - this.#seen.at < SEEN_MS
      ? this.#seen.coverages
      : undefined;
  }

  /**
   * Looks what is covered, once the current partitions are there. What is not covered then holds nothing and will not:
   * partitions are made ahead, and in between none comes within a second. Throws what `ensureAhead` throws.
   */
  async look(): Promise<Coverages> {
    return await this.#looking.run('all', () => this.#look());
  }

  async #look(): Promise<Coverages> {
    await this.ensureAhead();
    const there = await this.store.attached();
    const of = (table: Partitioned) => new Coverage(there.filter((partition) => partition.table === table));
    const coverages = { notifications: of('notifications'), sends: of('sends'), acks: of('acks') };
    this.#seen = { at: performance.now(), coverages };
    return coverages;
  }

  #ahead(position: Position): Range[] {
    const ranges = [rangeCovering(position, this.config.PARTITION_HOURS)];
    for (let range = ranges[0]; range !== undefined && ranges.length <= this.config.PARTITIONS_AHEAD;) {
      range = rangeAfter(range);
      ranges.push(range);
    }
    return ranges;
  }

  async #ensure(ranges: readonly Range[]): Promise<void> {
    const there = await this.store.attached();
    for (const range of ranges) {
      // Notifications last: where one can be stored, so can what was sent and confirmed of it.
      for (const table of PARTITIONED.toReversed()) {
        if (!isThere(there, table, range)) await this.#create(table, range);
      }
    }
  }

  async #create(table: Partitioned, range: Range): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.store.create(table, range);
        return;
      } catch (error) {
        if (errorCode(error) !== '55P03' || attempt === ATTEMPTS) throw error;
        this.#logger.warn(
          `a partition of ${table} has to wait for a lock (attempt ${attempt} of ${ATTEMPTS})`,
        );
        await sleep(PAUSE_MS);
      }
    }
  }
}

@Module({
  providers: [MaintenancePool, PartitionsStore, Partitions],
  exports: [MaintenancePool, PartitionsStore, Partitions],
})
export class PartitionsModule {}
