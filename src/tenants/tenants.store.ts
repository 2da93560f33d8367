import { Injectable } from '@nestjs/common';
import { Column, Entity, PrimaryColumn, type EntityManager, type ObjectLiteral } from 'typeorm';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import { WRITTEN_NOW, type TenantTransaction } from '../postgres/entity-transactions.ts';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, CrossTenantPool, HistoryPool } from '../postgres/pools.ts';
import type { TenantId } from '../core/identifiers.ts';
import { readLimits, type OwnLimits } from '../core/limits.ts';

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

/** A row of the registry, as administrators edit it. */
@Entity('tenants')
export class TenantEntity {
  @PrimaryColumn('text', { name: 'tenant_id' })
  id!: TenantId;

  @Column('text', { nullable: true })
  name!: string | null;

  @Column('text')
  status!: TenantStatus;

  @Column('integer', { name: 'kept_days', nullable: true })
  keptDays!: number | null;

  @Column('text', { name: 'cors_origins', array: true })
  corsOrigins!: readonly string[];

  /** With limits that nobody has looked at yet: a newer version may have put in some that this one does not know. */
  @Column('jsonb')
  limits!: unknown;

  @Column('timestamptz', { name: 'created_at' })
  createdAt!: Date;

  @Column('timestamptz', { name: 'updated_at' })
  updatedAt!: Date;

  /** Who wrote the row last; only the change feed reads it. An xid8, of which TypeORM knows nothing. */
  @Column('text', { select: false })
  transaction!: string;
}

const COLUMNS = `tenant_id as id, name, status, kept_days as "keptDays", cors_origins as "corsOrigins",
  limits, created_at as "createdAt", updated_at as "updatedAt"`;
const STATE = `tenant_id as id, status, cors_origins as "corsOrigins", limits`;

/*
 * No row: the tenant is there already. The row of its log is what makes a tenant one that can be published to. One that was
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

/** Laid over the limits that are there, for the sake of those that this version does not know. */
const LIMITS = 'jsonb_strip_nulls(limits || cast(:limits as jsonb))';

type TenantRow = Omit<TenantEntity, 'transaction'>;
type StateRow = Pick<TenantEntity, 'id' | 'status' | 'corsOrigins' | 'limits'>;
type Answer<Row> = Row & Record<string, unknown>;

/** The registry of tenants. What takes a transaction is part of one of the caller, who keeps the record of it. */
@Injectable()
export class TenantsStore {
  constructor(
    private readonly changes: ChangeFeedPool,
    private readonly engine: CrossTenantPool,
    private readonly history: HistoryPool,
  ) {}

  /** Makes the tenant and its log. Undefined: there is one with this id. */
  async create(
    { run }: TenantTransaction,
    tenantId: TenantId,
    settings: TenantSettings,
  ): Promise<Tenant | undefined> {
    const { name, status, keptDays, corsOrigins, limits } = settings;
    const values = [name, status, keptDays, corsOrigins, JSON.stringify(limits)];
    const [row] = await run<Answer<TenantRow>>(tenantId, CREATE, values);
    return row && tenantOf(row);
  }

  async find(tenantId: TenantId): Promise<Tenant | undefined> {
    const [row] = await this.history.rows<Answer<TenantRow>>(tenantId, FIND);
    return row && tenantOf(row);
  }

  /** The tenant, which nobody else changes until the transaction ends. */
  async lock({ entities }: TenantTransaction, tenantId: TenantId): Promise<Tenant | undefined> {
    const row = await entities.findOne(TenantEntity, {
      where: { id: tenantId },
      lock: { mode: 'pessimistic_write' },
    });
    return row === null ? undefined : tenantOf(row);
  }

  /** Of a tenant that `lock` has found. */
  async update(
    { entities }: TenantTransaction,
    tenantId: TenantId,
    { limits, ...settings }: TenantSettings,
  ): Promise<Tenant> {
    const changes = { ...settings, limits: () => LIMITS };
    return await edited(entities, tenantId, changes, { limits: JSON.stringify(limits) });
  }

  /** The first step of its end: from here on nobody of it is let in. Of a tenant that `lock` has found. */
  async markDeleting({ entities }: TenantTransaction, tenantId: TenantId): Promise<Tenant> {
    return await edited(entities, tenantId, { status: 'deleting', corsOrigins: [] });
  }

  /** The last step, when nothing of it is left. */
  async markDeleted({ entities }: TenantTransaction, tenantId: TenantId): Promise<void> {
    await edited(entities, tenantId, { status: 'deleted', name: null, keptDays: null });
  }

  /** By id, those after `after`; without a status all but the deleted. */
  async page(after: string, status: TenantStatus | undefined, limit: number): Promise<Tenant[]> {
    const rows = await this.engine.rows<Answer<TenantRow>>(PAGE, [after, status ?? null, limit]);
    return rows.map(tenantOf);
  }

  /** `all`: every tenant; else those that are suspended or have origins or limits of their own. */
  async load(all: boolean): Promise<TenantState[]> {
    const rows = await this.changes.rows<Answer<StateRow>>(LOAD, [all]);
    return rows.map(stateOf);
  }

  /** What was not visible in the snapshot `since` (a pg_snapshot as text). */
  async changed(since: string): Promise<TenantState[]> {
    const rows = await this.changes.rows<Answer<StateRow>>(CHANGED, [since]);
    return rows.map(stateOf);
  }
}

/** Changes the row of a tenant that is there. */
async function edited(
  entities: EntityManager,
  tenantId: TenantId,
  changes: Edit,
  values: ObjectLiteral = {},
): Promise<Tenant> {
  const { affected } = await entities
    .createQueryBuilder()
    .update(TenantEntity)
    .set({ ...changes, ...WRITTEN_NOW })
    .where({ id: tenantId })
    .setParameters(values)
    .execute();
  if (affected !== 1) throw new Error('a locked tenant does not vanish');
  return tenantOf(await entities.findOneByOrFail(TenantEntity, { id: tenantId }));
}

type Edit = Partial<Pick<TenantEntity, 'name' | 'status' | 'keptDays' | 'corsOrigins'>> & {
  readonly limits?: () => string;
};

const tenantOf = ({
  id,
  name,
  status,
  keptDays,
  corsOrigins,
  limits,
  createdAt,
  updatedAt,
}: TenantRow): Tenant => ({
  id,
  name,
  status,
  keptDays,
  corsOrigins,
  limits: readLimits(limits),
  createdAt,
  updatedAt,
});

const stateOf = ({ id, status, corsOrigins, limits }: StateRow): TenantState => ({
  id,
  status,
  corsOrigins,
  limits: readLimits(limits),
});
