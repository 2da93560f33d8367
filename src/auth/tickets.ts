import { createHash } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { nowBeingErased } from '../postgres/erased.ts';
import { Problem } from '../core/errors.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import {
  deviceIdSchema,
  tenantIdSchema,
  topicSchema,
  userIdSchema,
  type DeviceId,
  type TenantId,
} from '../core/identifiers.ts';
import { TokenStatus } from './token-status.ts';
import { ticketInvalid } from './bearer.ts';
import type { Principal } from '../http/principal.ts';
import { randomPart, TicketSeal, type SealedTicket } from './ticket-seal.ts';
import { TicketsStore, type NewTicket } from './tickets.store.ts';

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
    private readonly admission: TokenStatus,
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
    this.admission.require(principal);
    return principal;
  }

  get #sealed(): TicketSeal {
    if (this.#seal === undefined) throw new Error('Tickets are asked about before the service has started.');
    return this.#seal;
  }

  async #ask<Ask, Answer>(
    gather: KeyedBatcher<TenantId, Ask, Answer>,
    tenantId: TenantId,
    ask: Ask,
  ): Promise<Answer> {
    if (gather.pending(tenantId) >= MOST_WAITING)
      throw new Problem('overloaded', 'Too many tickets wait on this node.', { retryAfter: 1 });
    return await gather.request(tenantId, ask);
  }
}

const nameOf = ({ random }: SealedTicket): string => random.toString('base64url');

const digest = (random: Buffer): Buffer => createHash('sha256').update(random).digest();

const useless = (): Problem => ticketInvalid('The ticket is unknown, was used, or has expired.');
