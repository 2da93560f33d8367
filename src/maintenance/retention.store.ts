import type { Pool, Statement } from '../postgres/pool.ts';
import type { TenantId } from '../core/identifiers.ts';
import { NOW_AS_POSITION, type Partition } from '../log/partitions.store.ts';
import { POSITIONS_PER_MS, type Position } from '../core/position.ts';

/** A tenant whose floor can rise, and to where. */
export interface Floor {
  readonly tenantId: TenantId;
  readonly floor: Position;
  /** Where the floor was when `bytes` was summed up. */
  readonly before: Position;
  /** What had been given back by then. */
  readonly removed: number;
  /** `data` that goes with it. */
  readonly bytes: number;
  /** The tenant loses more than was summed up: its floor can rise further once it has risen to here. */
  readonly more: boolean;
}

const POSITIONS_PER_DAY = 86_400_000 * POSITIONS_PER_MS;
/** Notifications of a tenant that are summed up at once: kept days that fall may end millions of them. */
export const SUMMED_AT_ONCE = 20_000;

/*
 * Maintenance works across tenants; so do the statements of this file, in pages of tenants by key.
 *
 * The new floor is the newest notification that the tenant loses, not the cutoff itself: whoever has seen that one
 * has missed nothing and must not be told of a gap, and a tenant that loses nothing keeps its floor.
 * What goes is summed up here, where nobody waits for it, and holds as long as the floor is where it was and nothing else was given
 * back: an erasure may have taken some of these rows meanwhile. The next round sums up anew.
 * `statement_timestamp()` (in NOW_AS_POSITION) is stable, so that the range is searched in the index.
 */
const DUE: Statement = {
  name: 'floors_due',
  text: `
select s.tenant_id as "tenantId", gone.position as floor, s.floor as before, s.removed_bytes as removed, gone.bytes, gone.more
from (select tenant_id, floor, removed_bytes from tenant_logs where tenant_id > $1 order by tenant_id limit $2) s
left join tenants t on t.tenant_id = s.tenant_id
cross join lateral (
  select max(position) as position, coalesce(sum(size), 0)::bigint as bytes, count(*) = ${SUMMED_AT_ONCE} as more
  from (
    select n.position, n.size from notifications n
    where n.tenant_id = s.tenant_id and n.position > s.floor
      and n.position <= ${NOW_AS_POSITION} - coalesce(t.kept_days, $3::int) * ${POSITIONS_PER_DAY}::bigint
    order by n.position limit ${SUMMED_AT_ONCE}
  ) oldest
) gone
order by s.tenant_id`,
};

/*
 * The stream row is what every publish of its tenant waits for. A batch takes the rows that are free, in key order,
 * and never waits for one while it holds others; those that were busy are raised one by one.
 */
const raise = (busy: 'skip locked' | '') => `
update tenant_logs s set floor = due.floor, removed_bytes = s.removed_bytes + due.bytes
from (
  select s.tenant_id, d.floor, d.bytes
  from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) as d (tenant_id, floor, before, removed, bytes)
  join tenant_logs s on s.tenant_id = d.tenant_id and s.floor = d.before and s.removed_bytes = d.removed
  order by s.tenant_id
  for update of s ${busy}
) due
where s.tenant_id = due.tenant_id
returning s.tenant_id as "tenantId"`;
const RAISE_FREE: Statement = { name: 'raise_free_floors', text: raise('skip locked') };
const RAISE_ONE: Statement = { name: 'raise_one_floor', text: raise('') };

/* Partitions hold all tenants, so they go with the tenant that keeps longest. */
const CUTOFF: Statement = {
  name: 'retention_cutoff',
  text: `
select ${NOW_AS_POSITION} - greatest($1::int, max(kept_days)) * ${POSITIONS_PER_DAY}::bigint as position
from tenants`,
};

const KEEPER: Statement = {
  name: 'partition_keeper',
  text: `
select s.tenant_id as "tenantId" from tenant_logs s
cross join lateral (
  select from notifications n
  where n.tenant_id = s.tenant_id and n.position >= greatest($1, s.floor + 1) and n.position < $2 limit 1
) kept
limit 1`,
};

const DROP: Statement = { name: 'drop_partition', text: `select drop_partition($1)` };

/** The SQL of retention, on the connection of a round. Names of partitions come from the catalogue. */
export class RetentionStore {
  constructor(private readonly run: Pool['rows']) {}

  /** A page of tenants by key, each with what its floor can rise to: null where nothing is lost. */
  async due(
    after: string,
    limit: number,
    keptDays: number,
  ): Promise<(Omit<Floor, 'floor'> & { readonly floor: Position | null })[]> {
    return await this.run(DUE, [after, limit, keptDays]);
  }

  /** Raises floors without waiting. Returns the tenants that were raised; the others were busy. */
  async raiseFree(floors: readonly Floor[]): Promise<ReadonlySet<TenantId>> {
    return new Set(await this.#raise(RAISE_FREE, floors));
  }

  /** Raises one floor. False: it is not where it was any more. Throws 55P03 if the stream row stays locked. */
  async raiseOne(floor: Floor): Promise<boolean> {
    return (await this.#raise(RAISE_ONE, [floor])).length > 0;
  }

  /** What is at or below this position is kept by nobody. */
  async cutoff(keptDays: number): Promise<Position> {
    const [row] = await this.run<{ position: Position }>(CUTOFF, [keptDays]);
    if (row === undefined) throw new Error('an aggregate without groups has one row');
    return row.position;
  }

  /** A tenant with a row in the partition that readers may still ask for. `limit 1` keeps it one index probe per tenant. */
  async keeper({ from, end }: Partition): Promise<TenantId | undefined> {
    const [row] = await this.run<{ tenantId: TenantId }>(KEEPER, [from, end]);
    return row?.tenantId;
  }

  /** Takes the partition away, by a function of the tables' owner. Throws 55P03 if its table was not free for a moment. */
  async drop({ name }: Partition): Promise<void> {
    await this.run(DROP, [name]);
  }

  async #raise(statement: Statement, floors: readonly Floor[]): Promise<TenantId[]> {
    const rows = await this.run<{ tenantId: TenantId }>(statement, [
      floors.map(({ tenantId }) => tenantId),
      floors.map(({ floor }) => floor),
      floors.map(({ before }) => before),
      floors.map(({ removed }) => removed),
      floors.map(({ bytes }) => bytes),
    ]);
    return rows.map(({ tenantId }) => tenantId);
  }
}
