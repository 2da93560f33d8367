import { Injectable } from '@nestjs/common';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import type { TenantId } from '../core/identifiers.ts';
import {
  DevicesStore,
  TenantUnknown,
  type DeviceRegistration,
  type Registered,
  type RegistrationRefusal,
} from '../receipts/devices.store.ts';
import { AppendStore } from '../log/append.store.ts';
import { Tenants } from '../tenants/tenants.ts';

/** Most arrivals that one statement settles. Thousands come back within seconds; then each may wait for others, in ms. */
const TOGETHER = { atOnce: 300, collectsMs: 500 };

/** Finds the cursors of devices that open streams; those of one tenant that come together share a statement. */
@Injectable()
export class DeviceRegistrations {
  readonly #gathers = new KeyedBatcher<TenantId, DeviceRegistration, Registered | RegistrationRefusal>(
    (tenantId, arrivals) => this.#serve(tenantId, arrivals),
    TOGETHER,
  );

  constructor(
    private readonly store: DevicesStore,
    private readonly log: AppendStore,
    private readonly tenants: Tenants,
  ) {}

  /** Throws TenantUnknown if the tenant was deleted, or the database's error. */
  async register(
    tenantId: TenantId,
    arrival: Omit<DeviceRegistration, 'mostDevices'>,
  ): Promise<Registered | RegistrationRefusal> {
    const { devicesPerUser: mostDevices } = this.tenants.limits(tenantId);
    return await this.#gathers.request(tenantId, { ...arrival, mostDevices });
  }

  async #serve(
    tenantId: TenantId,
    arrivals: readonly DeviceRegistration[],
  ): Promise<(Registered | RegistrationRefusal)[]> {
    try {
      return await this.store.register(tenantId, arrivals);
    } catch (error) {
      // The first valid token of a tenant makes the tenant.
      if (!(error instanceof TenantUnknown) || !(await this.log.ensureTenant(tenantId))) throw error;
      return await this.store.register(tenantId, arrivals);
    }
  }
}
