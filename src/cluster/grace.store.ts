import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool } from '../postgres/pools.ts';

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
