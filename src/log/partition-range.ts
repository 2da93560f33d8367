import { asPosition, POSITIONS_PER_MS, timeOfPosition, type Position } from '../core/position.ts';

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

export const hoursOf = ({ from, end }: Range): number => (end - from) / HOUR;

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
