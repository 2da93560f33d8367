import { Injectable } from '@nestjs/common';
import { AppendPool } from '../postgres/pools.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Draft } from '../core/notification.ts';
import { EPOCH_MS, POSITIONS_PER_MS, type Position } from '../core/position.ts';
import { errorCode } from '../postgres/errors.ts';
import { type Statement } from '../postgres/pool.ts';

/** An Idempotency-Key as it is stored: which request it stands for, and where its notifications are. */
export interface IdempotencyKey {
  readonly publisher: string;
  readonly key: string;
  /** SHA-256 of the route and the bytes of the body. */
  readonly fingerprint: Buffer;
}

/** One publish request: its notifications are stored together or not at all. */
export interface Publication {
  readonly publisher: string;
  readonly drafts: readonly Draft[];
  readonly idempotency: IdempotencyKey | undefined;
}

export interface Appended {
  /** The head before; from the locked row. */
  readonly previous: Position;
  readonly head: Position;
  /** Draft n of the batch, counted from 1 over all publications, has position `base + n`. */
  readonly base: Position;
  /** Publications (by index) whose key a committed duplicate holds: nothing of them was stored. */
  readonly duplicates: ReadonlySet<number>;
  /** What the tenant has used after it. */
  readonly usage: Usage;
}

interface AppendedRow extends Usage, Record<string, unknown> {
  readonly previous: Position;
  readonly base: Position;
  readonly head: Position;
  readonly duplicates: number[];
}

/** What a key answered the first time. */
export interface Remembered {
  readonly fingerprint: Buffer;
  readonly first: Position;
  readonly ids: readonly string[];
}

/*
 * The append is one statement, so that a node that stops never holds a tenant's lock between round trips.
 *
 * - `log` locks the row of the tenant log; all that follows takes its numbers from this CTE. A sub-select on the table in
 *   `returning` would read the statement's old snapshot instead of the row that was waited for.
 * - Positions are given to every draft before it is known which keys are free. A duplicate leaves a hole in the numbers;
 *   holes are harmless, and the key can be stored with its answer in the same statement.
 * - No position lies at or below the beginning of the tenant's log, also where the clock was set back since.
 * - `clock_timestamp()`, not `now()`: the statement may have waited for the lock. It is asked for once the row is locked.
 * - The lock is held until the commit, so no reader sees a position before every smaller one is visible.
 * - An append that was given up with its connection may still be on its way, and must not be stored when it arrives:
 *   what it says was appended again. It finds itself in `abandoned`, also when it waited for the lock meanwhile, since
 *   the condition is tested once more on the row that was waited for.
 * - The quota of the tenant is charged here, under the lock that is held anyway: what time has paid off since the last
 *   append goes from `spent`, what is stored now comes on top. A duplicate stores nothing and costs nothing. Should the clock
 *   have been set back, nothing is paid off, and from then on time counts anew.
 */
const APPEND: Statement = {
  name: 'append',
  stores: true,
  text: `
with log as materialized (
  select head, beginning, spent, spent_at, appended_bytes, removed_bytes
  from tenant_logs where tenant_id = $1 and not $18::uuid = any(abandoned) for update
), place as materialized (
  select head as previous, now, appended_bytes, removed_bytes,
    greatest(head, beginning, floor(extract(epoch from now) * 1000 - ${EPOCH_MS})::bigint * ${POSITIONS_PER_MS}) as base,
    greatest(0, spent - $19::float8 * greatest(0, extract(epoch from now - spent_at)::float8)) as spent
  from (select *, clock_timestamp() as now from log) locked
), draft as materialized (
  select * from unnest($2::int[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::timestamptz[], $11::boolean[], $12::text[])
    with ordinality as d (publication, id, user_id, topic, type, data, size, publisher, expires_at, inbox, trace, n)
), keyed as materialized (
  select * from unnest($13::int[], $14::text[], $15::text[], $16::bytea[]) as k (publication, publisher, key, fingerprint)
), taken as (
  insert into idempotency_keys (tenant_id, publisher, key, fingerprint, first_position, ids)
  select $1, k.publisher, k.key, k.fingerprint, place.base + span.first, span.ids
  from place, keyed k
  join (select publication, min(n) as first, array_agg(id order by n) as ids from draft group by publication) span using (publication)
  order by k.publisher, k.key
  on conflict do nothing
  returning publisher, key
), duplicate as materialized (
  select k.publication from keyed k
  where not exists (select from taken t where t.publisher = k.publisher and t.key = k.key)
), inserted as (
  insert into notifications (tenant_id, position, id, user_id, topic, type, data, size, publisher, expires_at, inbox, trace)
  select $1, place.base + d.n, d.id, d.user_id, d.topic, d.type, d.data, d.size, d.publisher, d.expires_at, d.inbox, d.trace
  from place, draft d
  where d.publication not in (select publication from duplicate)
), cost as materialized (
  select $17 - count(*) as notifications, $20::bigint - coalesce(sum(size), 0) as bytes
  from duplicate join draft using (publication)
), moved as (
  update tenant_logs set head = place.base + $17,
    spent = place.spent + cost.notifications, spent_at = place.now,
    appended_bytes = place.appended_bytes + cost.bytes
  from place, cost where tenant_logs.tenant_id = $1
)
select place.previous, place.base, place.base + $17 as head, array(select publication from duplicate) as duplicates,
  place.spent + cost.notifications as spent,
  place.appended_bytes + cost.bytes - place.removed_bytes as "storedBytes"
from place, cost`,
};

/* Its own statement: a statement that waited for a duplicate cannot see the row that it waited for. */
const RECALL: Statement = {
  name: 'recall',
  text: `
select asked.n::int as n, fingerprint, first_position as first, ids
from unnest($2::text[], $3::text[]) with ordinality as asked (publisher, key, n)
join idempotency_keys i on i.tenant_id = $1 and i.publisher = asked.publisher and i.key = asked.key`,
};

/* Behind the lock of the tenant log: a commit that is still under way on a lost connection ends before this reads. */
const LOCK: Statement = {
  name: 'lock_tenant_log',
  text: `select head from tenant_logs where tenant_id = $1 for update`,
};
const FIND: Statement = {
  name: 'find_stored',
  text: `select id, position from notifications where tenant_id = $1 and id = any($2::uuid[])`,
};

/* The last few are enough: each belongs to a connection that died, and what is late arrives within minutes. */
const ABANDON: Statement = {
  name: 'abandon_append',
  text: `update tenant_logs set abandoned = (abandoned || $2::uuid)[cardinality(abandoned) - 18:] where tenant_id = $1`,
};

/* One that was deleted stays deleted: only an administrator makes it anew. */
const ENSURE_TENANT: Statement = {
  name: 'ensure_tenant',
  stores: true,
  text: `
with deleted as materialized (
  select from tenants where tenant_id = $1 and status in ('deleting', 'deleted')
), tenant as (
  insert into tenants (tenant_id) values ($1) on conflict do nothing
), log as (
  insert into tenant_logs (tenant_id, beginning) select $1, position_at(now()) where not exists (select from deleted)
  on conflict do nothing
)
select where not exists (select from deleted)`,
};

/** What the database says that a tenant has used. */
export interface Usage {
  /** Notifications that are not paid off yet: each costs one, and time pays the tenant's rate. */
  readonly spent: number;
  /** Bytes of `data` that are kept. */
  readonly storedBytes: number;
}

/** What was used, and how long ago it was so. */
interface DatedUsage extends Usage {
  /** ms by the database's clock; 0 when that was set back since. */
  readonly age: number;
}

/* What charges it is the append itself. */
const READ_USAGE: Statement = {
  name: 'read_usage',
  text: `
select spent, appended_bytes - removed_bytes as "storedBytes",
  greatest(0, extract(epoch from clock_timestamp() - spent_at) * 1000)::float8 as age
from tenant_logs where tenant_id = $1`,
};

/** The SQL that writes the log. */
@Injectable()
export class AppendStore {
  constructor(private readonly pool: AppendPool) {}

  /**
   * Appends what the publications hold, in order. Undefined: the tenant has no log yet, nothing was stored.
   * When this returns, the commit is on disk. `append` is a UUID by which `outcomeOf` knows it; `rate` is what the tenant
   * may publish per second.
   */
  async append(
    tenantId: TenantId,
    publications: readonly Publication[],
    append: string,
    rate: number,
  ): Promise<Appended | undefined> {
    const drafts = publications.flatMap(({ publisher, drafts: own }, index) =>
      own.map((draft) => ({ draft, publisher, index })),
    );
    const keys = publications.flatMap(({ idempotency }, index) =>
      idempotency === undefined ? [] : [{ ...idempotency, index }],
    );
    const [row] = await this.pool.rows<AppendedRow>(tenantId, APPEND, [
      drafts.map(({ index }) => index),
      drafts.map(({ draft }) => draft.id),
      drafts.map(({ draft }) => ('user' in draft.to ? draft.to.user : null)),
      drafts.map(({ draft }) => ('topic' in draft.to ? draft.to.topic : null)),
      drafts.map(({ draft }) => draft.type),
      drafts.map(({ draft }) => draft.data),
      drafts.map(({ draft }) => draft.size),
      drafts.map(({ publisher }) => publisher),
      drafts.map(({ draft }) => (draft.expiresAt === null ? null : new Date(draft.expiresAt).toISOString())),
      drafts.map(({ draft }) => draft.inbox),
      drafts.map(({ draft }) => draft.trace),
      keys.map(({ index }) => index),
      keys.map(({ publisher }) => publisher),
      keys.map(({ key }) => key),
      keys.map(({ fingerprint }) => fingerprint),
      drafts.length,
      append,
      rate,
      drafts.reduce((sum, { draft }) => sum + draft.size, 0),
    ]);
    if (row === undefined) return undefined;
    const { duplicates, spent, storedBytes, ...places } = row;
    return { ...places, duplicates: new Set(duplicates), usage: { spent, storedBytes } };
  }

  /** What each of the keys answered the first time, in their order; null: it was not used. */
  async recall(
    tenantId: TenantId,
    keys: readonly Pick<IdempotencyKey, 'publisher' | 'key'>[],
  ): Promise<(Remembered | null)[]> {
    const rows = await this.pool.rows<Remembered & { n: number } & Record<string, unknown>>(
      tenantId,
      RECALL,
      [keys.map(({ publisher }) => publisher), keys.map(({ key }) => key)],
    );
    const found = new Map(rows.map(({ n, ...remembered }) => [n, remembered]));
    return keys.map((_, index) => found.get(index + 1) ?? null);
  }

  /**
   * After an append whose outcome is unknown: which of its ids are in the log, and where. Those that are not there will
   * not be stored by it any more.
   */
  async outcomeOf(
    tenantId: TenantId,
    ids: readonly string[],
    append: string,
  ): Promise<ReadonlyMap<string, Position>> {
    const rows = await this.pool.transaction(tenantId, async (run) => {
      await run(tenantId, ENSURE_TENANT);
      await run(tenantId, LOCK);
      const found = await run<{ id: string; position: Position }>(tenantId, FIND, [ids]);
      if (found.length < ids.length) await run(tenantId, ABANDON, [append]);
      return found;
    });
    return new Map(rows.map(({ id, position }) => [id, position]));
  }

  /** A tenant that has no log yet has used nothing. */
  async usage(tenantId: TenantId): Promise<DatedUsage> {
    const [row] = await this.pool.rows<DatedUsage & Record<string, unknown>>(tenantId, READ_USAGE);
    return row ?? { spent: 0, storedBytes: 0, age: 0 };
  }

  /** Makes the rows of a tenant that was not seen before. False: it was deleted, and nothing is made. */
  async ensureTenant(tenantId: TenantId): Promise<boolean> {
    return (await this.pool.rows(tenantId, ENSURE_TENANT)).length > 0;
  }
}

/** No partition covers the position: 23514 without a constraint, since a violated check names one. */
export function isPartitionMissing(error: unknown): boolean {
  return (
    errorCode(error) === '23514' &&
    typeof error === 'object' &&
    error !== null &&
    !('constraint' in error && typeof error.constraint === 'string')
  );
}
