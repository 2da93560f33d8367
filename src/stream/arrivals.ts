import { Injectable } from '@nestjs/common';
import { GatherByKey } from '../gather.ts';
import type { TenantId } from '../identifiers.ts';
import { ArrivalsStore, TenantUnknown, type Arrival, type Arrived } from '../ledger/arrivals.store.ts';
import { AppendStore } from '../log/append.store.ts';

/** Most arrivals that one statement settles. */
const AT_ONCE = 1_000;

/** Finds the cursors of devices that open streams; those of one tenant that come together share a statement. */
@Injectable()
export class Arrivals {
  readonly #tenants = new GatherByKey<TenantId, Arrival, Arrived>(
    (tenantId, arrivals) => this.#serve(tenantId, arrivals),
    AT_ONCE,
  );

  constructor(
    private readonly store: ArrivalsStore,
    private readonly log: AppendStore,
  ) {}

  /** Throws TenantUnknown if the tenant was deleted, or the database's error. */
  async arrive(tenantId: TenantId, arrival: Arrival): Promise<Arrived> {
    return await this.#tenants.ask(tenantId, arrival);
  }

  async #serve(tenantId: TenantId, arrivals: readonly Arrival[]): Promise<readonly Arrived[]> {
    try {
      return await this.store.arrive(tenantId, arrivals);
    } catch (error) {
      // The first valid token of a tenant makes the tenant.
      if (!(error instanceof TenantUnknown) || !(await this.log.ensureTenant(tenantId))) throw error;
      return await this.store.arrive(tenantId, arrivals);
    }
  }
}
