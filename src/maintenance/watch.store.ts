import { Injectable } from '@nestjs/common';
import { MaintenancePool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';

/* Of the database, across tenants. Of other users' sessions PostgreSQL tells only those that it trusts with them. */
const OLDEST_SNAPSHOT: Statement = {
  name: 'oldest_snapshot',
  text: `
select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 as seconds
from pg_stat_activity
where backend_xmin is not null and backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid()`,
};

const HOLDS = `
l.locktype = 'advisory' and l.granted and l.classid = 0 and l.objid = $1::bigint::oid and l.objsubid = 1
  and l.database = (select oid from pg_database where datname = current_database())`;

const HOLDER: Statement = {
  name: 'advisory_lock_holder',
  text: `
select l.pid, coalesce(a.application_name, '') as name
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where ${HOLDS}`,
};

const CANCEL: Statement = {
  name: 'cancel_statement',
  text: `select pg_cancel_backend(l.pid) from pg_locks l where ${HOLDS} and l.pid = $2`,
};

/** The SQL that looks at sessions of the database. */
@Injectable()
export class WatchStore {
  constructor(private readonly pool: MaintenancePool) {}

  /** Age of the oldest snapshot that the database still serves, in seconds. */
  async oldestSnapshot(): Promise<number> {
    const [row] = await this.pool.rows<{ seconds: number }>(OLDEST_SNAPSHOT);
    return row?.seconds ?? 0;
  }

  /** The session that holds an advisory lock, if one does: its number, and what it calls itself. */
  async holder(lock: number): Promise<{ pid: number; name: string } | undefined> {
    const [row] = await this.pool.rows<{ pid: number; name: string }>(HOLDER, [lock]);
    return row;
  }

  /**
   * Ends the statement that a session is running, if it still holds an advisory lock: a pooler may have lent it to
   * somebody else by now.
   */
  async cancel(pid: number, lock: number): Promise<void> {
    await this.pool.rows(CANCEL, [lock, pid]);
  }
}
