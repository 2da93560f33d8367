import { Injectable } from '@nestjs/common';
import { Gather } from '../gather.ts';
import type { TenantId } from '../identifiers.ts';
import { ArrivalsStore, TenantUnknown, type Arrival, type Arrived } from '../ledger/arrivals.store.ts';
import { AppendStore } from '../log/append.store.ts';

/** Most arrivals that one statement settles. */
const AT_ONCE = 1_000;

/** Finds the cursors of devices that open streams; those of one tenant that come together share a statement. */
@Injectable()
export class Arrivals {
  readonly #tenants = new Map<TenantId, Gather<Arrival, Arrived>>();

  constructor(
    private readonly store: ArrivalsStore,
    private readonly log: AppendStore,
  ) {}

  /** Throws the database's error. */
  async arrive(tenantId: TenantId, arrival: Arrival): Promise<Arrived> {
    let gather = this.#tenants.get(tenantId);
    if (gather === undefined) {
      gather = new Gather(async (arrivals) => await this.#serve(tenantId, arrivals), AT_ONCE);
      this.#tenants.set(tenantId, gather);
    }
    try {
      return await gather.ask(arrival);
    } finally {
      if (gather.idle) this.#tenants.delete(tenantId);
    }
  }

  async #serve(tenantId: TenantId, arrivals: readonly Arrival[]): Promise<readonly Arrived[]> {
    try {
      return await this.store.arrive(tenantId, arrivals);
    } catch (error) {
      if (!(error instanceof TenantUnknown)) throw error;
      // The first valid token of a tenant makes the tenant.
      await this.log.ensureTenant(tenantId);
      return await this.store.arrive(tenantId, arrivals);
    }
  }
}
