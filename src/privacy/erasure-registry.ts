import { randomUUID } from 'node:crypto';
import { Inject, Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { Subject, type Observable, type Subscription } from 'rxjs';
import { ChangeFeed, type ChangeSource, NOT_IN_SNAPSHOT } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { asPosition, type Position } from '../core/position.ts';
import { NodePurge } from '../delivery/node-purge.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { lives } from '../cluster/nodes.ts';
import { ChangeFeedPool, HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import { digestOf, type TenantId, type UserId } from '../core/identifiers.ts';
import type { Statement } from '../postgres/pool.ts';
import { whoOf, type Erasure, WHOLE_TENANT, type Erased, type ErasureView } from './erasure.ts';

/** When the process that works on an erasure has not touched the row for so long, another one goes on. */
const LEASE = `interval '5 seconds'`;

/** How long the row of an erasure that is done stays, for nodes that learn of it late. */
const KEPT = `interval '1 day'`;

/* Inserts nothing if the same erasure is running already, or if the whole tenant is being deleted. */
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

/* A process that has the row locked is at work, whatever the clock says. */
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
  select n.node from nodes n where ${lives('n')} and n.node <> all(e.heard)
) as "notPurged"`,
};

/*
 * `heard` has the nodes that have purged their memory. A node that purged it before the rows were deleted, and notes that
 * only afterwards, has to purge it again: its `emptied` is not that of the row any more.
 */
const HEARD: Statement = {
  name: 'heard_of_erasure',
  text: `
update erasures set heard = array_append(heard, $3)
where tenant_id = $1 and erasure_id = $2 and done_at is null and $3 <> all(heard) and emptied = $4`,
};

/** What has to be locked before the row of the erasure. */
interface Target {
  readonly locks: readonly string[];
  /** SQL of the tenant's id, which waits for these locks. */
  readonly tenant: string;
}
const USER: Target = { locks: [], tenant: '$1' };
/* A request to delete a tenant locks the tenant first and its erasure after that. The other order would be a deadlock. */
const TENANT: Target = {
  locks: ['tenant as materialized (select tenant_id from tenants where tenant_id = $1 for update)'],
  tenant: '(select tenant_id from tenant)',
};

const withAll = (queries: readonly string[]): string =>
  queries.length === 0 ? '' : `with ${queries.join(',\n')}\n`;

/*
 * Settles what is erased. The head is read under the lock of the tenant's log, so what has a position up to there is
 * committed, and what is published later gets a later position. The time is taken when every transaction is over that may
 * have opened a stream of the user, and before another one may.
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
/* Without its log nothing can be published to a tenant, and no stream can be opened. */
const CUT_TENANT = cut(
  'cut_tenant',
  TENANT,
  'ended as (update tenants t set last_head = log.head from log where t.tenant_id = $1)',
  'gone as (delete from tenant_logs s using log where s.tenant_id = $1)',
);

/* The list of nodes is cleared only once: a process that carries on the work of another one keeps those that have answered. */
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

/* The change feed reads the erasures of all tenants. */
const COLUMNS = `tenant_id as "tenantId", erasure_id as id, digest, user_id as "user", worker, position, emptied,
  (extract(epoch from erased_at) * 1000)::float8 as "erasedAt", done_at is not null as done`;
const LOAD: Statement = { name: 'load_erasures', text: `select ${COLUMNS} from erasures` };
const SINCE: Statement = {
  name: 'erasures_since',
  text: `select ${COLUMNS} from erasures where ${NOT_IN_SNAPSHOT}`,
};

type ErasureRow = Erasure & Record<string, unknown>;

/** The rows of erasures. The SQL that deletes data is in erasure-worker.ts. */
@Injectable()
export class ErasureRegistryStore {
  constructor(
    private readonly history: HistoryPool,
    private readonly changes: ChangeFeedPool,
  ) {}

  /**
   * Begins an erasure, or joins the one that is running, in the transaction of `run`. Undefined: the tenant is being
   * deleted, or was.
   *
   * @param user undefined: the whole tenant
   * @param orderedBy who asked for it, as text
   */
  async begin(
    run: RunOfTenant,
    tenantId: TenantId,
    user: UserId | undefined,
    orderedBy: string,
    worker: string,
  ): Promise<{ readonly id: string; readonly joined: boolean } | undefined> {
    const digest = user === undefined ? WHOLE_TENANT : digestOf(tenantId, user);
    // An erasure that is in the way may end between the two statements, but that does not happen twice.
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

  /** Takes an erasure for this process to work on. False: another process works on it. */
  async claim({ tenantId, id }: Erasure, worker: string): Promise<boolean> {
    return (await this.history.rows(tenantId, CLAIM, [id, worker])).length > 0;
  }

  /**
   * Renews the lease. Returns the living nodes that have not purged their memory yet, at this stage of the erasure. Undefined:
   * another process works on it.
   */
  async touch({ tenantId, id }: Erasure, worker: string): Promise<readonly string[] | undefined> {
    const [row] = await this.history.rows<{ notPurged: string[] }>(tenantId, TOUCH, [id, worker]);
    return row?.notPurged;
  }

  /** This node has nothing of it in memory any more, at the stage of `erasure`. */
  async markPurged({ tenantId, id, emptied }: Erasure, node: string): Promise<void> {
    await this.history.rows(tenantId, HEARD, [id, node, emptied]);
  }

  /** Settles what is erased. Undefined: it is settled already, or another process works on it. */
  async cut({ tenantId, id, digest }: Erasure, worker: string): Promise<Position | undefined> {
    const statement = digest.length === 0 ? CUT_TENANT : CUT_USER;
    const [row] = await this.history.rows<{ position: Position }>(tenantId, statement, [id, worker]);
    return row?.position;
  }

  /** All rows are deleted, and every node has to purge its memory again. False: another process works on it. */
  async markEmptied({ tenantId, id }: Erasure, worker: string): Promise<boolean> {
    return (await this.history.rows(tenantId, EMPTIED, [id, worker])).length > 0;
  }

  /** Ends it in the transaction of `run`. Returns who asked for it, and what was deleted. Undefined: another process was faster. */
  async finish(
    run: RunOfTenant,
    { tenantId, id, digest }: Erasure,
    worker: string,
  ): Promise<{ readonly orderedBy: string; readonly erased: Erased } | undefined> {
    const statement = digest.length === 0 ? TENANT_DONE : USER_DONE;
    const [row] = await run<{ orderedBy: string; erased: Erased }>(tenantId, statement, [id, worker]);
    return row;
  }

  /** All erasures that have a row. */
  async load(): Promise<readonly Erasure[]> {
    return await this.changes.rows<ErasureRow>(LOAD);
  }

  /** Those that were not visible in the snapshot `snapshot`. */
  async since(snapshot: string): Promise<readonly Erasure[]> {
    return await this.changes.rows<ErasureRow>(SINCE, [snapshot]);
  }
}

/** The erasures that are running, as this node knows them from the change feed, whichever node was asked for them. */
@Injectable()
export class ErasureRegistry implements ChangeSource {
  readonly #updates = new Subject<Erasure>();
  readonly #running = new Map<string, Erasure>();

  constructor(
    changes: ChangeFeed,
    private readonly store: ErasureRegistryStore,
    private readonly metrics: Metrics,
  ) {
    changes.register(this);
  }

  /** An erasure when it begins, when its position is settled, when the rows are deleted and when it is done; each at least once. */
  get updates(): Observable<Erasure> {
    return this.#updates;
  }

  /** Oldest first. */
  get running(): Iterable<Erasure> {
    return this.#running.values();
  }

  async load(): Promise<void> {
    const erasures = await this.store.load();
    this.#running.clear();
    for (const erasure of erasures) this.#apply(erasure);
  }

  async catchUp(since: string): Promise<void> {
    for (const erasure of await this.store.since(since)) this.#apply(erasure);
  }

  /** Takes out an erasure whose row is gone together with its tenant. */
  drop({ id }: Erasure): void {
    this.#running.delete(id);
    this.metrics.erasures.set(this.#running.size);
  }

  #apply(erasure: Erasure): void {
    if (erasure.done) this.#running.delete(erasure.id);
    else this.#running.set(erasure.id, erasure);
    this.metrics.erasures.set(this.#running.size);
    this.#updates.next(erasure);
  }
}

/** How often a purge that failed is tried again, in ms. */
const RETRY_MS = 1_000;

const EVERYTHING = asPosition(Number.MAX_SAFE_INTEGER);

/** A purge belongs to an erasure before its rows are deleted, or after that. */
const stageOf = ({ id, emptied }: Erasure): string => `${id} ${emptied}`;

/**
 * Purges this node's memory of what is erased, and notes in the row that it did. It does so before any row is deleted, so
 * that nothing from memory is written afterwards, and once more when all rows are deleted, for what was published meanwhile.
 */
@Injectable()
export class ErasurePurger implements OnModuleInit, OnModuleDestroy {
  readonly #logger = new Logger(ErasurePurger.name);
  /** The purges of running erasures by stage, under way or done. */
  readonly #purges = new Map<string, Promise<void>>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly registry: ErasureRegistry,
    private readonly store: ErasureRegistryStore,
    private readonly node: NodePurge,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.registry.updates.subscribe((erasure) => {
      if (erasure.done) void this.#purgeLate(erasure);
      else this.#begin(erasure);
    });
    this.#timer = setInterval(() => {
      const running = new Map([...this.registry.running].map((erasure) => [stageOf(erasure), erasure]));
      for (const erasure of running.values()) this.#begin(erasure);
      for (const stage of this.#purges.keys()) if (!running.has(stage)) this.#purges.delete(stage);
    }, RETRY_MS);
  }

  onModuleDestroy(): void {
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
  }

  #begin(erasure: Erasure): void {
    const stage = stageOf(erasure);
    if (this.#purges.has(stage)) return;
    const purge = this.#purge(erasure).catch((error: unknown) => {
      this.#purges.delete(stage);
      this.#logger.warn(`an erasure waits for this node: ${messageOf(error)}`);
    });
    this.#purges.set(stage, purge);
  }

  /** While the erasure is running nobody whom it concerns is let in, so nothing is spared. */
  async #purge(erasure: Erasure): Promise<void> {
    const { tenantId, position } = erasure;
    const who = whoOf(erasure);
    await this.node.purge({ tenantId, who, openedUntil: Infinity, upTo: position ?? EVERYTHING });
    await this.store.markPurged(erasure, this.config.NODE_NAME);
  }

  /** A node that was cut off learns only now of an erasure that is done. What has been opened or published since then stays. */
  async #purgeLate(erasure: Erasure): Promise<void> {
    const { tenantId, erasedAt, position } = erasure;
    if (erasedAt === null || position === null) return;
    await this.node.purge({ tenantId, who: whoOf(erasure), openedUntil: erasedAt, upTo: position });
  }
}
