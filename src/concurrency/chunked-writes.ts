import { setTimeout as sleep } from 'node:timers/promises';

/** Rows of one statement, and the pause between two, in ms. A commit waits until what others wrote before it is on disk too. */
interface Chunks {
  readonly atOnce: number;
  readonly pauseMs: number;
}

export const CHUNKS: Chunks = { atOnce: 500, pauseMs: 0 };
/** Thousands of streams end in the same moment: one statement after the other keeps a processor that publishes wait for. */
export const CHUNKS_OF_ENDS: Chunks = { atOnce: 100, pauseMs: 2 };

/** Takes from `rows` what was written. */
export async function writeChunked<Row>(
  rows: Row[],
  { atOnce, pauseMs }: Chunks,
  write: (some: readonly Row[]) => Promise<void>,
): Promise<void> {
  while (rows.length > 0) {
    const some = rows.slice(0, atOnce);
    await write(some);
    rows.splice(0, some.length);
    if (pauseMs > 0 && rows.length > 0) await sleep(pauseMs);
  }
}
