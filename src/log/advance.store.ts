import { NOW_AS_POSITION } from './partitions.store.ts';
import { POSITIONS_PER_MS, type Position } from '../core/position.ts';
import { MaintenancePool } from '../postgres/pools.ts';
import { type Statement } from '../postgres/pool.ts';

/** What one statement lifted. */
export interface Lifted {
  /** Key of the last tenant of the page, to go on after; null when there was none left. */
  readonly last: string | null;
  readonly lifted: number;
}

/*
 * Advancing works across tenants, in pages by key: after a restore, all of them went back together.
 */
const TARGET: Statement = {
  name: 'advance_target',
  text: `select ${NOW_AS_POSITION} + $1::bigint * ${1000 * POSITIONS_PER_MS}::bigint as target`,
};

/* The rows are locked in key order and compared again once they are: a publish may just have passed the target. */
const LIFT: Statement = {
  name: 'advance_heads',
  text: `
with page as materialized (
  select tenant_id from tenant_logs where tenant_id > $1 order by tenant_id limit $2
), behind as materialized (
  select s.tenant_id from page join tenant_logs s on s.tenant_id = page.tenant_id and s.head < $3
  order by s.tenant_id for update of s
), moved as (
  update tenant_logs s set head = $3 from behind where s.tenant_id = behind.tenant_id returning 1
)
select (select max(tenant_id) from page) as last, (select count(*)::int from moved) as lifted`,
};

/** The SQL that moves heads forward without anything to publish. */
export class AdvanceStore {
  constructor(private readonly pool: MaintenancePool) {}

  /** The database's time, `aheadSeconds` from now, as a position. */
  async target(aheadSeconds: number): Promise<Position> {
    const [row] = await this.pool.rows<{ target: Position }>(TARGET, [aheadSeconds]);
    if (row === undefined) throw new Error('a select without a source has one row');
    return row.target;
  }

  /** Lifts the heads below `target` of at most `limit` tenants after `after`. Throws 55P03 if a row stays locked. */
  async lift(after: string, limit: number, target: Position): Promise<Lifted> {
    const [row] = await this.pool.rows<Lifted & Record<string, unknown>>(LIFT, [after, limit, target]);
    if (row === undefined) throw new Error('a select without a source has one row');
    return row;
  }
}
