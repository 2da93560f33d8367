import { isPartitionMissing } from '../log/append.store.ts';
import type { Partitioned } from '../log/partition-range.ts';
import type { Partitions } from '../log/partitions.ts';
import type { Position } from '../core/position.ts';

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
