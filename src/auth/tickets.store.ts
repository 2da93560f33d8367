import { Injectable } from '@nestjs/common';
import { beingErased } from '../postgres/erased.ts';
import { ChangeFeedPool, ClientPool } from '../postgres/pools.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import { type Statement } from '../postgres/pool.ts';

/** A ticket that is to be kept. */
export interface NewTicket {
  readonly hash: Buffer;
  readonly user: UserId;
  /** What it stands for, as text. */
  readonly principal: string;
  /** End of the parent token, ms since 1970: no ticket outlives it. */
  readonly tokenExpiresAt: number;
}

/* By the database's clock, which is the same for the node that makes a ticket and the one that takes it. */
const KEEP: Statement = {
  name: 'keep_tickets',
  text: `
with kept as (
  insert into stream_tickets (tenant_id, hash, principal, expires_at)
  select $1, decode(hash, 'hex'), principal,
    least(clock_timestamp() + make_interval(secs => $3), to_timestamp(ends / 1000))
  from json_to_recordset($2) as t (hash text, user_id text, principal text, ends double precision)
  where not ${beingErased('t.user_id')}
  returning hash, expires_at
)
select encode(hash, 'hex') as hash, expires_at as "expiresAt" from kept`,
};

/*
 * One statement: of those who come at once, through whichever nodes, the row is there for one. Whoever finds it locked comes
 * too late already, and two nodes that were shown the same tickets do not wait for each other.
 */
const TAKE: Statement = {
  name: 'take_tickets',
  text: `
with taken as (
  delete from stream_tickets where tenant_id = $1 and hash = any (array(
    select hash from stream_tickets where tenant_id = $1 and hash = any ($2::bytea[]) for update skip locked))
  returning hash, principal, expires_at > clock_timestamp() as timely
)
select encode(hash, 'hex') as hash, principal from taken where timely`,
};

const KEY: Statement = { name: 'ticket_key', text: `select key from ticket_keys` };

/** The SQL of stream tickets. It knows their hashes only. */
@Injectable()
export class TicketsStore {
  constructor(
    private readonly pool: ClientPool,
    private readonly changes: ChangeFeedPool,
  ) {}

  /**
   * In the order of `tickets`: when each ends; undefined: the data of its user is being erased, and nothing was kept.
   * @param seconds how long they can be used
   */
  async keep(
    tenantId: TenantId,
    tickets: readonly NewTicket[],
    seconds: number,
  ): Promise<(Date | undefined)[]> {
    const wishes = tickets.map(({ hash, user, principal, tokenExpiresAt }) => ({
      hash: hash.toString('hex'),
      user_id: user,
      principal,
      ends: tokenExpiresAt,
    }));
    const values = [JSON.stringify(wishes), seconds];
    const rows = await this.pool.rows<{ hash: string; expiresAt: Date }>(tenantId, KEEP, values);
    const ends = new Map(rows.map(({ hash, expiresAt }) => [hash, expiresAt]));
    return wishes.map(({ hash }) => ends.get(hash));
  }

  /** The principals of tickets, which are gone then, in the order of `hashes`. Undefined: there is none (any more). */
  async take(tenantId: TenantId, hashes: readonly Buffer[]): Promise<(string | undefined)[]> {
    const rows = await this.pool.rows<{ hash: string; principal: string }>(tenantId, TAKE, [hashes]);
    const principals = new Map(rows.map(({ hash, principal }) => [hash, principal]));
    return hashes.map((hash) => principals.get(hash.toString('hex')));
  }

  /** What tickets are sealed with. Belongs to no tenant. */
  async key(): Promise<Buffer> {
    const [row] = await this.changes.rows<{ key: Buffer }>(KEY);
    if (row === undefined) throw new Error('The table ticket_keys is empty; put 32 random bytes into it.');
    return row.key;
  }
}
