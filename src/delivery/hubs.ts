import { Injectable } from '@nestjs/common';
import type { TenantId, UserId } from '../core/identifiers.ts';
import type { Connection } from './connection.ts';
import { addressOfUser } from './tail.ts';
import type { TenantHub } from './tenant-hub.ts';

/** The open streams of this node, by tenant. */
@Injectable()
export class Hubs extends Map<TenantId, TenantHub<Connection>> {
  connections(tenantId: TenantId): Iterable<Connection> {
    return this.get(tenantId)?.connections ?? [];
  }

  ofUser(tenantId: TenantId, user: UserId): Connection[] {
    return [...(this.get(tenantId)?.recipients(addressOfUser(user)) ?? [])];
  }

  /** The open stream of a user that its client, or history, knows by this id. */
  find(tenantId: TenantId, user: UserId, connectionId: string): Connection | undefined {
    for (const connection of this.ofUser(tenantId, user))
      if (connection.isKnownAs(connectionId)) return connection;
    return undefined;
  }
}
