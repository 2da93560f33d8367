import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Logger, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { recordAction } from '../audit/audit.store.ts';
import { ChangeFeed, InFlightTransactionsStore } from '../cluster/change-feed.ts';
import { TenantTransactions } from '../postgres/entity-transactions.ts';
import { messageOf } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { TenantsStore } from '../tenants/tenants.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import { auditEntryOf, type Erasure } from './erasure.ts';
import { ErasureRegistry, ErasureRegistryStore } from './erasure-registry.ts';
import {
  keyOf,
  lowestOf,
  DATA_OF_TENANT,
  personalDataOfUser,
  type Key,
  type PersonalData,
} from './inventory.ts';

/** Rows that one statement takes: a few milliseconds of work. */
const ROWS = 1_000;

/** Idempotency keys that one statement reads. Each may have an answer with a thousand notifications. */
const KEYS = 500;

/** What deleting a page did. */
interface ErasedPage {
  readonly gone: number;
  /** The next page begins behind this key; undefined: there is none. */
  readonly next: Key | undefined;
}

/** Erases the page behind a key. Undefined: another process works on it. */
type Step = (after: Key | undefined) => Promise<ErasedPage | undefined>;

/*
 * A page is one statement and so one short transaction. Only who wants the same rows waits for it, and a process that dies
 * leaves no page half done. All of them have this in common:
 *
 * - `lease` locks the row of the erasure, so two processes never work at the same time. A process that was taken for dead
 *   finds that it is not the worker any more, and deletes nothing.
 * - A page begins behind the one before. From the front it would have to pass all the dead rows of earlier pages.
 * - Rows are deleted by a range of the key whose end is a value. With a join the planner would read all partitions.
 */
const LEASE = `lease as materialized (
  select erasure_id from erasures where tenant_id = $1 and erasure_id = $2 and worker = $3 and done_at is null for update
)`;
const counted = (name: string) => `counted as (
  update erasures e
  set touched_at = clock_timestamp(),
    erased = e.erased || jsonb_build_object('${name}', coalesce((e.erased ->> '${name}')::bigint, 0) + (select count(*) from gone))
  from lease where e.tenant_id = $1 and e.erasure_id = lease.erasure_id
  returning 1
)`;

/* The tenant may store as much again as is deleted here. What lies below the floor was given back by retention. */
const GIVEN_BACK = `given_back as (
  update tenant_logs s set removed_bytes = s.removed_bytes + (select coalesce(sum(size), 0) from gone where position > s.floor)
  where s.tenant_id = $1 and exists (select from gone)
), `;

function pageOf(name: string, scope: string, data: PersonalData): Statement {
  const { table, key, which = 'true' } = data;
  const { columns, after } = keyOf(data, '$4::text[]');
  const names = key.map(([column]) => column);
  const returned = table === 'notifications' ? 't.position, t.size' : '1';
  const rows = `t.tenant_id = $1 and (${columns}) > (${after}) and ${which}`;
  return {
    name: `erase_${name}_of_${scope}`,
    text: `
with ${LEASE}, page as materialized (
  select page.* from lease cross join lateral (
    select ${columns} from ${table} t where ${rows} order by ${columns} limit $5
  ) page
), last as materialized (
  select * from page order by ${names.map((column) => `${column} desc`).join(', ')} limit 1
), gone as (
  delete from ${table} t
  where ${rows} and (${columns}) <= (${names.map((column) => `(select ${column} from last)`).join(', ')})
  returning ${returned}
), ${name === 'notifications' && scope === 'user' ? GIVEN_BACK : ''}${counted(name)}
select (select count(*)::int from gone) as taken, (select count(*)::int from gone) as gone,
  (select array[${names.map((column) => `${column}::text`).join(', ')}] from last) as last
from counted`,
  };
}

/*
 * The answer to an idempotency key stays for the rest of its window. Without it a publisher that repeats a request would
 * publish again what was erased, and to the other users of a batch a second time. Only the ids of what is erased are taken
 * out of it. Place n of an answer has position `first_position + n - 1`, so the user's notifications tell which ones these are.
 *
 * Under row-level security PostgreSQL uses an index only for conditions that are leakproof, and one with a sum of columns is
 * not. So the sum becomes a column first (`offset 0`), or the condition stands in a sub-select, for which columns from
 * outside are values.
 */
const ANSWERS: Statement = {
  name: 'erase_answers_of_user',
  text: `
with ${LEASE}, page as materialized (
  select k.publisher, k.key, exists (
    select from notifications n where n.tenant_id = $1 and n.user_id = $6 and n.position <= $7
      and n.position >= k.first_position and n.position < k.first_position + cardinality(k.ids)
  ) as named
  from lease cross join lateral (
    select publisher, key, first_position, ids from idempotency_keys
    where tenant_id = $1 and (publisher, key) > (($4::text[])[1], ($4::text[])[2])
    order by publisher, key limit $5
  ) k
), last as materialized (
  select publisher, key from page order by publisher desc, key desc limit 1
), gone as (
  update idempotency_keys k set ids = array(
    select case when n.position is null then answer.id else '00000000-0000-0000-0000-000000000000' end
    from (
      select id, k.first_position + place - 1 as position
      from unnest(k.ids) with ordinality as answer (id, place) offset 0
    ) answer
    left join lateral (
      select n.position from notifications n
      where n.tenant_id = $1 and n.user_id = $6 and n.position = answer.position and n.position <= $7
    ) n on true
    order by answer.position
  )
  where k.tenant_id = $1 and (k.publisher, k.key) > (($4::text[])[1], ($4::text[])[2])
    and (k.publisher, k.key) <= ((select publisher from last), (select key from last))
    and (k.publisher, k.key) in (select publisher, key from page where named)
  returning 1
), ${counted('answers')}
select (select count(*)::int from page) as taken, (select count(*)::int from gone) as gone,
  (select array[publisher, key] from last) as last
from counted`,
};

const OF_TENANT = Object.entries(DATA_OF_TENANT).map(([name, data]) => ({
  data,
  statement: pageOf(name, 'tenant', data),
}));
/* Answers are found through the notifications, so these are deleted last. */
const { notifications, ...others } = personalDataOfUser({ user: '$6', upTo: '$7' });
const OF_USER = Object.entries(others).map(([name, data]) => ({
  data,
  statement: pageOf(name, 'user', data),
}));
const NOTIFICATIONS = pageOf('notifications', 'user', notifications);

interface Row extends Record<string, unknown> {
  readonly taken: number;
  readonly gone: number;
  readonly last: Key | null;
}

/** Deletes the data of a user or of a tenant, page by page. */
@Injectable()
export class ErasureWorkerStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The steps of an erasure, in order. Each is repeated with the next page that it names, until it names none. */
  steps(erasure: Erasure, worker: string, upTo: Position): readonly Step[] {
    const { user } = erasure;
    const step =
      (statement: Statement, lowest: Key, limit: number, of: readonly unknown[]): Step =>
      (after = lowest) =>
        this.#page(erasure.tenantId, statement, [erasure.id, worker, after, limit, ...of], limit);
    if (user === null)
      return OF_TENANT.map(({ statement, data }) => step(statement, lowestOf(data), ROWS, []));
    return [
      step(ANSWERS, ['', ''], KEYS, [user, upTo]),
      ...OF_USER.map(({ statement, data }) => step(statement, lowestOf(data), ROWS, [user])),
      step(NOTIFICATIONS, lowestOf(notifications), ROWS, [user, upTo]),
    ];
  }

  async #page(
    tenantId: TenantId,
    statement: Statement,
    values: readonly unknown[],
    limit: number,
  ): Promise<ErasedPage | undefined> {
    const [row] = await this.pool.rows<Row>(tenantId, statement, values);
    if (row === undefined) return undefined;
    return { gone: row.gone, next: row.taken < limit || row.last === null ? undefined : row.last };
  }
}

/** How often erasures are looked for that another node has left behind, in ms. */
const TICK_MS = 1_000;
/** How often it is checked whether all nodes have purged their memory, in ms. */
const POLL_MS = 50;
/** In how many tenants this node erases at the same time. The other connections of the pool are for operators. */
const MAX_AT_ONCE = 2;

/** This process does not go on: another one works on the erasure, or the node stops. */
class Abandoned extends Error {}

/**
 * Carries out erasures: on the node that was asked for one, or on another node when that has died. In order:
 *
 * 1. wait until every node has purged its memory, and until every transaction is over that began before the erasure;
 * 2. settle the position up to which everything is erased;
 * 3. delete the rows, page by page;
 * 4. wait until every node has purged its memory once more;
 * 5. write the end and its audit entry.
 *
 * A node that carries on the work of another one deletes from the first page, since pages that are empty cost next to nothing.
 */
@Injectable()
export class ErasureWorker implements OnModuleInit, OnModuleDestroy {
  /** By which the rows know this process. A node that starts again under its name is another process. */
  readonly id = randomUUID();
  readonly #logger = new Logger(ErasureWorker.name);
  readonly #working = new Map<TenantId, Promise<void>>();
  /** Erasures that were tried since the last tick: another node works on them, or they failed. */
  readonly #tried = new Set<string>();
  #subscription: Subscription | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopping = false;

  constructor(
    private readonly registry: ErasureRegistry,
    private readonly registryStore: ErasureRegistryStore,
    private readonly store: ErasureWorkerStore,
    private readonly inFlight: InFlightTransactionsStore,
    private readonly tenants: TenantsStore,
    private readonly changes: ChangeFeed,
    private readonly transactions: TenantTransactions,
  ) {}

  onModuleInit(): void {
    this.#subscription = this.registry.updates.subscribe(({ done }) => {
      if (!done) this.#startNext();
    });
    this.#timer = setInterval(() => {
      this.#tried.clear();
      this.#startNext();
    }, TICK_MS);
  }

  async onModuleDestroy(): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#timer);
    this.#subscription?.unsubscribe();
    await Promise.all(this.#working.values());
  }

  /** Starts as many erasures as there is room for, one at a time in each tenant. */
  #startNext(): void {
    for (const erasure of this.registry.running) {
      const { tenantId, id } = erasure;
      if (this.#stopping || this.#working.size >= MAX_AT_ONCE) return;
      if (this.#working.has(tenantId) || this.#tried.has(id)) continue;
      this.#tried.add(id);
      const work = this.#attempt(erasure).finally(() => {
        this.#working.delete(tenantId);
        this.#startNext();
      });
      this.#working.set(tenantId, work);
    }
  }

  /** Never rejects. */
  async #attempt(erasure: Erasure): Promise<void> {
    try {
      if (!(await this.registryStore.claim(erasure, this.id))) {
        // The whole tenant was deleted meanwhile, and the row of this erasure with it.
        if ((await this.registryStore.find(erasure.tenantId, erasure.id)) === undefined)
          this.registry.drop(erasure);
        return;
      }
      const upTo = erasure.position ?? (await this.#cut(erasure));
      await this.#erase(erasure, upTo);
      if (!(await this.registryStore.markEmptied(erasure, this.id))) throw new Abandoned();
      await this.changes.now();
      // What was published since the first purge is in the tails again, from where a stream that returns would get it.
      await this.#untilPurged(erasure);
      await this.#finish(erasure);
    } catch (error) {
      if (error instanceof Abandoned) return;
      const message = messageOf(error);
      this.#logger.warn(`erasure ${erasure.id} waits and will be tried again: ${message}`);
    }
  }

  /**
   * Settles the position up to which everything is erased. Every node has purged its memory by then, and every transaction
   * is over that may not have seen the row of the erasure, so nothing is under way that could add a row later.
   */
  async #cut(erasure: Erasure): Promise<Position> {
    let before = await this.inFlight.underWay();
    await this.#untilPurged(erasure, async () => {
      before = await this.inFlight.still(before);
      return before.length === 0;
    });
    const upTo = await this.registryStore.cut(erasure, this.id);
    if (upTo === undefined) throw new Abandoned();
    return upTo;
  }

  /** Waits until every living node has purged its memory, and `also` is true. Throws Abandoned. */
  async #untilPurged(
    erasure: Erasure,
    also: () => Promise<boolean> = () => Promise.resolve(true),
  ): Promise<void> {
    for (;;) {
      const notPurged = await this.registryStore.touch(erasure, this.id);
      if (notPurged === undefined || this.#stopping) throw new Abandoned();
      if ((await also()) && notPurged.length === 0) return;
      await sleep(POLL_MS);
    }
  }

  async #erase(erasure: Erasure, upTo: Position): Promise<void> {
    for (const step of this.store.steps(erasure, this.id, upTo)) {
      let page = await step(undefined);
      while (page?.next !== undefined && !this.#stopping) page = await step(page.next);
      if (page === undefined || this.#stopping) throw new Abandoned();
    }
  }

  /** Writes the end of the erasure and its audit entry in one transaction. */
  async #finish(erasure: Erasure): Promise<void> {
    const { tenantId, user } = erasure;
    await this.transactions.transaction(tenantId, async (transaction) => {
      const completed = await this.registryStore.finish(transaction.run, erasure, this.id);
      if (completed === undefined) throw new Abandoned();
      if (user === null) await this.tenants.markDeleted(transaction, tenantId);
      await recordAction(transaction.entities, auditEntryOf(erasure, completed));
    });
    await this.changes.now();
  }
}
