import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool } from '../postgres/pools.ts';

/** What the database had when it was asked. */
export interface ChangeSnapshot {
  /** A pg_snapshot as text: which transactions were over by then. */
  readonly snapshot: string;
  /** When the server was started; another one has another time. */
  readonly server: string;
}

const HORIZON: Statement = {
  name: 'change_feed_snapshot',
  text: `select pg_current_snapshot()::text as snapshot, pg_postmaster_start_time()::text as server`,
};

/**
 * The condition, in a statement, that a row was written by a transaction that was not over in the snapshot `$1`. The first two
 * are the range of an index. The second keeps out what a dump brought from a younger server: its numbers lie ahead.
 */
export const NOT_IN_SNAPSHOT = `transaction >= pg_snapshot_xmin($1::pg_snapshot)
  and transaction < pg_snapshot_xmax(pg_current_snapshot())
  and not pg_visible_in_snapshot(transaction, $1::pg_snapshot)`;

/** Where in the history of the whole server the next look begins. Belongs to no tenant. */
@Injectable()
export class ChangeFeedStore {
  constructor(private readonly pool: ChangeFeedPool) {}

  async snapshot(): Promise<ChangeSnapshot> {
    const [row] = await this.pool.rows<ChangeSnapshot & Record<string, unknown>>(HORIZON);
    if (row === undefined) throw new Error('The database named no snapshot.');
    return row;
  }
}
