import { Injectable } from '@nestjs/common';
import type { Pool, Statement } from '../database/pool.ts';
import type { DeviceId, TenantId, UserId } from '../identifiers.ts';

export interface OpenConnection {
  readonly connectionId: string;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly node: string;
  readonly since: Date;
}

/*
 * Open as GET /v1/connections decides it: without an end, on a node that was seen lately and did not start again since.
 * A stream whose topics were renewed goes on under the id that its client was told.
 */
const FIND: Statement = {
  name: 'find_open_connection',
  text: `
select c.connection_id as "connectionId", c.user_id as "user", c.device_id as device, c.node, c.since
from connections c
left join nodes n on n.node = c.node
where c.tenant_id = $1 and c.connection_id = $2 and (
  c.reason = 'renewed'
  or c.until is null and n.started_at <= c.since and n.seen_at >= clock_timestamp() - interval '10 seconds'
)`,
};

@Injectable()
export class OpenConnectionsStore {
  /** Undefined: no such stream is open in the tenant. */
  async find(
    run: Pool['rows'],
    tenantId: TenantId,
    connectionId: string,
  ): Promise<OpenConnection | undefined> {
    const [row] = await run<OpenConnection & Record<string, unknown>>(FIND, [tenantId, connectionId]);
    return row;
  }
}
