import { isDeepStrictEqual } from 'node:util';
import { Inject, Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, ChangeFeedModule, type ChangeSource } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import { limitsOf, NO_LIMITS, type DefaultLimits, type Limits } from '../core/limits.ts';
import { TenantEntity, TenantsStore, type TenantState } from './tenants.store.ts';
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
