import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Repeats `check` until it does not throw and returns its answer; at the deadline its last error is thrown. The deadline is
 * for what never comes, and says nothing of how soon something has to come: a machine may be busy, or stand still for seconds.
 */
export async function eventually<Answer>(
  check: () => Answer | Promise<Answer>,
  { within = 60_000, every = 10 }: { within?: number; every?: number } = {},
): Promise<Answer> {
  const deadline = performance.now() + within;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() >= deadline) throw error;
    }
    await sleep(every);
  }
}
