import type { Config } from '../core/config.ts';
import { sqlTimeOf } from '../log/partitions.ts';
import type { Step } from './round.store.ts';
import { type Statement } from '../postgres/pool.ts';

/** Rows that one statement deletes, of each tenant where it works on a page of tenants: a few milliseconds of work. */
const ROWS = 1_000;
/** Tenants of one page. */
const TENANTS = 100;

/** How many rows of one tenant a statement deleted. */
interface Swept {
  readonly tenantId: string;
  readonly gone: number;
}

/** Longer than after which nodes take another for dead (src/cluster/nodes.ts): an end that is written down stays, also when the node was only frozen. */
const SURELY_DEAD_SECONDS = 60;

/*
 * The statements of this file work across tenants. Each deletes a bounded number of rows and skips those that are locked.
 * Rows are locked before they are deleted, and the lock tests them once more: a device that has come back meanwhile is not
 * idle any more, and stays.
 */
const KEYS: Statement = {
  name: 'sweep_idempotency_keys',
  text: `
with gone as (
  delete from idempotency_keys where ctid = any (array(
    select ctid from idempotency_keys where created_at < now() - make_interval(hours => $1) limit $2 for update skip locked))
  returning 1
)
select count(*)::int as gone from gone`,
};

/* A revocation outlives the last of its tokens by far more than the difference of clocks that is tolerated. */
const ended = (
  table: 'erasures' | 'revocations' | 'stream_commands' | 'stream_tickets',
  grace: string,
): Statement => ({
  name: `sweep_${table}`,
  text: `
with gone as (
  delete from ${table} where ctid = any (array(
    select ctid from ${table} where expires_at < now() - interval '${grace}' limit $1 for update skip locked))
  returning 1
)
select count(*)::int as gone from gone`,
});
const REVOCATIONS = ended('revocations', '1 hour');
const STREAM_COMMANDS = ended('stream_commands', '0');
const STREAM_TICKETS = ended('stream_tickets', '0');
const ERASURES = ended('erasures', '0');

/*
 * A device whose cursor is at or above the floor stays, however idle it is, since it is still owed what follows its cursor.
 * A device that was seen after the time of the floor stays too: history finds the receipts of notifications that are kept
 * through its row.
 */
const DEVICES: Statement = {
  name: 'sweep_devices',
  text: `
with page as materialized (
  select tenant_id, floor from tenant_logs where tenant_id > $1 order by tenant_id limit $2
), idle as materialized (
  select d.* from page cross join lateral (
    select tenant_id, user_id, device_id from devices
    where tenant_id = page.tenant_id and cursor < page.floor
      and last_seen_at < least(now() - make_interval(days => $3), ${sqlTimeOf('page.floor')})
    limit $4 for update skip locked) d
), gone as (
  delete from devices d using idle
  where d.tenant_id = idle.tenant_id and d.user_id = idle.user_id and d.device_id = idle.device_id
  returning d.tenant_id
)
select page.tenant_id as "tenantId", count(gone.tenant_id)::int as gone
from page left join gone on gone.tenant_id = page.tenant_id
group by page.tenant_id order by page.tenant_id`,
};

/* A connection that ended before the cutoff also began before it, so the index on `since` finds it. */
const CONNECTIONS: Statement = {
  name: 'sweep_connections',
  text: `
with page as materialized (
  select s.tenant_id, now() - make_interval(days => coalesce(t.kept_days, $3)) as cutoff
  from (select tenant_id from tenant_logs where tenant_id > $1 order by tenant_id limit $2) s
  left join tenants t on t.tenant_id = s.tenant_id
), ended as materialized (
  select c.* from page cross join lateral (
    select tenant_id, connection_id from connections
    where tenant_id = page.tenant_id and since < page.cutoff and until < page.cutoff
    limit $4 for update skip locked) c
), gone as (
  delete from connections c using ended
  where c.tenant_id = ended.tenant_id and c.connection_id = ended.connection_id
  returning c.tenant_id
)
select page.tenant_id as "tenantId", count(gone.tenant_id)::int as gone
from page left join gone on gone.tenant_id = page.tenant_id
group by page.tenant_id order by page.tenant_id`,
};

/*
 * A connection ends with the last sign of life of its node, since it is not known to have been open after that. A connection
 * that began before its node started belongs to an earlier process of that name, which cannot have it open any more.
 */
const LOST: Statement = {
  name: 'end_lost_connections',
  text: `
with lost as materialized (
  select c.tenant_id, c.connection_id,
    case when c.since < n.started_at then n.started_at else greatest(c.since, n.seen_at) end as last
  from connections c left join nodes n on n.node = c.node
  where c.until is null
    and (c.since < n.started_at or coalesce(n.seen_at, c.since) < now() - make_interval(secs => ${SURELY_DEAD_SECONDS}))
  limit $1 for update of c skip locked
), ended as (
  update connections c set until = lost.last, reason = 'node-lost' from lost
  where c.tenant_id = lost.tenant_id and c.connection_id = lost.connection_id
  returning 1
)
select count(*)::int as gone from ended`,
};

const NODES: Statement = {
  name: 'sweep_nodes',
  text: `
with gone as (
  delete from nodes n where n.seen_at < now() - interval '1 day'
    and not exists (select from connections c where c.node = n.node and c.until is null)
  returning node
), counts as (
  delete from connection_counts c using gone where c.node = gone.node
)
select count(*)::int as gone from gone`,
};

/**
 * Deletes rows whose time is over and that are not in partitions, by small statements that leave room for others. Every
 * method returns how many rows it took.
 */
export class Sweep {
  constructor(
    private readonly config: Pick<Config, 'IDEMPOTENCY_WINDOW_HOURS' | 'DEVICE_IDLE_DAYS' | 'RETENTION_DAYS'>,
    private readonly step: Step,
  ) {}

  async idempotencyKeys(): Promise<number> {
    return await this.#untilFew(KEYS, [this.config.IDEMPOTENCY_WINDOW_HOURS, ROWS]);
  }

  async revocations(): Promise<number> {
    return await this.#untilFew(REVOCATIONS, [ROWS]);
  }

  async streamCommands(): Promise<number> {
    return await this.#untilFew(STREAM_COMMANDS, [ROWS]);
  }

  async streamTickets(): Promise<number> {
    return await this.#untilFew(STREAM_TICKETS, [ROWS]);
  }

  async erasures(): Promise<number> {
    return await this.#untilFew(ERASURES, [ROWS]);
  }

  async devices(): Promise<number> {
    return await this.#byTenant(DEVICES, this.config.DEVICE_IDLE_DAYS);
  }

  async endedConnections(): Promise<number> {
    return await this.#byTenant(CONNECTIONS, this.config.RETENTION_DAYS);
  }

  /** Writes the end of connections whose node died without writing it. */
  async lostConnections(): Promise<number> {
    return await this.#untilFew(LOST, [ROWS]);
  }

  async nodes(): Promise<number> {
    return await this.#gone(NODES, []);
  }

  async #untilFew(statement: Statement, values: readonly unknown[]): Promise<number> {
    let total = 0;
    for (let gone = ROWS; gone === ROWS && !this.step.stopping; total += gone)
      gone = await this.#gone(statement, values);
    return total;
  }

  async #gone(statement: Statement, values: readonly unknown[]): Promise<number> {
    const [row] = await this.step.run<{ gone: number }>(statement, values);
    return row?.gone ?? 0;
  }

  /** Works on tenants in pages by key, and goes on to the next page when no tenant of this one has more rows. */
  async #byTenant(statement: Statement, days: number): Promise<number> {
    let total = 0;
    for (let after: string | undefined = ''; after !== undefined && !this.step.stopping;) {
      const values = [after, TENANTS, days, ROWS];
      const page: Swept[] = await this.step.run<Swept & Record<string, unknown>>(statement, values);
      total += page.reduce((sum, { gone }) => sum + gone, 0);
      if (page.some(({ gone }) => gone === ROWS)) continue;
      after = page.length < TENANTS ? undefined : page.at(-1)?.tenantId;
    }
    return total;
  }
}
