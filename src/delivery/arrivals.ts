import { Injectable } from '@nestjs/common';
import { GatherByKey } from '../concurrency/gather.ts';
import type { TenantId } from '../core/identifiers.ts';
import {
  ArrivalsStore,
  TenantUnknown,
  type Arrival,
  type Arrived,
  type Refused,
} from '../receipts/arrivals.store.ts';
import { AppendStore } from '../log/append.store.ts';
import { Tenants } from '../tenants/tenants.ts';

/** Most arrivals that one statement settles. Thousands come back within seconds; then each may wait for others, in ms. */
const TOGETHER = { atOnce: 300, collectsMs: 500 };

/** Finds the cursors of devices that open streams; those of one tenant that come together share a statement. */
@Injectable()
export class Arrivals {
  readonly #gathers = new GatherByKey<TenantId, Arrival, Arrived | Refused>(
    (tenantId, arrivals) => this.#serve(tenantId, arrivals),
    TOGETHER,
  );

  constructor(
    private readonly store: ArrivalsStore,
    private readonly log: AppendStore,
    private readonly tenants: Tenants,
  ) {}

  /** Throws TenantUnknown if the tenant was deleted, or the database's error. */
  async arrive(tenantId: TenantId, arrival: Omit<Arrival, 'mostDevices'>): Promise<Arrived | Refused> {
    const { devicesPerUser: mostDevices } = this.tenants.limits(tenantId);
    return await this.#gathers.ask(tenantId, { ...arrival, mostDevices });
  }

  async #serve(tenantId: TenantId, arrivals: readonly Arrival[]): Promise<(Arrived | Refused)[]> {
    try {
      return await this.store.arrive(tenantId, arrivals);
    } catch (error) {
      // The first valid token of a tenant makes the tenant.
      if (!(error instanceof TenantUnknown) || !(await this.log.ensureTenant(tenantId))) throw error;
      return await this.store.arrive(tenantId, arrivals);
    }
  }
}
