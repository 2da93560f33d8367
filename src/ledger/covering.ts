import type { Partitions } from '../log/partitions.ts';
import { isPartitionMissing } from '../log/append.store.ts';
import { parsePosition, type Position } from '../log/position.ts';

/**
 * Runs a write of intervals and, where no partition covers one of their ends, makes that partition and runs the
 * write again. Intervals may end in several partitions that are missing, so this goes on while each failure names
 * another position; the write stored nothing when it failed.
 */
export async function withPartitions<Result>(
  partitions: Partitions,
  write: () => Promise<Result>,
): Promise<Result> {
  let covered: Position | undefined;
  for (;;) {
    try {
      return await write();
    } catch (error) {
      const position = isPartitionMissing(error) ? uncovered(error) : undefined;
      if (position === undefined || position === covered) throw error;
      await partitions.ensureCovering(position);
      covered = position;
    }
  }
}

/** The server says which key had no place: `… (to_position) = (123)`. The words around it depend on its language, this does not. */
function uncovered(error: unknown): Position | undefined {
  if (typeof error !== 'object' || error === null || !('detail' in error)) return undefined;
  const position = /\(to_position\) = \((\d+)\)/.exec(String(error.detail))?.[1];
  return position === undefined ? undefined : parsePosition(position);
}
