import type { Pool } from '../postgres/pool.ts';

/** What the parts of a round of maintenance share. */
export interface Step {
  /** Runs a statement in a transaction of its own, which has the lock of rounds. */
  readonly run: Pool['rows'];
  /** The node is shutting down: no further statement is worth beginning. */
  readonly stopping: boolean;
  /**
   * Does a piece of work whose failure must not stop the others: it is logged with its cause, counted, and tried
   * again in the next round. False: it failed. Throws only what ends the round: the connection is lost, or
   * another node is at it.
   */
  attempt(step: StepName, work: () => Promise<void>): Promise<boolean>;
}

export type StepName = 'lock' | 'partitions' | 'floor' | 'drop' | 'sweep' | 'watch';
