import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { digestOf, WHOLE_TENANT, type Erased, type Erasure, type ErasureView } from './erasure.ts';

/** A node that was not seen for so long is taken for dead. What it still had under way in the database is waited for. */
const NODE_SILENCE = `interval '10 seconds'`;

/** When the process that is at it was not heard of for so long, another one goes on. */
const LEASE = `interval '5 seconds'`;

/** How long the row stays when it is done, for nodes that hear of it late. */
const KEPT = `interval '1 day'`;

/* No row: one is running already. Or the tenant is on its way out, with all that is in it. */
const BEGIN: Statement = {
  name: 'begin_erasure',
  text: `
insert into erasures (tenant_id, erasure_id, digest, user_id, ordered_by, worker)
select $1, $2, $3, $4, $5, $6
where $4::text is null or not exists (select from tenants where tenant_id = $1 and status in ('deleting', 'deleted'))
on conflict (tenant_id, digest) where done_at is null do nothing
returning erasure_id`,
};

const RUNNING: Statement = {
  name: 'running_erasure',
  text: `select erasure_id from erasures where tenant_id = $1 and digest = $2 and done_at is null`,
};

const FIND: Statement = {
  name: 'find_erasure',
  text: `
select erasure_id as id, created_at as "createdAt", done_at as "doneAt", erased,
  case when done_at is not null then 'done' when position is null then 'closing' else 'erasing' end as status
from erasures where tenant_id = $1 and erasure_id = $2`,
};

/* Whoever has the row locked is at work, whatever the clock says. */
const CLAIM: Statement = {
  name: 'claim_erasure',
  text: `
update erasures set worker = $3, touched_at = clock_timestamp()
where tenant_id = $1 and erasure_id = (
  select erasure_id from erasures
  where tenant_id = $1 and erasure_id = $2 and done_at is null
    and (worker = $3 or touched_at < clock_timestamp() - ${LEASE})
  for update skip locked
)
returning position`,
};

const TOUCH: Statement = {
  name: 'touch_erasure',
  text: `
update erasures e set touched_at = clock_timestamp()
where tenant_id = $1 and erasure_id = $2 and worker = $3 and done_at is null
returning array(
  select n.node from nodes n where n.seen_at >= clock_timestamp() - ${NODE_SILENCE} and n.node <> all(e.heard)
) as unheard`,
};

/* Whoever says so when the rows are gone, and has not heard of that, has to say so again. */
const HEARD: Statement = {
  name: 'heard_of_erasure',
  text: `
update erasures set heard = array_append(heard, $3)
where tenant_id = $1 and erasure_id = $2 and done_at is null and $3 <> all(heard) and emptied = $4`,
};

/** What has to be locked before the erasure itself. */
interface Target {
  readonly locks: readonly string[];
  /** SQL of the tenant's id, which is known when that is done. */
  readonly tenant: string;
}
const USER: Target = { locks: [], tenant: '$1' };
/* Whoever orders the end of a tenant locks it first, and its erasure after that: in the other order both would wait for ever. */
const TENANT: Target = {
  locks: ['tenant as materialized (select tenant_id from tenants where tenant_id = $1 for update)'],
  tenant: '(select tenant_id from tenant)',
};

const withAll = (queries: readonly string[]): string =>
  queries.length === 0 ? '' : `with ${queries.join(',\n')}\n`;

/*
 * Behind the stream's lock: what has a position up to here is committed, and what comes has a later one. The instant is
 * taken when every transaction is over that may have let in a stream, and before another one may.
 */
const cut = (name: string, { locks, tenant }: Target, ...more: string[]): Statement => {
  const log = `log as materialized (select head from tenant_logs where tenant_id = ${tenant} for update)`;
  return {
    name,
    text: `
${withAll([...locks, log, ...more])}update erasures set position = coalesce((select head from log), 0),
  erased_at = clock_timestamp(), touched_at = clock_timestamp(), transaction = pg_current_xact_id()
where tenant_id = $1 and erasure_id = $2 and worker = $3 and position is null
returning position`,
  };
};
const CUT_USER = cut('cut_user', USER);
/* Without its stream row nothing can be published to a tenant, and no stream opened. */
const CUT_TENANT = cut(
  'cut_tenant',
  TENANT,
  'ended as (update tenants t set last_head = log.head from log where t.tenant_id = $1)',
  'gone as (delete from tenant_logs s using log where s.tenant_id = $1)',
);

/* Also by a process that goes on behind another one, to which the nodes have said it already. */
const EMPTIED: Statement = {
  name: 'erasure_emptied',
  text: `
update erasures set heard = case when emptied then heard else '{}' end, emptied = true,
  touched_at = clock_timestamp(), transaction = pg_current_xact_id()
where tenant_id = $1 and erasure_id = $2 and worker = $3 and position is not null and done_at is null
returning 1`,
};

const done = (name: string, { locks, tenant }: Target): Statement => ({
  name,
  text: `
${withAll(locks)}update erasures set done_at = clock_timestamp(), expires_at = clock_timestamp() + ${KEPT},
  user_id = null, transaction = pg_current_xact_id()
where tenant_id = ${tenant} and erasure_id = $2 and worker = $3 and position is not null and done_at is null
returning ordered_by as "orderedBy", erased`,
});
const USER_DONE = done('user_erasure_done', USER);
const TENANT_DONE = done('tenant_erasure_done', TENANT);

/* Of all tenants: which of them are served here is looked up in memory. */
const COLUMNS = `tenant_id as "tenantId", erasure_id as id, digest, user_id as "user", worker, position, emptied,
  (extract(epoch from erased_at) * 1000)::float8 as "erasedAt", done_at is not null as done`;
const LOAD: Statement = { name: 'load_erasures', text: `select ${COLUMNS} from erasures` };
const SINCE: Statement = {
  name: 'erasures_since',
  text: `select ${COLUMNS} from erasures where ${NOT_IN_SNAPSHOT}`,
};

type ErasureRow = Erasure & Record<string, unknown>;

/** The SQL of erasures as such; what they erase is in erasing.store.ts. */
@Injectable()
export class ErasureRegistryStore {
  constructor(
    private readonly history: HistoryPool,
    private readonly changes: ChangeFeedPool,
  ) {}

  /**
   * Begins an erasure, or joins the one that is running. In the transaction of `run`. Undefined: the tenant is being
   * deleted, or was.
   *
   * @param user undefined: the whole tenant
   * @param orderedBy who ordered it, as text
   */
  async begin(
    run: RunOfTenant,
    tenantId: TenantId,
    user: UserId | undefined,
    orderedBy: string,
    worker: string,
  ): Promise<{ readonly id: string; readonly joined: boolean } | undefined> {
    const digest = user === undefined ? WHOLE_TENANT : digestOf(tenantId, user);
    // The one in the way may end between the two statements, but not twice.
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const values = [randomUUID(), digest, user ?? null, orderedBy, worker];
      const [begun] = await run<{ erasure_id: string }>(tenantId, BEGIN, values);
      if (begun !== undefined) return { id: begun.erasure_id, joined: false };
      const [running] = await run<{ erasure_id: string }>(tenantId, RUNNING, [digest]);
      if (running !== undefined) return { id: running.erasure_id, joined: true };
    }
    return undefined;
  }

  async find(tenantId: TenantId, id: string): Promise<ErasureView | undefined> {
    const [row] = await this.history.rows<ErasureView & Record<string, unknown>>(tenantId, FIND, [id]);
    return row;
  }

  /** True: it is for this process to go on with it. */
  async claim({ tenantId, id }: Erasure, worker: string): Promise<boolean> {
    return (await this.history.rows(tenantId, CLAIM, [id, worker])).length > 0;
  }

  /**
   * The nodes that have not heard of it, or, once the rows are gone, not of that. Undefined: another process works on it.
   */
  async touch({ tenantId, id }: Erasure, worker: string): Promise<readonly string[] | undefined> {
    const [row] = await this.history.rows<{ unheard: string[] }>(tenantId, TOUCH, [id, worker]);
    return row?.unheard;
  }

  /** This node has nothing of it in memory any more, at this stage of it. */
  async heard({ tenantId, id, emptied }: Erasure, node: string): Promise<void> {
    await this.history.rows(tenantId, HEARD, [id, node, emptied]);
  }

  /** Settles what goes and what stays. Undefined: it is settled already, or for another process to do. */
  async cut({ tenantId, id, digest }: Erasure, worker: string): Promise<Position | undefined> {
    const statement = digest.length === 0 ? CUT_TENANT : CUT_USER;
    const [row] = await this.history.rows<{ position: Position }>(tenantId, statement, [id, worker]);
    return row?.position;
  }

  /** The rows are gone. False: another process works on it. */
  async emptied({ tenantId, id }: Erasure, worker: string): Promise<boolean> {
    return (await this.history.rows(tenantId, EMPTIED, [id, worker])).length > 0;
  }

  /** In the transaction of `run`: who ordered it, and what is gone. Undefined: another process was faster. */
  async finish(
    run: RunOfTenant,
    { tenantId, id, digest }: Erasure,
    worker: string,
  ): Promise<{ readonly orderedBy: string; readonly erased: Erased } | undefined> {
    const statement = digest.length === 0 ? TENANT_DONE : USER_DONE;
    const [row] = await run<{ orderedBy: string; erased: Erased }>(tenantId, statement, [id, worker]);
    return row;
  }

  /** All of which the row is still there. */
  async load(): Promise<readonly Erasure[]> {
    return await this.changes.rows<ErasureRow>(LOAD);
  }

  /** Those that were not visible in the snapshot `snapshot`. */
  async since(snapshot: string): Promise<readonly Erasure[]> {
    return await this.changes.rows<ErasureRow>(SINCE, [snapshot]);
  }
}
