import { Injectable } from '@nestjs/common';
import { beingErased } from '../database/erased.ts';
import type { Statement } from '../database/pool.ts';
import { AppendPool } from '../database/pools.ts';
import type { TenantId, UserId } from '../identifiers.ts';

/* By the database's clock, which is the same for the node that makes a ticket and the one that takes it. */
const KEEP: Statement = {
  name: 'keep_ticket',
  text: `
insert into stream_tickets (tenant_id, hash, principal, expires_at)
select $1, $2, $3, least(clock_timestamp() + make_interval(secs => $4), to_timestamp($5::double precision / 1000))
where not ${beingErased('$6::text')}
returning expires_at as "expiresAt"`,
};

/* One statement: of those who come at once, through whichever nodes, the row is there for one. */
const TAKE: Statement = {
  name: 'take_ticket',
  text: `
delete from stream_tickets where tenant_id = $1 and hash = $2
returning principal, expires_at > clock_timestamp() as timely`,
};

/** The SQL of stream tickets. It knows their hashes only. */
@Injectable()
export class TicketsStore {
  constructor(private readonly pool: AppendPool) {}

  /**
   * @param tokenExpiresAt end of the parent token, ms since 1970: no ticket outlives it.
   * @returns when the ticket ends; undefined: the data of the user is being erased, and nothing was kept
   */
  async keep(
    tenantId: TenantId,
    user: UserId,
    hash: Buffer,
    principal: string,
    seconds: number,
    tokenExpiresAt: number,
  ): Promise<Date | undefined> {
    const values = [hash, principal, seconds, tokenExpiresAt, user];
    const [row] = await this.pool.rows<{ expiresAt: Date }>(tenantId, KEEP, values);
    return row?.expiresAt;
  }

  /** The principal of a ticket, which is gone then. Undefined: there is none (any more). */
  async take(tenantId: TenantId, hash: Buffer): Promise<string | undefined> {
    const [row] = await this.pool.rows<{ principal: string; timely: boolean }>(tenantId, TAKE, [hash]);
    return row?.timely === true ? row.principal : undefined;
  }
}
