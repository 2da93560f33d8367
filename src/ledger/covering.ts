import { isPartitionMissing } from '../log/append.store.ts';
import type { Partitions } from '../log/partitions.ts';
import type { Position } from '../log/position.ts';

/**
 * Runs a write of intervals and, where no partition covers one of their ends, makes it and runs the write again.
 * Behind row-level security the server does not tell which end it was, so that those that may be missing are made one
 * by one, the newest first: what ends below a floor is not stored, and brings no old partition back. The write stored
 * nothing when it failed.
 *
 * @param ends of the intervals that may be stored
 */
export async function withPartitions<Result>(
  partitions: Partitions,
  ends: Iterable<Position>,
  write: () => Promise<Result>,
): Promise<Result> {
  let starts: Position[] | undefined;
  for (;;) {
    try {
      return await write();
    } catch (error) {
      if (!isPartitionMissing(error)) throw error;
      starts ??= await partitions.missingOf(ends);
      const start = starts.shift();
      if (start === undefined) throw error;
      await partitions.ensureCovering(start);
    }
  }
}
