import { setTimeout as sleep } from 'node:timers/promises';
import { errorCode } from '../postgres/errors.ts';
import type { AdvanceStore, Lifted } from './advance.store.ts';
import type { Partitions } from './partitions.ts';
import type { PartitionsStore } from './partitions.store.ts';
import { createdAt, START, type Position } from '../core/position.ts';

/** Stream rows that one statement locks: publishers of these tenants wait for its commit. */
const ROWS = 50;
const ATTEMPTS = 5;
const PAUSE_MS = 200;

export interface Advanced {
  /** Tenants whose head was below the target. */
  readonly lifted: number;
  /** The position that every head has reached. */
  readonly target: Position;
  /** The highest head of any tenant, and the time in it; null when there is no tenant. */
  readonly head: Position | null;
  readonly headTime: string | null;
}

/**
 * Lifts the head of every stream to at least the database's time plus `aheadSeconds`. A log that lost its end gave
 * out positions that it no longer knows; what follows must lie above them, or a client that has seen them would be
 * told that it is up to date and miss what takes their place. No head is ever lowered.
 */
export async function advance(
  store: AdvanceStore,
  partitions: Partitions,
  partitionsStore: PartitionsStore,
  aheadSeconds: number,
): Promise<Advanced> {
  const target = await store.target(aheadSeconds);
  // First, so that no publish meets a head without a partition.
  await partitions.ensureCovering(target);
  let lifted = 0;
  for (let after: string | null = ''; after !== null;) {
    const page = await patiently(store, after, target);
    lifted += page.lifted;
    after = page.last;
  }
  await partitions.ensureAhead();
  const { head } = await partitionsStore.newest();
  if (head === START) return { lifted, target, head: null, headTime: null };
  return { lifted, target, head, headTime: createdAt(head) };
}

async function patiently(store: AdvanceStore, after: string, target: Position): Promise<Lifted> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await store.lift(after, ROWS, target);
    } catch (error) {
      if (errorCode(error) !== '55P03' || attempt === ATTEMPTS) throw error;
      await sleep(PAUSE_MS);
    }
  }
}
