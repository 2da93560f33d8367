import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, Module } from '@nestjs/common';
import { SingleFlight } from '../concurrency/pacing.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { errorCode } from '../postgres/errors.ts';
import { type Position, asPosition, EPOCH_MS, POSITIONS_PER_MS, timeOfPosition } from '../core/position.ts';
import { MaintenancePool } from '../postgres/pools.ts';
import type { Pool, Statement } from '../postgres/pool.ts';

/** A partition as the catalogue knows it. */
export interface Partition extends Range {
  readonly table: Partitioned;
  readonly name: string;
}

/** The time now as a position, in SQL. Stable within a statement, so an index can be searched for it. */
export const NOW_AS_POSITION = `floor(extract(epoch from statement_timestamp()) * 1000 - ${EPOCH_MS})::bigint * ${POSITIONS_PER_MS}`;

/** The time inside a position, in SQL. */
export const sqlTimeOf = (position: string): string =>
  `to_timestamp((${position} / ${POSITIONS_PER_MS} + ${EPOCH_MS}) / 1000.0)`;

/** Any number will do, as long as every node takes the same one. */
const PARTITION_LOCK = 7_469_002;

/*
 * Maintenance works across tenants; so do the statements of this file: a partition holds all of them.
 */
const NEWEST: Statement = {
  name: 'newest_positions',
  text: `select ${NOW_AS_POSITION} as now, coalesce((select max(head) from tenant_logs), 0) as head`,
};

const ATTACHED: Statement = {
  name: 'attached_partitions',
  text: `
select b.parent as "table", b.name, b.bounds[1]::bigint as "from", b.bounds[2]::bigint as "end"
from (
  select p.relname as parent, c.relname as name,
    regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') as bounds
  from unnest($1::text[]) as t (name)
  join pg_class p on p.oid = to_regclass(t.name)
  join pg_inherits i on i.inhparent = p.oid
  join pg_class c on c.oid = i.inhrelid
) b
where b.bounds is not null
order by "from", array_position($1::text[], b.parent::text)`,
};

const LOCK: Statement = { name: 'partition_lock', text: `select pg_advisory_xact_lock(${PARTITION_LOCK})` };

const CREATE: Statement = { name: 'create_partition', text: `select create_partition($1, $2, $3, $4)` };

/** The SQL that makes partitions. */
@Injectable()
export class PartitionsStore {
  constructor(private readonly pool: MaintenancePool) {}

  /** The database's clock as a position, and the highest head of any stream. */
  async newest(): Promise<{ now: Position; head: Position }> {
    const [row] = await this.pool.rows<{ now: Position; head: Position }>(NEWEST);
    if (row === undefined) throw new Error('a select without a source has one row');
    return row;
  }

  /** The partitions of all partitioned tables, oldest first; of one range in the order of PARTITIONED. */
  async attached(
    run: Pool['rows'] = (statement, values) => this.pool.rows(statement, values),
  ): Promise<Partition[]> {
    return await run<Partition & Record<string, unknown>>(ATTACHED, [PARTITIONED]);
  }

  /**
   * Makes one partition, unless another node just did, by a function of the tables' owner.
   *
   * A table of its own is attached: `create table … partition of` takes a lock on the parent that conflicts with
   * every reader, and one open reader held up all publishes behind it for 1.3 s; `attach` conflicts with none (29 ms
   * beside the same reader). The table is empty, so there is nothing that `attach` would have to scan.
   *
   * @throws PartitionWidthError, or 55P03 when a lock was not granted in time
   */
  async create(table: Partitioned, range: Range): Promise<void> {
    await this.pool.transaction(async (run) => {
      await run(LOCK);
      if (isThere(await this.attached(run), table, range)) return;
      await run(CREATE, [table, partitionName(table, range), range.from, range.end]);
    });
  }
}

/** Whether `partitions` has exactly this one. @throws PartitionWidthError if another is in its place */
function isThere(partitions: readonly Partition[], table: Partitioned, range: Range): boolean {
  const inPlace = partitions.find(
    (other) => other.table === table && other.from < range.end && other.end > range.from,
  );
  if (inPlace === undefined) return false;
  if (inPlace.from !== range.from || inPlace.end !== range.end) throw new PartitionWidthError(inPlace, range);
  return true;
}

/** PARTITION_HOURS is not what the tables were made with. */
class PartitionWidthError extends Error {
  override readonly name = 'PartitionWidthError';

  constructor(inPlace: Partition, wanted: Range) {
    super(
      `${inPlace.name} covers ${hoursOf(inPlace)} hours and lies across the partition of ${hoursOf(wanted)} hours that is needed. ` +
        `The width of partitions cannot change while there is data: set PARTITION_HOURS back to ${hoursOf(inPlace)}.`,
    );
  }
}

/** The tables that are partitioned by position. */
export const PARTITIONED = ['notifications', 'sends', 'acks', 'inbox_marks', 'engagements'] as const;
export type Partitioned = (typeof PARTITIONED)[number];

/** The positions [from, end) of one partition. */
export interface Range {
  readonly from: Position;
  readonly end: Position;
}

const HOUR = 3_600_000 * POSITIONS_PER_MS;

/** The partition that covers a position. Bounds are multiples of the width, so every node finds the same ones. */
export function rangeCovering(position: Position, hours: number): Range {
  const width = hours * HOUR;
  const from = position - (position % width);
  return { from: asPosition(from), end: asPosition(from + width) };
}

export const rangeAfter = ({ from, end }: Range): Range => ({
  from: end,
  end: asPosition(end + (end - from)),
});

const hoursOf = ({ from, end }: Range): number => (end - from) / HOUR;

/** Which positions the partitions of a table take. `ranges`: in order. */
class Coverage {
  constructor(private readonly ranges: readonly Range[]) {}

  /**
   * Where an interval that ends at `position` can end in this table: there, or where the partition before it ends, as
   * nothing is stored between partitions. Undefined: nothing is kept at or below it. What lies above all partitions may
   * have got one meanwhile, and is left as it is.
   */
  endOf(position: Position): Position | undefined {
    const newest = this.ranges.at(-1);
    if (newest === undefined || position >= newest.end) return position;
    const before = this.ranges.findLast(({ from }) => from <= position);
    return before && asPosition(Math.min(position, before.end - 1));
  }
}

/** For people: the day at which the partition begins, with its hour where days alone would not tell them apart. */
export function partitionName(table: Partitioned, range: Range): string {
  const begin = new Date(timeOfPosition(range.from)).toISOString();
  const readable = begin.slice(0, hoursOf(range) % 24 === 0 ? 10 : 13).replaceAll(/[-T]/g, '_');
  return `${table}_${readable}`;
}

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
    const coverages = {
      notifications: of('notifications'),
      sends: of('sends'),
      acks: of('acks'),
      inbox_marks: of('inbox_marks'),
      engagements: of('engagements'),
    };
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
