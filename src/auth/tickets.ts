import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { nowBeingErased, beingErased } from '../postgres/erased.ts';
import { Problem } from '../core/errors.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import {
  type DeviceId,
  deviceIdSchema,
  type TenantId,
  tenantIdSchema,
  topicSchema,
  userIdSchema,
  type UserId,
} from '../core/identifiers.ts';
import type { Principal } from '../http/access.ts';
import { ChangeFeedPool, ClientPool } from '../postgres/pools.ts';
import type { Statement } from '../postgres/pool.ts';
import { TokenStatus } from './tokens.ts';
import { ticketInvalid } from './credentials.ts';

/** A ticket that is to be kept. */
interface NewTicket {
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

/** Tickets that one statement keeps or takes. */
const AT_ONCE = 500;
/** Tickets of one tenant that may wait on this node: a few statements' worth. */
const MOST_WAITING = 5_000;

/** A ticket is refused without asking when its time was over this long ago, in ms: clocks differ, and the database's decides. */
const SURELY_OVER_MS = 5_000;

/** Tickets that were shown to this node, of which it remembers that they are of no use any more. */
const MOST_SHOWN = 20_000;

/** What a ticket stands for: of a principal all but the rights of services, since a ticket opens the stream of a user and nothing else. */
const grantSchema = z.strictObject({
  tenantId: tenantIdSchema,
  subject: userIdSchema,
  topics: z.array(topicSchema).readonly(),
  device: deviceIdSchema,
  expiresAt: z.number(),
  issuer: z.string(),
  tokenId: z.string().optional(),
  issuedAt: z.number().optional(),
});

/** A ticket in place of a token, for an EventSource, which can send neither headers nor a body: it opens one stream, soon. */
@Injectable()
export class Tickets implements ChangeSource {
  #seal: TicketSeal | undefined;
  readonly #kept: KeyedBatcher<TenantId, NewTicket, { readonly expiresAt: Date | undefined }>;
  readonly #taken: KeyedBatcher<TenantId, Buffer, { readonly grant: string | undefined }>;
  readonly #shown: LRUCache<string, true>;

  constructor(
    private readonly store: TicketsStore,
    private readonly tokenStatus: TokenStatus,
    private readonly clock: DatabaseClock,
    changes: ChangeFeed,
    @Inject(CONFIG) config: Config,
  ) {
    this.#kept = new KeyedBatcher(
      async (tenantId, tickets) =>
        (await store.keep(tenantId, tickets, config.STREAM_TICKET_SECONDS)).map((expiresAt) => ({
          expiresAt,
        })),
      { atOnce: AT_ONCE },
    );
    this.#taken = new KeyedBatcher(
      async (tenantId, hashes) => (await store.take(tenantId, hashes)).map((grant) => ({ grant })),
      { atOnce: AT_ONCE },
    );
    const ttl = config.STREAM_TICKET_SECONDS * 1_000 + SURELY_OVER_MS;
    this.#shown = new LRUCache({ max: MOST_SHOWN, ttl });
    changes.register(this);
  }

  /** At start, and when the database is another one than before. */
  async load(): Promise<void> {
    this.#seal = new TicketSeal(await this.store.key());
  }

  /** The key does not change: it opens nothing, so that nobody has a reason to change it. */
  catchUp(): Promise<void> {
    return Promise.resolve();
  }

  /**
   * A ticket for the stream of this device. Good for STREAM_TICKET_SECONDS, at most until the token ends.
   * @throws Problem `being_erased`, `overloaded` (503), or the database's error
   */
  async issue(principal: Principal, device: DeviceId): Promise<{ ticket: string; expiresAt: Date }> {
    const { tenantId, scopes: _, publishesTo: __, ...rest } = principal;
    const random = randomPart();
    const { expiresAt } = await this.#ask(this.#kept, tenantId, {
      hash: digest(random),
      user: principal.subject,
      principal: JSON.stringify({ ...rest, tenantId, device } satisfies z.input<typeof grantSchema>),
      tokenExpiresAt: principal.expiresAt,
    });
    if (expiresAt === undefined) throw nowBeingErased();
    return { ticket: this.#sealed.write({ tenantId, random, expiresAt: expiresAt.getTime() }), expiresAt };
  }

  /**
   * Whether a ticket can be good, without asking the database: what this throws, a stranger may cause as often as he likes.
   * @param ticket as it stands in the query: of any type
   * @throws Problem `ticket_invalid`
   */
  read(ticket: unknown): SealedTicket {
    const sealed = this.#sealed.read(ticket);
    if (sealed === undefined || sealed.expiresAt + SURELY_OVER_MS < this.clock.now()) throw useless();
    // Once it was taken or found gone it does not come back.
    if (this.#shown.has(nameOf(sealed))) throw useless();
    return sealed;
  }

  /**
   * The caller that a ticket stands for; the ticket is spent, whatever comes of it. Its token may have been revoked since.
   * @throws Problem `ticket_invalid`, `token_invalid`, `tenant_suspended`, `tenant_unknown`, `overloaded`; the database's error
   */
  async redeem(ticket: SealedTicket): Promise<Principal> {
    const name = nameOf(ticket);
    if (this.#shown.has(name)) throw useless();
    this.#shown.set(name, true);
    let grant: string | undefined;
    try {
      ({ grant } = await this.#ask(this.#taken, ticket.tenantId, digest(ticket.random)));
    } catch (error) {
      // Nobody has taken it.
      this.#shown.delete(name);
      throw error;
    }
    if (grant === undefined) throw useless();
    const { tokenId, issuedAt, ...rest } = grantSchema.parse(JSON.parse(grant));
    const principal: Principal = { ...rest, tokenId, issuedAt, scopes: new Set(), publishesTo: undefined };
    this.tokenStatus.require(principal);
    return principal;
  }

  get #sealed(): TicketSeal {
    if (this.#seal === undefined) throw new Error('Tickets are asked about before the service has started.');
    return this.#seal;
  }

  async #ask<Ask, Answer>(
    batcher: KeyedBatcher<TenantId, Ask, Answer>,
    tenantId: TenantId,
    ask: Ask,
  ): Promise<Answer> {
    if (batcher.pending(tenantId) >= MOST_WAITING)
      throw new Problem('overloaded', 'Too many tickets wait on this node.', { retryAfter: 1 });
    return await batcher.request(tenantId, ask);
  }
}

const nameOf = ({ random }: SealedTicket): string => random.toString('base64url');

const digest = (random: Buffer): Buffer => createHash('sha256').update(random).digest();

const useless = (): Problem => ticketInvalid('The ticket is unknown, was used, or has expired.');

/*
 * A ticket reads `tenant.secret`, both base64url: the tenant, under which its row is found, and 48 bytes, which are random,
 * the end of the ticket and a seal. The random ones alone make it good, by the row that has their hash. The seal is there
 * because a stranger can make up any number of tickets, and each would cost the database a statement: what no node of
 * this installation has sealed, or what is over, is refused without asking. Lengths are such that base64url has one spelling.
 */
const RANDOM_BYTES = 24;
/** ms since 1970. */
const END_BYTES = 6;
/** Of HMAC-SHA256; RFC 2104 §5 wants half of it at least. */
const SEAL_BYTES = 18;
const SEALED_BYTES = RANDOM_BYTES + END_BYTES;

const TICKET = /^([A-Za-z0-9_-]{2,86})\.([A-Za-z0-9_-]{64})$/;
const MAX_LENGTH = 86 + 1 + 64;

/** A ticket that some node has sealed. */
interface SealedTicket {
  readonly tenantId: TenantId;
  /** What makes it good, if it was not used yet. */
  readonly random: Buffer;
  /** ms since 1970 by the database's clock; from then on it is of no use. */
  readonly expiresAt: number;
}

/** What a new ticket is made of. */
export const randomPart = (): Buffer => randomBytes(RANDOM_BYTES);

/** Makes tickets, and tells those that a node with the same key has made. */
export class TicketSeal {
  /** @param key known to every node of the installation */
  constructor(private readonly key: Buffer) {}

  write({ tenantId, random, expiresAt }: SealedTicket): string {
    const sealed = Buffer.alloc(SEALED_BYTES);
    random.copy(sealed);
    sealed.writeUIntBE(expiresAt, RANDOM_BYTES, END_BYTES);
    const secret = Buffer.concat([sealed, this.#sealOf(tenantId, sealed)]).toString('base64url');
    return `${Buffer.from(tenantId).toString('base64url')}.${secret}`;
  }

  /** Undefined: no node has made it. `text` as it stands in a query: of any type and length. */
  read(text: unknown): SealedTicket | undefined {
    if (typeof text !== 'string' || text.length > MAX_LENGTH) return undefined;
    const [, name, secret] = TICKET.exec(text) ?? [];
    if (name === undefined || secret === undefined) return undefined;
    const tenantId = tenantIdSchema.safeParse(Buffer.from(name, 'base64url').toString()).data;
    // Decoding drops spare bits of the name, and a ticket has one spelling.
    if (tenantId === undefined || Buffer.from(tenantId).toString('base64url') !== name) return undefined;
    const bytes = Buffer.from(secret, 'base64url');
    const sealed = bytes.subarray(0, SEALED_BYTES);
    if (!timingSafeEqual(bytes.subarray(SEALED_BYTES), this.#sealOf(tenantId, sealed))) return undefined;
    return {
      tenantId,
      random: sealed.subarray(0, RANDOM_BYTES),
      expiresAt: sealed.readUIntBE(RANDOM_BYTES, END_BYTES),
    };
  }

  /** The sealed bytes have one length, so that nothing of them can pass for the tenant. */
  #sealOf(tenantId: TenantId, sealed: Buffer): Buffer {
    const mac = createHmac('sha256', this.key).update(sealed).update(tenantId).digest();
    return mac.subarray(0, SEAL_BYTES);
  }
}
