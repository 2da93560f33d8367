import { setTimeout as sleep } from 'node:timers/promises';
import { errorCode } from '../postgres/errors.ts';
import { createdAt, START, type Position, POSITIONS_PER_MS } from '../core/position.ts';
import { MaintenancePool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import { type Partitions, type PartitionsStore, NOW_AS_POSITION } from './partitions.ts';

/** What one statement lifted. */
interface Lifted {
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

/*
 * The rows are locked in key order and compared again once they are: a publish may just have passed the target. Inboxes get
 * revisions that no client has seen, so that none keeps a number of the log that was lost.
 */
const LIFT: Statement = {
  name: 'advance_heads',
  text: `
with page as materialized (
  select tenant_id from tenant_logs where tenant_id > $1 order by tenant_id limit $2
), locked as materialized (
  select s.tenant_id, s.head from page join tenant_logs s on s.tenant_id = page.tenant_id
  order by s.tenant_id for update of s
), moved as (
  update tenant_logs s set head = greatest(locked.head, $3), inbox_revision = greatest(s.inbox_revision, $3)
  from locked where s.tenant_id = locked.tenant_id
)
select (select max(tenant_id) from page) as last, (select count(*)::int from locked where head < $3) as lifted`,
};

/** The SQL that moves heads and revisions forward without anything to publish. */
export class AdvanceStore {
  constructor(private readonly pool: MaintenancePool) {}

  /** The database's time, `aheadSeconds` from now, as a position. */
  async target(aheadSeconds: number): Promise<Position> {
    const [row] = await this.pool.rows<{ target: Position }>(TARGET, [aheadSeconds]);
    if (row === undefined) throw new Error('a select without a source has one row');
    return row.target;
  }

  /** Lifts the heads below `target`, and the revisions of inboxes, of at most `limit` tenants after `after`. Throws 55P03 if a row stays locked. */
  async lift(after: string, limit: number, target: Position): Promise<Lifted> {
    const [row] = await this.pool.rows<Lifted & Record<string, unknown>>(LIFT, [after, limit, target]);
    if (row === undefined) throw new Error('a select without a source has one row');
    return row;
  }
}

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
 * told that it is up to date and miss what takes their place. No head is ever lowered. Revisions of inboxes are lifted for the
 * same reason.
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
