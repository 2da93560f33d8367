import type { Position } from '../core/position.ts';
import { isPartitionMissing } from '../log/append.store.ts';
import type { Partitioned, Partitions } from '../log/partitions.ts';
/*
 * Receipts are intervals of positions, (from, to]. "Which intervals cover position x?" has no short answer in an
 * index on `to` alone: every later interval might reach back over x. So an interval carries the class of its width:
 * one of class C is at most as wide as CLASS_WIDTHS[C], hence only those with `to` in [x, x + CLASS_WIDTHS[C]) can
 * cover x, and since each class is at most four times as wide as its narrowest member, at least about a quarter of
 * the rows that are read are an answer.
 */
const NARROWEST = 2 ** 20; // about a quarter of a second: one flush
export const CLASS_WIDTHS: readonly number[] = Array.from(
  { length: 18 },
  (_, index) => NARROWEST * 4 ** index,
);

/** The width class of (from, to]. */
export function widthClassOf(from: Position, to: Position): number {
  const width = to - from;
  return CLASS_WIDTHS.findIndex((limit) => width <= limit);
}

/**
 * Runs a write of intervals to `table`, and gives it where each of them is to end: at its own end, unless no partition
 * covers that. Callers name these ends, so that none is made for them: it ends where the partition before it does, and
 * where there is none, nothing of it is kept and it is not stored (undefined).
 *
 * The database is asked first, and only when it knows no partition, the catalogue. The write stored nothing when it failed.
 *
 * @param ends of the intervals
 */
export async function withinPartitions<Result>(
  partitions: Partitions,
  table: Partitioned,
  ends: readonly Position[],
  write: (ends: readonly (Position | undefined)[]) => Promise<Result>,
): Promise<Result> {
  try {
    const seen = partitions.seen?.[table];
    return await write(seen === undefined ? ends : ends.map((end) => seen.endOf(end)));
  } catch (error) {
    if (!isPartitionMissing(error)) throw error;
    const { [table]: coverage } = await partitions.look();
    return await write(ends.map((end) => coverage.endOf(end)));
  }
}
