import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import { POSITIONS_PER_MS, type Position } from '../core/position.ts';
import { NOW_AS_POSITION, type Partition, type PartitionsStore } from '../log/partitions.ts';
import type { Pool, Statement } from '../postgres/pool.ts';
import type { Step } from './round.store.ts';
import { errorCode } from '../postgres/errors.ts';

/** By how much the floor of a tenant can rise. */
interface Floor {
  readonly tenantId: TenantId;
  readonly floor: Position;
  /** The floor when `bytes` was summed up. */
  readonly before: Position;
  /** `removed_bytes` of the tenant when `bytes` was summed up. */
  readonly removed: number;
  /** How much `data` the tenant loses. */
  readonly bytes: number;
  /** The tenant loses more than was summed up, so its floor can rise further after this. */
  readonly more: boolean;
}

const POSITIONS_PER_DAY = 86_400_000 * POSITIONS_PER_MS;
/** Notifications of a tenant that are summed up at once. When its kept days are lowered, it may lose millions. */
export const SUMMED_AT_ONCE = 20_000;

/*
 * The statements of this file work across tenants, in pages of tenants by key.
 *
 * The new floor is the newest notification that the tenant loses, and not the cutoff itself. Whoever has seen that
 * notification has missed nothing and must not be told of a gap, and a tenant that loses nothing keeps its floor.
 *
 * The bytes are summed up here, where nobody waits for that. The sum is used only if the floor and `removed_bytes` are
 * still the same when the floor is raised, since an erasure may have deleted some of these rows; otherwise the next round
 * sums up again. `statement_timestamp()` (in NOW_AS_POSITION) is stable, so that the range is searched in the index.
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
 * Every publish of a tenant waits for the row of its log. A batch takes the rows that are free, in the order of their key,
 * and never waits for one while it has locked others. Those that were busy are raised one by one.
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

/* A partition has rows of all tenants, so it stays as long as the tenant with the longest retention keeps its rows. */
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

/** The SQL of retention, run by a round. Names of partitions come from the catalogue. */
export class RetentionStore {
  constructor(private readonly run: Pool['rows']) {}

  /** A page of tenants by key, each with the floor to which it can rise: null if the tenant loses nothing. */
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

  /** Raises one floor. False: something has changed since it was summed up. Throws 55P03 if the row of the log stays locked. */
  async raiseOne(floor: Floor): Promise<boolean> {
    return (await this.#raise(RAISE_ONE, [floor])).length > 0;
  }

  /** No tenant keeps what is at or below this position. */
  async cutoff(keptDays: number): Promise<Position> {
    const [row] = await this.run<{ position: Position }>(CUTOFF, [keptDays]);
    if (row === undefined) throw new Error('an aggregate without groups has one row');
    return row.position;
  }

  /** A tenant that still keeps a row of the partition, if there is one. `limit 1` makes it one index probe per tenant. */
  async keeper({ from, end }: Partition): Promise<TenantId | undefined> {
    const [row] = await this.run<{ tenantId: TenantId }>(KEEPER, [from, end]);
    return row?.tenantId;
  }

  /** Drops a partition by a function of the owner of the tables. Throws 55P03 if its table was not free. */
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

/** Tenants of one page. */
const TENANTS = 500;
/** Rows of tenants' logs that one statement locks. The publishers of these tenants wait until it is committed. */
const ROWS = 50;
/** How often a round tries to drop a partition: for that nobody may be reading its table. */
const ATTEMPTS = 20;
const PAUSE_MS = 250;

/**
 * Removes what no tenant keeps any longer. First the floors are raised and committed, so that a reader is told of what it
 * has missed and is never given a page with a hole in it. Then whole partitions are dropped.
 */
export class Retention {
  constructor(
    private readonly store: RetentionStore,
    private readonly partitions: PartitionsStore,
    private readonly config: Pick<Config, 'RETENTION_DAYS'>,
    private readonly step: Step,
  ) {}

  /** Raises the floor of every tenant to its newest notification that is older than its kept days. Returns how many rose. */
  async raiseFloors(): Promise<number> {
    const raised = new Set<TenantId>();
    for (let after: string | undefined = ''; after !== undefined && !this.step.stopping;) {
      const page = await this.store.due(after, TENANTS, this.config.RETENTION_DAYS);
      const due = page.flatMap(({ floor, ...rest }) => (floor === null ? [] : [{ ...rest, floor }]));
      let more = false;
      for (let at = 0; at < due.length && !this.step.stopping; at += ROWS)
        for (const floor of await this.#raise(due.slice(at, at + ROWS))) {
          raised.add(floor.tenantId);
          more ||= floor.more;
        }
      if (more) continue;
      after = page.length < TENANTS ? undefined : page.at(-1)?.tenantId;
    }
    return raised.size;
  }

  /** Returns those that were raised. */
  async #raise(floors: readonly Floor[]): Promise<Floor[]> {
    const free = await this.store.raiseFree(floors);
    const raised = floors.filter(({ tenantId }) => free.has(tenantId));
    for (const floor of floors.filter(({ tenantId }) => !free.has(tenantId)))
      await this.step.attempt('floor', async () => {
        if (await this.store.raiseOne(floor)) raised.push(floor);
      });
    return raised;
  }

  /** Drops the partitions that lie wholly below the longest retention of any tenant. */
  async dropPartitions(): Promise<number> {
    let dropped = 0;
    const cutoff = await this.store.cutoff(this.config.RETENTION_DAYS);
    // The partition of notifications is dropped before their receipts. If it stays, its receipts stay too.
    const staying = new Set<Position>();
    for (const partition of await this.partitions.attached((...statement) => this.step.run(...statement))) {
      const { table, from, end } = partition;
      if (end > cutoff || staying.has(from) || this.step.stopping) continue;
      if (await this.step.attempt('drop', () => this.#drop(partition))) dropped += 1;
      else if (table === 'notifications') staying.add(from);
    }
    return dropped;
  }

  async #drop(partition: Partition): Promise<void> {
    const keeper = partition.table === 'notifications' ? await this.store.keeper(partition) : undefined;
    if (keeper !== undefined)
      throw new Error(`${partition.name} still holds notifications above the floor of tenant ${keeper}`);
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.store.drop(partition);
        return;
      } catch (error) {
        if (errorCode(error) !== '55P03' || attempt === ATTEMPTS || this.step.stopping) throw error;
        // A random pause, so as not to meet again and again a statement that comes at regular times.
        await sleep(PAUSE_MS * Math.random());
      }
    }
  }
}
