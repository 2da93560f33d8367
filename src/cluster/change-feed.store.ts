import { Injectable } from '@nestjs/common';
import { ChangeFeedPool } from '../postgres/pools.ts';
import { type Statement } from '../postgres/pool.ts';

/** What the database had when it was asked. */
interface ChangeSnapshot {
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

/*
 * Every transaction holds a lock on its own virtual id from before its first snapshot until it is over, which every
 * login may see. One that cannot see a row that was committed before this statement is among those that it finds, also
 * when it has not written yet, and when the node that began it is dead. Sessions of others (a dump, which takes hours)
 * write nothing of ours; where the settings name our own sessions otherwise, all are waited for.
 */
const UNDER_WAY: Statement = {
  name: 'transactions_under_way',
  text: `
select l.virtualxid as id from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock' and l.pid <> pg_backend_pid() and a.datname = current_database()
  and (a.application_name like 'tidings %' or current_setting('application_name') not like 'tidings %')`,
};

const STILL: Statement = {
  name: 'transactions_still_under_way',
  text: `
select virtualxid as id from pg_locks
where locktype = 'virtualxid' and mode = 'ExclusiveLock' and virtualxid = any($1::text[])`,
};

/** Which transactions of this service the database is at, of all tenants. They have no tenant to be asked by. */
@Injectable()
export class InFlightTransactionsStore {
  constructor(private readonly pool: ChangeFeedPool) {}

  /** Those that may not see what was committed a moment ago. */
  async underWay(): Promise<readonly string[]> {
    return (await this.pool.rows<{ id: string }>(UNDER_WAY)).map(({ id }) => id);
  }

  /** Those of them that are not over. */
  async still(transactions: readonly string[]): Promise<readonly string[]> {
    if (transactions.length === 0) return [];
    return (await this.pool.rows<{ id: string }>(STILL, [transactions])).map(({ id }) => id);
  }
}
