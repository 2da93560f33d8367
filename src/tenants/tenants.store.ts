import { Injectable } from '@nestjs/common';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import { ChangeFeedPool, CrossTenantPool, HistoryPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { TenantId } from '../core/identifiers.ts';
import { readLimits, type OwnLimits } from '../core/limits.ts';
import { type Statement } from '../postgres/pool.ts';

/** What an administrator may make of a tenant. */
export const SET_STATUSES = ['active', 'suspended'] as const;
/** `deleting`: its data is being erased. `deleted`: it is gone, and the row is what keeps a token from making it anew. */
export const TENANT_STATUSES = [...SET_STATUSES, 'deleting', 'deleted'] as const;
export type TenantStatus = (typeof TENANT_STATUSES)[number];

/** What an administrator says about a tenant. */
export interface TenantSettings {
  readonly name: string | null;
  readonly status: (typeof SET_STATUSES)[number];
  /** Days that its log is kept; null: RETENTION_DAYS. */
  readonly keptDays: number | null;
  /** Serialized origins (RFC 6454 §6.2) that its pages are served from, beside CORS_ORIGINS. */
  readonly corsOrigins: readonly string[];
  readonly limits: OwnLimits;
}

export interface Tenant extends Omit<TenantSettings, 'status'> {
  readonly status: TenantStatus;
  readonly id: TenantId;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** What a node keeps of a tenant in memory. */
export interface TenantState {
  readonly id: TenantId;
  readonly status: TenantStatus;
  readonly corsOrigins: readonly string[];
  readonly limits: OwnLimits;
}

const COLUMNS = `tenant_id as id, name, status, kept_days as "keptDays", cors_origins as "corsOrigins",
  limits, created_at as "createdAt", updated_at as "updatedAt"`;
const STATE = `tenant_id as id, status, cors_origins as "corsOrigins", limits`;

/*
 * No row: the tenant is there already. The stream row is what makes a tenant one that can be published to. One that was
 * deleted is made anew, and its log goes on where it ended: whoever still holds a position of it is told of the gap.
 */
const CREATE: Statement = {
  name: 'create_tenant',
  text: `
with tenant as (
  insert into tenants (tenant_id, name, status, kept_days, cors_origins, limits)
  values ($1, $2, $3, $4, $5, jsonb_strip_nulls($6::jsonb))
  on conflict (tenant_id) do update set name = excluded.name, status = excluded.status, kept_days = excluded.kept_days,
    cors_origins = excluded.cors_origins, limits = excluded.limits, created_at = now(), updated_at = now(),
    transaction = pg_current_xact_id()
    where tenants.status = 'deleted'
  returning *
), log as (
  insert into tenant_logs (tenant_id, head, floor, beginning)
  select tenant_id, last_head, last_head, position_at(now()) from tenant on conflict do nothing
)
select ${COLUMNS} from tenant`,
};

const FIND: Statement = { name: 'find_tenant', text: `select ${COLUMNS} from tenants where tenant_id = $1` };

const LOCK: Statement = {
  name: 'lock_tenant',
  text: `select ${COLUMNS} from tenants where tenant_id = $1 for update`,
};

/* Laid over what is there: a newer version may have put in limits that this one does not know. */
const UPDATE: Statement = {
  name: 'update_tenant',
  text: `
update tenants set name = $2, status = $3, kept_days = $4, cors_origins = $5,
  limits = jsonb_strip_nulls(limits || $6::jsonb),
  updated_at = now(), transaction = pg_current_xact_id()
where tenant_id = $1 returning ${COLUMNS}`,
};

/* From here on nobody of it is let in. */
const DOOM: Statement = {
  name: 'doom_tenant',
  text: `
update tenants set status = 'deleting', cors_origins = '{}', updated_at = now(), transaction = pg_current_xact_id()
where tenant_id = $1 returning ${COLUMNS}`,
};

const BURY: Statement = {
  name: 'bury_tenant',
  text: `
update tenants set status = 'deleted', name = null, kept_days = null, updated_at = now(), transaction = pg_current_xact_id()
where tenant_id = $1`,
};

/* The list of tenants, and what a node keeps of them, concern the installation and name no tenant. */
const PAGE: Statement = {
  name: 'page_tenants',
  text: `
select ${COLUMNS} from tenants
where tenant_id > $1 and (status = $2 or $2::text is null and status <> 'deleted')
order by tenant_id limit $3`,
};

const LOAD: Statement = {
  name: 'load_tenants',
  text: `select ${STATE} from tenants where $1 or status <> 'active' or cors_origins <> '{}' or limits <> '{}'`,
};

const CHANGED: Statement = {
  name: 'changed_tenants',
  text: `select ${STATE} from tenants where ${NOT_IN_SNAPSHOT}`,
};

/** As it is stored, with limits that nobody has looked at yet. */
type Raw<Row extends { limits: OwnLimits }> = Omit<Row, 'limits'> & { limits: unknown };
type TenantRow = Raw<Tenant> & Record<string, unknown>;
type StateRow = Raw<TenantState> & Record<string, unknown>;

/** The SQL of tenants. What takes `run` is part of a transaction of the caller. */
@Injectable()
export class TenantsStore {
  constructor(
    private readonly changes: ChangeFeedPool,
    private readonly engine: CrossTenantPool,
    private readonly history: HistoryPool,
  ) {}

  /** Makes the tenant and its stream. Undefined: there is one with this id. */
  async create(run: RunOfTenant, tenantId: TenantId, settings: TenantSettings): Promise<Tenant | undefined> {
    const [row] = await run<TenantRow>(tenantId, CREATE, valuesOf(settings));
    return row && withLimits(row);
  }

  async find(tenantId: TenantId): Promise<Tenant | undefined> {
    const [row] = await this.history.rows<TenantRow>(tenantId, FIND);
    return row && withLimits(row);
  }

  /** The tenant, which nobody else changes until the transaction ends. */
  async lock(run: RunOfTenant, tenantId: TenantId): Promise<Tenant | undefined> {
    const [row] = await run<TenantRow>(tenantId, LOCK);
    return row && withLimits(row);
  }

  /** Of a tenant that `lock` has found. */
  async update(run: RunOfTenant, tenantId: TenantId, settings: TenantSettings): Promise<Tenant> {
    const [row] = await run<TenantRow>(tenantId, UPDATE, valuesOf(settings));
    if (row === undefined) throw new Error('a locked tenant does not vanish');
    return withLimits(row);
  }

  /** The first step of its end. Of a tenant that `lock` has found. */
  async markDeleting(run: RunOfTenant, tenantId: TenantId): Promise<Tenant> {
    const [row] = await run<TenantRow>(tenantId, DOOM);
    if (row === undefined) throw new Error('a locked tenant does not vanish');
    return withLimits(row);
  }

  /** The last step, when nothing of it is left. */
  async markDeleted(run: RunOfTenant, tenantId: TenantId): Promise<void> {
    await run(tenantId, BURY);
  }

  /** By id, those after `after`; without a status all but the deleted. */
  async page(after: string, status: TenantStatus | undefined, limit: number): Promise<Tenant[]> {
    const rows = await this.engine.rows<TenantRow>(PAGE, [after, status ?? null, limit]);
    return rows.map(withLimits);
  }

  /** `all`: every tenant; else those that are suspended or have origins or limits of their own. */
  async load(all: boolean): Promise<TenantState[]> {
    const rows = await this.changes.rows<StateRow>(LOAD, [all]);
    return rows.map(withLimits);
  }

  /** What was not visible in the snapshot `since` (a pg_snapshot as text). */
  async changed(since: string): Promise<TenantState[]> {
    const rows = await this.changes.rows<StateRow>(CHANGED, [since]);
    return rows.map(withLimits);
  }
}

const withLimits = <Row extends { limits: unknown }>(row: Row): Row & { limits: OwnLimits } => ({
  ...row,
  limits: readLimits(row.limits),
});

const valuesOf = ({ name, status, keptDays, corsOrigins, limits }: TenantSettings): unknown[] => [
  name,
  status,
  keptDays,
  corsOrigins,
  JSON.stringify(limits),
];
