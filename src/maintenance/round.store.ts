import { Injectable } from '@nestjs/common';
import type { Pool, Statement } from '../postgres/pool.ts';
import { MaintenancePool } from '../postgres/pools.ts';
/* What a round of maintenance needs: its lock, what its steps share, and a view of the sessions of the database. */

/** The advisory lock of rounds. Any number will do, as long as every node takes the same one. */
export const ROUND_LOCK = 7_469_003;
export const TRY_LOCK: Statement = {
  name: 'try_round_lock',
  text: `select pg_try_advisory_xact_lock(${ROUND_LOCK}) as locked, pg_backend_pid() as pid`,
};

/** What the steps of a round share. */
export interface Step {
  /** Runs a statement in a transaction of its own that has the lock of rounds. */
  readonly run: Pool['rows'];
  /** The node is shutting down, so no further statement is begun. */
  readonly stopping: boolean;
  /**
   * Does a piece of work whose failure does not stop the others. The failure is logged with its cause, counted, and tried
   * again in the next round. False: it failed. Throws only what ends the round: the connection is lost, or another node
   * has the lock.
   */
  attempt(step: StepName, work: () => Promise<void>): Promise<boolean>;
}

export type StepName = 'lock' | 'partitions' | 'floor' | 'drop' | 'sweep' | 'watch';

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

/** The SQL that reads, and cancels, what sessions of the database are doing. */
@Injectable()
export class SessionsStore {
  constructor(private readonly pool: MaintenancePool) {}

  /** The session that holds an advisory lock, if there is one: its process id and its application name. */
  async holder(lock: number): Promise<{ pid: number; name: string } | undefined> {
    const [row] = await this.pool.rows<{ pid: number; name: string }>(HOLDER, [lock]);
    return row;
  }

  /**
   * Cancels the statement of a session, but only while the session holds an advisory lock: a pooler may have lent it to
   * another client by now.
   */
  async cancel(pid: number, lock: number): Promise<void> {
    await this.pool.rows(CANCEL, [lock, pid]);
  }
}
