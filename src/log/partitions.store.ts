import { Injectable } from '@nestjs/common';
import type { Pool, Statement } from '../postgres/pool.ts';
import { asPosition, EPOCH_MS, type Position, POSITIONS_PER_MS, timeOfPosition } from '../core/position.ts';
import { MaintenancePool } from '../postgres/pools.ts';

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
export function isThere(partitions: readonly Partition[], table: Partitioned, range: Range): boolean {
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
export const PARTITIONED = ['notifications', 'sends', 'acks'] as const;
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
export class Coverage {
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
