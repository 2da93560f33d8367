import { isDeepStrictEqual } from 'node:util';
import { Inject, Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Subject, type Observable } from 'rxjs';
import { Column, Entity, PrimaryColumn, type EntityManager, type ObjectLiteral } from 'typeorm';
import { ChangeFeed, ChangeFeedModule, type ChangeSource, NOT_IN_SNAPSHOT } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import {
  limitsOf,
  NO_LIMITS,
  type DefaultLimits,
  type Limits,
  readLimits,
  type OwnLimits,
} from '../core/limits.ts';
import { WRITTEN_NOW, type TenantTransaction } from '../postgres/entity-transactions.ts';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, CrossTenantPool, HistoryPool } from '../postgres/pools.ts';

/** What an administrator may make of a tenant. */
export const SET_STATUSES = ['active', 'suspended'] as const;
/** `deleting`: its data is being erased. `deleted`: it is gone, and the row is what keeps a token from making it anew. */
export const TENANT_STATUSES = [...SET_STATUSES, 'deleting', 'deleted'] as const;
type TenantStatus = (typeof TENANT_STATUSES)[number];

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
interface TenantState {
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

/** `unknown`: it was deleted; or nobody registered it, which counts with TENANT_PROVISIONING=explicit only. */
type TenantStanding = 'active' | 'suspended' | 'unknown';

/**
 * What a request has to know of its tenant, in memory. Only what is out of the ordinary is kept: a tenant that is not
 * here is active and has no origins and limits of its own - or, with TENANT_PROVISIONING=explicit, is unknown.
 */
@Injectable()
export class Tenants implements ChangeSource {
  readonly #changed = new Subject<TenantId>();
  readonly #explicit: boolean;
  readonly #everywhere: ReadonlySet<string>;
  readonly #kept = new Map<TenantId, TenantState>();
  readonly #defaults: DefaultLimits;
  readonly #usual: Limits;
  /** Of the tenants that are kept. */
  readonly #limits = new Map<TenantId, Limits>();
  /** How many tenants have the origin. */
  readonly #uses = new Map<string, number>();

  constructor(
    changes: ChangeFeed,
    private readonly store: TenantsStore,
    @Inject(CONFIG) config: Pick<Config, 'CORS_ORIGINS' | 'TENANT_PROVISIONING'> & DefaultLimits,
  ) {
    this.#defaults = config;
    this.#usual = limitsOf(NO_LIMITS, config);
    this.#explicit = config.TENANT_PROVISIONING === 'explicit';
    this.#everywhere = new Set(config.CORS_ORIGINS);
    changes.register(this);
  }

  /** Tenants whose standing, origins or limits became others on this node. */
  get changed(): Observable<TenantId> {
    return this.#changed;
  }

  async load(): Promise<void> {
    const rows = await this.store.load(this.#explicit);
    const there = new Set(rows.map(({ id }) => id));
    for (const id of this.#kept.keys()) if (!there.has(id)) this.#apply(id, undefined);
    for (const row of rows) this.#apply(row.id, row);
  }

  async catchUp(since: string): Promise<void> {
    for (const row of await this.store.changed(since)) {
      const ordinary =
        row.status === 'active' &&
        row.corsOrigins.length === 0 &&
        isDeepStrictEqual(row.limits, NO_LIMITS) &&
        !this.#explicit;
      this.#apply(row.id, ordinary ? undefined : row);
    }
  }

  standing(tenantId: TenantId): TenantStanding {
    const status = this.#kept.get(tenantId)?.status ?? (this.#explicit ? 'unknown' : 'active');
    // A deleted tenant does not come back to life by a token that is still good.
    return status === 'deleting' || status === 'deleted' ? 'unknown' : status;
  }

  /** What the tenant may use, now. */
  limits(tenantId: TenantId): Limits {
    return this.#limits.get(tenantId) ?? this.#usual;
  }

  /** Whether pages of this origin may call for the tenant. */
  allowsOrigin(tenantId: TenantId, origin: string): boolean {
    return this.#everywhere.has(origin) || (this.#kept.get(tenantId)?.corsOrigins.includes(origin) ?? false);
  }

  /** Whether they may for any tenant: a preflight carries no token, so nobody knows yet for which. */
  allowsOriginSomewhere(origin: string): boolean {
    return this.#everywhere.has(origin) || this.#uses.has(origin);
  }

  /** Undefined: nothing about the tenant is out of the ordinary (any more). */
  #apply(id: TenantId, next: TenantState | undefined): void {
    const before = this.#kept.get(id);
    if (isSame(before, next)) return;
    if (next === undefined) {
      this.#kept.delete(id);
      this.#limits.delete(id);
    } else {
      this.#kept.set(id, next);
      this.#limits.set(id, limitsOf(next.limits, this.#defaults));
    }
    for (const origin of next?.corsOrigins ?? []) this.#count(origin, 1);
    for (const origin of before?.corsOrigins ?? []) this.#count(origin, -1);
    this.#changed.next(id);
  }

  #count(origin: string, step: 1 | -1): void {
    const uses = (this.#uses.get(origin) ?? 0) + step;
    if (uses > 0) this.#uses.set(origin, uses);
    else this.#uses.delete(origin);
  }
}

/** A row is read more than once; it is a change once. */
function isSame(a: TenantState | undefined, b: TenantState | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.status === b.status &&
    isDeepStrictEqual(a.corsOrigins, b.corsOrigins) &&
    isDeepStrictEqual(a.limits, b.limits)
  );
}

@Module({
  imports: [ChangeFeedModule, TypeOrmModule.forFeature([TenantEntity])],
  providers: [Tenants, TenantsStore],
  exports: [Tenants, TenantsStore],
})
export class TenantsModule {}
