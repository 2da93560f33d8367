import { Inject, Injectable, Logger } from '@nestjs/common';
import { setTimeout as sleep } from 'node:timers/promises';
import { CONFIG, type Config } from '../config.ts';
import { errorCode } from '../database/pool.ts';
import { PARTITIONED, rangeAfter, rangeCovering, type Partitioned, type Range } from './partition-range.ts';
import { isThere, PartitionsStore } from './partitions.store.ts';
import type { Position } from './position.ts';

const ATTEMPTS = 3;
const PAUSE_MS = 100;

/**
 * Makes the partitions of the log and the ledger. Any node may, at any time: an advisory lock in the database keeps
 * nodes apart, and whoever comes second finds them made.
 *
 * What is there is read from the catalogue each time. It is not remembered: retention, perhaps on another node, takes
 * partitions away again, and whoever asks has usually just been told by the database that one is missing.
 */
@Injectable()
export class Partitions {
  readonly #logger = new Logger(Partitions.name);
  readonly #making = new Map<string, Promise<void>>();

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
    await this.#once('ahead', async () => {
      const { now, head } = await this.store.newest();
      const ranges = [...this.#ahead(now), ...(head > now ? this.#ahead(head) : [])];
      await this.#ensure(ranges);
    });
  }

  /** Makes the partitions that cover a position, also one that is long past. Throws what `ensureAhead` throws. */
  async ensureCovering(position: Position): Promise<void> {
    const range = rangeCovering(position, this.config.PARTITION_HOURS);
    await this.#once(`covering ${range.from}`, () => this.#ensure([range]));
  }

  /**
   * Where partitions begin that would cover these positions and are missing, newest first. What lies above every head
   * was never published and has none.
   */
  async missingOf(positions: Iterable<Position>): Promise<Position[]> {
    const { now, head } = await this.store.newest();
    const there = await this.store.attached();
    const ranges = new Map<Position, Range>();
    for (const position of positions) {
      if (position > Math.max(now, head)) continue;
      const range = rangeCovering(position, this.config.PARTITION_HOURS);
      ranges.set(range.from, range);
    }
    return [...ranges.values()]
      .filter((range) => PARTITIONED.some((table) => !isThere(there, table, range)))
      .map(({ from }) => from)
      .toSorted((a, b) => b - a);
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
      for (const table of PARTITIONED) {
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

  /** Many requests can meet the same missing partition at once: one works, all wait for it. */
  #once(what: string, work: () => Promise<void>): Promise<void> {
    const making = this.#making.get(what) ?? work().finally(() => this.#making.delete(what));
    this.#making.set(what, making);
    return making;
  }
}
