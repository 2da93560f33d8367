import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { ClientPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, UserId } from '../core/identifiers.ts';
import { NODE_SILENCE } from '../cluster/nodes.store.ts';

/** A stream that is open. */
export interface OpenConnection {
  readonly connectionId: string;
  readonly user: UserId;
  readonly device: DeviceId;
  readonly node: string;
  readonly since: Date;
}

/*
 * Open as GET /v1/connections decides it: without an end, on a node that was seen lately and did not start again since.
 * A stream whose topics were renewed goes on with another record; its client and older listings know it by the first.
 */
const FIND: Statement = {
  name: 'find_open_connection',
  text: `
select m.connection_id as "connectionId", m.user_id as "user", m.device_id as device, m.node, m.since
from connections m
where m.tenant_id = $1 and m.connection_id = $2 and exists (
  select from connections c join nodes n on n.node = c.node
  where c.tenant_id = $1 and c.user_id = m.user_id and c.device_id = m.device_id and c.node = m.node
    and (c.connection_id = m.connection_id or m.reason = 'renewed' and c.since >= m.until)
    and c.until is null and n.started_at <= c.since and n.seen_at >= clock_timestamp() - ${NODE_SILENCE}
)`,
};

/** Which streams are open, on whichever node. A stream of the last moments (LEDGER_FLUSH_MS) is not there yet. */
@Injectable()
export class OpenConnectionsStore {
  constructor(private readonly pool: ClientPool) {}

  /** Undefined: no such stream is open in the tenant. */
  async find(tenantId: TenantId, connectionId: string): Promise<OpenConnection | undefined> {
    const [row] = await this.pool.rows<OpenConnection & Record<string, unknown>>(tenantId, FIND, [
      connectionId,
    ]);
    return row;
  }
}
